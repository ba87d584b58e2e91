"""What the owner of an account is mailed of the second step; for the transaction of the act."""

import uuid

from .. import activity, clock
from ..mail import emails, outbox


def changed(user_id: uuid.UUID, what: str) -> None:
    """Mail that it is `on` or `off`, or that the `app` or the `codes` have changed."""
    by = activity.actor(user_id)
    notice = emails.second_step_changed(
        user_id,
        what=what,
        changed_at=clock.now(),
        device_name=by.device_name,
        ip_address=by.ip_address,
    )
    outbox.queue(notice)


def recovery_code_used(user_id: uuid.UUID, left: int) -> None:
    """Mail that one of the codes on paper was used, and how many are left."""
    by = activity.actor(user_id)
    notice = emails.recovery_code_used(
        user_id,
        left=left,
        used_at=clock.now(),
        device_name=by.device_name,
        ip_address=by.ip_address,
    )
    outbox.queue(notice)


def password_known(user_id: uuid.UUID) -> None:
    """Mail that somebody had the right password and no code."""
    by = activity.actor(user_id)
    notice = emails.password_known(
        user_id, tried_at=clock.now(), device_name=by.device_name, ip_address=by.ip_address
    )
    outbox.queue(notice)
