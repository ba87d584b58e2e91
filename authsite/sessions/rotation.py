"""A refresh token is changed for its successor, by compare-and-swap; reuse is theft (RFC 9700 §4.14.2)."""

import uuid
from datetime import datetime, timedelta

from flask import current_app
from sqlalchemy import bindparam, case, exists, func, select, update

from .. import activity, clock, database, events
from ..crypto import tokens
from ..database import Row, UtcDateTime
from ..database.models import User, UserSession
from ..errors import RefreshTokenExpired, SessionRevoked
from ..mail import emails, outbox
from .columns import DEVICE_NAME, IDLE_LIFETIME, IS_LIVE, IS_OWN, NOW, Grant
from .ending import end_where
from .trusted import distrust_all


def rotate(
    session_id: uuid.UUID, user_id: uuid.UUID, jti: str, *, ip_address: str | None = None
) -> Grant:
    """Change a refresh token for its successor.

    Raise RefreshTokenExpired or SessionRevoked. One caller wins the compare-and-swap; the others get the
    same successor again inside the grace (RFC 9700 §4.14.2), and so does, for longer, a client that lost
    the answer: as long as nothing in it has been used.
    """
    now = clock.now()
    new_jti = tokens.new_jti()
    row = database.row(
        _ROTATE,
        {
            "session_id": session_id,
            "owner_id": user_id,
            "presented": jti,
            "new_jti": new_jti,
            "now": now,
            "idle_until": now + IDLE_LIFETIME,
            "ip": ip_address,
        },
    )
    if row is None:
        return _converge_or_end(session_id, user_id, jti, now)
    events.record("refresh", user_id=user_id, session_id=session_id)
    return Grant(session_id, user_id, now, row.expires_at, new_jti)


def _converge_or_end(session_id: uuid.UUID, user_id: uuid.UUID, jti: str, now: datetime) -> Grant:
    """Answer a refresh token that is not the row's current one."""
    row = database.row(_LOOK_BACK, {"session_id": session_id, "owner_id": user_id})
    if row is None or row.ended_at is not None or not row.is_active or row.refresh_jti is None:
        raise SessionRevoked
    if row.expires_at <= now:
        raise RefreshTokenExpired
    if row.previous_jti == jti and now - row.rotated_at <= _repeatable_for(row):
        return Grant(session_id, user_id, row.rotated_at, row.expires_at, row.refresh_jti)
    # The end is committed before the refusal is raised: raising inside would undo it.
    with database.transaction():
        ended = end_where(user_id, UserSession.id == session_id, "reuse_detected", None)
        if ended:
            distrust_all(user_id)
            activity.record("refresh_reused", user_id, target=row.device_name)
            outbox.queue(emails.token_reuse(user_id, row.device_name, now, session_id=session_id))
    events.record("refresh_reuse", outcome="refused", user_id=user_id, session_id=session_id)
    raise SessionRevoked


def _repeatable_for(row: Row) -> timedelta:
    """Return for how long after its rotation the row's current token is given out again.

    Were its refresh token used, that one's successor would be current and the one presented two steps back.
    """
    config = current_app.config
    grace: int = config["REFRESH_GRACE_SECONDS"]
    if not grace:
        return timedelta.min  # strict: not even in the same instant
    # A rotation by code of the release before does not name itself here: whether it was used nobody knows.
    is_unused = row.unused_rotation_at == row.rotated_at
    return timedelta(seconds=max(grace, is_unused and config["REFRESH_LOST_ANSWER_SECONDS"]))


_IDLE_UNTIL = bindparam("idle_until", type_=UtcDateTime())
_ROTATE = database.Prepared(
    update(UserSession)
    .where(
        IS_OWN,
        UserSession.refresh_jti == bindparam("presented"),
        IS_LIVE,
        exists().where(User.id == UserSession.user_id, User.is_active),
    )
    .values(
        previous_jti=UserSession.refresh_jti,
        refresh_jti=bindparam("new_jti"),
        rotated_at=NOW,
        unused_rotation_at=NOW,
        last_used_at=NOW,
        expires_at=case(
            (UserSession.absolute_expires_at < _IDLE_UNTIL, UserSession.absolute_expires_at),
            else_=_IDLE_UNTIL,
        ),
        ip_address=func.coalesce(bindparam("ip"), UserSession.ip_address),
    )
    .returning(UserSession.expires_at)
)
_LOOK_BACK = (
    select(
        UserSession.refresh_jti,
        UserSession.previous_jti,
        UserSession.rotated_at,
        UserSession.unused_rotation_at,
        UserSession.expires_at,
        UserSession.ended_at,
        DEVICE_NAME,
        User.is_active,
    )
    .join_from(UserSession, User, User.id == UserSession.user_id)
    .where(IS_OWN)
)
