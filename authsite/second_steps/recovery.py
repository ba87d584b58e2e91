"""Recovery codes: ten on paper, each good once, replaced as a set."""

import uuid
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update

from .. import activity, clock, database, events, sessions
from ..database import Row, UtcDateTime
from ..database.models import RecoveryCode, User
from ..errors import AlreadyReplaced, NoSecondStep
from . import codes, notices

COUNT = 10


class Made(NamedTuple):
    """New recovery codes, None where there are some already, and the id of the current set."""

    recovery_codes: list[str] | None
    set_id: uuid.UUID


def replace(user_id: uuid.UUID, session_id: uuid.UUID, *, replaces: uuid.UUID | None) -> Made:
    """Return ten new codes, this once, and the id of their set; the old ones stop working.

    `replaces` is the set that the asker knows (None: none): of two that ask at once one gets AlreadyReplaced.
    Raise NoSecondStep where two-step sign-in is off, SessionRevoked if the session has ended that asks.
    """
    with database.transaction():
        user = database.row(LOCK_USER, {"owner_id": user_id})
        sessions.require_live(user_id, session_id)
        if user is None or user.two_step_since is None:
            raise NoSecondStep
        if current_set(user_id) != replaces:
            raise AlreadyReplaced
        made = make(user_id)
        sessions.distrust_all(user_id)
        activity.record("second_step_changed", user_id)
        notices.changed(user_id, "codes")
    events.record("recovery_codes", user_id=user_id)
    return made


def make(user_id: uuid.UUID) -> Made:
    """Write a new set in place of what was there; for a transaction that has locked the user's row."""
    now = clock.now()
    made, set_id = [codes.new_recovery_code() for _ in range(COUNT)], database.uuid7(now)
    database.run(_DELETE, {"owner_id": user_id})
    database.run(insert(RecoveryCode), [_row(user_id, set_id, each) for each in made])
    return Made(made, set_id)


def make_if_none(user_id: uuid.UUID) -> Made:
    """Write a set where there is none; for a transaction that has locked the user's row."""
    set_id = current_set(user_id)
    return Made(None, set_id) if set_id else make(user_id)


def _row(user_id: uuid.UUID, set_id: uuid.UUID, code: str) -> dict[str, object]:
    digest = codes.recovery_digest(user_id, code.replace("-", ""))
    return {"user_id": user_id, "digest": digest, "set_id": set_id, "created_at": clock.now()}


def delete_all(user_id: uuid.UUID) -> None:
    """Delete the user's codes."""
    database.run(_DELETE, {"owner_id": user_id})


def delete_made_since(user_id: uuid.UUID, since: datetime) -> bool:
    """Delete a set made at that moment or later; for a transaction that has locked the user's row."""
    return database.run(_DELETE_MADE_SINCE, {"owner_id": user_id, "since": since}) > 0


def use(user_id: uuid.UUID, code: str) -> bool:
    """Use one code up; return False for one that is not the user's or has been used."""
    key = {"owner_id": user_id, "of_code": codes.recovery_digest(user_id, code)}
    return database.run(_USE, key | {"now": clock.now()}) == 1


def current_set(user_id: uuid.UUID) -> uuid.UUID | None:
    """Return the id of the user's set of codes, None where there is none."""
    found = summary(user_id)
    return found.set_id if found else None


def is_current(user_id: uuid.UUID, shown: list[str]) -> bool:
    """Return whether these are the codes of the user's current set, used ones included."""
    digests = {
        codes.recovery_digest(user_id, code)
        for each in shown[:COUNT]
        if (code := codes.recovery_code(each))
    }
    known = {row.digest for row in database.rows(_DIGESTS, {"owner_id": user_id})}
    return bool(known) and digests == known


def summary(user_id: uuid.UUID) -> Row | None:
    """Return the set's id and how many of its codes are `left`, None where there is none."""
    return database.row(_SUMMARY, {"owner_id": user_id})


# Every change of factors takes the user's row first: turning on, off and signing in take turns.
LOCK_USER = (
    select(User.id, User.email, User.two_step_since)
    .where(User.id == bindparam("owner_id"), User.is_active)
    .with_for_update(key_share=True)
)
_OWN = RecoveryCode.user_id == bindparam("owner_id")
_DELETE = delete(RecoveryCode).where(_OWN)
_DELETE_MADE_SINCE = _DELETE.where(
    RecoveryCode.created_at >= bindparam("since", type_=UtcDateTime())
)
_USE = (
    update(RecoveryCode)
    .where(_OWN, RecoveryCode.digest == bindparam("of_code"), RecoveryCode.used_at.is_(None))
    .values(used_at=bindparam("now"))
)
_DIGESTS = select(RecoveryCode.digest).where(_OWN)
_SUMMARY = (
    select(
        RecoveryCode.set_id,
        (func.count() - func.count(RecoveryCode.used_at)).label("left"),
    )
    .where(_OWN)
    .group_by(RecoveryCode.set_id)
)
