"""What every request and response carries: its id, security headers, caching, CORS, https."""

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from flask import Flask, Response, current_app, g, redirect, request
from werkzeug.exceptions import RequestHeaderFieldsTooLarge
from werkzeug.security import safe_join
from werkzeug.wrappers import Response as BaseResponse

from .. import events
from ..config import looks
from ..errors import Forbidden

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

API_PREFIX = "/api/"
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; object-src 'none';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), camera=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HEALTH = ("/healthz", "/readyz")
# What a browser has no business with: a service's secret does not belong in a page, so no origin may read it.
FOR_SERVICES = frozenset({"/api/v1/auth/introspect"})
ACCENT_CSS = "/accent.css"
UNLOGGED = (*HEALTH, "/static/", ACCENT_CSS)
# A product asks at each of its own requests, which it logs itself.
# A proxy asks of each request of a product, by any method and without the account's cookie or a CSRF token.
FOR_PROXIES = frozenset({"/forward-auth", "/auth-request"})
UNLOGGED_SUCCESSES = FOR_SERVICES | FOR_PROXIES
HSTS = "max-age=63072000; includeSubDomains"
CORS_HEADERS = "Authorization, Content-Type, X-Device-Id, X-Request-Id"
CORS_EXPOSED = "RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{20,200}")
WEBSOCKET_SCHEMES = {"ws": "http", "wss": "https"}
MAX_COOKIES = 8 * 1024
MAX_HEADER = 16 * 1024
# Proxies append: what we believe stands at the end, and what is before it anybody may have written.
FORWARDED = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO")
# Read by parsers that are not linear, or slow; long in nobody's honest request.
PARSED = (
    "CONTENT_TYPE",
    "HTTP_ACCEPT",
    "HTTP_ACCEPT_LANGUAGE",
    "HTTP_CACHE_CONTROL",
    "HTTP_HOST",
    "HTTP_IF_MATCH",
    "HTTP_IF_NONE_MATCH",
    "HTTP_IF_RANGE",
    "HTTP_RANGE",
)
HEADER_LIMITS = dict.fromkeys((*PARSED, *FORWARDED), 2 * 1024)
_BLANKS = re.compile(r"\s+")
_ENVIRON_KEY = "authsite.request_id"
_HAS_LARGE_COOKIES = "authsite.has_large_cookies"
_HAS_NO_REFERRER = "authsite.has_no_referrer"
_FAULT = "authsite.fault"


def init_app(app: Flask) -> None:
    app.wsgi_app = Envelope(app)  # type: ignore[method-assign]
    app.before_request(_refuse)
    if app.config["IS_PRODUCTION"]:
        app.before_request(_insist_on_https)
    app.after_request(_add)
    app.add_template_global(static_url)
    app.add_template_global(accent_url)


