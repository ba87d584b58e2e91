"""Dead rows are counted and deleted, in short transactions by order of the primary key."""

import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Uuid,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal,
    or_,
    select,
)

from .. import clock, database
from ..database.models import UserSession
from .columns import ASSURANCE


def delete_dead(
    before: datetime, *, batch_size: int, is_dry_run: bool = False
) -> Iterator[tuple[int, int]]:
    """Delete every row that ended or expired before; yield (rows looked at, rows deleted) by batch.

    Each batch is a short transaction over a stretch of the primary key, which is ordered by the time of
    sign-in: the oldest go first, no index has to be kept for it, and what signed in after `before`, which
    cannot have died before it, is not even looked at. Rows that another run holds are skipped: it deletes
    them; where Citus is installed they are waited for. A batch that takes long makes the next one smaller.
    `before` must not lie ahead, or nothing live is safe.
    """
    is_dead = or_(UserSession.ended_at < before, UserSession.expires_at < before)
    last, end = uuid.UUID(int=0), database.first_uuid7(before)
    size = min(batch_size, database.FIRST_BATCH)
    while stretch := database.row(_STRETCH, {"last": last, "end": end, "size": size}):
        began_at = time.monotonic()
        looked_at, upto = stretch.looked_at, stretch.id
        dead = and_(UserSession.id > last, UserSession.id <= upto, is_dead)
        if is_dry_run:
            yield looked_at, database.count(UserSession, dead)
        else:
            deleted = database.run(delete(UserSession).where(_claimed(dead)))
            size = database.next_size(size, began_at, most=batch_size)
            yield looked_at, deleted
        last = upto


def _claimed(dead: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that a row is dead and, but for Citus, which cannot tell, that nobody holds it."""
    if database.has_citus():
        return dead
    ids = select(UserSession.id).where(dead).order_by(UserSession.id)
    return database.is_among(UserSession.id, ids.with_for_update(skip_locked=True))


def count_before(before: datetime) -> int:
    """Return how many rows `delete_dead` will look at, for a progress bar."""
    older = UserSession.id < database.first_uuid7(before)
    return database.count(UserSession, older)


def statistics() -> dict[str, Any]:
    """Return counts: active, of these with a second step, expired, ended by reason, active by device type."""
    now = clock.now()
    is_expired = UserSession.expires_at <= now
    state = case(
        (UserSession.ended_at.is_not(None), UserSession.end_reason),
        (is_expired, literal("expired")),
        else_=literal("active"),
    )
    by_state = _counts(select(state, func.count()).group_by(state))
    is_active = and_(UserSession.ended_at.is_(None), UserSession.expires_at > now)
    by_type, by_way = (
        _counts(select(each, func.count()).where(is_active).group_by(each))
        for each in (UserSession.device_type, UserSession.signed_in_with)
    )
    active, expired = by_state.pop("active", 0), by_state.pop("expired", 0)
    return {
        "active": active,
        "aal2": sum(count for way, count in by_way.items() if ASSURANCE[way][0] == 2),
        "expired": expired,
        "ended": dict(sorted(by_state.items())),
        "device_types": dict(sorted(by_type.items())),
    }


def _counts(statement: Select[str, int]) -> dict[str, int]:
    return {row[0]: row[1] for row in database.rows(statement)}


# The end is not asked for inside: of a range, PostgreSQL expects few rows in a table that it has not
# analysed yet, and would sort all of a million for each batch instead of walking the index.
_NEXT_IDS = (
    select(UserSession.id)
    .where(UserSession.id > bindparam("last", type_=Uuid()))
    .order_by(UserSession.id)
    .limit(bindparam("size"))
    .subquery()
)
_STRETCH = (
    select(func.count().over().label("looked_at"), _NEXT_IDS.c.id)
    .where(_NEXT_IDS.c.id < bindparam("end", type_=Uuid()))
    .order_by(_NEXT_IDS.c.id.desc())
    .limit(1)
)
