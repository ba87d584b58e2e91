"""What products ask with each request of their own, answered below Flask where the answer is yes.

Forward auth and introspection cost a product's every request: Flask's routing, contexts and hooks are half of
it. Here the same verbs are called with less around them, for a question that is plainly put and a credential
that is good. All else goes on to Flask and its views, which decide everything anew and explain refusals:
nothing is refused here.
"""

import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson
from flask import Flask, current_app

from . import service_clients, sessions
from .api import services
from .errors import InvalidClient
from .forwarding import asking, verdicts
from .web import authentication, headers, limits

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Answer = tuple[list[tuple[str, str]], bytes]
MAX_DIGITS = 4  # of the length of a body: a token has 4,096 characters at most
INTROSPECTION = "/api/v1/auth/introspect"
# A body that both sides read alike: a token of ours needs no escape.
_TOKEN = re.compile(rb"token=([A-Za-z0-9._~-]+)(?:&token_type_hint=[a-z_]*)?")
_SAYS_MORE = (
    "HTTP_ORIGIN",
    "HTTP_SEC_FETCH_SITE",
    "HTTP_CONTENT_ENCODING",
    "HTTP_TRANSFER_ENCODING",
)


class Shortcut:
    """The WSGI layer around Flask and inside the envelope, whose headers all answers carry."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._flask = app.wsgi_app
        own = urlsplit(app.config["PUBLIC_BASE_URL"])
        self._scheme, self._host = own.scheme, own.netloc

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path != INTROSPECTION and path not in headers.FOR_PROXIES:
            return self._flask(environ, start_response)
        with self._app.app_context():
            try:
                answer = self._answer(environ, path)
            except Exception as fault:
                # Flask tells of it, without asking a database that is gone a second time.
                answer = None
                headers.pass_on(environ, fault)
        if answer is None:
            return self._flask(environ, start_response)
        start_response("200 OK", answer[0])
        return [answer[1]]

    def _answer(self, environ: "WSGIEnvironment", path: str) -> Answer | None:
        """Return what is to be answered, None where Flask has to decide."""
        if environ.get("HTTP_HOST") != self._host or headers.has_large_cookies(environ):
            return None
        if path != INTROSPECTION:
            return _forward_auth(environ)
        if environ["wsgi.url_scheme"] == self._scheme:
            return _introspection(environ)
        return None


def _forward_auth(environ: "WSGIEnvironment") -> Answer | None:
    if not current_app.config["FORWARD_AUTH_ORIGINS"]:
        return None
    if environ["REQUEST_METHOD"] not in asking.METHODS:
        return None
    is_of_nginx = environ["PATH_INFO"] == "/auth-request"
    original = environ.get("HTTP_X_ORIGINAL_URL", "") if is_of_nginx else ""
    asked = asking.read(environ, "/", original)
    session = verdicts.decide(asked).session if asked else None
    if asked is None or session is None:
        return None
    sessions.touch(session, address=lambda: limits.address_text(environ.get("REMOTE_ADDR")))
    return [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", "0"),
        *asking.NOT_KEPT.items(),
        *asking.identity(session, asked.origin),
    ], b""


def _introspection(environ: "WSGIEnvironment") -> Answer | None:
    if environ["REQUEST_METHOD"] != "POST" or environ.get("QUERY_STRING") or not _is_plain(environ):
        return None
    token, service = _token(environ), _service(environ)
    if token is None or service is None:
        return None
    content = orjson.dumps(services.introspection(token, service), default=str)
    return [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(content))),
        ("Cache-Control", "no-store"),
    ], content


def _is_plain(environ: "WSGIEnvironment") -> bool:
    return environ.get("CONTENT_TYPE") == "application/x-www-form-urlencoded" and not any(
        name in environ for name in _SAYS_MORE
    )


def _token(environ: "WSGIEnvironment") -> str | None:
    """Return the body's token, None where the body holds anything else; Flask can read it again."""
    length = environ.get("CONTENT_LENGTH") or ""
    if not (length.isascii() and length.isdecimal() and len(length) <= MAX_DIGITS):
        return None
    body = environ["wsgi.input"].read(int(length))
    environ["wsgi.input"] = io.BytesIO(body)
    found = _TOKEN.fullmatch(body)
    return found[1].decode() if found else None


def _service(environ: "WSGIEnvironment") -> str | None:
    """Return the name of the service that asks, None where its secret is wrong."""
    try:
        name, secret = authentication.basic_credentials(environ.get("HTTP_AUTHORIZATION", ""))
    except InvalidClient:
        return None
    return name if service_clients.is_secret_of(name, secret) else None
