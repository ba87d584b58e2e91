"""Services that are handed tokens: is this one good (RFC 7662), and end what it names (RFC 7009)."""

import contextlib
from typing import Any

from flask import Blueprint, Response

from .. import sessions
from ..crypto import tokens
from ..errors import (
    Forbidden,
    MalformedRequest,
    SessionNotFound,
    SessionRevoked,
    TokenExpired,
    TokenInvalid,
)
from ..web import authentication, limits
from ..web.forms import read_urlencoded

blueprint = Blueprint("services", __name__)


@blueprint.post("/auth/introspect")
@authentication.public
def introspect_token() -> dict[str, Any]:
    """Tell a service whose access token this is; of any other token only that it is not active.

    The row is read as on every request of the device itself, so an end is seen at once. It is not touched:
    the product's traffic is not the device's.
    """
    service = authentication.service_client()
    return introspection(_token_of_body(), service)


def introspection(token: str, service: str) -> dict[str, Any]:
    """Return what a service is told of a token (RFC 7662 §2.2)."""
    try:
        claims = tokens.read(token, tokens.ACCESS)
        session = sessions.resume_api(claims.session_id, claims.user_id, issued_at=claims.issued_at)
    except (TokenExpired, TokenInvalid, SessionRevoked):
        return {"active": False}
    return {
        "active": True,
        "token_type": "Bearer",
        "iss": tokens.ISSUER,
        "sub": session.account.id,
        "sid": session.id,
        "iat": claims.issued_at,
        "exp": claims.expires_at,
        "client_id": service,
    }


@blueprint.post("/auth/revoke")
@authentication.public
@limits.revoke_token
def revoke_token() -> Response:
    """End the session of an access or refresh token, expired or not; the answer is the same for any text."""
    claims = _claims_of_either(_token_of_body())
    if claims:
        with contextlib.suppress(SessionNotFound, Forbidden):
            sessions.end(claims.user_id, claims.session_id, reason="logged_out")
    response = Response()
    del response.headers["Content-Type"]
    return response


def _token_of_body() -> str:
    members = read_urlencoded(["token", "token_type_hint", "client_secret"])
    if "client_secret" in members:
        raise MalformedRequest("Send the service's secret in the Authorization header only")
    if not members.get("token"):
        raise MalformedRequest("Send the token in the field token")
    return str(members["token"])


def _claims_of_either(token: str) -> tokens.Claims | None:
    for purpose in (tokens.ACCESS, tokens.REFRESH):
        with contextlib.suppress(TokenInvalid):
            return tokens.read(token, purpose, even_expired=True)
    return None
