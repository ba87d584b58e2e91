"""The WSGI entry: `flask run`, gunicorn and the commands find the application here."""

import gc
import sys

# What is imported stays: looking through all of it for what could go was a tenth of the start, and would be
# a tenth of a second now and then in which nobody is answered.
gc.disable()

from authsite import create_app  # noqa: E402
from authsite.config import ConfigError  # noqa: E402

try:
    app = create_app()
except ConfigError as refusal:
    sys.exit(
        str(refusal)
    )  # to standard error, with status 1: whoever starts this reads nothing else
gc.freeze()
gc.enable()
