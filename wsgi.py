"""The WSGI entry: `flask run`, gunicorn and the commands find the application here."""

import sys

from authsite import create_app
from authsite.config import ConfigError

try:
    app = create_app()
except ConfigError as refusal:
    sys.exit(
        str(refusal)
    )  # to standard error, with status 1: whoever starts this reads nothing else
