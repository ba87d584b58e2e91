"""Activity: what happened in an account, for its owner to read.

An event is written in the transaction of its act: no act without it, none without the act. Who acted is asked
of the application: a request tells device and address, a command is the operator's.
"""

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, cast

from flask import current_app
from sqlalchemy import (
    Insert,
    String,
    Uuid,
    bindparam,
    func,
    insert,
    or_,
    select,
)

from . import clock, database
from .database import Row, UtcDateTime
from .database.models import AccountEvent, User

MAX_FAILURES_A_DAY = 50
MAX_TARGET = 64
# What can fail: `_failed` and `_blocked` make kinds of it.
SIGN_IN = "sign_in"
SECOND_STEP = "second_step"


class Actor(NamedTuple):
    """Who acted, as far as it is known; nothing is known of the operator."""

    session_id: uuid.UUID | None = None
    device_name: str | None = None
    ip_address: str | None = None
    location_country: str | None = None


OPERATOR = Actor()


def actor(user_id: uuid.UUID) -> Actor:
    """Return who acts on this user's account now; of somebody else's session nothing is told."""
    return cast(Actor, current_app.extensions["actor"](user_id))


def record(
    kind: str,
    user_id: uuid.UUID,
    *,
    by: Actor | None = None,
    target: str | None = None,
    is_mailed: bool | None = None,
) -> None:
    """Write one of EVENT_KINDS; for the transaction of the act. `by` is who acts now, if not given.

    `is_mailed` tells of an act that is mailed sometimes whether it was.
    """
    now = clock.now()
    event = {"id": database.uuid7(now), "user_id": user_id, "kind": kind, "created_at": now}
    more = {"target": target and target[:MAX_TARGET], "is_mailed": is_mailed}
    database.run(_INSERT, event | (by or actor(user_id))._asdict() | more)


def record_failure(user_id: uuid.UUID, *, has_filled: bool, of: str = SIGN_IN) -> None:
    """Write a failure `of` SIGN_IN or SECOND_STEP, unless there were 50 that day.

    The one that `has_filled` the count has blocked. Of a user that there is not nothing is written, by the
    same statement.
    """
    now = clock.now()
    kind = f"{of}_blocked" if has_filled else f"{of}_failed"
    event = {"id": database.uuid7(now), "owner_id": user_id, "kind": kind, "now": now}
    # Whoever failed is no device of the account, also where a session asked.
    by = actor(user_id)._replace(session_id=None)
    since = database.first_uuid7(now - timedelta(days=1))
    database.run(_INSERT_FAILURE[of], event | by._asdict() | {"since": since})


def feed(
    user_id: uuid.UUID, *, limit: int, before: uuid.UUID | None = None, kind: str | None = None
) -> tuple[Sequence[Row], uuid.UUID | None]:
    """Return the user's events, newest first, and the id to go on before; None at the end."""
    key = {"user_id": user_id, "before": before or _AFTER_ALL, "kind": kind, "most": limit + 1}
    found = database.rows(_FEED, key)
    rows = found[:limit]
    return rows, rows[-1].id if len(found) > limit else None


def suspect_since(user_id: uuid.UUID, kinds: Sequence[str], at: datetime) -> datetime:
    """Return since when whoever did an act of these kinds, the first at that moment or later, was in.

    That is when his session began; `at`, where the act had none or is no longer known.
    """
    key = {"owner_id": user_id, "kinds": list(kinds), "start": database.first_uuid7(at)}
    act = database.row(_ACT, key)
    if act is None or act.session_id is None:
        return at
    return min(at, database.moment_of(act.session_id))


def delete_old(before: datetime, *, batch_size: int) -> Iterator[int]:
    """Delete what happened before, oldest first, in short transactions; yield how many in each.

    The primary key is ordered by time: nothing younger is looked at. Rows that another run holds are its.
    """
    is_old = AccountEvent.id < database.first_uuid7(before)
    yield from database.delete_in_batches(AccountEvent.id, is_old, most=batch_size, in_order=True)


def count_before(before: datetime) -> int:
    """Return how many events `delete_old` would delete."""
    return database.count(AccountEvent, AccountEvent.id < database.first_uuid7(before))


_AFTER_ALL = uuid.UUID(int=2**128 - 1)
_INSERT = database.Prepared(insert(AccountEvent))
_OWNER = bindparam("owner_id", type_=Uuid())
_ACT = (
    select(AccountEvent.session_id)
    .where(
        AccountEvent.user_id == _OWNER,
        AccountEvent.id >= bindparam("start", type_=Uuid()),
        AccountEvent.kind.in_(bindparam("kinds", expanding=True)),
    )
    .order_by(AccountEvent.id)
    .limit(1)
)


def _insert_failure(of: str) -> Insert:
    """Each kind of failure has its own 50: who guesses at passwords cannot hide who knows one."""
    failed_lately = (
        select(func.count())
        .where(
            AccountEvent.user_id == _OWNER,
            AccountEvent.id > bindparam("since", type_=Uuid()),
            AccountEvent.kind.in_((f"{of}_failed", f"{of}_blocked")),
        )
        .scalar_subquery()
    )
    return insert(AccountEvent).from_select(
        [
            *("id", "user_id", "kind", "created_at"),
            *("session_id", "device_name", "ip_address", "location_country"),
        ],
        select(
            bindparam("id", type_=Uuid()),
            User.id,
            bindparam("kind", type_=String()),
            bindparam("now", type_=UtcDateTime()),
            bindparam("session_id", type_=Uuid()),
            bindparam("device_name", type_=String()),
            bindparam("ip_address", type_=String()),
            bindparam("location_country", type_=String()),
        )
        .where(User.id == _OWNER, failed_lately < MAX_FAILURES_A_DAY)
        # As the foreign key would: of an account that is being deleted this waits, and then finds nobody.
        .with_for_update(read=True, key_share=True, of=User),
        include_defaults=False,
    )


_INSERT_FAILURE = {of: _insert_failure(of) for of in (SIGN_IN, SECOND_STEP)}
_KIND = bindparam("kind", type_=String())
_FEED = (
    select(*AccountEvent.__table__.c)
    .where(
        AccountEvent.user_id == bindparam("user_id", type_=Uuid()),
        AccountEvent.id < bindparam("before", type_=Uuid()),
        or_(_KIND.is_(None), AccountEvent.kind == _KIND),
    )
    .order_by(AccountEvent.id.desc())
    .limit(bindparam("most"))
)
