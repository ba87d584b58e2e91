"""The WSGI entry: `flask run`, gunicorn and the commands find the application here."""

from authsite import create_app

app = create_app()
