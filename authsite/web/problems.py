"""One table from failures to statuses; problem details (RFC 9457) under /api, a page elsewhere."""

import contextlib
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from flask import Flask, Response, current_app, g, render_template, request
from markupsafe import escape
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError,
)
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from .. import errors, events
from ..database import faults
from . import authentication, headers

STATUSES: dict[type[errors.AuthsiteError], int] = {
    errors.MalformedRequest: 400,
    errors.ResetTokenInvalid: 400,
    errors.EmailTokenInvalid: 400,
    errors.UnsupportedGrantType: 400,
    errors.MfaTokenInvalid: 400,
    errors.SetupTokenInvalid: 400,
    errors.InvalidCredentials: 401,
    errors.InactiveAccount: 401,
    errors.AccountBeingDeleted: 401,
    errors.UnknownPasskey: 401,
    errors.PasskeySignInExpired: 401,
    errors.EmailNotVerified: 401,
    errors.InvalidClient: 401,
    errors.NotAuthenticated: 401,
    errors.TokenExpired: 401,
    errors.TokenInvalid: 401,
    errors.RefreshTokenExpired: 401,
    errors.RefreshTokenInvalid: 401,
    errors.SessionRevoked: 401,
    errors.InsufficientAuthentication: 401,
    errors.WrongCurrentPassword: 403,
    errors.SecondStepRequired: 403,
    errors.InvalidCode: 403,
    errors.PasskeyInvalid: 403,
    errors.PasskeyExpired: 403,
    errors.Forbidden: 403,
    errors.ProofRefused: 403,
    errors.SessionNotFound: 404,
    errors.UnknownAccount: 404,
    errors.PasskeyNotFound: 404,
    errors.EmailTaken: 409,
    errors.NoSecondStep: 409,
    errors.AlreadyReplaced: 409,
    errors.PasskeyExists: 409,
    errors.TooManyPasskeys: 409,
    errors.PasskeysUnavailable: 409,
    errors.UnsupportedMediaType: 415,
    errors.UnsupportedEncoding: 415,
    errors.InvalidInput: 422,
    errors.WeakPassword: 422,
    errors.PasskeyRefused: 422,
    errors.TooManyAttempts: 429,
    errors.ServiceBusy: 503,
}

CODES = {
    400: ("malformed_request", "The request could not be read"),
    401: ("not_authenticated", "Authentication is required"),
    403: ("forbidden", "You are not allowed to do this"),
    404: ("not_found", "Nothing was found at this address"),
    405: ("method_not_allowed", "This address does not answer to this method"),
    413: ("payload_too_large", "The request is too large"),
    415: ("unsupported_media_type", "The content type of the request is not supported"),
    431: ("malformed_request", "The cookies of the request are too large"),
    422: ("validation_error", "Check the fields named in errors"),
    429: ("rate_limited", "Too many attempts. Try again later."),
    500: ("internal_error", "There is a problem with the service"),
    503: ("service_unavailable", "The service is unavailable. Try again later."),
}

# RFC 6749 §5.2, for the endpoints that OAuth libraries call.
OAUTH_ENDPOINTS = frozenset(
    {"api.accounts.login_oauth", "api.services.introspect_token", "api.services.revoke_token"}
)
OAUTH_ERRORS = {
    errors.InvalidClient: "invalid_client",
    errors.InvalidCredentials: "invalid_grant",
    errors.InactiveAccount: "invalid_grant",
    errors.AccountBeingDeleted: "invalid_grant",
    errors.EmailNotVerified: "invalid_grant",
    errors.RefreshTokenExpired: "invalid_grant",
    errors.RefreshTokenInvalid: "invalid_grant",
    errors.SessionRevoked: "invalid_grant",
    errors.UnsupportedGrantType: "unsupported_grant_type",
    errors.SecondStepRequired: "mfa_required",  # Auth0's word, which its clients understand
}

# What a failure knows beside its words and a client needs, as members of the problem (RFC 9457 §3.2).
EXTENSIONS = (
    *("max_age", "acr_values", "mfa_token", "expires_in", "methods"),
    "passkey_options",
)

# How to authenticate after a 401 of this code, where it is not a bearer token that is missing (RFC 6750 §3);
# or how freshly (RFC 9470 §3).
CHALLENGES = dict.fromkeys(
    ("token_expired", "token_invalid", "session_revoked"), 'Bearer error="invalid_token"'
) | {
    "invalid_client": 'Basic realm="authsite"',
    "insufficient_user_authentication": 'Bearer error="insufficient_user_authentication",'
    ' error_description="{detail}", max_age="{max_age}"',
}

# A fault of the database, not of the request: gone, too slow, locked, full.
UNAVAILABLE = (OperationalError, InterfaceError, TimeoutError)
RETRY_AFTER_FAULT = "5"


def init_app(app: Flask) -> None:
    app.register_error_handler(errors.AuthsiteError, _on_authsite_error)
    app.register_error_handler(HTTPException, _on_http_error)
    for fault in UNAVAILABLE:
        app.register_error_handler(fault, _on_unavailable)
    app.register_error_handler(DBAPIError, _on_database_error)
    app.register_error_handler(Exception, _on_bug)


