"""Browsers that need not show the second step, and what ends that trust.

A row for each, named by a cookie of its own. It skips the second step after the right password and is no
authenticator: the session is then as if there had been none.
"""

import hashlib
import secrets
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from flask import current_app
from sqlalchemy import bindparam, delete, func, insert, select, update

from .. import clock, database
from ..database import UtcDateTime
from ..database.models import MAX_DEVICE_NAME, TrustedBrowser


class Trust(NamedTuple):
    """What a browser gets to hold; it is never extended."""

    secret: str
    expires_at: datetime


def trust(
    user_id: uuid.UUID, *, device_id: str | None, device_name: str, ip_address: str | None
) -> Trust | None:
    """Trust a browser for TRUSTED_BROWSER_DAYS; None where the settings offer no trust."""
    now, days = clock.now(), current_app.config["TRUSTED_BROWSER_DAYS"]
    if not days:
        return None
    given = Trust(secrets.token_urlsafe(32), now + timedelta(days=days))
    row = {
        "user_id": user_id,
        "digest": _digest(user_id, given.secret),
        "device_id": device_id,
        "device_name": device_name[:MAX_DEVICE_NAME],
        "ip_address": ip_address,
        "created_at": now,
        "expires_at": given.expires_at,
    }
    database.run(insert(TrustedBrowser), row)
    return given


def is_trusted(user_id: uuid.UUID, secret: str) -> bool:
    """Return whether a cookie's secret is of a browser that this user trusts, and note its use."""
    key = {"owner_id": user_id, "of_secret": _digest(user_id, secret), "now": clock.now()}
    return database.run(_USE, key) == 1


def trusted_count(user_id: uuid.UUID) -> int:
    """Return how many browsers the user trusts."""
    found = database.row(_COUNT, {"owner_id": user_id, "now": clock.now()})
    return found[0] if found else 0


def distrust_all(user_id: uuid.UUID) -> int:
    """Ask every browser of the user for the second step again; return how many had been trusted."""
    return database.run(_DISTRUST, {"owner_id": user_id})


def distrust_device(user_id: uuid.UUID, device_id: str) -> None:
    """Ask one device for the second step again."""
    database.run(_DISTRUST_DEVICE, {"owner_id": user_id, "of_device": device_id})


def delete_expired_trusts() -> Iterator[int]:
    """Delete trusts whose time is over, in short transactions; yield how many in each."""
    is_over = TrustedBrowser.expires_at <= clock.now()
    yield from database.delete_in_batches(TrustedBrowser.user_id, is_over)


def _digest(user_id: uuid.UUID, secret: str) -> bytes:
    return hashlib.sha256(user_id.bytes + secret.encode(errors="surrogatepass")).digest()


_OWN = TrustedBrowser.user_id == bindparam("owner_id")
_IS_GOOD = TrustedBrowser.expires_at > bindparam("now", type_=UtcDateTime())
_USE = (
    update(TrustedBrowser)
    .where(_OWN, TrustedBrowser.digest == bindparam("of_secret"), _IS_GOOD)
    .values(last_used_at=bindparam("now", type_=UtcDateTime()))
)
_COUNT = select(func.count()).select_from(TrustedBrowser).where(_OWN, _IS_GOOD)
_DISTRUST = delete(TrustedBrowser).where(_OWN)
_DISTRUST_DEVICE = _DISTRUST.where(TrustedBrowser.device_id == bindparam("of_device"))
