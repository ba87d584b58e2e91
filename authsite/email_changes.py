"""Changes of address: asked for, confirmed from the new mailbox, undone from the old one.

Nothing changes before the link comes back that the new address got, together with a session of the account
or its password. Then the old address, if it was known to be the owner's, gets a link that undoes it, and
stays the account's for as long. Undoing leads to that very address whatever came after, and takes all with
it that a thief could hold: later changes, every session, the password, and what was added to sign in with.

The user's row is locked first, and its address written before `user_emails`: the order of a registration.
"""

import secrets
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flask import current_app
from sqlalchemy import (
    Uuid,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from . import (
    accounts,
    activity,
    clock,
    database,
    events,
    passkeys,
    passwords,
    sessions,
    spelling,
    throttling,
    webhooks,
)
from .crypto import hashing, tokens
from .database import Row, UtcDateTime
from .database.models import ACCOUNT_COLUMNS, Account, EmailChange, User, UserEmail
from .errors import EmailTaken, EmailTokenInvalid, InvalidInput, SessionRevoked, UnknownAccount
from .mail import emails, outbox

ALREADY_YOURS = "This is already your email address"
ALREADY_THEIRS = "This is already the account's email address"
_REQUESTED = ("email_change_requested",)
# No link is older; how long one works stands in the row.
LONGEST_UNDO = timedelta(days=30)


class Change(NamedTuple):
    """A change that a link names, and the account as it is now."""

    id: str
    old_email: str
    new_email: str
    requested_at: datetime
    account: Account


def request(session: sessions.Resumed, new_email: str, *, ip_address: str | None) -> bool:
    """Mail a link to the new address, in place of the one that waited; return whether it was.

    Whether the address is free is neither looked at nor told. At most 3 go out in any hour, by one account
    and to one address; one too many changes nothing. Raise InvalidInput for the address that it is already,
    SessionRevoked if the session has ended meanwhile.
    """
    new_email, account = spelling.canonical_email(new_email), session.account
    now, change_id = clock.now(), secrets.token_urlsafe(24)
    change = {
        "id": change_id,
        "user_id": account.id,
        "new_email": new_email,
        "session_id": session.id,
        "device_name": session.device_name,
        "ip_address": ip_address,
        "created_at": now,
        "expires_at": now + emails.LINK_LIFETIME,
    }
    with database.transaction():
        locked = database.row(_LOCK, {"owner_id": account.id})
        if locked is None:
            raise SessionRevoked
        # Whatever ends sessions, as a reset does, ends what waits: a request that comes late must not stay.
        sessions.require_live(account.id, session.id)
        if locked.email == new_email:
            raise InvalidInput([("email", ALREADY_YOURS)])
        if not _may_mail(account.id, new_email):
            events.record("email_change_request", outcome="ignored", user_id=account.id)
            return False
        sessions.end_email_change(account.id)
        is_verified = locked.email_verified_at is not None
        old = {"old_email": locked.email, "old_was_verified": is_verified}
        database.run(insert(EmailChange), change | old)
        activity.record(
            "email_change_requested", account.id, target=spelling.masked_email(new_email)
        )
        outbox.queue(
            emails.change_email(
                account.id,
                change_id=change_id,
                requested_at=now,
                device_name=session.device_name,
                ip_address=ip_address,
            )
        )
    events.record("email_change_request", user_id=account.id, session_id=session.id)
    return True


def find_waiting(user_id: uuid.UUID) -> Row | None:
    """Return `new_email` and `expires_at` of the change that waits for its link, None if none does."""
    return database.row(_WAITING, {"owner_id": user_id, "now": clock.now()})


def cancel(user_id: uuid.UUID) -> None:
    """End the change that waits; where there is none nothing happens."""
    with database.transaction():
        database.row(_LOCK, {"owner_id": user_id})
        if sessions.end_email_change(user_id):
            activity.record("email_change_cancelled", user_id)
            events.record("email_change_cancel", user_id=user_id)


def find(token: str) -> Change:
    """Return the change that a live link confirms; raise EmailTokenInvalid. Nothing is used up."""
    return _find("change_email", token, emails.LINK_LIFETIME, _PENDING)


def confirm(user_id: uuid.UUID, token: str) -> Account:
    """Give the user the address that the link went to, and return the account.

    The caller has the user's own session or password; a link of anybody else's account is not good. Raise
    EmailTokenInvalid, or EmailTaken, which leaves the link good. Sessions stay: the password is the same.
    """
    try:
        change, account = _confirm(user_id, token)
    except (EmailTokenInvalid, EmailTaken) as refusal:
        events.record("email_change", outcome="refused", user_id=user_id, code=refusal.code)
        raise
    events.record("email_change", user_id=user_id, change_id=change.id)
    return account


def find_undoable(token: str) -> Change:
    """Return the change that a live link undoes; raise EmailTokenInvalid. Nothing is used up."""
    return _find("undo_email", token, LONGEST_UNDO, _UNDOABLE)


def find_undoable_to(user_id: uuid.UUID, email: str) -> Change | None:
    """Return the last change that leads back to this address of the user's, None if none can be undone."""
    key = {"owner_id": user_id, "address": email, "now": clock.now()}
    row = database.row(_UNDOABLE_TO, key)
    return None if row is None else _change(row)


def undo(token: str, email: str, *, device_name: str, ip_address: str | None) -> Account:
    """Give the account back the address that the link went to, and return the account; see undo_change.

    `email` is what the person typed, InvalidInput if it is not that address. A link that was used, or came
    after a change that was undone, raises EmailTokenInvalid.
    """
    change = find_undoable(token)
    accounts.require_typed(email, change.old_email)
    return undo_change(change, device_name=device_name, ip_address=ip_address)


def undo_change(
    change: Change,
    *,
    device_name: str,
    ip_address: str | None,
    suspect_since: datetime | None = None,
) -> Account:
    """Give the account back the address that the change gave up, and mail a reset there.

    Every later change ends with its link, every session ends, and the password is nobody's; an account that
    was to be deleted stays. What was added to sign in with by whoever asked for the change goes too, or by
    who was in at `suspect_since` if that was before. Raise EmailTokenInvalid if it was undone meanwhile.
    """
    user_id = change.account.id
    new_hash = hashing.hash_of_nobody()
    now = clock.now()
    key = {"owner_id": user_id, "change_id": change.id, "now": now}
    try:
        with database.transaction():
            locked = database.row(_LOCK_EVEN_LEAVING, key)
            undone = None if locked is None else database.row(_UNDO, key)
            if locked is None or undone is None:
                raise EmailTokenInvalid
            accounts.end_resets(user_id)
            sessions.end_all(user_id, reason="email_undone")
            database.run(_END_LATER, key | {"since": undone.confirmed_at})
            account = _move(_RESTORE, user_id, change.old_email, now, new_hash=new_hash)
            kept = [each.old_email for each in database.rows(_UNDOABLE_ADDRESSES, key)]
            database.run(_FREE_OTHERS, key | {"kept": [change.old_email, *kept]})
            since = activity.suspect_since(user_id, _REQUESTED, change.requested_at)
            passkeys.remove_of_thief(user_id, min(since, suspect_since or since))
            if locked.delete_after is not None:
                activity.record("deletion_cancelled", user_id)
                webhooks.emit("user.activated", user_id)
            activity.record(
                "email_change_undone", user_id, target=spelling.masked_email(change.old_email)
            )
            webhooks.emit("user.updated", user_id)
            passwords.request_reset(
                change.old_email, device_name=device_name, ip_address=ip_address, after="undo"
            )
    except EmailTaken:
        raise EmailTokenInvalid from None
    events.record("email_undo", user_id=user_id, change_id=change.id)
    return account


def suspect_since(user_id: uuid.UUID) -> datetime | None:
    """Return since when whoever asked for the first change that is open was in; None where none is.

    Open is what waits for its link, and what can be undone.
    """
    first = database.row(_FIRST_OPEN, {"owner_id": user_id, "now": clock.now()})
    if first is None:
        return None
    return activity.suspect_since(user_id, _REQUESTED, first.created_at)


def change_by_operator(email: str, new_email: str) -> Account:
    """Change an account's address at the command line, and tell both; there is no link to undo it.

    The new address counts as confirmed. Raise UnknownAccount, EmailTaken, or InvalidInput for the address
    that it is already.
    """
    new_email, user_id = spelling.canonical_email(new_email), accounts.find_by_email(email).id
    now = clock.now()
    with database.transaction():
        locked = database.row(_LOCK_EVEN_CLOSED, {"owner_id": user_id})
        if locked is None:
            raise UnknownAccount
        if locked.email == new_email:
            raise InvalidInput([("email", ALREADY_THEIRS)])
        _require_free(user_id, new_email)
        sessions.end_email_change(user_id)
        was = {"old_email": locked.email, "old_was_verified": locked.email_verified_at is not None}
        of = {"id": secrets.token_urlsafe(24), "user_id": user_id, "new_email": new_email}
        at = {"created_at": now, "expires_at": now, "confirmed_at": now}
        inserted = insert(EmailChange).values(**of, **was, **at).returning(*EmailChange.__table__.c)
        account = _take(user_id, database.rows(inserted)[0], now, is_mailed=True)
        outbox.queue(emails.email_is_now(user_id, changed_at=now))
    events.record("email_change_by_operator", user_id=user_id)
    return account


def delete_dead(before: datetime) -> Iterator[int]:
    """Delete changes that were over before, in short transactions; yield how many in each."""
    yield from database.delete_in_batches(EmailChange.id, _was_over(before))


def count_dead(before: datetime) -> int:
    """Return how many changes `delete_dead` would delete."""
    return database.count(EmailChange, _was_over(before))


def _was_over(before: datetime) -> Any:
    """Return the condition; what was asked for since cannot have been over, and is not looked at."""
    return and_(
        EmailChange.created_at < before,
        or_(
            EmailChange.ended_at < before,
            and_(EmailChange.confirmed_at.is_(None), EmailChange.expires_at < before),
            and_(
                EmailChange.confirmed_at < before,
                or_(EmailChange.undo_until.is_(None), EmailChange.undo_until < before),
            ),
        ),
    )


def _may_mail(user_id: uuid.UUID, new_email: str) -> bool:
    return throttling.may_mail("change_email", str(user_id)) and throttling.may_mail(
        "change_email to", new_email
    )


def _confirm(user_id: uuid.UUID, token: str) -> tuple[Row, Account]:
    owner_id, change_id = _read("change_email", token, emails.LINK_LIFETIME)
    if owner_id != user_id:
        raise EmailTokenInvalid
    now, days = clock.now(), timedelta(days=current_app.config["EMAIL_UNDO_DAYS"])
    with database.transaction():
        locked = database.row(_LOCK, {"owner_id": user_id})
        if locked is None:
            raise EmailTokenInvalid
        was_verified = locked.email_verified_at is not None
        # An address that nobody has proven may be a stranger's: an undo would hand him the account.
        undo_until = now + days if was_verified and days else None
        facts = {"owner_id": user_id, "change_id": change_id, "now": now}
        was = {"old": locked.email, "was_verified": was_verified, "until": undo_until}
        change = database.row(_CONFIRM, facts | was)
        if change is None:
            raise EmailTokenInvalid
        _require_free(user_id, change.new_email)
        account = _take(user_id, change, now, is_mailed=was_verified)
    return change, account


def _require_free(user_id: uuid.UUID, email: str) -> None:
    """Raise EmailTaken for another's address.

    The constraints decide. But two accounts that want each other's address would wait for each other there.
    """
    if accounts.find_id(email) not in (accounts.NOBODY, user_id):
        raise EmailTaken(field="email")


def _take(user_id: uuid.UUID, change: Row, now: datetime, *, is_mailed: bool) -> Account:
    """Do all that goes with a change that is confirmed now, which is mailed or not; raise EmailTaken."""
    accounts.end_resets(user_id)
    account = _move(_SHOW, user_id, change.new_email, now)
    until = database.row(
        _KEPT_UNTIL, {"owner_id": user_id, "address": change.old_email, "now": now}
    )
    assert until is not None
    accounts.give_up_email(user_id, change.old_email, kept_until=until[0])
    throttling.keep_closed(change.old_email, change.new_email)
    target = spelling.masked_email(change.new_email)
    activity.record("email_changed", user_id, target=target, is_mailed=is_mailed)
    webhooks.emit("user.updated", user_id)
    if change.old_was_verified:
        outbox.queue(
            emails.email_changed(
                user_id,
                change_id=change.id,
                new_email=change.new_email,
                changed_at=now,
                undo_until=change.undo_until,
                device_name=change.device_name,
                ip_address=change.ip_address,
            )
        )
    return account


def _move(
    statement: Any, user_id: uuid.UUID, email: str, now: datetime, *, new_hash: str | None = None
) -> Account:
    """Show the address and take it, in this order; raise EmailTaken."""
    values = {"owner_id": user_id, "address": email, "now": now, "new_hash": new_hash}
    try:
        row = database.row(statement, values)
    except IntegrityError:
        raise EmailTaken(field="email") from None
    assert row is not None, "locked before"
    if not accounts.take_email(user_id, email):
        raise EmailTaken(field="email")
    return Account._make(row)


def _find(purpose: str, token: str, max_age: timedelta, statement: Any) -> Change:
    user_id, change_id = _read(purpose, token, max_age)
    key = {"owner_id": user_id, "change_id": change_id, "now": clock.now()}
    row = database.row(statement, key)
    if row is None:
        raise EmailTokenInvalid
    return _change(row)


def _change(row: Row) -> Change:
    return Change(row[0], row[1], row[2], row[3], Account._make(row[4:]))


def _read(purpose: str, token: str, max_age: timedelta) -> tuple[uuid.UUID, str]:
    """Return the user and the id of the change that a link names; raise EmailTokenInvalid."""
    value = tokens.unsign(purpose, token, max_age=max_age)
    if value is None:
        raise EmailTokenInvalid
    user_id, _, change_id = value.partition(".")
    return uuid.UUID(user_id), change_id


_OWNER_ID = bindparam("owner_id", type_=Uuid())
_NOW = bindparam("now", type_=UtcDateTime())
_OWN = (EmailChange.user_id == _OWNER_ID, EmailChange.id == bindparam("change_id"))
_WAITS = (
    EmailChange.confirmed_at.is_(None),
    EmailChange.ended_at.is_(None),
    EmailChange.expires_at > _NOW,
)
_CAN_BE_UNDONE = (
    EmailChange.confirmed_at.is_not(None),
    EmailChange.ended_at.is_(None),
    EmailChange.undo_until > _NOW,
)
# Not stronger than what a foreign key leaves alone: who holds a session's row and writes an event may go on.
_LOCK_EVEN_CLOSED = (
    select(User.email, User.email_verified_at, User.delete_after)
    .where(User.id == _OWNER_ID)
    .with_for_update(key_share=True)
)
_LOCK = _LOCK_EVEN_CLOSED.where(User.is_active)
# A thief may have it deleted: that must not outrun undoing. What an operator has closed stays so.
_IS_OPEN_OR_LEAVING = or_(User.is_active, User.delete_after.is_not(None))
_LOCK_EVEN_LEAVING = _LOCK_EVEN_CLOSED.where(_IS_OPEN_OR_LEAVING)
_WAITING = select(EmailChange.new_email, EmailChange.expires_at).where(
    EmailChange.user_id == _OWNER_ID, *_WAITS
)
_OF_USER = (
    select(
        *(EmailChange.id, EmailChange.old_email, EmailChange.new_email, EmailChange.created_at),
        *ACCOUNT_COLUMNS,
    )
    .join_from(EmailChange, User, User.id == EmailChange.user_id)
    .where(EmailChange.user_id == _OWNER_ID, _IS_OPEN_OR_LEAVING)
)
_NAMED = _OF_USER.where(EmailChange.id == bindparam("change_id"))
_PENDING = _NAMED.where(*_WAITS, User.is_active)
_UNDOABLE = _NAMED.where(*_CAN_BE_UNDONE)
_UNDOABLE_TO = (
    _OF_USER.where(EmailChange.old_email == bindparam("address"), *_CAN_BE_UNDONE)
    .order_by(EmailChange.confirmed_at.desc())
    .limit(1)
)
_FIRST_OPEN = (
    select(EmailChange.created_at)
    .where(EmailChange.user_id == _OWNER_ID, or_(and_(*_WAITS), and_(*_CAN_BE_UNDONE)))
    .order_by(EmailChange.created_at)
    .limit(1)
)
_CONFIRM = (
    update(EmailChange)
    .where(*_OWN, *_WAITS)
    .values(
        confirmed_at=_NOW,
        undo_until=bindparam("until", type_=UtcDateTime()),
        # As it is given up, not as it was when the change was asked for.
        old_email=bindparam("old"),
        old_was_verified=bindparam("was_verified"),
    )
    .returning(*EmailChange.__table__.c)
)
_UNDO = (
    update(EmailChange)
    .where(*_OWN, *_CAN_BE_UNDONE)
    .values(ended_at=_NOW)
    .returning(EmailChange.confirmed_at)
)
_END_LATER = (
    update(EmailChange)
    .where(
        EmailChange.user_id == _OWNER_ID,
        EmailChange.ended_at.is_(None),
        EmailChange.confirmed_at >= bindparam("since", type_=UtcDateTime()),
    )
    .values(ended_at=_NOW)
)
# An address may have been given up more than once: it is kept for the last link that leads back to it.
_KEPT_UNTIL = select(func.max(EmailChange.undo_until)).where(
    EmailChange.user_id == _OWNER_ID,
    EmailChange.old_email == bindparam("address"),
    *_CAN_BE_UNDONE,
)
_SHOW = (
    update(User)
    .where(User.id == _OWNER_ID)
    .values(email=bindparam("address"), email_verified_at=_NOW, updated_at=_NOW)
    .returning(*ACCOUNT_COLUMNS)
)
_RESTORE = _SHOW.values(
    password_hash=bindparam("new_hash"),
    password_changed_at=_NOW,
    is_active=True,
    delete_after=None,
)
# What undone changes took is free at once; what an earlier change may still lead back to is kept.
_UNDOABLE_ADDRESSES = select(EmailChange.old_email).where(
    EmailChange.user_id == _OWNER_ID, *_CAN_BE_UNDONE
)
_FREE_OTHERS = delete(UserEmail).where(
    UserEmail.user_id == _OWNER_ID,
    UserEmail.email.not_in(bindparam("kept", expanding=True)),
)
