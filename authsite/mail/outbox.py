"""The outbox: a mail is a row of the transaction that causes it, and leaves after the commit.

Any number of drainers may run: the thread of this process, `flask send-mail`, a worker.
"""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import (
    Select,
    String,
    Uuid,
    and_,
    bindparam,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    true,
    update,
)

from .. import clock, database, events, outboxes
from ..database import UtcDateTime
from ..database.models import (
    EmailChange,
    OutgoingMail,
    PasswordReset,
    Registration,
    User,
    UserEmail,
)
from . import emails, quotas, sending

BACK_OFF = tuple(timedelta(minutes=each) for each in (1, 5, 30, 60, 120, 240, 480))
MAX_ATTEMPTS = len(BACK_OFF) + 1


def queue(mail: emails.Mail) -> None:
    """Add a mail to the transaction that is open now; it is sent if and when that is committed."""
    now = clock.now()
    values = mail._asdict() | {
        "id": database.uuid7(now),
        "created_at": now,
        "due_at": now,
        "attempts": 0,
    }
    database.run(insert(OutgoingMail), values)
    outboxes.wake_after_commit("outbox", deliver)


def queue_everywhere(mail: emails.Mail) -> None:
    """Queue a mail, and for each address to which the account may still be changed back too.

    Else only a thief who changed it would hear what he does.
    """
    queue(mail)
    undoable = database.rows(_UNDOABLE, {"owner_id": mail.user_id, "now": clock.now()})
    # One address may have been given up twice: the later link works longer.
    for change in {each.old_email: each for each in undoable}.values():
        queue(emails.to_old_address(mail, change_id=change.id, undo_until=change.undo_until))


def deliver(
    *,
    to: uuid.UUID | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
    on_failure: Callable[[Exception], object] = lambda _error: None,
) -> tuple[int, int]:
    """Send everything that is due, or what is due `to` one user; return how many were sent and were not.

    Once `is_stopping`, or once the server is away, the mail at hand is the last, and the others go back: with
    a server that hangs each would take its time, and one of its attempts. `on_failure` is told why a mail was
    not sent.
    """
    is_away: list[bool] = []

    def note(error: Exception) -> None:
        if sending.is_away(error):
            is_away.append(True)
        on_failure(error)

    return outboxes.drain(
        OutgoingMail,
        partial(_deliver_one, on_failure=note),
        of=None if to is None else OutgoingMail.user_id == to,
        is_stopping=lambda: bool(is_away) or is_stopping(),
    )


def depth() -> int:
    """Return how many mails wait."""
    return database.count(OutgoingMail)


def next_due_at(to: uuid.UUID | None = None) -> datetime | None:
    """Return when the first of the mails that wait, or of one user's, may be tried; None where none waits."""
    query = select(OutgoingMail.due_at).order_by(OutgoingMail.due_at).limit(1)
    found = database.row(query if to is None else query.where(OutgoingMail.user_id == to))
    return found[0] if found else None


def _deliver_one(row: database.Row, *, on_failure: Callable[[Exception], object]) -> bool:
    """Send one claimed mail; return whether it left. What cannot be sent now is tried again later."""
    to = _recipient(row)
    if to is None or _is_overtaken(row, to):
        return _drop(row, "dropped")
    name = _name_within_quota(row, to)
    if name is None:
        on_failure(quotas.UsedUp())
        return _drop(row, "too_many")
    try:
        mail = emails.Mail(row.user_id, name, row.facts, row.recipient)
        sending.send(emails.compose(mail, email=to.email, first_name=_greeted(to)))
    except Exception as error:
        # Not only the network's: a mail that cannot even be written must not stand before all others.
        _postpone(row, error)
        on_failure(error)
        return False
    database.run(_DELETE, _key(row))
    events.record("mail", mail=row.name, user_id=row.user_id, attempts=row.attempts)
    return True


def _drop(row: database.Row, outcome: str) -> bool:
    database.run(_DELETE, _key(row))
    events.record("mail", outcome=outcome, mail=row.name, user_id=row.user_id)
    return True


