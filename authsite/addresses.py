"""Addresses: whether an account's owner reads the mail of the one that it has.

What confirms an address needs two proofs: the link, which only its mailbox has, and a live session of the
account or its password. A scanner that opens links has neither of the latter, and whoever is sent the link
of a stranger's account cannot bless it by a click.
"""

import uuid
from typing import Any

from sqlalchemy import bindparam, select, update

from . import accounts, activity, clock, database, events, webhooks
from .crypto import tokens
from .database import Row
from .database.models import ACCOUNT_COLUMNS, Account, User
from .errors import EmailTokenInvalid
from .mail import emails


def request_verification(account: Account) -> bool:
    """Mail a link to confirm the account's address, if that is to be done; return whether it is mailed."""
    with database.transaction():
        return accounts.send_verification(account)


def find_unverified(token: str) -> Account:
    """Return whose address a live link confirms; raise EmailTokenInvalid. Nothing is used up."""
    named = _read(token)
    row = named and database.row(_UNVERIFIED, {"owner_id": named[0], "address": named[1]})
    if not row:
        raise EmailTokenInvalid
    return Account._make(row)


def verify(user_id: uuid.UUID, token: str) -> Account:
    """Confirm the address of the user whose link it is, and return the account; raise EmailTokenInvalid.

    The caller has the user's own session or password; a link of anybody else's account is not good.
    """
    named = _read(token)
    row = None
    if named and named[0] == user_id:
        facts = {"owner_id": user_id, "address": named[1], "now": clock.now()}
        row = _confirm(facts)
    if row is None:
        events.record("email_verify", outcome="refused", user_id=user_id)
        raise EmailTokenInvalid
    events.record("email_verify", user_id=user_id)
    return Account._make(row)


def verify_by_operator(email: str) -> Account:
    """Confirm an account's address at the command line; raise UnknownAccount. Again changes nothing."""
    account = accounts.find_by_email(email)
    facts = {"owner_id": account.id, "address": account.email, "now": clock.now()}
    _confirm(facts)
    events.record("email_verify", user_id=account.id)
    return account


def _confirm(facts: dict[str, Any]) -> Row | None:
    """Confirm the address, if that is to be done, and return the account's row."""
    with database.transaction():
        row = database.row(_VERIFY, facts)
        if row is not None:
            activity.record("email_verified", facts["owner_id"])
            webhooks.emit("user.updated", facts["owner_id"])
    return row


def _read(token: str) -> tuple[uuid.UUID, str] | None:
    """Return the user and the address that a link names, or None where it is none of ours or too old."""
    value = tokens.unsign("verify_email", token, max_age=emails.LINK_LIFETIME)
    if value is None:
        return None
    user_id, _, address = value.partition(":")
    return uuid.UUID(user_id), address


_IS_UNVERIFIED = (
    User.id == bindparam("owner_id"),
    User.email == bindparam("address"),
    User.email_verified_at.is_(None),
    User.is_active,
)
_UNVERIFIED = select(*ACCOUNT_COLUMNS).where(*_IS_UNVERIFIED)
_VERIFY = (
    update(User)
    .where(*_IS_UNVERIFIED)
    .values(email_verified_at=bindparam("now"), updated_at=bindparam("now"))
    .returning(*ACCOUNT_COLUMNS)
)
