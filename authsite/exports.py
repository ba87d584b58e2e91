"""A copy of all that is held of a person (GDPR art. 15 and 20), as one JSON document, written as it is read.

Never what would help a thief: no hash, token id or digest. Rows come in short reads by their key, so neither
the database nor a worker ever holds the whole; the clean-up may run meanwhile.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
from flask import current_app
from sqlalchemy import ColumnElement, Select, Uuid, bindparam, case, select

from . import accounts, activity, clock, database, events, sessions
from .database.json_text import JsonObject
from .database.models import (
    Account,
    AccountEvent,
    AuthenticatorApp,
    EmailChange,
    Passkey,
    PasswordReset,
    TrustedBrowser,
    User,
    UserSession,
)
from .errors import ServiceBusy, UnknownAccount
from .mail import emails, outbox

FORMAT = "authsite-export/1"
BATCH = 500  # rows of one statement
PIECE = 100  # rows that are sent at once: up to about 100 kB
RESTS = 7  # times as long as the work before
LONGEST_REST = 0.1  # seconds


def export(
    account: Account, *, by: sessions.Resumed | None, ip_address: str | None
) -> Iterator[bytes]:
    """Note that the data leaves, mail it to the owner, and return the document in pieces.

    `by` is the session that asks, None at the command line. Reading them raises UnknownAccount where the
    account goes meanwhile, and ServiceBusy where its owner begins another copy in this process: the document
    is cut then and no valid JSON.
    """
    now = clock.now()
    with database.transaction():
        activity.record("data_exported", account.id)
        outbox.queue_everywhere(
            emails.data_exported(
                account.id,
                exported_at=now,
                session_id=by and by.id,
                device_name=by and by.device_name,
                ip_address=ip_address,
            )
        )
    events.record("export", user_id=account.id, session_id=by and by.id)
    # Its own event is of it, which was written a moment after `now`.
    return _until_another_begins(account.id, _document(account.id, clock.now()))


def export_for_operator(email: str) -> Iterator[bytes]:
    """Return the document of the account of this address; raise UnknownAccount."""
    return export(accounts.find_by_email(email), by=None, ip_address=None)


def _until_another_begins(user_id: uuid.UUID, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces; raise ServiceBusy where the same user begins another copy.

    Who fetches slowly holds a thread for as long as it takes: with one after the other, a user could hold all
    that may wait. The older copy ends, whose client may long be gone.
    """
    own = _latest[user_id] = object()
    try:
        for piece in pieces:
            yield piece
            if _latest.get(user_id) is not own:
                raise ServiceBusy
    finally:
        if _latest.get(user_id) is own:
            _latest.pop(user_id, None)


_latest: dict[uuid.UUID, object] = {}  # the copy that this process makes, by its user


def _document(user_id: uuid.UUID, now: datetime) -> Iterator[bytes]:
    head: dict[str, Any] = {
        "format": FORMAT,
        "exported_at": now,
        "about": _about(),
        "account": _account(user_id),
    }
    for name, few in FEW.items():
        head[name] = [dict(row._mapping) for row in database.rows(few, {"owner_id": user_id})]
    yield _json(head)[:-1]
    counts = {"email_changes": len(head["email_changes"])}
    for name, statement in LISTS.items():
        counts[name] = 0
        yield b',"%s":[' % name.encode()
        for piece in _in_pieces(_batches(statement, user_id, now)):
            yield (b"," if counts[name] else b"") + ",".join([row[1] for row in piece]).encode()
            counts[name] += len(piece)
        yield b"]"
    # Of an account that went meanwhile the rest would look like all there was. From when it is due its rows
    # go, and its own is the last of them.
    delete_after = _account(user_id)["delete_after"]
    if delete_after is not None and delete_after <= clock.now():
        raise UnknownAccount
    yield b',"counts":' + _json(counts) + b"}\n"


def _account(user_id: uuid.UUID) -> dict[str, Any]:
    row = database.row(_ACCOUNT, {"owner_id": user_id})
    if row is None:
        raise UnknownAccount
    return dict(row._mapping)


def _batches(
    statement: database.Prepared, user_id: uuid.UUID, now: datetime
) -> Iterator[Sequence[database.Row]]:
    """Yield the rows of a list, oldest first; what is added while it is read is not of this copy."""
    key = {"owner_id": user_id, "end": database.first_uuid7(now + timedelta(milliseconds=1))}
    last = uuid.UUID(int=0)
    while batch := database.rows(statement, key | {"last": last}):
        yield batch
        last = batch[-1].id
        if len(batch) < BATCH:
            return


def _in_pieces(batches: Iterator[Sequence[database.Row]]) -> Iterator[Sequence[database.Row]]:
    """Yield few rows at a time, and rest in between, altogether RESTS times as long as reading them took.

    Nobody waits for the file, others for their answers: a copy has its share of an interpreter, and of the
    database, and no more of a slow one.
    """
    began_at = time.monotonic()
    for batch in batches:
        pieces = [batch[at : at + PIECE] for at in range(0, len(batch), PIECE)]
        rest = RESTS * (time.monotonic() - began_at) / len(pieces)
        for piece in pieces:
            yield piece
            time.sleep(min(rest, LONGEST_REST))
        began_at = time.monotonic()


