"""Passwords: change one that is known, reset one that is forgotten, set one as an operator."""

import secrets
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import bindparam, func, insert, select, update

from . import (
    accounts,
    activity,
    clock,
    database,
    events,
    password_policy,
    sessions,
    throttling,
    webhooks,
)
from .crypto import hashing, tokens
from .database.models import ACCOUNT_COLUMNS, Account, PasswordReset, User
from .errors import ResetTokenInvalid, WeakPassword, WrongCurrentPassword
from .mail import emails, outbox

RESET_LIFETIME = timedelta(minutes=60)
MAX_RESETS_PER_HOUR = 3


class Changed(NamedTuple):
    """What the caller's session goes on with, and how many others ended."""

    grant: sessions.Grant
    ended: int


def request_reset(
    email: str, *, device_name: str | None, ip_address: str | None, after: str | None = None
) -> None:
    """Mail a link to the account of this address, if there is an active one; say nothing of it.

    At most 3 mails an hour go to an account, unless the link follows `after` an act that can happen once
    only or is the operator's, as emails.password_reset names it: a thief who has asked for three must not
    keep the owner from his.
    A new link makes the older ones worthless.
    """
    now = clock.now()
    reset_id = secrets.token_urlsafe(24)
    expires_at = now + RESET_LIFETIME
    with database.transaction():
        # The user's row is locked until the commit: of several requests at once each counts those before
        # it, and ends their links.
        row = database.row(_ASKING, {"user_id": accounts.find_id(email)})
        asked = row and database.row(_ASKED, {"user_id": row.id, "since": now - timedelta(hours=1)})
        is_one_too_many = not after and asked is not None and asked[0] >= MAX_RESETS_PER_HOUR
        if row is None or is_one_too_many:
            events.record("reset_request", outcome="ignored", user_id=row and row.id)
            return
        accounts.end_resets(row.id)
        database.run(
            insert(PasswordReset),
            {"id": reset_id, "user_id": row.id, "created_at": now, "expires_at": expires_at},
        )
        activity.record("password_reset_requested", row.id)
        outbox.queue(
            emails.password_reset(
                row.id,
                reset_id=reset_id,
                requested_at=now,
                expires_at=expires_at,
                device_name=device_name,
                ip_address=ip_address,
                after=after,
            )
        )
    events.record("reset_request", user_id=row.id)


def find_reset(token: str) -> tuple[str, Account]:
    """Return a live link's reset id and its account; raise ResetTokenInvalid. Nothing is used up."""
    named = tokens.read_reset_link(token, max_age=RESET_LIFETIME)
    if named is None:
        raise ResetTokenInvalid
    user_id, reset_id = named
    key = {"owner_id": user_id or _find_owner(reset_id), "reset_id": reset_id, "now": clock.now()}
    row = database.row(_LIVE_RESET, key)
    if row is None:
        raise ResetTokenInvalid
    return reset_id, Account._make(row)


def reset(
    token: str, new_password: str, *, device_name: str | None, ip_address: str | None
) -> Account:
    """Set the password that a reset link allows, once, and end every session of the user.

    Raise ResetTokenInvalid for every bad link, or WeakPassword, which leaves the link good.
    """
    try:
        reset_id, account = find_reset(token)
    except ResetTokenInvalid:
        events.record("reset_confirm", outcome="refused")
        raise
    password_policy.require_strong(new_password, email=account.email, field="new_password")
    password_hash = hashing.hash_password(new_password)
    now = clock.now()
    with database.transaction():
        # The user's row first, here and everywhere: two operations on one account cannot deadlock.
        _write(account.id, password_hash, now)
        # The link came by mail: it proves the address as well as one that was sent to do so.
        if database.run(_VERIFY, {"owner_id": account.id, "now": now}):
            activity.record("email_verified", account.id)
            webhooks.emit("user.updated", account.id)
        # Of two uses at once, this finds the link live for one.
        key = {"owner_id": account.id, "reset_id": reset_id, "now": now}
        if not database.run(_USE_RESET, key):
            raise ResetTokenInvalid
        activity.record("password_reset", account.id)
        ended = sessions.end_all(account.id, reason="password_reset")
        throttling.forget(account.email)
        _notify(account.id, now, device_name, ip_address, ended=ended)
    events.record("reset_confirm", user_id=account.id)
    return account


