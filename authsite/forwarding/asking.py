"""A proxy asks of each request whose it is (forward auth): one read by primary key, and a touch a minute."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, current_app, request
from werkzeug.sansio.http import parse_cookie

from .. import products, sessions
from ..errors import TooManyAttempts
from ..web import authentication, headers, limits
from . import cookies, verdicts

blueprint = Blueprint("asking", __name__)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NAVIGATIONS = {"GET", "HEAD"}
NOT_KEPT = {"Cache-Control": "no-store", "Vary": "Cookie, Authorization"}


@blueprint.route("/forward-auth", methods=METHODS, provide_automatic_options=False)
def forward_auth() -> Response:
    """Answer Caddy, Traefik, HAProxy, Envoy: who it is, or where a browser is to go."""
    asked = read(request.environ, request.headers.get("X-Forwarded-Uri", "/"))
    if asked is None:
        return _plain(403)
    answer = _answer(asked)
    if answer.status_code == 401 and asked.is_navigation:
        answer = _plain(302)
        answer.headers["Location"] = verdicts.start_url(asked.origin, asked.path)
    return answer


@blueprint.route("/auth-request", methods=METHODS, provide_automatic_options=False)
def auth_request() -> Response:
    """Answer nginx, which takes no redirect and makes an error of 429: 401 names the address instead."""
    original = request.headers.get("X-Original-URL", "")
    path = request.headers.get("X-Forwarded-Uri") or _path_of(original)
    asked = read(request.environ, path, original)
    if asked is None:
        return _plain(403)
    try:
        answer = _answer(asked)
    except TooManyAttempts:
        answer = _unauthorized(has_bad_credential=True)
    if answer.status_code == 401:
        answer.headers["X-Authsite-Login"] = verdicts.start_url(asked.origin, asked.path)
    return answer


def read(environ: Mapping[str, Any], path: str, original_url: str = "") -> verdicts.Asked | None:
    """Return what the proxy asks, by a WSGI environment; None where the origin is not listed."""
    proto = environ.get("HTTP_X_FORWARDED_PROTO", "")
    host = environ.get("HTTP_X_FORWARDED_HOST", "")
    if not host and original_url:
        proto, _, rest = original_url.partition("://")
        host = rest.partition("/")[0]
    listed: list[str] = current_app.config["FORWARD_AUTH_ORIGINS"]
    origin = verdicts.origin_of(proto or environ["wsgi.url_scheme"], host, listed)
    if origin is None:
        return None
    method = environ.get("HTTP_X_FORWARDED_METHOD", environ["REQUEST_METHOD"]).upper()
    mode = environ.get("HTTP_SEC_FETCH_MODE")
    wants_page = (
        "text/html" in environ.get("HTTP_ACCEPT", "") if mode is None else mode == "navigate"
    )
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return verdicts.Asked(
        origin,
        path,
        method in NAVIGATIONS and wants_page,
        token.strip(" ") if scheme.lower() == "bearer" else None,
        parse_cookie(environ.get("HTTP_COOKIE")).get(cookies.app_name()),
    )


def identity(session: sessions.Resumed, origin: str) -> list[tuple[str, str]]:
    """Return the headers that tell a product whose request it is.

    All of them, always: a proxy passes on the client's own copy of what is not there.
    """
    return [
        ("Remote-User", str(session.account.id)),
        ("Remote-Email", session.account.email),
        ("Remote-Session", str(session.id)),
        ("Remote-Assertion", products.assertion(session, origin)),
    ]


def _answer(asked: verdicts.Asked) -> Response:
    verdict = verdicts.decide(asked)
    session = verdict.session
    if session is None and asked.bearer is None and asked.origin == headers.own_origin():
        session = authentication.session_of_cookie()  # a product under our own origin
    if session is None:
        if verdict.has_bad_credential:
            limits.bad_credential.count()
        return _unauthorized(has_bad_credential=verdict.has_bad_credential)
    sessions.touch(session, address=authentication.remote_address)
    answer = _plain(200)
    answer.headers.extend(identity(session, asked.origin))
    return answer


def _unauthorized(*, has_bad_credential: bool) -> Response:
    answer = _plain(401)
    answer.headers["WWW-Authenticate"] = (
        'Bearer error="invalid_token"' if has_bad_credential else "Bearer"
    )
    return answer


def _plain(status: int) -> Response:
    answer = Response(status=status, mimetype="text/plain")
    answer.headers.update(NOT_KEPT)
    return answer


def _path_of(url: str) -> str:
    _, _, rest = url.partition("://")
    _, slash, path = rest.partition("/")
    return slash + path or "/"