def _about() -> dict[str, Any]:
    days: int = current_app.config["ACTIVITY_KEEP_DAYS"]
    return {
        "purposes": ["to sign you in", "to show you where you are signed in and what happened"],
        "retention": {
            "account": "until it is deleted",
            "sessions": f"{sessions.ENDED_ARE_SHOWN_FOR.days} days after they end",
            "activity": f"{days} days",
            "email_changes": "30 days after they are over or can be undone no longer",
        },
        "sources": ["what you typed", "what your devices sent along when they asked for something"],
    }


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME, default=clock.rfc3339)


# What is told of each row; the rest is of use to a thief only.
ACCOUNT = (
    *Account._fields,
    "password_changed_at",
    "two_step_since",
    "delete_after",
)
SESSION = (
    *("id", "device_name", "given_name", "browser", "os", "device_type", "device_id"),
    *("entrance", "signed_in_with", "is_remembered", "user_agent"),
    *("ip_address", "location_city", "location_country"),
    *("created_at", "authenticated_at", "last_used_at", "rotated_at"),
    *("bound_at", "key_proved_at", "unproven_at", "products"),
    *("expires_at", "absolute_expires_at", "ended_at", "end_reason", "ended_from"),
)
APP = ("created_at", "last_used_at")
RESET = ("created_at", "expires_at", "ended_at")
CHANGE = (
    *("old_email", "new_email", "old_was_verified", "session_id", "device_name", "ip_address"),
    *("created_at", "expires_at", "confirmed_at", "undo_until", "ended_at"),
)
# Neither the public key nor what names it elsewhere: they are of use to nobody else.
PASSKEY = ("id", "name", "transports", "is_backed_up", "created_at", "last_used_at")
TRUSTED = ("device_name", "ip_address", "created_at", "last_used_at", "expires_at")

_OWNER = bindparam("owner_id", type_=Uuid())


def _object(table: type[database.Base], names: Sequence[str]) -> JsonObject:
    """Return the row as it is told."""
    columns = table.__table__.c
    return JsonObject(*(_DEVICE_ID if name == "device_id" else columns[name] for name in names))


# The value of a browser's cookie is to be known to nobody else.
_DEVICE_ID = case((UserSession.entrance != "page", UserSession.device_id)).label("device_id")


def _between(key: ColumnElement[Any]) -> tuple[ColumnElement[bool], ...]:
    """Return the condition that a key lies between the last one read and the end."""
    return key > bindparam("last", type_=Uuid()), key < bindparam("end", type_=Uuid())


# The user's own are found first, all of them, and only then those between two keys: there is no index by
# user and key, and PostgreSQL, which guesses that few are between any two, may walk everybody's sessions.
_OWN_SESSIONS = (
    select(UserSession.id)
    .where(UserSession.user_id == _OWNER)
    .cte("own")
    .prefix_with("MATERIALIZED")
)
_NEXT_SESSIONS = (
    select(_OWN_SESSIONS.c.id)
    .where(*_between(_OWN_SESSIONS.c.id))
    .order_by(_OWN_SESSIONS.c.id)
    .limit(BATCH)
)
_SESSIONS = (
    select(UserSession.id, _object(UserSession, SESSION))
    .where(UserSession.user_id == _OWNER, UserSession.id.in_(_NEXT_SESSIONS))
    .order_by(UserSession.id)
)
EVENT = tuple(each.name for each in AccountEvent.__table__.c if each.name != "user_id")
_EVENTS = (
    select(AccountEvent.id, _object(AccountEvent, EVENT))
    .where(AccountEvent.user_id == _OWNER, *_between(AccountEvent.__table__.c.id))
    .order_by(AccountEvent.id)
    .limit(BATCH)
)
LISTS = {
    "sessions": database.Prepared(_SESSIONS),
    "activity": database.Prepared(_EVENTS),
}
_ACCOUNT = select(*(User.__table__.c[name] for name in ACCOUNT)).where(User.id == _OWNER)


def _few(table: type[database.Base], names: Sequence[str]) -> Select[Any]:
    """Return the statement that reads all of the user's rows, of which there cannot be many."""
    columns = table.__table__.c
    return (
        select(*(columns[name] for name in names))
        .where(columns.user_id == _OWNER)
        .order_by(columns.created_at)
    )


FEW = {
    "passkeys": _few(Passkey, PASSKEY),
    "authenticator_apps": _few(AuthenticatorApp, APP),
    "trusted_browsers": _few(TrustedBrowser, TRUSTED),
    "password_resets": _few(PasswordReset, RESET),
    "email_changes": _few(EmailChange, CHANGE),
}