def change(
    session: sessions.Resumed, current_password: str, new_password: str, *, ip_address: str | None
) -> Changed:
    """Change a signed-in user's password and end all other sessions.

    Raise WrongCurrentPassword, TooManyAttempts, WeakPassword, or SessionRevoked if the session has ended
    meanwhile.
    """
    account, asked_at = session.account, clock.now()
    password_policy.require_strong(new_password, email=account.email, field="new_password")
    seen = confirm(account, current_password, field="current_password")
    if hashing.normalise(current_password) == hashing.normalise(new_password):
        raise WeakPassword(
            "New password must be different from the current one", field="new_password"
        )
    password_hash = hashing.hash_password(new_password)
    now = clock.now()
    with database.transaction():
        if not _write(account.id, password_hash, now, seen=seen):
            raise WrongCurrentPassword(field="current_password")
        activity.record("password_changed", account.id)
        ended = sessions.end_all(
            account.id,
            reason="password_changed",
            keep=session.id,
            ended_from=session.device_name,
        )
        # Where a second step is asked for, the password alone proves too little; also where it was turned
        # on while the password was being checked.
        is_proof = session.two_step_since is None
        grant = sessions.renew(session, authenticated_at=asked_at if is_proof else None)
        accounts.end_resets(account.id)
        sessions.end_email_change(account.id)
        _notify(account.id, now, session.device_name, ip_address, ended=ended, has_kept_own=True)
    events.record("password_change", user_id=account.id, session_id=session.id)
    return Changed(grant, ended)


def set_by_operator(email: str, new_password: str) -> Account:
    """Set a password at the command line and end every session; raise UnknownAccount, WeakPassword."""
    account = accounts.find_by_email(email)
    password_policy.require_strong(new_password, email=account.email)
    password_hash = hashing.hash_password(new_password)
    now = clock.now()
    with database.transaction():
        _write(account.id, password_hash, now)
        activity.record("password_set", account.id)
        ended = sessions.end_all(account.id, reason="password_reset")
        accounts.end_resets(account.id)
        throttling.forget(account.email)
        _notify(account.id, now, None, None, ended=ended)
    events.record("password_set", user_id=account.id)
    return account


def confirm(
    account: Account, password: str, *, field: str, event: str = "password_change"
) -> datetime:
    """Return when this password, which must be the account's, was set.

    Raise WrongCurrentPassword or TooManyAttempts: the failures count with those of signing in.
    """
    with hashing.slot(), throttling.attempt(account.email, user_id=account.id) as attempt:
        row = database.row(_HASH, {"user_id": account.id})
        if row is None or not hashing.is_correct(password, row.password_hash):
            events.record(event, outcome="failure", user_id=account.id)
            raise WrongCurrentPassword(field=field)
        attempt.succeeded()
    changed_at: datetime = row.password_changed_at
    return changed_at


def changed_at(user_id: uuid.UUID) -> datetime | None:
    """Return when the user's password was set last."""
    row = database.row(_CHANGED_AT, {"user_id": user_id})
    return row.password_changed_at if row else None


def delete_dead_resets(before: datetime) -> Iterator[int]:
    """Delete requests that expired before, in short transactions; yield how many in each."""
    yield from database.delete_in_batches(PasswordReset.id, PasswordReset.expires_at < before)


def _find_owner(reset_id: str) -> uuid.UUID:
    """Return whose request it is that a link of the release before names by itself."""
    row = database.row(_OWNER, {"reset_id": reset_id})
    return accounts.NOBODY if row is None else row.user_id


def _write(
    user_id: uuid.UUID, password_hash: str, now: datetime, *, seen: datetime | None = None
) -> bool:
    """Write the new hash; with `seen`, only if the password is still the one that was verified."""
    statement = update(User).where(User.id == user_id)
    if seen is not None:
        statement = statement.where(User.password_changed_at == seen)
    values = {"password_hash": password_hash, "password_changed_at": now, "updated_at": now}
    return database.run(statement.values(**values)) > 0


def _notify(
    user_id: uuid.UUID,
    now: datetime,
    device_name: str | None,
    ip_address: str | None,
    *,
    ended: int,
    has_kept_own: bool = False,
) -> None:
    outbox.queue_everywhere(
        emails.password_changed(
            user_id,
            changed_at=now,
            device_name=device_name,
            ip_address=ip_address,
            signed_out=ended,
            has_kept_own=has_kept_own,
        )
    )


_ASKING = (
    select(User.id)
    .where(User.id == bindparam("user_id"), User.is_active)
    .with_for_update(key_share=True)
)
_ASKED = select(func.count()).where(
    PasswordReset.user_id == bindparam("user_id"), PasswordReset.created_at > bindparam("since")
)
_IS_LIVE = (
    PasswordReset.id == bindparam("reset_id"),
    PasswordReset.user_id == bindparam("owner_id"),
    PasswordReset.ended_at.is_(None),
    PasswordReset.expires_at > bindparam("now"),
)
_LIVE_RESET = (
    select(*ACCOUNT_COLUMNS)
    .join_from(PasswordReset, User, User.id == PasswordReset.user_id)
    .where(*_IS_LIVE, User.is_active)
)
_VERIFY = (
    update(User)
    .where(User.id == bindparam("owner_id"), User.email_verified_at.is_(None))
    .values(email_verified_at=bindparam("now"))
)
_USE_RESET = update(PasswordReset).where(*_IS_LIVE).values(ended_at=bindparam("now"))
_OWNER = select(PasswordReset.user_id).where(PasswordReset.id == bindparam("reset_id"))
_CHANGED_AT = select(User.password_changed_at).where(User.id == bindparam("user_id"))
_HASH = select(User.password_hash, User.password_changed_at).where(User.id == bindparam("user_id"))
