"""Sessions: list, rename, revoke, log out."""

import contextlib
import uuid
from collections.abc import Sequence
from typing import Any

from flask import Blueprint

from .. import sessions, spelling
from ..crypto import tokens
from ..database import Row
from ..errors import Forbidden, InvalidInput, SessionNotFound, TokenInvalid
from ..web import authentication, limits
from ..web.forms import DeviceNameForm, LogoutForm
from . import answers

blueprint = Blueprint("sessions", __name__)


@blueprint.post("/auth/logout")
@limits.logout
def logout() -> dict[str, Any]:
    """End the session that the refresh token names if it is the caller's own, else the caller's."""
    caller = authentication.current_session()
    text = LogoutForm.from_json_if_any().refresh_token.data
    session_id = _session_named_by(text, caller.account.id) or caller.id
    # A refresh token may outlive the row of its session: that has long ended.
    with contextlib.suppress(SessionNotFound):
        sessions.end(
            caller.account.id,
            session_id,
            reason="logged_out",
            ended_from=None if session_id == caller.id else caller.device_name,
        )
    return answers.message("Logged out successfully")


@blueprint.post("/auth/logout-all")
@limits.logout_all
def logout_all() -> dict[str, Any]:
    """End every session of the user, the caller's included."""
    ended = authentication.end_everywhere(reason="logged_out", keeps_own=False)
    return answers.message(
        f"Successfully logged out from all devices ({ended} sessions terminated)"
    )


@blueprint.get("/sessions/me")
@authentication.lists_sessions
@limits.list_sessions
def list_my_sessions() -> dict[str, Any]:
    """Return the user's live sessions, last used first."""
    return listed(authentication.current_sessions(), current=authentication.current_session().id)


def listed(rows: Sequence[Row], *, current: uuid.UUID) -> dict[str, Any]:
    """Return what a client is told of sessions."""
    return {"sessions": [answers.session(row, current=current) for row in rows], "total": len(rows)}


@blueprint.patch("/sessions/<session_id>")
@limits.rename_session
def rename_session(session_id: str) -> dict[str, Any]:
    """Give a session the user's own name for its device; null forgets it."""
    form = DeviceNameForm.from_json()
    name = form.device_name.data or None
    if name is None and "device_name" not in form.nulls:
        raise InvalidInput([("device_name", "Give a name of 1 to 64 characters, or null")])
    caller = authentication.current_session()
    row = sessions.rename(caller.account.id, _parse_id(session_id), name)
    return answers.session(row, current=caller.id)


@blueprint.delete("/sessions/<session_id>")
@limits.revoke_session
def revoke_session(session_id: str) -> dict[str, Any]:
    """End one of the user's sessions."""
    caller = authentication.current_session()
    name = sessions.end(
        caller.account.id,
        _parse_id(session_id),
        reason="revoked",
        ended_from=caller.device_name,
    )
    return answers.message(f"Session revoked: {name}")


@blueprint.delete("/sessions/me/others")
@limits.revoke_others
def revoke_other_sessions() -> dict[str, Any]:
    """End all of the user's sessions but the caller's."""
    ended = authentication.end_everywhere(reason="revoked", keeps_own=True)
    return answers.message(f"Signed out of {ended} other devices")


@blueprint.delete("/sessions/me/expired")
@limits.delete_expired
def cleanup_expired_sessions() -> dict[str, Any]:
    """Delete the user's expired and ended rows."""
    deleted = sessions.delete_own_dead(authentication.current_session().account.id)
    return answers.message(f"Cleaned up {deleted} expired sessions")


def _session_named_by(refresh_token: str | None, user_id: uuid.UUID) -> uuid.UUID | None:
    """Return the session of a refresh token, expired or not; None for one that names none.

    Raise Forbidden for another user's (RFC 7009 §2.1).
    """
    if not refresh_token:
        return None
    try:
        claims = tokens.read(refresh_token, tokens.REFRESH, even_expired=True)
    except TokenInvalid:
        return None
    if claims.user_id != user_id:
        raise Forbidden("You can only logout your own sessions")
    return claims.session_id


def _parse_id(text: str) -> uuid.UUID:
    """Return the id in its one canonical spelling; anything else is no session's."""
    parsed = spelling.canonical_id(text)
    if parsed is None:
        raise SessionNotFound
    return parsed
