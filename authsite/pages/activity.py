"""Activity: what happened in one's account, a sentence each."""

import uuid
from itertools import groupby
from typing import Any, NamedTuple

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from .. import activity
from ..database import Row
from ..web import authentication, limits
from . import answers

blueprint = Blueprint("activity", __name__)

PAGE = 50
SENTENCES = {
    "registered": "Account created",
    "email_verified": "Email address confirmed",
    "signed_in": "Signed in",
    "sign_in_failed": "Failed sign-in",
    "sign_in_blocked": "Failed sign-in, and further ones blocked for a while",
    "signed_out": "Signed out",
    "device_signed_out": "Signed out {}",
    "devices_signed_out": "Signed out {}",
    "refresh_reused": "Signed out {} for safety: its sign-in was copied",
    "password_changed": "Password changed",
    "password_set": "Password set",
    "password_reset_requested": "Password reset asked for",
    "password_reset": "Password reset",
    "details_changed": "Details changed",
    "email_change_requested": "Change of email address to {} asked for",
    "email_change_cancelled": "Change of email address cancelled",
    "email_changed": "Email address changed to {}",
    "email_change_undone": "Email address changed back to {}",
    "not_me_reported": "“This was not me” reported",
    "data_exported": "Data downloaded",
    "deletion_requested": "Deletion of the account asked for",
    "deletion_cancelled": "Deletion of the account cancelled",
    "deactivated": "Account deactivated",
    "activated": "Account opened again",
    "two_step_on": "Two-step sign-in turned on",
    "two_step_off": "Two-step sign-in turned off",
    "second_step_changed": "Second step changed",
    "recovery_code_used": "Recovery code used",
    "second_step_failed": "Wrong code for the second step",
    "second_step_blocked": "Wrong code for the second step, and further ones blocked for a while",
    "passkey_added": "Passkey added",
    "passkey_removed": "Passkey removed",
    "key_not_proven": "The sign-in of {} was used without its key, and opened nothing",
}
IN_A_ROW = {
    "sign_in_failed": "{} failed sign-ins, the last",
    "second_step_failed": "{} wrong codes for the second step, the last",
}
# The mail that goes out with every act of the kind. Of a new address (to the old one, if confirmed) the event
# itself tells. Not always mailed, and untold: a sign-in (from a new device), a sign-out of all (of others).
MAILED = {
    "refresh_reused": "token_reuse",
    "password_changed": "password_changed",
    "password_set": "password_changed",
    "password_reset_requested": "password_reset",
    "password_reset": "password_changed",
    "email_change_requested": "change_email",
    "email_change_undone": "password_reset",
    "not_me_reported": "password_reset",
    "data_exported": "data_exported",
    "deletion_requested": "deletion_scheduled",
    "two_step_on": "second_step_changed",
    "two_step_off": "second_step_changed",
    "second_step_changed": "second_step_changed",
    "recovery_code_used": "recovery_code_used",
    "passkey_added": "passkey_changed",
    "passkey_removed": "passkey_changed",
    "key_not_proven": "key_not_proven",
}


class Entry(NamedTuple):
    """One line: an event, or failures in a row of which `event` is the last."""

    event: Row
    sentence: str
    is_mailed: bool


@blueprint.get("/account/activity")
@authentication.login_required
@limits.read_activity
def show_activity() -> ResponseReturnValue:
    """Show what happened, newest first, by day."""
    caller = authentication.current_session()
    rows, following = activity.feed(caller.account.id, limit=PAGE, before=_before())
    return answers.page(
        "activity/activity.html", days=_by_day(rows), older=following, current=caller.id
    )


def _before() -> uuid.UUID | None:
    """Return the position that the link of the page before names; any other text is the beginning."""
    try:
        return uuid.UUID(request.args.get("before", "")[:64])
    except ValueError:
        return None


def _by_day(rows: Any) -> list[tuple[Any, list[Entry]]]:
    return [
        (day, _folded(list(of_day)))
        for day, of_day in groupby(rows, key=lambda row: row.created_at.date())
    ]


def _folded(rows: list[Row]) -> list[Entry]:
    """Return an entry for each event, but one for all failures in a row."""
    entries: list[Entry] = []
    for many, group in groupby(rows, key=lambda row: IN_A_ROW.get(row.kind)):
        events = list(group)
        if many and len(events) > 1:
            entries.append(Entry(events[0], many.format(len(events)), is_mailed=False))
        else:
            entries += [_entry(event) for event in events]
    return entries


def _entry(event: Row) -> Entry:
    sentence = SENTENCES[event.kind].format(event.target or "a device")
    is_mailed = event.kind in MAILED if event.is_mailed is None else event.is_mailed
    return Entry(event, sentence, is_mailed)
