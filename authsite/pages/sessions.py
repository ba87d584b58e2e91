"""Sessions, which people know as their devices: list, rename, sign out."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from flask import Blueprint
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.wrappers import Response

from .. import clock, database, sessions
from ..clients import devices
from ..errors import SessionNotFound
from ..web import authentication, limits
from ..web.forms import RenameForm
from . import answers

blueprint = Blueprint("sessions", __name__)

ACTIVE_NOW = timedelta(minutes=5)
ALREADY = "That device is already signed out."
NOT_RECOGNISED = Markup(
    '{} If you did not recognise {}, <a href="/account/password">change your password now</a>.'
)
REASONS = {
    "logged_out": "Signed out",
    "revoked": "Signed out",
    "password_changed": "Signed out: the password was changed",
    "password_reset": "Signed out: the password was reset",
    "reuse_detected": "Signed out for safety: its sign-in was copied",
    "not_me": "Signed out; “This was not me” was reported",
    "email_undone": "Signed out: a change of your email address was undone",
    "deactivated": "Signed out: the account was deactivated",
    "account_deleted": "Signed out: the account was to be deleted",
    "replaced": "Replaced: the same device signed in again",
    "evicted": "Signed out to make room for a newer device",
}
ONLY_ONE = "You are not signed in anywhere else."


@blueprint.post("/logout")
@limits.logout
def logout() -> Response:
    """Sign this browser out."""
    return answers.signed_out()


@blueprint.get("/account/devices")
@authentication.login_required
@limits.list_sessions
def list_devices() -> ResponseReturnValue:
    """Show where the account is signed in, this browser first, and where it was."""
    caller = authentication.current_session()
    active = sorted(sessions.active_for(caller.account.id), key=lambda each: each.id != caller.id)
    ended = sessions.recently_ended_for(caller.account.id)
    return answers.page(
        "sessions/devices.html",
        only_one=ONLY_ONE,
        devices=active,
        ended=ended,
        told_by=_told_by(active) | _told_by(ended),
        reason=_reason,
        current=caller.id,
        active_since=clock.now() - ACTIVE_NOW,
    )


@blueprint.post("/account/devices/<device_id>/revoke")
@authentication.login_required
@limits.revoke_session
def revoke(device_id: str) -> Response:
    """Sign one device out; one's own leads to the login page."""
    caller = authentication.current_session()
    device = _find(device_id)
    if device is None:
        return answers.told(ALREADY)
    if device.id == caller.id:
        return answers.signed_out()
    sessions.end(caller.account.id, device.id, reason="revoked", ended_from=caller.device_name)
    return answers.done(NOT_RECOGNISED.format(f"Signed out {_called(device)}.", "it"))


@blueprint.get("/account/devices/<device_id>/rename")
@authentication.login_required
def show_rename(device_id: str) -> ResponseReturnValue:
    """Show the form for a device's name."""
    device = _find(device_id)
    if device is None:
        return answers.told(ALREADY)
    form = RenameForm(data={"name": device.device_name})
    return answers.page("sessions/rename.html", form=form, device=device)


@blueprint.post("/account/devices/<device_id>/rename")
@authentication.login_required
@limits.rename_session
def rename(device_id: str) -> ResponseReturnValue:
    """Give a device the user's own name for it; none goes back to what it calls itself."""
    device = _find(device_id)
    if device is None:
        return answers.told(ALREADY)
    form = RenameForm()
    if not form.validate():
        return answers.page("sessions/rename.html", form=form, device=device)
    owner = authentication.current_session().account
    try:
        renamed = sessions.rename(owner.id, device.id, form.name.data or None)
    except SessionNotFound:
        return answers.told(ALREADY)
    return answers.done(f"The name is now {_called(renamed)}.")


@blueprint.get("/account/devices/revoke-others")
@authentication.login_required
def show_revoke_others() -> ResponseReturnValue:
    """Ask whether all other devices shall be signed out, and list them."""
    others = _others()
    if not others:
        return answers.told(ONLY_ONE)
    return answers.page("sessions/revoke_others.html", devices=others, told_by=_told_by(others))


@blueprint.post("/account/devices/revoke-others")
@authentication.login_required
@limits.revoke_others
def revoke_others() -> Response:
    """Sign all other devices out."""
    count = authentication.end_everywhere(reason="revoked", keeps_own=True)
    if count == 0:
        return answers.told(ONLY_ONE)
    word = answers.others_signed_out(count)
    return answers.done(NOT_RECOGNISED.format(word, "it" if count == 1 else "one of them"))


def _find(device_id: str) -> database.Row | None:
    """Return one's own live session; unknown, foreign, ended and malformed ids are all None."""
    try:
        session_id = uuid.UUID(device_id)
    except ValueError:
        return None
    return sessions.find_own(authentication.current_session().account.id, session_id)


def _others() -> list[database.Row]:
    caller = authentication.current_session()
    return [each for each in sessions.active_for(caller.account.id) if each.id != caller.id]


def _told_by(rows: Sequence[database.Row]) -> dict[uuid.UUID, str | None]:
    """Return what each row is told by from those that would read alike: a column, or its place among them."""
    alike = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.id):
        place = row.location_city, row.location_country
        alike[row.device_name, _described(row), place if any(place) else row.ip_address].append(row)
    return {
        row.id: told_by
        for group in alike.values()
        for row, told_by in zip(group, _told_apart(group), strict=True)
    }


def _told_apart(group: list[database.Row]) -> Sequence[str | None]:
    """Return what each of these rows, oldest first, is told by; a time is shown in minutes."""
    most = len(group)
    if most == 1:
        return [None]
    if len({row.created_at.replace(second=0, microsecond=0) for row in group}) == most:
        return ["created_at"] * most
    if len({row.ip_address for row in group}) == most:
        return ["ip_address"] * most
    return [f"Sign-in {number} of {most}" for number in range(1, most + 1)]


def _reason(ended: database.Row) -> str:
    """Return in words why a session ended, and from which device where it was another one."""
    words = REASONS[ended.end_reason]
    preposition = "on" if ended.end_reason == "password_changed" else "from"
    return f"{words} {preposition} {ended.ended_from}" if ended.ended_from else words


@blueprint.app_template_filter("described")
def _described(device: database.Row) -> str:
    """Return what a device is, whatever name its owner or its app has chosen for it."""
    # Only a client that is no browser may name itself; of it the user agent is all that is known.
    if device.browser is not None:
        return str(device.own_name)
    return devices.describe(device.user_agent).name


def _called(device: database.Row) -> str:
    """Return a device's name, with what it is where that is not the same."""
    described = _described(device)
    if described == device.device_name:
        return described
    return f"{device.device_name} ({described})"