def status_of(error: errors.AuthsiteError) -> int:
    """Return the status of a failure, which stands in STATUSES."""
    return STATUSES[type(error)]


def extensions_of(error: errors.AuthsiteError) -> dict[str, Any]:
    """Return the members that a failure adds to its problem."""
    found = {name: getattr(error, name, None) for name in EXTENSIONS}
    return {name: value for name, value in found.items() if value is not None}


def answer(
    status: int,
    *,
    code: str | None = None,
    members: list[tuple[str | None, str]] | None = None,
    detail: str | None = None,
    oauth_error: str | None = None,
    retry_after: int | None = None,
    extensions: Mapping[str, Any] = MappingProxyType({}),
) -> Response:
    """Return the error as problem details or as a page, by the request's path."""
    default_code, default_detail = CODES.get(status, CODES[500 if status >= 500 else 400])
    code, detail = code or default_code, detail or default_detail
    if headers.is_api():
        more = dict(extensions)
        if request.endpoint in OAUTH_ENDPOINTS:
            more |= {"error": oauth_error or "invalid_request", "error_description": detail}
        response = _problem(status, code, detail, members or [(None, detail)], more)
    else:
        response = _page(status, retry_after, None if detail == default_detail else detail)
    if status == HTTPStatus.UNAUTHORIZED:
        challenge = CHALLENGES.get(code, "Bearer")
        if acr_values := extensions.get("acr_values"):
            challenge += f', acr_values="{acr_values}"'
        response.headers["WWW-Authenticate"] = challenge.format(detail=detail, **extensions)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def _problem(
    status: int,
    code: str,
    detail: str,
    members: list[tuple[str | None, str]],
    more: dict[str, Any],
) -> Response:
    base_url = current_app.config["PUBLIC_BASE_URL"]
    problem: dict[str, Any] = {
        "type": f"{base_url}/api/v1/docs#{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        # A URI reference again (RFC 9457 §3.1.5): the path came decoded.
        "instance": quote(request.path, safe="/!$&'()*+,;=:@~"),
        "success": False,
        "request_id": headers.request_id(),
        "errors": [{"code": code, "message": text, "field": field} for field, text in members],
        **more,
    }
    text = current_app.json.dumps(problem)
    return Response(text, status, content_type="application/problem+json")


def _page(status: int, retry_after: int | None, detail: str | None) -> Response:
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return _plainest_page()
    if status != HTTPStatus.SERVICE_UNAVAILABLE and "session" not in g:
        # Who is signed in keeps the navigation, also where no view was found to look him up.
        with contextlib.suppress(SQLAlchemyError):
            authentication.from_cookie()
    text = render_template(
        "errors/error.html", status=status, retry_after=retry_after, detail=detail
    )
    return Response(text, status)


def _plainest_page() -> Response:
    """Return the page for a fault of ours: no template, session or database that could fail again."""
    site = escape(current_app.config["SITE_NAME"])
    support = current_app.config["SUPPORT_EMAIL"]
    link = f'<a href="{escape(current_app.config["SUPPORT_URL"])}">{escape(support)}</a>'
    helped = f" If it goes on, write to {link} and name the reference." if support else ""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>There is a problem with the service – {site}</title>"
        '<link rel="stylesheet" href="/static/app.css"></head><body>'
        f'<header><div class="column bar"><a class="site-name" href="/">{site}</a></div></header>'
        '<main id="main" class="door"><h1>There is a problem with the service</h1>'
        f"<p>Try again later. Nothing you entered was saved.{helped}</p>"
        f"<p>Reference: {headers.request_id()}</p></main></body></html>"
    )
    return Response(text, HTTPStatus.INTERNAL_SERVER_ERROR)


def _on_authsite_error(error: errors.AuthsiteError) -> Response:
    members = (
        error.errors if isinstance(error, errors.InvalidInput) else [(error.field, error.message)]
    )
    response = answer(
        status_of(error),
        code=error.code,
        members=members,
        detail=error.message,
        oauth_error=OAUTH_ERRORS.get(type(error)),
        retry_after=getattr(error, "retry_after", None),
        extensions=extensions_of(error),
    )
    if isinstance(error, errors.UnsupportedEncoding):
        response.headers["Accept-Encoding"] = "identity"  # RFC 9110 §12.5.3
    return response


def _on_http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:
        return Response(status=status, headers=error.get_headers())  # a redirect of the router
    response = answer(status)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _on_unavailable(error: Exception) -> Response:
    events.record("database_unavailable", outcome="error", reason=faults.describe(error))
    return answer(503, retry_after=int(RETRY_AFTER_FAULT))


def _on_database_error(error: DBAPIError) -> Response:
    if isinstance(error, IntegrityError) and "foreign key" in str(error.orig).lower():
        # All that refers to a row refers to a user: deleted since the request began.
        return _on_authsite_error(errors.SessionRevoked())
    if error.connection_invalidated or faults.is_unusable(error):
        return _on_unavailable(error)
    if isinstance(error, DataError):
        # The last line: forms and headers are checked before they come here.
        current_app.logger.error("The database refused a value", exc_info=error)
        return answer(422)
    return _on_bug(error)


def _on_bug(error: Exception) -> Response:
    current_app.logger.error("Unexpected failure", exc_info=error)
    return answer(500)
