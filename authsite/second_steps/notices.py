"""What the owner of an account is mailed of the second step; for the transaction of the act."""

import uuid
from typing import Any

from .. import activity, clock
from ..mail import emails, outbox


def changed(user_id: uuid.UUID, what: str) -> None:
    """Mail that it is `on` or `off`, that there are new `codes`, or none any more: they are `gone`.

    An app beside others is `app_added`, `app_replaced` or `app_removed`.
    """
    by = activity.actor(user_id)
    notice = emails.second_step_changed(
        user_id, what=what, changed_at=clock.now(), session_id=by.session_id, **_whence(by)
    )
    outbox.queue_everywhere(notice)


def recovery_code_used(user_id: uuid.UUID, left: int, *, session_id: uuid.UUID) -> None:
    """Mail that this session has used one of the codes on paper, and how many are left."""
    whence = _whence(activity.actor(user_id))
    notice = emails.recovery_code_used(
        user_id, left=left, used_at=clock.now(), session_id=session_id, **whence
    )
    outbox.queue(notice)


def password_known(user_id: uuid.UUID) -> None:
    """Mail that somebody had the right password and no code."""
    whence = _whence(activity.actor(user_id))
    outbox.queue(emails.password_known(user_id, tried_at=clock.now(), **whence))


def passkey(user_id: uuid.UUID, what: str, name: str) -> None:
    """Mail that a passkey of this name was `added` or `removed`."""
    by = activity.actor(user_id)
    notice = emails.passkey_changed(
        user_id,
        what=what,
        name=name,
        changed_at=clock.now(),
        session_id=by.session_id,
        **_whence(by),
    )
    outbox.queue_everywhere(notice)


def _whence(by: activity.Actor) -> dict[str, Any]:
    return {"device_name": by.device_name, "ip_address": by.ip_address}