def _name_within_quota(row: database.Row, to: database.Row) -> str | None:
    """Return the mail that is to be sent in this place, None where there have been enough today.

    Counted at the first attempt only; what is then sent keeps its name for the next ones.
    """
    name: str = row.name
    if name in _TO_STRANGERS:
        had = quotas.sent(_find_holder(to.email), "any")
        if had + _asked_within_a_day(to.email, until=to.created_at) > quotas.MOST_TO_UNPROVEN:
            return None
        # Who has an account already is told so; whether there is one is decided now, not when it was asked.
        return "already_registered" if _is_anothers(to.email, row.user_id) else name
    # Of these two there is one for each account, and without the former nobody could keep theirs.
    is_once = name in ("deletion_scheduled", "account_deleted") and "is_again" not in row.facts
    if row.attempts > 1 or is_once:
        return name
    if name == "new_device":
        so_many = quotas.count(row.user_id, "new_device")
        if so_many > quotas.MOST_NEW_DEVICES + 1:
            return None
        if so_many > quotas.MOST_NEW_DEVICES:
            name = "new_devices"
            database.run(_RENAME, _key(row) | {"new_name": name})
    if to.email_verified_at is None:
        # Counted before it is looked who else writes there: of two at once one at least sees the other.
        so_many = quotas.count(row.user_id, "any")
        if so_many + _asked_within_a_day(to.email, until=clock.now()) > quotas.MOST_TO_UNPROVEN:
            return None
    return name


def _key(row: database.Row) -> dict[str, Any]:
    return {"mail_id": row.id, "owner_id": row.user_id}


def _recipient(row: database.Row) -> database.Row | None:
    """Return who gets the mail, by the row that it names; None if that is gone."""
    now = clock.now()
    key = row.facts | {"owner_id": row.user_id, "now": now}
    if row.recipient is not None:
        return database.row(_NAMED, {"recipient": row.recipient})
    if row.name == "registration":
        return database.row(_CLAIMANT, key)
    if row.name == "change_email":
        return database.row(_NEW_ADDRESS, key)
    if "change_id" in row.facts:
        return database.row(_OLD_ADDRESS, key)
    return database.row(_RECIPIENT, key)


def _asked_within_a_day(email: str, *, until: datetime) -> int:
    """Return how often somebody had typed an address, until then, to register or to move there."""
    key = {"address": email, "until": until, "since": clock.now() - quotas.WINDOW}
    return sum(row[0] for each in (_CLAIMS, _CHANGES_TO) for row in database.rows(each, key))


def _find_holder(email: str) -> uuid.UUID | None:
    """Return whose address it is, None for nobody's."""
    key = {"address": email, "owner_id": None, "now": clock.now()}
    found = database.row(_LISTED, key)
    return None if found is None else found.user_id


def _is_anothers(email: str, user_id: uuid.UUID | None) -> bool:
    """Return whether an account has this address, other than the one that asks for it."""
    key = {"address": email, "owner_id": user_id, "now": clock.now()}
    if database.row(_LISTED, key) is not None:
        return True
    # Only code of the release before, which does not list it, and cannot serve where tables are spread.
    return not database.has_citus() and database.row(_SHOWN, key) is not None


def _greeted(to: database.Row) -> str | None:
    """Return by which name a mail may call its reader.

    Until the address is proven anybody may have typed it, with a name that is a message of his own.
    """
    return str(to.first_name) if to.email_verified_at else None


def _is_overtaken(row: database.Row, to: database.Row) -> bool:
    """Return whether the account is closed, or the mail a link that no longer works: nobody should get it."""
    if row.name == "deletion_scheduled":
        return bool(to.delete_after != datetime.fromisoformat(row.facts["delete_after_at"]))
    if not to.is_active:
        return True
    if row.name == "verify_email":
        return to.email_verified_at is not None
    reset_id = row.facts.get("reset_id")
    return reset_id is not None and not database.row(
        _LIVE_RESET, {"reset_id": reset_id, "user_id": row.user_id, "now": clock.now()}
    )


def _postpone(row: database.Row, error: Exception) -> None:
    """Have a mail tried again later, unless that is of no use or was done often enough."""
    facts = {"mail": row.name, "user_id": row.user_id, "attempts": row.attempts}
    facts["error"] = type(error).__name__
    if answer := sending.answer_in(error):
        facts["status"] = answer.status  # never its words: servers quote the address in them
    is_final = sending.is_final(error)
    if is_final or row.attempts >= MAX_ATTEMPTS:
        database.run(_DELETE, _key(row))
        # Anybody can type an address that is none: that is no fault of ours.
        events.record("mail", outcome="refused" if is_final else "given_up", **facts)
        return
    due_at = clock.now() + BACK_OFF[row.attempts - 1]
    database.run(_POSTPONE, _key(row) | {"new_due_at": due_at})
    events.record("mail", outcome="postponed", **facts)


