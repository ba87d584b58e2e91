"""What every request and response carries: its id, security headers, caching, CORS, https."""

import hashlib
import re
import time
import uuid
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from . import events
from .errors import Forbidden

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
HEALTH = frozenset({"/healthz", "/readyz"})
HSTS = "max-age=63072000; includeSubDomains"
CORS_HEADERS = "Authorization, Content-Type, X-Device-Id, X-Request-Id"
CORS_EXPOSED = "RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{20,200}")


def init_app(app: Flask) -> None:
    app.before_request(_identify)
    app.before_request(_insist_on_https)
    app.after_request(_log)
    app.after_request(_add)
    app.add_template_global(static_url)


def request_id() -> str:
    """Return this request's id, which its response, log lines and problem carry."""
    if "request_id" not in g:
        _identify()
    return str(g.request_id)


def is_api() -> bool:
    """Return whether this request is for the API, by its path: unknown paths have no blueprint."""
    return request.path.startswith(API_PREFIX)


def _identify() -> None:
    g.began_at = time.perf_counter()
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
    events.context.set(
        {
            "request_id": g.request_id,
            "ip": request.remote_addr,
            "user_agent": request.headers.get("User-Agent", "")[:512],
        }
    )


def _insist_on_https() -> BaseResponse | None:
    """Send a page to https; refuse the API, whose secrets have then already gone over the wire."""
    if not current_app.config["IS_PRODUCTION"] or request.is_secure:
        return None
    if request.path in HEALTH:
        return None
    if is_api():
        raise Forbidden("Use https")
    base = current_app.config["PUBLIC_BASE_URL"]
    query = f"?{request.query_string.decode('latin-1')}" if request.query_string else ""
    return redirect(f"{base}{request.path}{query}", 308)


def _add(response: Response) -> Response:
    headers = response.headers
    headers.extend(SECURITY_HEADERS)
    headers["X-Request-Id"] = request_id()
    if current_app.config["IS_PRODUCTION"]:
        headers["Strict-Transport-Security"] = HSTS
    if request.endpoint == "static" and response.status_code in {200, 206, 304}:
        headers["Cache-Control"] = _static_caching()
    elif "Cache-Control" not in headers:
        headers["Cache-Control"] = "no-store"
    if is_api():
        _allow_origin(response)
    return response


def _log(response: Response) -> Response:
    """Log the request in one line; never its query, which may hold a reset token."""
    if request.path in HEALTH or request.endpoint == "static":
        return response
    session = g.get("session")
    refusal = "refused" if response.status_code < 500 else "error"
    events.record(
        "request",
        outcome="success" if response.status_code < 400 else refusal,
        method=request.method,
        path=request.path[:200],
        status=response.status_code,
        milliseconds=round((time.perf_counter() - g.began_at) * 1000, 1),
        user_id=session and session.account.id,
        session_id=session and session.id,
    )
    return response


def _allow_origin(response: Response) -> None:
    """Let the listed origins read the answer; never with credentials (Fetch standard, CORS protocol)."""
    response.headers.add("Vary", "Origin")
    origin = request.headers.get("Origin")
    if origin is None or origin not in current_app.config["CORS_ORIGINS"]:
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = CORS_EXPOSED
    # Without this a page of another origin could not read what CORS has just allowed.
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = ", ".join(sorted(response.allow))
        response.headers["Access-Control-Allow-Headers"] = CORS_HEADERS
        response.headers["Access-Control-Max-Age"] = "600"


def static_url(filename: str) -> str:
    """Return the address of a static file, which changes with its content."""
    # Not url_for: a request for an untrusted host has no routes, and its error page is a page too.
    return f"/static/{filename}?v={_version(filename)}"


def _static_caching() -> str:
    """Return how long a file may be kept: under the address that its content gave it, for good."""
    is_current = request.args.get("v") == _version((request.view_args or {})["filename"])
    return "public, max-age=" + ("31536000, immutable" if is_current else "3600")


def _version(filename: str) -> str:
    path = Path(str(current_app.static_folder), filename)
    return _content_hash(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _content_hash(path: Path, _changed_at: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def require_own_origin() -> None:
    """Raise Forbidden for a write that another site's page has sent (OWASP: Fetch Metadata, Origin).

    A token is asked for as well; this also stands where one has leaked.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    origin = request.headers.get("Origin")
    own = {own_origin(), request.host_url.rstrip("/")}
    is_foreign = request.headers.get("Sec-Fetch-Site") == "cross-site"
    if is_foreign or (origin is not None and origin not in own):
        events.record("cross_site", outcome="refused", endpoint=request.endpoint)
        raise Forbidden("Another site sent this")


def own_origin() -> str:
    """Return the origin under which people reach this service."""
    parts = urlsplit(current_app.config["PUBLIC_BASE_URL"])
    return f"{parts.scheme}://{parts.netloc}"
