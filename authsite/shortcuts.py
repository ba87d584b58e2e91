"""What is asked most, answered below Flask where the answer is yes.

Forward auth and introspection cost a product's every request, its pages ask who is signed in and where, and
its apps change their tokens: Flask's routing, contexts and hooks are half of that. Here the same verbs are
called with less around them, for a question that is plainly put and a credential that is good. All else goes
on to Flask and its views, which explain refusals: nothing is refused here. What is over its limit, or is
refused by what it changed, is found so here, once, and told by Flask.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Flask, current_app

from . import api, service_clients, sessions
from .api import answers, services
from .crypto import tokens
from .errors import InvalidClient, TokenInvalid
from .forwarding import asking, verdicts
from .web import authentication, headers, limits

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Answer = tuple[list[tuple[str, str]], bytes]
MAX_DIGITS = 4  # of the length of a body: a token has 4,096 characters at most
INTROSPECTION = "/api/v1/auth/introspect"
REFRESH = "/api/v1/auth/refresh"
# Bodies that both sides read alike: a token of ours needs no escape.
_TOKEN = re.compile(rb"token=([A-Za-z0-9._~-]+)(?:&token_type_hint=[a-z_]*)?")
_REFRESH_TOKEN = re.compile(rb'\{ ?"refresh_token" ?: ?"([A-Za-z0-9._~-]+)" ?\}')
_OF_OTHER_BODIES = ("HTTP_CONTENT_ENCODING", "HTTP_TRANSFER_ENCODING")
_SAYS_MORE = ("HTTP_ORIGIN", "HTTP_SEC_FETCH_SITE", *_OF_OTHER_BODIES)
NOT_KEPT = {"Cache-Control": "no-store"}


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
        find = ANSWERS.get(path or "")
        if find is None or not self._is_plain(environ, path):
            return self._flask(environ, start_response)
        with self._app.app_context():
            try:
                answer = find(environ)
            except Exception as fault:
                # Flask tells of it, and asks neither database nor limit a second time.
                answer = None
                headers.pass_on(environ, fault)
            if answer is not None:
                start_response("200 OK", answer[0])
                return [answer[1]]
        return self._flask(environ, start_response)

    def _is_plain(self, environ: "WSGIEnvironment", path: str | None) -> bool:
        """Return whether it was asked by our own name and over our own scheme, as far as that counts."""
        return (
            environ.get("HTTP_HOST") == self._host
            and not headers.has_large_cookies(environ)
            and (path in headers.FOR_PROXIES or environ["wsgi.url_scheme"] == self._scheme)
        )


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
    if (
        environ["REQUEST_METHOD"] != "POST"
        or environ.get("QUERY_STRING")
        or not _is_plain_form(environ)
    ):
        return None
    token, service = _token(environ, _TOKEN), _service(environ)
    if token is None or service is None:
        return None
    return _json(services.introspection(token, service))


def _refresh(environ: "WSGIEnvironment") -> Answer | None:
    if (
        environ["REQUEST_METHOD"] != "POST"
        or environ.get("QUERY_STRING")
        or environ.get("CONTENT_TYPE") != "application/json"
        or any(name in environ for name in _OF_OTHER_BODIES)
    ):
        return None
    token = _token(environ, _REFRESH_TOKEN)
    try:
        claims = tokens.read(token or "", tokens.REFRESH, even_expired=True)
    except TokenInvalid:
        return None
    limits.refresh.count(limits.of_session(claims))
    address = limits.address_text(environ.get("REMOTE_ADDR"))
    members = answers.both_tokens(api.accounts.rotated(claims, ip_address=address))
    return _json_for_origin(environ, members, kept=answers.NEVER_STORED)


def _account(environ: "WSGIEnvironment") -> Answer | None:
    if not _is_allowed(environ, limits.read_account):
        return None
    return _json_for_origin(environ, authentication.current_session().account.public())


def _sessions(environ: "WSGIEnvironment") -> Answer | None:
    if not _is_allowed(environ, limits.list_sessions, with_all=True):
        return None
    rows, caller = authentication.current_sessions(), authentication.current_session()
    return _json_for_origin(environ, api.sessions.listed(rows, current=caller.id))


def _is_allowed(environ: "WSGIEnvironment", limit: limits.Limit, *, with_all: bool = False) -> bool:
    """Return whether this is a plain GET of who is signed in; raise TooManyAttempts over the limit."""
    if environ["REQUEST_METHOD"] != "GET" or environ.get("QUERY_STRING"):
        return False
    if not authentication.is_bearer_good(environ, with_all=with_all):
        return False
    limit.count()
    return True


def _json_for_origin(
    environ: "WSGIEnvironment", members: dict[str, Any], kept: Mapping[str, str] = NOT_KEPT
) -> Answer:
    own, content = _json(members, kept)
    origin = headers.for_origin(environ.get("HTTP_ORIGIN"))
    return [*own, ("Vary", "Origin"), *origin.items(), *limits.fields().items()], content


def _json(members: dict[str, Any], kept: Mapping[str, str] = NOT_KEPT) -> Answer:
    content = current_app.json.dumps(members).encode()
    return [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(content))),
        *kept.items(),
    ], content


def _is_plain_form(environ: "WSGIEnvironment") -> bool:
    return environ.get("CONTENT_TYPE") == "application/x-www-form-urlencoded" and not any(
        name in environ for name in _SAYS_MORE
    )


def _token(environ: "WSGIEnvironment", form: re.Pattern[bytes]) -> str | None:
    """Return the token of a body of this form, None where it has another; Flask can read it again."""
    length = environ.get("CONTENT_LENGTH") or ""
    if not (length.isascii() and length.isdecimal() and len(length) <= MAX_DIGITS):
        return None
    body = environ["wsgi.input"].read(int(length))
    environ["wsgi.input"] = io.BytesIO(body)
    found = form.fullmatch(body)
    return found[1].decode() if found else None


def _service(environ: "WSGIEnvironment") -> str | None:
    """Return the name of the service that asks, None where its secret is wrong."""
    try:
        name, secret = authentication.basic_credentials(environ.get("HTTP_AUTHORIZATION", ""))
    except InvalidClient:
        return None
    return name if service_clients.is_secret_of(name, secret) else None


ANSWERS: dict[str, Callable[["WSGIEnvironment"], Answer | None]] = {
    **dict.fromkeys(headers.FOR_PROXIES, _forward_auth),
    INTROSPECTION: _introspection,
    REFRESH: _refresh,
    "/api/v1/auth/me": _account,
    "/api/v1/users/me": _account,
    "/api/v1/sessions/me": _sessions,
}
