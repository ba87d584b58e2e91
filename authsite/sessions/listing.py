"""What the owner sees of the sessions, and what they call them."""

import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Text, bindparam, func, literal, select, update

from .. import clock, database
from ..database import Row, UtcDateTime
from ..database.models import UserSession
from ..errors import SessionNotFound
from .columns import IS_LIVE, IS_OWN, LAST_USED_FIRST, NAME, SESSION_ID, SHOWN_COLUMNS, USER_ID
from .ending import owned

ENDED_ARE_SHOWN_FOR = timedelta(days=30)


def active_for(user_id: uuid.UUID) -> Sequence[Row]:
    """Return the user's live sessions, last used first."""
    return database.rows(_LIST_ACTIVE, {"user_id": user_id, "now": clock.now()})


def recently_ended_for(user_id: uuid.UUID, *, limit: int = 50) -> Sequence[Row]:
    """Return what ended in the last 30 days, the latest first."""
    return database.rows(
        _RECENTLY_ENDED_FOR,
        {"user_id": user_id, "since": clock.now() - ENDED_ARE_SHOWN_FOR, "most": limit},
    )


def find_own(user_id: uuid.UUID, session_id: uuid.UUID) -> Row | None:
    """Return one live session of the user, or None."""
    return database.row(
        _FIND_OWN, {"user_id": user_id, "session_id": session_id, "now": clock.now()}
    )


def rename(user_id: uuid.UUID, session_id: uuid.UUID, name: str | None) -> Row:
    """Give a live session the user's own name for it (None forgets it) and return the session.

    Raise SessionNotFound or, for somebody else's, Forbidden.
    """
    with database.transaction():
        key = {"owner_id": user_id, "session_id": session_id, "now": clock.now()}
        database.run(_RENAME, key | {"name": name})
        session = find_own(user_id, session_id)
    if session is None:
        owned(user_id, session_id, "You can only rename your own sessions")
        raise SessionNotFound
    return session


def note_product(user_id: uuid.UUID, session_id: uuid.UUID, origin: str) -> None:
    """Note that a browser's session is used with a product from now on; once for each."""
    database.run(_NOTE_PRODUCT, {"owner_id": user_id, "session_id": session_id, "origin": origin})


_ORIGIN = bindparam("origin", type_=Text())
_NOTED = func.coalesce(UserSession.products + " ", "")
# In one statement: of two products that are opened at once none is lost.
_NOTE_PRODUCT = (
    update(UserSession)
    .where(IS_OWN, (literal(" ") + _NOTED).not_like(literal("% ") + _ORIGIN + " %"))
    .values(products=_NOTED + _ORIGIN)
)
_RENAME = NAME.where(IS_LIVE)
_ACTIVE_FOR = (
    select(*SHOWN_COLUMNS).where(UserSession.user_id == USER_ID, IS_LIVE).order_by(*LAST_USED_FIRST)
)
_LIST_ACTIVE = database.Prepared(_ACTIVE_FOR)
_FIND_OWN = _ACTIVE_FOR.where(UserSession.id == SESSION_ID)
_RECENTLY_ENDED_FOR = (
    select(*SHOWN_COLUMNS)
    .where(
        UserSession.user_id == USER_ID,
        UserSession.ended_at > bindparam("since", type_=UtcDateTime()),
    )
    .order_by(UserSession.ended_at.desc())
    .limit(bindparam("most"))
)