# A mail to somebody who has no account yet has no owner.
_OWN = and_(
    OutgoingMail.id == bindparam("mail_id"),
    OutgoingMail.user_id.is_not_distinct_from(bindparam("owner_id", type_=Uuid())),
)
_DELETE = delete(OutgoingMail).where(_OWN)
_RENAME = update(OutgoingMail).where(_OWN).values(name=bindparam("new_name"))
_POSTPONE = update(OutgoingMail).where(_OWN).values(due_at=bindparam("new_due_at"))
# They go to whoever reads an address that somebody has typed.
_TO_STRANGERS = ("registration", "change_email")
_OWNER_ID = bindparam("owner_id", type_=Uuid())
_RECIPIENT = select(
    User.email, User.email_verified_at, User.first_name, User.is_active, User.delete_after
).where(User.id == _OWNER_ID)
# Nothing is known of its reader any longer.
_NAMED = select(
    bindparam("recipient", type_=String()).label("email"),
    null().label("email_verified_at"),
    true().label("is_active"),
)
_NOW = bindparam("now", type_=UtcDateTime())
_CLAIMANT = select(
    Registration.email,
    Registration.created_at,
    null().label("email_verified_at"),
    true().label("is_active"),
).where(Registration.id == bindparam("registration_id"), Registration.expires_at > _NOW)
_CHANGE = and_(EmailChange.user_id == _OWNER_ID, EmailChange.id == bindparam("change_id"))
_NEW_ADDRESS = (
    select(
        EmailChange.new_email.label("email"),
        EmailChange.created_at,
        null().label("email_verified_at"),
        User.is_active,
    )
    .join_from(EmailChange, User, User.id == EmailChange.user_id)
    .where(
        _CHANGE,
        EmailChange.confirmed_at.is_(None),
        EmailChange.ended_at.is_(None),
        EmailChange.expires_at > _NOW,
    )
)
_ADDRESS = bindparam("address", type_=String())


def _within_a_day(address: Any, created_at: Any) -> Select[int]:
    until, since = bindparam("until", type_=UtcDateTime()), bindparam("since", type_=UtcDateTime())
    return select(func.count()).where(address == _ADDRESS, created_at <= until, created_at > since)


_CLAIMS = _within_a_day(Registration.email, Registration.created_at)
_CHANGES_TO = _within_a_day(EmailChange.new_email, EmailChange.created_at)
_LISTED = select(UserEmail.user_id).where(
    UserEmail.email == _ADDRESS,
    UserEmail.user_id.is_distinct_from(_OWNER_ID),
    or_(UserEmail.kept_until.is_(None), UserEmail.kept_until > _NOW),
)
_SHOWN = select(User.id).where(User.email == _ADDRESS, User.id.is_distinct_from(_OWNER_ID)).limit(1)
# Its owner hears of a change whatever has become of the account; of one that was undone, no more.
_OLD_ADDRESS = (
    select(
        EmailChange.old_email.label("email"),
        User.email_verified_at,
        User.first_name,
        true().label("is_active"),
        User.delete_after,
    )
    .join_from(EmailChange, User, User.id == EmailChange.user_id)
    .where(
        _CHANGE,
        EmailChange.confirmed_at.is_not(None),
        EmailChange.ended_at.is_(None),
        or_(EmailChange.undo_until.is_(None), EmailChange.undo_until > _NOW),
    )
)
_UNDOABLE = (
    select(EmailChange.id, EmailChange.old_email, EmailChange.undo_until)
    .join_from(EmailChange, User, User.id == EmailChange.user_id)
    .where(
        EmailChange.user_id == _OWNER_ID,
        EmailChange.old_email != User.email,
        EmailChange.confirmed_at.is_not(None),
        EmailChange.ended_at.is_(None),
        EmailChange.undo_until > _NOW,
    )
    .order_by(EmailChange.confirmed_at)
)
_LIVE_RESET = select(PasswordReset.id).where(
    PasswordReset.id == bindparam("reset_id"),
    PasswordReset.user_id == bindparam("user_id"),
    PasswordReset.ended_at.is_(None),
    PasswordReset.expires_at > bindparam("now"),
)
