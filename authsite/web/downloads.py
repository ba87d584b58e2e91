"""A file that is sent while it is made."""

import re
from collections.abc import Iterator
from datetime import datetime

from flask import Response, current_app, stream_with_context


def json_file(pieces: Iterator[bytes], *, name: str, made_at: datetime) -> Response:
    """Return the download; it breaks off, as every client sees, where making the pieces fails."""
    site = re.sub(r"[^A-Za-z0-9]+", "-", current_app.config["SITE_NAME"]).strip("-") or "authsite"
    filename = f"{site}-{name}-{made_at:%Y-%m-%d}.json"
    response = Response(stream_with_context(pieces), mimetype="application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    return response
