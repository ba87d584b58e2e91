"""A sign-in whose password was right and whose second step is still to come.

It is a signed token and no row: to know a password writes nothing. It works once, for ten minutes, and not
after the password has changed.
"""

import hashlib
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import orjson
from sqlalchemy import bindparam, select

from .. import clock, database
from ..accounts import Authenticated
from ..crypto import tokens
from ..database.models import SpentToken
from ..errors import MfaTokenInvalid, SecondStepRequired

LIFETIME = timedelta(seconds=SecondStepRequired.expires_in)
_PURPOSE = "pending sign-in"


class Pending(NamedTuple):
    user_id: uuid.UUID
    password_changed_at: datetime
    entrance: str
    is_remembered: bool
    jti: str


def token_for(authenticated: Authenticated, *, entrance: str, is_remembered: bool) -> str:
    """Return the token that stands for this sign-in until its second step."""
    facts = [
        str(authenticated.account.id),
        authenticated.password_changed_at.isoformat(),
        entrance,
        is_remembered,
        tokens.new_jti(),
    ]
    return tokens.sign(_PURPOSE, orjson.dumps(facts).decode())


def read(token: str, *, is_page: bool) -> Pending:
    """Return the sign-in that a token stands for, or raise MfaTokenInvalid.

    One that began on a page goes on there, and one of the API in the API.
    """
    text = (
        tokens.unsign(_PURPOSE, token, max_age=LIFETIME) if len(token) <= tokens.MAX_TOKEN else None
    )
    if text is None:
        raise MfaTokenInvalid
    user_id, changed_at, entrance, is_remembered, jti = orjson.loads(text)
    if (entrance == "page") != is_page:
        raise MfaTokenInvalid
    return Pending(
        uuid.UUID(user_id), datetime.fromisoformat(changed_at), entrance, is_remembered, jti
    )


def spend(pending: Pending) -> None:
    """Use the sign-in up, in the transaction that writes its session; raise MfaTokenInvalid if it was."""
    if not spend_once(_PURPOSE, pending.jti, expires_at=clock.now() + LIFETIME):
        raise MfaTokenInvalid


def is_spent(purpose: str, value: str) -> bool:
    """Return whether a signed thing has been used."""
    return database.row(_SPENT, {"digest": _digest(purpose, value)}) is not None


def spend_once(purpose: str, value: str, *, expires_at: datetime) -> bool:
    """Note that a signed thing has been used; return False if it had been. The primary key decides."""
    digest = _digest(purpose, value)
    insert = database.upsert(SpentToken)
    statement = insert.values(digest=digest, expires_at=expires_at).on_conflict_do_nothing()
    return database.run(statement) == 1


def delete_spent() -> Iterator[int]:
    """Delete notes of what would have expired anyway, in short transactions; yield how many in each."""
    yield from database.delete_in_batches(SpentToken.digest, SpentToken.expires_at < clock.now())


def _digest(purpose: str, value: str) -> bytes:
    return hashlib.sha256(f"{purpose}\n{value}".encode()).digest()


_SPENT = select(SpentToken.digest).where(SpentToken.digest == bindparam("digest"))
