"""Deleting an account: asked for, kept after all, and in the end complete.

Whoever asks is signed out everywhere at once, and so is everybody else: the account is closed, as every path
sees by the one flag that it looks at. For some days its owner can keep it, by the link that was mailed, for a
thief with the password must not destroy in a second what nobody can bring back. Then its rows go, those of
which there may be many in short transactions, the user's own at last; one that stops half-way is taken up by
the next run. What is left is a mail, until it is sent, and ids on their way to the products.
"""

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from flask import current_app
from sqlalchemy import String, Uuid, bindparam, delete, func, select, update

from . import (
    accounts,
    activity,
    clock,
    database,
    email_changes,
    events,
    passkeys,
    passwords,
    registrations,
    sessions,
    throttling,
    webhooks,
)
from .crypto import hashing, tokens
from .database import Base, Row, UtcDateTime
from .database.models import (
    ACCOUNT_COLUMNS,
    Account,
    AccountEvent,
    OutgoingEvent,
    User,
    UserEmail,
    UserSession,
)
from .errors import (
    AccountBeingDeleted,
    EmailTokenInvalid,
    InactiveAccount,
    SessionRevoked,
    UnknownAccount,
    WrongCurrentPassword,
)
from .mail import emails, outbox

CLOSED = "This account is deactivated, so nobody could keep it. Delete it at once with --now."
# No link is older; until when one works stands in it.
LONGEST_WAIT = timedelta(days=31)
BATCH = 500


def request(
    session: sessions.Resumed, *, ip_address: str | None, password: str | None = None
) -> datetime | None:
    """Close the account of this session and return when it will be deleted; None: it has been.

    With `password` that has to be right too. Raise WrongCurrentPassword, TooManyAttempts, or SessionRevoked
    if the session has ended meanwhile.
    """
    user_id, seen = session.account.id, None
    if password is not None:
        seen = passwords.confirm(
            session.account, password, field="current_password", event="deletion_request"
        )
    now = clock.now()
    with database.transaction():
        # Locked before it is looked at: what ends this session or changes the password comes before or after.
        locked = database.row(_LOCK, {"owner_id": user_id})
        if locked is None:
            raise SessionRevoked
        sessions.require_live(user_id, session.id)
        if seen is not None and locked.password_changed_at != seen:
            raise WrongCurrentPassword(field="current_password")
        delete_after = _schedule(
            user_id, now, device_name=session.device_name, ip_address=ip_address
        )
    events.record("deletion_request", user_id=user_id, session_id=session.id)
    return _or_at_once(user_id, delete_after, now)


def request_by_operator(email: str, *, is_at_once: bool = False) -> tuple[Account, datetime | None]:
    """Close an account at the command line; return it, and when it will be deleted (None: it has been).

    Raise UnknownAccount, AccountBeingDeleted where that is known already or, where nobody could keep it
    because it was closed before, InactiveAccount. `is_at_once` waits for nothing and has none of these two.
    """
    account, now = accounts.find_by_email(email), clock.now()
    with database.transaction():
        locked = database.row(_LOCK_EVEN_CLOSED, {"owner_id": account.id})
        if locked is None:
            raise UnknownAccount
        if locked.delete_after is not None and not is_at_once:
            raise AccountBeingDeleted(locked.delete_after)
        if not locked.is_active and not is_at_once:
            raise InactiveAccount(CLOSED)
        delete_after = _schedule(account.id, now, at=now if is_at_once else None)
    events.record("deletion_request", user_id=account.id)
    return account, _or_at_once(account.id, delete_after, now)


def due_at(user_id: uuid.UUID, now: datetime) -> datetime:
    """Return when an account may go whose deletion is asked for now.

    Never while a change of its address can be undone: deleting must not outrun undoing.
    """
    days = timedelta(days=current_app.config["ACCOUNT_DELETION_DAYS"])
    kept = database.row(_KEPT_UNTIL, {"owner_id": user_id})
    return max(now + days, (kept and kept[0]) or now)


def scheduled_for(user_id: uuid.UUID) -> datetime | None:
    """Return when the account will be deleted, None where it stays."""
    row = database.row(_LOOK, {"owner_id": user_id})
    return None if row is None else row.delete_after


def find(token: str) -> tuple[Account, datetime]:
    """Return the account that a live link keeps, and until when; raise EmailTokenInvalid.

    Nothing is used up.
    """
    key = _read(token)
    row = database.row(_SCHEDULED, key)
    if row is None:
        raise EmailTokenInvalid
    return Account._make(row), key["after"]


