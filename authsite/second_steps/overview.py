"""What there is of a second step, for its owner."""

import uuid
from typing import NamedTuple

from .. import sessions
from ..database import Row
from . import apps, recovery


class Overview(NamedTuple):
    app: Row | None
    recovery_codes_left: int
    recovery_set_id: uuid.UUID | None
    trusted_browsers: int


def of(user_id: uuid.UUID) -> Overview:
    """Return what the user has."""
    codes = recovery.summary(user_id)
    return Overview(
        apps.find(user_id),
        codes.left if codes else 0,
        codes.set_id if codes else None,
        sessions.trusted_count(user_id),
    )
