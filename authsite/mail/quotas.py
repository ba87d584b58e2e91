"""How many mails others may cause to a person, counted when they are sent.

Somebody who signs in again and again, or has registered a stranger's address, is no reason to fill a
mailbox (SECURITY AP-22).
"""

import uuid
from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import bindparam, case, select

from .. import clock, database
from ..database.models import MailQuota

WINDOW = timedelta(days=1)
# Beyond so many notices of new devices one summary is sent, and then none until tomorrow.
MOST_NEW_DEVICES = 5
# Of all kinds, to an address that nobody has proven to be theirs: its account causes them, and who types it.
MOST_TO_UNPROVEN = 10


class UsedUp(Exception):
    """So many mails have gone to this person today that one more is not sent."""


def count(user_id: uuid.UUID, kind: str) -> int:
    """Count one mail of this kind and return how many it makes since the window began."""
    now = clock.now()
    insert = database.upsert(MailQuota)
    is_over = MailQuota.window_ends_at <= now
    counted = (
        insert.values(user_id=user_id, kind=kind, sent=1, window_ends_at=now + WINDOW)
        .on_conflict_do_update(
            index_elements=[MailQuota.user_id, MailQuota.kind],
            set_={
                "sent": case((is_over, 1), else_=MailQuota.sent + 1),
                "window_ends_at": case((is_over, now + WINDOW), else_=MailQuota.window_ends_at),
            },
        )
        .returning(MailQuota.sent)
    )
    return int(database.rows(counted)[0].sent)


def sent(user_id: uuid.UUID | None, kind: str) -> int:
    """Return how many mails of this kind were counted since the window began."""
    found = database.row(_SENT, {"owner_id": user_id, "kind": kind, "now": clock.now()})
    return found.sent if found else 0


def delete_over() -> Iterator[int]:
    """Delete counts whose window is over, in short transactions; yield how many in each."""
    is_over = MailQuota.window_ends_at <= clock.now()
    yield from database.delete_in_batches(MailQuota.user_id, is_over)


_SENT = select(MailQuota.sent).where(
    MailQuota.user_id == bindparam("owner_id"),
    MailQuota.kind == bindparam("kind"),
    MailQuota.window_ends_at > bindparam("now"),
)