def keep(
    token: str, email: str, *, is_reset: bool, device_name: str, ip_address: str | None
) -> Account:
    """Open the account again whose deletion the link names, and return it.

    With `is_reset` its password is nobody's from then on, and a reset is mailed; what was added to sign in
    with by whoever asked for it, or for a change of the address, goes. Nobody is signed in,
    and what has ended stays so. `email` is what the person typed, InvalidInput if it is not the account's.
    Raise EmailTokenInvalid, also for a second use.
    """
    key, (account, _) = _read(token), find(token)
    accounts.require_typed(email, account.email)
    new_hash = hashing.hash_of_nobody() if is_reset else None
    with database.transaction():
        row = database.row(_KEEP_AND_RESET if is_reset else _KEEP, key | {"new_hash": new_hash})
        if row is None:
            raise EmailTokenInvalid
        activity.record("deletion_cancelled", account.id)
        webhooks.emit("user.activated", account.id)
        if is_reset:
            passkeys.remove_of_thief(account.id, _suspect_since(account.id, key["after"]))
            passwords.request_reset(
                account.email, device_name=device_name, ip_address=ip_address, after="everything"
            )
    events.record("deletion_cancel", user_id=account.id, is_reset=is_reset)
    return Account._make(row)


def _suspect_since(user_id: uuid.UUID, delete_after: datetime) -> datetime:
    """Return since when whoever asked for this deletion, or for a change of the address, was in."""
    request = database.row(_LAST_REQUEST, {"owner_id": user_id})
    # No deletion waits longer: with its event cleared away this is early enough.
    at = request.created_at if request else delete_after - LONGEST_WAIT
    since = activity.suspect_since(user_id, ("deletion_requested",), at)
    return min(since, email_changes.suspect_since(user_id) or since)


def delete_due(*, batch_size: int = BATCH) -> Iterator[int]:
    """Delete the accounts that are due, in short transactions; yield how many came to their end in each.

    What another run is at is its. An account that fails keeps no other waiting: its fault is raised at last.
    """
    now, last, fault = clock.now(), accounts.NOBODY, None
    while due := database.row(_NEXT_DUE, {"now": now, "last": last}):
        last = due.id
        try:
            while (is_over := _delete_some(_CLAIM, last, now, batch_size)) is not None:
                yield int(is_over)
        except Exception as error:
            events.record(
                "account_deleted", outcome="error", user_id=last, error=type(error).__name__
            )
            fault = fault or error
    if fault:
        raise fault


def count_due() -> int:
    """Return how many accounts are due."""
    return database.count(User, User.delete_after <= clock.now())


def _schedule(
    user_id: uuid.UUID,
    now: datetime,
    *,
    at: datetime | None = None,
    device_name: str | None = None,
    ip_address: str | None = None,
) -> datetime:
    """Close the account, whose row is locked, and mail how to keep it; return from when on it may go."""
    delete_after = at or due_at(user_id, now)
    database.run(_CLOSE, {"owner_id": user_id, "after": delete_after, "now": now})
    activity.record("deletion_requested", user_id)
    webhooks.emit("user.deactivated", user_id)
    sessions.end_all(user_id, reason="account_deleted")
    accounts.end_resets(user_id)
    if delete_after > now:
        outbox.queue_everywhere(
            emails.deletion_scheduled(
                user_id,
                requested_at=now,
                delete_after=delete_after,
                device_name=device_name,
                ip_address=ip_address,
            )
        )
    return delete_after


def _or_at_once(user_id: uuid.UUID, delete_after: datetime, now: datetime) -> datetime | None:
    """Return when the account will be deleted; what is due now is deleted now, and None returned."""
    if delete_after > now:
        return delete_after
    while _delete_some(_WAIT_FOR, user_id, now, BATCH) is not None:
        pass
    return None


def _delete_some(lock: Any, user_id: uuid.UUID, now: datetime, size: int) -> bool | None:
    """Delete so many of a due account's rows in one transaction; return whether it is gone now.

    None where `lock` finds none: it is gone, kept, or another's work.
    """
    key = {"owner_id": user_id, "now": now}
    with database.transaction():
        user = database.row(lock, key)
        if user is None:
            return None
        held = [row.email for row in database.rows(_EMAILS, key)]
        addresses = list(dict.fromkeys([user.email, *held]))
        some = _some(UserSession).returning(UserSession.device_id)
        gone = database.rows(some, key | {"size": size})
        throttling.forget_browsers(addresses, {row.device_id for row in gone} - {None})
        if gone or database.run(_some(AccountEvent), key | {"size": size}):
            return False
        _delete_rest(user, addresses, now)
    events.record("account_deleted", user_id=user_id)
    return True


