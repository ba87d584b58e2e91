"""What an operator does about somebody's second step."""

import uuid

from sqlalchemy import Uuid, bindparam, delete

from .. import accounts, activity, database, events, sessions, throttling
from ..database.models import Account, Passkey
from . import apps, notices


def reset(email: str, *, and_passkeys: bool = False) -> Account:
    """Turn an account's two-step sign-in off, end its sessions and mail the owner; raise UnknownAccount.

    Its passkeys go on signing in, unless they are to be taken away as well.
    """
    account = accounts.find_by_email(email)
    with database.transaction():
        apps.turn_off(account.id, None)
        if and_passkeys:
            _remove_passkeys(account.id)
        throttling.forget_second_step(account.id)
        sessions.end_all(account.id, reason="revoked")
    events.record("two_step_reset", user_id=account.id, passkeys=and_passkeys)
    return account


def _remove_passkeys(user_id: uuid.UUID) -> None:
    for gone in database.rows(_DELETE, {"owner_id": user_id}):
        activity.record("passkey_removed", user_id, target=gone.name)
        notices.passkey(user_id, "removed", gone.name)


_DELETE = (
    delete(Passkey)
    .where(Passkey.user_id == bindparam("owner_id", type_=Uuid()))
    .returning(Passkey.name)
)
