"""A user's passkeys: what there is of them, under which names, and no longer."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Uuid, bindparam, delete, select, update

from .. import activity, database, events, second_steps, sessions
from ..database import Row
from ..database.models import Passkey
from ..errors import PasskeyNotFound
from . import ceremonies


def of(user_id: uuid.UUID) -> Sequence[Row]:
    """Return the user's passkeys, oldest first."""
    return database.rows(_ALL, {"owner_id": user_id})


def accepted(user_id: uuid.UUID, known: Sequence[Row]) -> dict[str, Any]:
    """Return what a browser may tell its password manager of the passkeys that there are (§5.1.10)."""
    return {
        "rpId": ceremonies.rp_id(),
        "userId": ceremonies.encoded(user_id.bytes),
        "allAcceptedCredentialIds": [ceremonies.encoded(each.credential_id) for each in known],
    }


def is_only_factor(passkey: Row) -> bool:
    """Return whether there is neither an app nor another passkey beside this one."""
    overview = second_steps.overview.of(passkey.user_id)
    return overview.app is None and overview.passkeys == 1


def rename(user_id: uuid.UUID, passkey_id: uuid.UUID, name: str) -> Row:
    """Give a passkey another name and return it; raise PasskeyNotFound."""
    found = database.row(_RENAME, {"owner_id": user_id, "passkey_id": passkey_id, "new": name})
    if found is None:
        raise PasskeyNotFound
    return found


def remove(user_id: uuid.UUID, session_id: uuid.UUID, passkey_id: uuid.UUID) -> bool:
    """Take a passkey away, mail the owner, and trust no browser any longer.

    Raise PasskeyNotFound, or SessionRevoked if the session has ended that asks.

    Where nothing else is left to ask for, two-step sign-in is off with it: return whether it was turned off.
    """
    with database.transaction():
        user = second_steps.switch.lock(user_id, asked_in=session_id)
        gone = database.row(_DELETE, {"owner_id": user_id, "passkey_id": passkey_id})
        if gone is None:
            raise PasskeyNotFound
        sessions.distrust_all(user_id)
        is_off = second_steps.switch.turn_off_without_factors(user)
        is_turned_off = is_off and user.two_step_since is not None
        activity.record("passkey_removed", user_id, target=gone.name)
        second_steps.notices.passkey(user_id, "removed", gone.name)
        if is_turned_off:
            activity.record("two_step_off", user_id)
            second_steps.notices.changed(user_id, "off")
    events.record("passkey_removed", user_id=user_id, passkey_id=passkey_id)
    return is_turned_off


_OWN = Passkey.user_id == bindparam("owner_id", type_=Uuid())
_ALL = select(*Passkey.__table__.c).where(_OWN).order_by(Passkey.id)
_ONE = Passkey.id == bindparam("passkey_id", type_=Uuid())
_RENAME = (
    update(Passkey).where(_OWN, _ONE).values(name=bindparam("new")).returning(*Passkey.__table__.c)
)
_DELETE = delete(Passkey).where(_OWN, _ONE).returning(Passkey.name)
