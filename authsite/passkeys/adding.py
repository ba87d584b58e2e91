"""A passkey is made: by options of ours, in the owner's device, and its public half is kept."""

import uuid
from typing import Any

from sqlalchemy import Uuid, bindparam, func, select

from .. import activity, clock, database, events, second_steps
from ..database import Row
from ..database.models import MAX_PASSKEY_NAME, Account, Passkey
from ..errors import PasskeyExists, PasskeyInvalid, PasskeyRefused, TooManyPasskeys
from . import ceremonies, challenges, listing

MOST = 20


def creation_options(account: Account, session_id: uuid.UUID) -> dict[str, Any]:
    """Return what a browser needs to make a passkey; nothing is written.

    Raise PasskeysUnavailable, or TooManyPasskeys at 20.
    """
    known = listing.of(account.id)
    if len(known) >= MOST:
        raise TooManyPasskeys
    return ceremonies.creation_options(account, known, audience=_audience(session_id))


def add(
    user_id: uuid.UUID, session_id: uuid.UUID, credential: str, *, name: str | None, is_api: bool
) -> Row:
    """Keep a new passkey, mail the owner, and return it; its name is the device's where none is given.

    Raise InvalidInput for what cannot be read, PasskeyRefused for what is not accepted, PasskeyExists,
    TooManyPasskeys, PasskeysUnavailable, or SessionRevoked if the session has ended meanwhile.
    """
    ceremonies.rp_id()
    registration = ceremonies.read_registration(credential)
    now = clock.now()
    try:
        audience = _audience(session_id)
        challenges.check(registration.challenge, audience, lifetime=challenges.LIFETIME)
        row = ceremonies.verify_registration(registration, is_api=is_api) | {
            "id": database.uuid7(now),
            "user_id": user_id,
            "name": (name or activity.actor(user_id).device_name or "Passkey")[:MAX_PASSKEY_NAME],
            "created_at": now,
            "last_used_at": None,
        }
        with database.transaction():
            second_steps.switch.lock(user_id, asked_in=session_id)
            challenges.spend(registration.challenge)
            added = _write(row)
            activity.record("passkey_added", user_id, target=added.name)
            second_steps.notices.passkey(user_id, "added", added.name)
    except PasskeyInvalid:
        events.record("passkey_added", outcome="refused", user_id=user_id, session_id=session_id)
        raise PasskeyRefused from None
    events.record("passkey_added", user_id=user_id, session_id=session_id, passkey_id=added.id)
    return added


def _audience(session_id: uuid.UUID) -> str:
    return f"add {session_id}"


def _write(row: dict[str, Any]) -> Row:
    """Write the row of a user whose own row is locked: so of two at the limit one is counted first."""
    count = database.row(_COUNT, {"owner_id": row["user_id"]})
    assert count is not None
    if count[0] >= MOST:
        raise TooManyPasskeys
    # A passkey is one account's: of two that show the same, one has it. Where the tables are spread a key is
    # unique in one account only: there the others are asked, and two in the same instant may both have it.
    if database.has_citus() and database.row(_HAVE, {"shown": row["credential_id"]}):
        raise PasskeyExists
    insert = database.upsert(Passkey)
    statement = insert.values(**row).on_conflict_do_nothing().returning(*Passkey.__table__.c)
    added = database.row(statement)
    if added is None:
        raise PasskeyExists
    return added


_COUNT = select(func.count()).where(Passkey.user_id == bindparam("owner_id", type_=Uuid()))
_HAVE = select(Passkey.id).where(Passkey.credential_id == bindparam("shown")).limit(1)
