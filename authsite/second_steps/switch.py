"""Two-step sign-in on and off. While it is on, an app or a passkey exists: kept under the user's row lock."""

import uuid
from datetime import datetime

from sqlalchemy import BindParameter, Uuid, bindparam, case, exists, or_, select, update

from .. import activity, clock, database, events, sessions
from ..database import Row
from ..database.models import AuthenticatorApp, Passkey, User, UserSession
from ..errors import NoSecondStep, SessionRevoked, UnknownAccount
from . import notices, recovery


def lock(user_id: uuid.UUID, *, asked_in: uuid.UUID | None = None) -> Row:
    """Return the user's row, locked until the commit.

    Raise SessionRevoked if the session has ended that it is `asked_in`, as it has with its user; where no
    session asks (None), UnknownAccount for a user who is gone.
    """
    user = database.row(recovery.LOCK_USER, {"owner_id": user_id})
    if user is None:
        raise UnknownAccount if asked_in is None else SessionRevoked
    if asked_in is not None:
        sessions.require_live(user_id, asked_in)
    return user


def turn_on(user: Row, *, session_id: uuid.UUID | None, way: str) -> None:
    """Ask for a second step from now on, and lift the session that turned it on."""
    if user.two_step_since is None:
        database.run(_SET, {"owner_id": user.id, "since": clock.now()})
    if session_id is not None:
        database.run(_LIFT, {"owner_id": user.id, "session_id": session_id, "way": way})


def enable(user_id: uuid.UUID, session_id: uuid.UUID) -> recovery.Made:
    """Ask for a second step that the user has; raise NoSecondStep where there is none, or SessionRevoked.

    No session is lifted: none has shown it.
    """
    with database.transaction():
        user = lock(user_id, asked_in=session_id)
        if not has_factor(user_id):
            raise NoSecondStep
        turn_on(user, session_id=None, way="")
        if user.two_step_since is None:
            activity.record("two_step_on", user_id)
            notices.changed(user_id, "on")
        made = recovery.make_if_none(user_id)
    if user.two_step_since is None:
        events.record("two_step_on", user_id=user_id, factor="passkey")
    return made


def turn_off(user: Row) -> None:
    """Ask for the password alone; recovery codes and trusted browsers go with it."""
    database.run(_SET, {"owner_id": user.id, "since": None})
    recovery.delete_all(user.id)
    sessions.distrust_all(user.id)


def turn_off_without_factors(user: Row) -> bool:
    """Turn two-step sign-in off if the last factor has gone; return whether it is off."""
    if user.two_step_since is not None and not has_factor(user.id):
        turn_off(user)
        return True
    return user.two_step_since is None


def on_since(user_id: uuid.UUID) -> datetime | None:
    """Return since when a second step is asked for, None where it is not."""
    found = database.row(_ON_SINCE, {"owner_id": user_id})
    return found.two_step_since if found else None


def has_factor(user_id: uuid.UUID) -> bool:
    """Return whether the user has an app or a passkey."""
    found = database.row(_HAS_FACTOR, {"owner_id": user_id})
    return bool(found and found[0])


_SET = (
    update(User).where(User.id == bindparam("owner_id")).values(two_step_since=bindparam("since"))
)
# What has proved more already keeps it.
_LIFT = (
    update(UserSession)
    .where(UserSession.user_id == bindparam("owner_id"), UserSession.id == bindparam("session_id"))
    .values(
        signed_in_with=case(
            (UserSession.signed_in_with.in_(("password", "password+trusted")), bindparam("way")),
            else_=UserSession.signed_in_with,
        )
    )
)
_OWNER: BindParameter[uuid.UUID] = bindparam("owner_id", type_=Uuid())
_ON_SINCE = select(User.two_step_since).where(User.id == _OWNER)
_HAS_FACTOR = select(
    or_(
        exists().where(AuthenticatorApp.user_id == _OWNER),
        exists().where(Passkey.user_id == _OWNER),
    )
)
