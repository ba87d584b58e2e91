"""What an operator does about somebody's second step."""

import uuid
from typing import NamedTuple

from sqlalchemy import Uuid, bindparam, delete

from .. import accounts, activity, database, events, sessions, throttling
from ..database.models import Account, Passkey
from . import apps, notices


class Reset(NamedTuple):
    """What a reset found of a second step, and took away; of nothing the owner is not mailed."""

    account: Account
    was_on: bool
    passkeys_removed: int


def reset(email: str, *, and_passkeys: bool = False) -> Reset:
    """Turn an account's two-step sign-in off, and end its sessions; raise UnknownAccount.

    Its passkeys go on signing in, unless they are to be taken away as well. What goes is mailed.
    """
    account = accounts.find_by_email(email)
    with database.transaction():
        was_on = apps.turn_off(account.id, None)
        removed = _remove_passkeys(account.id) if and_passkeys else 0
        throttling.forget_second_step(account.id)
        sessions.end_all(account.id, reason="revoked")
    events.record("two_step_reset", user_id=account.id, passkeys=and_passkeys)
    return Reset(account, was_on, removed)


def _remove_passkeys(user_id: uuid.UUID) -> int:
    """Remove all and mail each; return how many there were."""
    removed = database.rows(_DELETE, {"owner_id": user_id})
    for gone in removed:
        activity.record("passkey_removed", user_id, target=gone.name)
        notices.passkey(user_id, "removed", gone.name)
    return len(removed)


_DELETE = (
    delete(Passkey)
    .where(Passkey.user_id == bindparam("owner_id", type_=Uuid()))
    .returning(Passkey.name)
)
