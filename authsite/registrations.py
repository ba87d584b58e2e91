"""Registering where an address must be confirmed first (EMAIL_VERIFICATION=required).

What is typed is a claim, not an account: the answer, its time and its statements are the same whether or
not the address has an account, for `users` is not read. Which mail goes out is decided when it is sent. The
claim becomes an account when its link comes back from whoever typed it: by the browser that did, which its
signed cookie tells, or by the password.
"""

import secrets
from collections.abc import Iterator

from flask import current_app
from sqlalchemy import bindparam, delete, insert, select

from . import accounts, clock, database, events, password_policy, spelling, throttling
from .crypto import hashing, tokens
from .database import Row
from .database.models import Registration
from .errors import EmailTokenInvalid, WrongCurrentPassword
from .mail import emails, outbox


def are_claims() -> bool:
    """Return whether this site makes an account only once its address is confirmed."""
    return bool(current_app.config["EMAIL_VERIFICATION"] == "required")


def claim(
    *,
    email: str,
    password: str,
    first_name: str,
    last_name: str | None = None,
    phone_number: str | None = None,
    device_name: str,
    ip_address: str | None,
) -> str:
    """Keep what was typed for a day, mail the link, and return the claim's id; raise WeakPassword.

    At most 3 mails go to an address in any hour; of one too many nothing is kept and nothing said.
    """
    email = spelling.canonical_email(email)
    password_policy.require_strong(password, email=email)
    password_hash = hashing.hash_password(password)
    now = clock.now()
    claim_id = secrets.token_urlsafe(24)
    registration = {
        "id": claim_id,
        "email": email,
        "password_hash": password_hash,
        "first_name": first_name,
        "last_name": last_name,
        "phone_number": phone_number,
        "created_at": now,
        "expires_at": now + emails.LINK_LIFETIME,
    }
    with database.transaction():
        is_kept = throttling.may_mail("registration", email)
        if is_kept:
            database.run(insert(Registration), registration)
            outbox.queue(
                emails.registration(
                    claim_id,
                    requested_at=now,
                    device_name=device_name,
                    ip_address=ip_address,
                )
            )
    events.record("register_claim", outcome="success" if is_kept else "ignored")
    return claim_id


def find(token: str) -> Row:
    """Return the claim that a live link names; raise EmailTokenInvalid. Nothing is used up."""
    claim_id = tokens.unsign("registration", token, max_age=emails.LINK_LIFETIME)
    row = claim_id and database.row(_LIVE, {"claim_id": claim_id, "now": clock.now()})
    if not row:
        raise EmailTokenInvalid
    return row


def confirm(
    token: str, *, password: str | None = None, own_claim: str | None = None
) -> accounts.Authenticated:
    """Make the claim an account, once; `own_claim` is the id in the cookie of the browser that made it.

    Raise EmailTokenInvalid, WrongCurrentPassword or EmailTaken; the latter two leave the link good.
    """
    found = find(token)
    if own_claim != found.id and not hashing.is_correct(password or "", found.password_hash):
        events.record("register_confirm", outcome="failure")
        raise WrongCurrentPassword(field="password")
    with database.transaction():
        # All claims to the address go in one statement: of two confirmed at once, the second waits here and
        # then finds its own gone, before either has taken anything that the other needs.
        claims = database.rows(_TAKE_ALL, {"address": found.email})
        if found.id not in {each.id for each in claims}:
            raise EmailTokenInvalid
        return accounts.create(
            email=found.email,
            password_hash=found.password_hash,
            first_name=found.first_name,
            last_name=found.last_name,
            phone_number=found.phone_number,
            is_verified=True,
        )


def end_claims(email: str) -> None:
    """Delete every claim to this address."""
    database.rows(_TAKE_ALL, {"address": email})


def delete_expired() -> Iterator[int]:
    """Delete claims that have expired, in short transactions; yield how many in each."""
    yield from database.delete_in_batches(Registration.id, Registration.expires_at < clock.now())


def count_expired() -> int:
    """Return how many claims `delete_expired` would delete."""
    return database.count(Registration, Registration.expires_at < clock.now())


_LIVE = select(*Registration.__table__.c).where(
    Registration.id == bindparam("claim_id"), Registration.expires_at > bindparam("now")
)
_TAKE_ALL = (
    delete(Registration)
    .where(Registration.email == bindparam("address"))
    .returning(Registration.id)
)