class Envelope:
    """The WSGI layer around the application: whatever answers, and whichever way, carries what all do.

    Four hooks of Flask in its place took 30 µs more of each request.
    """

    def __init__(self, app: Flask) -> None:
        self._wsgi_app = app.wsgi_app
        self._own_host = urlsplit(app.config["PUBLIC_BASE_URL"]).netloc
        # A form's own redirects are governed too: after the sign-in form they lead to a product.
        targets = " ".join(["'self'", *_products(app)])
        policy = CONTENT_SECURITY_POLICY.replace("form-action 'self'", f"form-action {targets}")
        self._headers = list((SECURITY_HEADERS | {"Content-Security-Policy": policy}).items())
        if app.config["IS_PRODUCTION"]:
            self._headers.append(("Strict-Transport-Security", HSTS))
        self._without_referrer = [
            (name, "no-referrer" if name == "Referrer-Policy" else value)
            for name, value in self._headers
        ]

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        began_at = time.perf_counter()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        environ[_ENVIRON_KEY] = request_id
        events.context.set(
            {
                "request_id": request_id,
                "ip": environ.get("REMOTE_ADDR"),
                "user_agent": environ.get("HTTP_USER_AGENT", "")[:512],
            }
        )
        if "HTTP_COOKIE" in environ:
            _bound_cookies(environ)
        if "HTTP_HOST" in environ:
            environ["HTTP_HOST"] = environ["HTTP_HOST"].lower()  # a name has no case
        if environ.get("PATH_INFO") in HEALTH:
            # A probe names the instance's address, or nothing.
            environ["HTTP_HOST"] = self._own_host
        # A proxy asks of a product's WebSocket too; routes know pages only.
        environ.pop("HTTP_UPGRADE", None)
        if environ["wsgi.url_scheme"] in WEBSOCKET_SCHEMES:
            environ["wsgi.url_scheme"] = WEBSOCKET_SCHEMES[environ["wsgi.url_scheme"]]
        if "HTTP_TRANSFER_ENCODING" in environ:
            environ["wsgi.input"] = ChunkedBody(environ["wsgi.input"])

        def start(status: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            if not (status.startswith("200") and environ.get("PATH_INFO") in UNLOGGED_SUCCESSES):
                _log(environ, int(status[:3]), began_at)
            own = self._without_referrer if _HAS_NO_REFERRER in environ else self._headers
            headers = [*headers, *own, ("X-Request-Id", request_id)]
            return start_response(status, headers, *failure)

        return self._wsgi_app(environ, start)


def _products(app: Flask) -> list[str]:
    """Return the origins to which a sign-in may lead."""
    origins: list[str] = app.config["FORWARD_AUTH_ORIGINS"]
    back = urlsplit(app.config["PRODUCT_URL"] or "")
    return list(
        dict.fromkeys([*origins, f"{back.scheme}://{back.netloc}"] if back.netloc else origins)
    )


class ChunkedBody:
    """A body in chunks, read from the server; wrong ones are a fault of the client's.

    The server reports them by exceptions of its own, which are OSError here: Werkzeug answers it with 400.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except Exception as error:
            raise OSError("the body ends in a chunk that is none") from error


def _bound_cookies(environ: "WSGIEnvironment") -> None:
    """Make cookies safe to read before any library does (SECURITY AP-21).

    Werkzeug's parser takes time in the square of a run of blanks, with the interpreter locked: 8,100 of them
    took 0.4 s. No cookie of ours holds two in a row.
    """
    if len(environ["HTTP_COOKIE"]) > MAX_COOKIES:
        del environ["HTTP_COOKIE"]
        environ[_HAS_LARGE_COOKIES] = True
    else:
        environ["HTTP_COOKIE"] = _BLANKS.sub(" ", environ["HTTP_COOKIE"])


def has_large_cookies(environ: "WSGIEnvironment") -> bool:
    """Return whether the request is to be refused for the size of its cookies."""
    return _HAS_LARGE_COOKIES in environ


def pass_on(environ: "WSGIEnvironment", fault: Exception) -> None:
    """Have Flask answer the request with this fault, met in a layer below it, and know what that found."""
    environ[_FAULT] = fault, {name: g.get(name) for name in g}


def _refuse() -> None:
    environ = request.environ
    if has_large_cookies(environ):
        raise RequestHeaderFieldsTooLarge
    if _FAULT in environ:
        fault, found = environ[_FAULT]
        for name, value in found.items():
            setattr(g, name, value)
        raise fault


def send_no_referrer() -> None:
    """Have browsers tell the next page nothing of this address, which may hold a code."""
    request.environ[_HAS_NO_REFERRER] = True


class Bounds:
    """The outermost WSGI layer: cuts each header to what may be read of it, before any library does.

    The server joins the lines of one name: ninety of X-Forwarded-For or of If-None-Match took 0.4 s to read,
    with the interpreter locked.
    """

    def __init__(self, wsgi_app: "WSGIApplication") -> None:
        self._wsgi_app = wsgi_app

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        overlong = [
            name
            for name, value in environ.items()
            if (name.startswith("HTTP_") or name == "CONTENT_TYPE")
            and len(value) > HEADER_LIMITS.get(name, MAX_HEADER)
        ]
        for name in overlong:
            most = HEADER_LIMITS.get(name, MAX_HEADER)
            value = environ[name]
            environ[name] = value[-most:] if name in FORWARDED else value[:most]
        return self._wsgi_app(environ, start_response)


def request_id() -> str:
    """Return this request's id, which its response, log lines and problem carry."""
    return str(request.environ[_ENVIRON_KEY])


def is_api() -> bool:
    """Return whether this request is for the API, by its path: unknown paths have no blueprint."""
    return request.path.startswith(API_PREFIX)


def _insist_on_https() -> BaseResponse | None:
    """Send a page to https; refuse the API, whose secrets have then already gone over the wire."""
    if request.is_secure or request.path in HEALTH or request.path in FOR_PROXIES:
        return None
    if is_api():
        raise Forbidden("Use https")
    base = current_app.config["PUBLIC_BASE_URL"]
    # The path came decoded: a line's end in it must not become one of the header.
    path = quote(request.path, safe="/!$&'()*+,;=:@~")
    query = quote(request.query_string, safe="/?!$&'()*+,;=:@~%") if request.query_string else ""
    return redirect(f"{base}{path}{'?' if query else ''}{query}", 308)


def _add(response: Response) -> Response:
    path, headers = request.path, response.headers
    if path.startswith(API_PREFIX) and path not in FOR_SERVICES:
        _allow_origin(response)
    if request.endpoint == "static" and (file := _static_path()):
        headers["Cache-Control"] = caching(is_current=request.args.get("v") == _version(file))
    elif "Cache-Control" not in headers:
        headers["Cache-Control"] = "no-store"
    return response


def _log(environ: "WSGIEnvironment", status: int, began_at: float) -> None:
    """Log the request in one line; never its query, which may hold a reset token."""
    path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
    if path.startswith(UNLOGGED):
        return
    session = g.get("session")
    refusal = "refused" if status < 500 else "error"
    events.record(
        "request",
        outcome="success" if status < 400 else refusal,
        method=environ["REQUEST_METHOD"],
        path=path[:200],
        status=status,
        milliseconds=round((time.perf_counter() - began_at) * 1000, 1),
        user_id=session and session.account.id,
        session_id=session and session.id,
    )


def for_origin(origin: str | None) -> dict[str, str]:
    """Return what lets a listed origin read an answer; never with credentials (Fetch, CORS protocol)."""
    if origin is None or origin not in current_app.config["CORS_ORIGINS"]:
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": CORS_EXPOSED,
    }


