"""The outbox of events: queued in the transaction of the act, delivered to each URL by itself."""

import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson
from flask import current_app
from sqlalchemy import bindparam, delete, insert, select, update

from .. import clock, database, events, outboxes
from ..database import UtcDateTime
from ..database.models import ACCOUNT_COLUMNS, Account, OutgoingEvent, User

BACK_OFF = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    *(timedelta(hours=each) for each in (2, 5, 10, 10)),
)
MAX_ATTEMPTS = len(BACK_OFF) + 1
# No URL takes longer to be given up: what is older waits for one that is set no longer.
OUTLIVED = timedelta(days=3)
MOST_SESSION_IDS = 100
# These carry the user as it is when they are sent.
_WITH_USER = ("user.created", "user.updated")


def emit(kind: str, user_id: uuid.UUID, **facts: Any) -> None:
    """Add an event, for each URL that is to be told, to the transaction that is open now."""
    _queue(kind, user_id, [facts])


def session_ended(user_id: uuid.UUID, session_ids: Sequence[uuid.UUID], reason: str) -> None:
    """Add the end of these sessions, a hundred to an event, to the transaction that is open now."""
    ids = [str(each) for each in session_ids]
    parts = [ids[at : at + MOST_SESSION_IDS] for at in range(0, len(ids), MOST_SESSION_IDS)]
    _queue("session.ended", user_id, [{"session_ids": part, "reason": reason} for part in parts])


def deliver(url: str, *, is_stopping: Callable[[], bool] = lambda: False) -> tuple[int, int]:
    """Send what is due to this URL; return how many events left and how many did not.

    Each URL by itself: one that hangs must not keep the others from hearing.
    """
    of = OutgoingEvent.url == url
    return outboxes.drain(OutgoingEvent, _deliver_one, of=of, is_stopping=is_stopping)


def depth() -> int:
    """Return how many events wait."""
    return database.count(OutgoingEvent)


def delete_orphans() -> int:
    """Delete what waits for URLs that are set no longer, and return how many events."""
    return database.run(
        delete(OutgoingEvent).where(
            OutgoingEvent.url.not_in(current_app.config["WEBHOOK_URLS"]),
            OutgoingEvent.created_at < clock.now() - OUTLIVED,
        )
    )


def _queue(kind: str, user_id: uuid.UUID, each_facts: Sequence[dict[str, Any]]) -> None:
    urls: list[str] = current_app.config["WEBHOOK_URLS"]
    if not urls or not each_facts or kind not in current_app.config["WEBHOOK_EVENTS"]:
        return
    now = clock.now()
    common = {"user_id": user_id, "kind": kind, "created_at": now, "due_at": now, "attempts": 0}
    database.run(
        insert(OutgoingEvent),
        [
            common | {"id": database.uuid7(now), "url": url, "facts": facts}
            for url in urls
            for facts in each_facts
        ],
    )
    for url in urls:
        outboxes.wake_after_commit(f"webhooks {url}", partial(deliver, url))


def _deliver_one(row: database.Row) -> bool:
    """Send one claimed event; return whether that is done with. What fails is tried again later."""
    # Only here: most processes never need its HTTP client.
    from . import sending

    data = _data(row)
    if data is None:
        return _close(row, "dropped")
    body = orjson.dumps(
        {"type": row.kind, "timestamp": row.created_at, "data": data}, option=orjson.OPT_UTC_Z
    )
    try:
        status = sending.post(row.url, body, message_id=str(row.id))
    except sending.FAILURES as error:
        return _postpone(row, type(error).__name__)
    if 200 <= status < 300:
        return _close(row, "success")
    if status == 410:
        return _close(row, "gone")
    return _postpone(row, f"status {status}")


def _data(row: database.Row) -> dict[str, Any] | None:
    """Return what the event tells; None where it is of a user who is there no longer."""
    if row.kind in _WITH_USER:
        found = database.row(_USER, {"user_id": row.user_id})
        return None if found is None else Account._make(found).public()
    name = "user_id" if row.kind == "session.ended" else "id"
    return {name: row.user_id, **row.facts}


def _close(row: database.Row, outcome: str) -> bool:
    database.run(_DELETE, _key(row))
    events.record("webhook", outcome=outcome, **_facts(row))
    return True


def _postpone(row: database.Row, error: str) -> bool:
    facts = _facts(row) | {"error": error}
    if row.attempts >= MAX_ATTEMPTS:
        database.run(_DELETE, _key(row))
        events.record("webhook", outcome="given_up", **facts)
        return False
    due_at = clock.now() + BACK_OFF[row.attempts - 1]
    database.run(_POSTPONE, _key(row) | {"new_due_at": due_at})
    events.record("webhook", outcome="postponed", **facts)
    return False


def _facts(row: database.Row) -> dict[str, Any]:
    """Return what the log may say: of the URL its host, for the rest may be a secret."""
    return {
        "webhook": row.kind,
        "event_id": row.id,
        "user_id": row.user_id,
        "host": urlsplit(row.url).hostname,
        "attempts": row.attempts,
    }


def _key(row: database.Row) -> dict[str, Any]:
    return {"event_id": row.id, "owner_id": row.user_id}


_OWN = (
    OutgoingEvent.id == bindparam("event_id"),
    OutgoingEvent.user_id == bindparam("owner_id"),
)
_DELETE = delete(OutgoingEvent).where(*_OWN)
_POSTPONE = (
    update(OutgoingEvent).where(*_OWN).values(due_at=bindparam("new_due_at", type_=UtcDateTime()))
)
_USER = select(*ACCOUNT_COLUMNS).where(User.id == bindparam("user_id"))