def _some(table: type[Base]) -> Any:
    """Return the statement that deletes a number of the user's rows."""
    keys = table.__table__.c
    some = select(keys.id).where(keys.user_id == _OWNER_ID).limit(bindparam("size"))
    return delete(table).where(keys.user_id == _OWNER_ID, database.is_among(keys.id, some))


def _delete_rest(user: Row, addresses: list[str], now: datetime) -> None:
    """Delete what there is at most a handful of, and at last the user; tell owner and products."""
    for statement in _REST:
        database.run(statement, {"owner_id": user.id})
    database.run(_DELETE, {"owner_id": user.id})
    throttling.forget_second_step(user.id)
    for email in addresses:
        throttling.forget(email)
        registrations.end_claims(email)
    # Where nothing is waited for, somebody may register a stranger's address and delete it, again and again.
    if throttling.may_mail("account_deleted", user.email):
        outbox.queue(emails.account_deleted(user.email, deleted_at=now))
    webhooks.emit("user.deleted", user.id)


def _read(token: str) -> dict[str, Any]:
    """Return whose deletion, and when, a link keeps from happening; raise EmailTokenInvalid."""
    value = tokens.unsign("keep_account", token, max_age=LONGEST_WAIT)
    if value is None:
        raise EmailTokenInvalid
    user_id, _, after = value.partition(":")
    return {
        "owner_id": uuid.UUID(user_id),
        "after": datetime.fromisoformat(after),
        "now": clock.now(),
    }


_OWNER_ID = bindparam("owner_id", type_=Uuid())
_NOW = bindparam("now", type_=UtcDateTime())
_AFTER = bindparam("after", type_=UtcDateTime())
_IS_OWN = User.id == _OWNER_ID
_LOCK_EVEN_CLOSED = (
    select(User.password_changed_at, User.is_active, User.delete_after)
    .where(_IS_OWN)
    .with_for_update(key_share=True)
)
_LOOK = select(User.delete_after).where(_IS_OWN)
_LOCK = _LOCK_EVEN_CLOSED.where(User.is_active)
_KEPT_UNTIL = select(func.max(UserEmail.kept_until)).where(UserEmail.user_id == _OWNER_ID)
_CLOSE = update(User).where(_IS_OWN).values(is_active=False, delete_after=_AFTER, updated_at=_NOW)
_CAN_BE_KEPT = (_IS_OWN, User.delete_after == _AFTER, User.delete_after > _NOW)
_SCHEDULED = select(*ACCOUNT_COLUMNS).where(*_CAN_BE_KEPT)
_KEEP = (
    update(User)
    .where(*_CAN_BE_KEPT)
    .values(is_active=True, delete_after=None, updated_at=_NOW)
    .returning(*ACCOUNT_COLUMNS)
)
_KEEP_AND_RESET = _KEEP.values(
    password_hash=bindparam("new_hash", type_=String()), password_changed_at=_NOW
)
_LAST_REQUEST = (
    select(AccountEvent.created_at)
    .where(AccountEvent.user_id == _OWNER_ID, AccountEvent.kind == "deletion_requested")
    .order_by(AccountEvent.id.desc())
    .limit(1)
)
_IS_DUE = User.delete_after <= _NOW
_NEXT_DUE = (
    select(User.id).where(_IS_DUE, User.id > bindparam("last", type_=Uuid())).order_by(User.id)
).limit(1)
_DUE = select(User.id, User.email).where(_IS_OWN, _IS_DUE)
_WAIT_FOR = _DUE.with_for_update()
_CLAIM = _DUE.with_for_update(skip_locked=True)


_EMAILS = select(UserEmail.email).where(UserEmail.user_id == _OWNER_ID)
# Every table by its column, so that none is forgotten, and none depends on a foreign key. What tells the
# products that somebody is gone must outlive him.
_REST = [
    delete(table).where(table.c.user_id == _OWNER_ID)
    for table in reversed(Base.metadata.sorted_tables)
    if "user_id" in table.c and table is not OutgoingEvent.__table__
]
_DELETE = delete(User).where(_IS_OWN)