def _allow_origin(response: Response) -> None:
    headers = response.headers
    headers.add("Vary", "Origin")
    allowed = for_origin(request.headers.get("Origin"))
    headers.update(allowed)
    if allowed and request.method == "OPTIONS":
        headers["Access-Control-Allow-Methods"] = ", ".join(sorted(response.allow))
        headers["Access-Control-Allow-Headers"] = CORS_HEADERS
        headers["Access-Control-Max-Age"] = "600"


def static_url(filename: str) -> str:
    """Return the address of a static file, which changes with its content."""
    # Not url_for: a request for an untrusted host has no routes, and its error page is a page too.
    return f"/static/{filename}?v={_version(f'{current_app.static_folder}/{filename}')}"


def accent_style() -> str | None:
    """Return the style sheet of the operator's colour, None where none is set.

    One of its own: the policy lets no page hold a style.
    """
    accent = current_app.config["ACCENT_COLOR"]
    return None if accent is None else _accent_style(accent)


@lru_cache(maxsize=64)
def _accent_style(accent: looks.Accent) -> str:
    # Hovered or pressed, a button gets darker in light mode and lighter in dark mode: never less readable.
    modes = [
        f"--accent: {color}; --on-accent: {on}; --hover: {hover};"
        f" --wash: {looks.mixed(color, looks.GROUNDS[mode][0], 0.08)};"
        for mode, color, on, hover in (
            ("light", accent.light, "#fff", ".9"),
            ("dark", accent.dark, "#000", "1.12"),
        )
    ]
    return (
        f":root {{ {modes[0]} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {modes[1]} }} }}\n"
    )


def accent_url() -> str | None:
    """Return the address of that sheet, which changes with its content."""
    style = accent_style()
    return style and f"{ACCENT_CSS}?v={_hash(style.encode())}"


def caching(*, is_current: bool) -> str:
    """Return how long a file may be kept: under the address that its content gave it, for good."""
    return "public, max-age=" + ("31536000, immutable" if is_current else "3600")


def _static_path() -> str | None:
    """Return the path of the static file that is being answered, None where none is (SECURITY PG-19).

    Found as the view that serves it finds it: nothing outside of the folder is ever looked at.
    """
    name = (request.view_args or {}).get("filename")
    if request.method not in {"GET", "HEAD"} or name is None:
        return None
    path = safe_join(str(current_app.static_folder), name)
    return path if path and os.path.isfile(path) else None


def _version(path: str) -> str:
    return _content_hash(path, os.stat(path).st_mtime_ns)


@lru_cache(maxsize=64)
def _content_hash(path: str, _changed_at: int) -> str:
    return _hash(Path(path).read_bytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def require_own_origin() -> None:
    """Raise Forbidden for a write that another site's page has sent (OWASP: Fetch Metadata, Origin).

    A token is asked for as well; this also stands where one has leaked.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    origin = request.headers.get("Origin")
    own = {own_origin(), request.host_url.rstrip("/")}
    site = request.headers.get("Sec-Fetch-Site")
    # Where a proxy or the browser keeps the Referer back, our own page's origin is "null"; the browser says
    # beside it that the page was ours.
    is_hidden = origin == "null" and site == "same-origin"
    is_foreign = origin is not None and origin not in own and not is_hidden
    if is_foreign or site == "cross-site":
        events.record("cross_site", outcome="refused", endpoint=request.endpoint)
        raise Forbidden("Another site sent this")


def demand_own_origin() -> None:
    """Raise Forbidden unless a browser says that our own page is behind what it has sent."""
    require_own_origin()
    if "Origin" not in request.headers:
        events.record("cross_site", outcome="refused", endpoint=request.endpoint)
        raise Forbidden("Another site sent this")


def require_no_foreign_page() -> None:
    """Raise Forbidden for what a page of an origin that is not listed has sent without a preflight.

    Its visitors' addresses would be a guesser's (SECURITY LT-18).
    """
    is_foreign = request.headers.get("Sec-Fetch-Site") == "cross-site"
    if is_foreign and request.headers.get("Origin") not in current_app.config["CORS_ORIGINS"]:
        events.record("cross_site", outcome="refused", endpoint=request.endpoint)
        raise Forbidden("Another site sent this")


def own_origin() -> str:
    """Return the origin under which people reach this service."""
    parts = urlsplit(current_app.config["PUBLIC_BASE_URL"])
    return f"{parts.scheme}://{parts.netloc}"
