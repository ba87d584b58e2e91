"""The shapes of CONTRACT §1: User, Session, Tokens, Message."""

import uuid
from typing import Any

from flask import Response, jsonify

from .. import clock, database, sessions
from ..crypto import tokens


def session(row: database.Row, *, current: uuid.UUID) -> dict[str, Any]:
    """Return a session as its owner may see it; `current` is the session that asks."""
    aal, amr = sessions.ASSURANCE[row.signed_in_with]
    return {name: getattr(row, name) for name in SESSION_MEMBERS} | {
        "is_current": row.id == current,
        "aal": aal,
        "amr": amr,
        "authenticated_at": row.authenticated_at,
    }


def issued_tokens(grant: sessions.Grant, **more: Any) -> Response:
    """Return both tokens of a session (RFC 6749 §5.1), with more members if there are any."""
    return never_stored(jsonify(**more, **both_tokens(grant)))


def both_tokens(grant: sessions.Grant) -> dict[str, Any]:
    """Return the access token and the refresh token of a session, and what there is to say of them."""
    assert grant.jti is not None
    refresh_token = tokens.refresh_token(
        user_id=grant.user_id,
        session_id=grant.session_id,
        jti=grant.jti,
        issued_at=grant.issued_at,
        expires_at=grant.expires_at,
    )
    access = access_token(grant)
    return {"access_token": access.pop("access_token"), "refresh_token": refresh_token, **access}


def access_token(grant: sessions.Grant) -> dict[str, Any]:
    """Return an access token of a session and what there is to say of it."""
    return {
        "access_token": tokens.access_token(
            user_id=grant.user_id,
            session_id=grant.session_id,
            # Never older than its rotation, by whatever clock: its first use must be seen as one.
            issued_at=max(clock.now(), grant.issued_at),
            authenticated_at=grant.authenticated_at,
        ),
        "token_type": "bearer",
        "expires_in": int(tokens.ACCESS_LIFETIME.total_seconds()),
    }


NEVER_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def never_stored(response: Response) -> Response:
    """Forbid caches to keep an answer with tokens, older ones too (RFC 6749 §5.1)."""
    response.headers.update(NEVER_STORED)
    return response


# What a client is called that tells nothing of itself, by its entrance.
NAMELESS = {"oauth": "API Client"}


def message(text: str) -> dict[str, Any]:
    return {"success": True, "message": text}


SESSION_MEMBERS = (
    "id",
    "device_name",
    "device_id",
    "ip_address",
    "location_city",
    "location_country",
    "last_used_at",
    "created_at",
    "expires_at",
    "browser",
    "os",
    "device_type",
)
