"""What a person can do about a mail that reports an act which was not theirs, by the link in it.

What the link alone may do is harmless, for a scanner may do it: one session ends, and browsers that have not
signed in to the account before wait until its password is reset. Ending everything asks for the address that
the mail went to, which a scanner does not type. No link sets a password or signs in.
"""

import uuid
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, select, update

from . import (
    accounts,
    activity,
    clock,
    database,
    email_changes,
    events,
    passkeys,
    passwords,
    sessions,
    spelling,
    throttling,
)
from .crypto import hashing, tokens
from .database import Row
from .database.models import ACCOUNT_COLUMNS, Account, User, UserSession
from .errors import EmailTokenInvalid
from .mail import emails
from .second_steps import pending


class Report(NamedTuple):
    """What a link reports: a `session`, one that was `reuse`d, or a change of the `password`."""

    kind: str
    of: str
    account: Account
    session: Row | None
    is_live: bool  # the session can still be ended
    is_made: bool  # the session was reported before


def find(token: str) -> Report:
    """Return what a live link reports; raise EmailTokenInvalid. Nothing is used up."""
    value = tokens.unsign("not_me", token, max_age=emails.NOT_ME_LIFETIME)
    if value is None:
        raise EmailTokenInvalid
    kind, user_id, of = value.split(":", 2)
    row = database.row(_ACCOUNT, {"owner_id": uuid.UUID(user_id)})
    # The next password ends the link of the one before.
    if row is None or (
        kind == "password" and row.password_changed_at != datetime.fromisoformat(of)
    ):
        raise EmailTokenInvalid
    account = Account._make(row[:-1])
    if kind == "password":
        return Report(kind, of, account, None, is_live=False, is_made=False)
    session = database.row(_SESSION, {"session_id": uuid.UUID(of), "owner_id": account.id})
    is_live = bool(session and not session.ended_at and session.expires_at > clock.now())
    return Report(
        kind, of, account, session, is_live=is_live, is_made=pending.is_spent(_SESSION_ACT, of)
    )


def end_session(token: str, *, device_name: str, ip_address: str | None) -> bool:
    """End the session that the link names and let its address in only by a reset, which is mailed.

    Browsers that have signed in to the account before are spared. A session that has ended otherwise, as
    that of a thief who signs himself out, changes nothing of this. Return whether it is the first report;
    another does nothing. Raise EmailTokenInvalid.
    """
    report = find(token)
    if report.kind == "password":
        raise EmailTokenInvalid
    account, now = report.account, clock.now()
    with database.transaction():
        # Its address may have been changed since it was read.
        locked = database.row(_LOCK, {"owner_id": account.id})
        if locked is None or not pending.spend_once(
            _SESSION_ACT, report.of, expires_at=now + emails.NOT_ME_LIFETIME
        ):
            return False
        sessions.disown(account.id, uuid.UUID(report.of))
        throttling.close(locked.email)
        sessions.end_email_change(account.id)
        activity.record("not_me_reported", account.id)
        passwords.request_reset(
            locked.email, device_name=device_name, ip_address=ip_address, after="one"
        )
    events.record("not_me", user_id=account.id, session_id=report.of)
    return True


def end_everything(token: str, email: str, *, device_name: str, ip_address: str | None) -> None:
    """End every session and make the password unusable, which a mailed reset mends.

    What was added to sign in with by whoever was in the reported session goes too; for a password, by whoever
    changed it.
    `email` is what the person typed, InvalidInput if it is not the address of the mail. Where the account's
    was changed since, and that can be undone, it is: else the reset would go to whoever changed it. A second
    use raises EmailTokenInvalid: it would only mail again.
    """
    report = find(token)
    account, now = report.account, clock.now()
    typed = spelling.canonical_email(email)
    change = None if typed == account.email else email_changes.find_undoable_to(account.id, typed)
    if change is not None:
        email_changes.undo_change(
            change,
            device_name=device_name,
            ip_address=ip_address,
            suspect_since=_suspect_since(report),
        )
        return
    accounts.require_typed(typed, account.email)
    values = {"new_hash": hashing.hash_of_nobody(), "now": now}
    seen = datetime.fromisoformat(report.of) if report.kind == "password" else None
    with database.transaction():
        disable = _DISABLE if seen is None else _DISABLE_SEEN
        key = {"owner_id": account.id, "seen": seen, "typed": typed}
        changed = database.run(disable, key | values)
        is_first = seen is not None or pending.spend_once(
            "not_me everything", report.of, expires_at=now + emails.NOT_ME_LIFETIME
        )
        if not changed or not is_first:
            raise EmailTokenInvalid
        activity.record("not_me_reported", account.id)
        sessions.end_all(account.id, reason="not_me")
        passkeys.remove_of_thief(account.id, _suspect_since(report))
        accounts.end_resets(account.id)
        passwords.request_reset(
            account.email, device_name=device_name, ip_address=ip_address, after="everything"
        )
    events.record("not_me_everything", user_id=account.id)


def _suspect_since(report: Report) -> datetime:
    """Return since when the reported stranger was in; a session's row may be gone, its id tells it too."""
    if report.kind != "password":
        return database.moment_of(uuid.UUID(report.of))
    changed_at = datetime.fromisoformat(report.of)
    return activity.suspect_since(report.account.id, _PASSWORD_ACTS, changed_at)


_PASSWORD_ACTS = ("password_changed", "password_set", "password_reset")
_SESSION_ACT = "not_me session"
_OWNER = User.id == bindparam("owner_id")
_ACCOUNT = select(*ACCOUNT_COLUMNS, User.password_changed_at).where(_OWNER, User.is_active)
_LOCK = select(User.email).where(_OWNER).with_for_update(key_share=True)
_SESSION = select(
    UserSession.id,
    UserSession.device_name,
    UserSession.ip_address,
    UserSession.location_city,
    UserSession.location_country,
    UserSession.created_at,
    UserSession.expires_at,
    UserSession.ended_at,
).where(UserSession.user_id == bindparam("owner_id"), UserSession.id == bindparam("session_id"))
_DISABLE = (
    update(User)
    # A change of the address since would send the reset to whoever made it.
    .where(_OWNER, User.is_active, User.email == bindparam("typed"))
    .values(
        password_hash=bindparam("new_hash"),
        password_changed_at=bindparam("now"),
        updated_at=bindparam("now"),
    )
)
_DISABLE_SEEN = _DISABLE.where(User.password_changed_at == bindparam("seen"))
