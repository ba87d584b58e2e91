"""What there is of a second step, for its owner."""

import uuid
from typing import NamedTuple

from sqlalchemy import Uuid, bindparam, func, select

from .. import database, sessions
from ..database import Row
from ..database.models import Passkey
from . import apps, recovery


class Overview(NamedTuple):
    app: Row | None
    recovery_codes_left: int
    recovery_set_id: uuid.UUID | None
    passkeys: int
    trusted_browsers: int


def of(user_id: uuid.UUID) -> Overview:
    """Return what the user has."""
    codes = recovery.summary(user_id)
    return Overview(
        apps.find(user_id),
        codes.left if codes else 0,
        codes.set_id if codes else None,
        _passkey_count(user_id),
        sessions.trusted_count(user_id),
    )


def _passkey_count(user_id: uuid.UUID) -> int:
    found = database.row(_PASSKEYS, {"owner_id": user_id})
    return found[0] if found else 0


_PASSKEYS = select(func.count()).where(Passkey.user_id == bindparam("owner_id", type_=Uuid()))
