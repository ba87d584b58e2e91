"""What a thief may have added to sign in with goes together with what he did."""

import uuid
from datetime import datetime

from sqlalchemy import Uuid, bindparam, delete

from .. import activity, database, events, sessions
from ..database import UtcDateTime
from ..database.models import Passkey
from ..mail import emails
from ..second_steps import apps, notices, recovery, switch

# Who was in by one session may have been in by another before, and the rows do not tell which are one
# person's. The owner was mailed of each addition, and could answer for as long.
LOOK_BACK = emails.NOT_ME_LIFETIME


def remove_of_thief(user_id: uuid.UUID, seen_since: datetime) -> None:
    """Remove the passkeys, the app and the recovery codes of whoever is known to have been in since then.

    That is what was made from a week before on, for he may have signed in anew; no browser is trusted.

    Without a factor that is older two-step sign-in is off, else its owner would be locked out. The owner is
    mailed of each. Of an open account, in the transaction that undoes the rest.
    """
    since = seen_since - LOOK_BACK
    with database.transaction():
        user = switch.lock(user_id)
        sessions.distrust_all(user_id)
        gone = database.rows(_DELETE, {"owner_id": user_id, "since": since})
        for passkey in gone:
            activity.record("passkey_removed", user_id, target=passkey.name)
            notices.passkey(user_id, "removed", passkey.name)
        had_app = apps.delete_made_since(user_id, since)
        had_codes = recovery.delete_made_since(user_id, since)
        is_off = switch.turn_off_without_factors(user)
        if is_off and user.two_step_since is not None:
            activity.record("two_step_off", user_id)
            notices.changed(user_id, "off")
        elif had_app or had_codes:
            activity.record("second_step_changed", user_id)
            if had_app:
                notices.changed(user_id, "app_removed")
            if had_codes:
                notices.changed(user_id, "gone")
    if gone or had_app or had_codes:
        events.record("factors_removed", user_id=user_id, passkeys=len(gone), app=had_app)


_DELETE = (
    delete(Passkey)
    .where(
        Passkey.user_id == bindparam("owner_id", type_=Uuid()),
        Passkey.created_at >= bindparam("since", type_=UtcDateTime()),
    )
    .returning(Passkey.name)
)
