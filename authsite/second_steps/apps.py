"""The authenticator app: set up without a row, kept sealed, each code good once."""

import base64
import secrets
import uuid
from datetime import datetime, timedelta
from typing import NamedTuple

import pyotp
from flask import current_app
from sqlalchemy import bindparam, delete, select, update

from .. import activity, clock, database, events, sessions
from ..crypto import sealing, tokens
from ..database import Row, UtcDateTime
from ..database.models import Account, AuthenticatorApp
from ..errors import InvalidCode, SetupTokenInvalid
from . import codes, notices, recovery, switch

SETUP_LIFETIME = timedelta(minutes=15)
PURPOSE = "authenticator app"
_SETUP = "authenticator app being set up"


class Setup(NamedTuple):
    """What an app needs, and the token that holds it until a code confirms it."""

    secret: str
    uri: str
    setup_token: str


def begin(account: Account, session_id: uuid.UUID) -> Setup:
    """Return a new secret for an app; nothing is written until a code of it has been shown."""
    secret = secrets.token_bytes(codes.SECRET_BYTES)
    sealed = sealing.seal(_SETUP, secret, belongs_to=account.id.bytes + session_id.bytes)
    token = tokens.sign(_SETUP, base64.urlsafe_b64encode(sealed).decode())
    return _setup(account, secret, token)


def resume(account: Account, session_id: uuid.UUID, setup_token: str) -> Setup:
    """Return the setup that a token holds, for the same picture again; raise SetupTokenInvalid."""
    return _setup(account, _secret_of(setup_token, account.id, session_id), setup_token)


def confirm(
    account: Account, session_id: uuid.UUID, *, setup_token: str, code: str
) -> recovery.Made:
    """Keep the app that showed this code, in place of one that there was, and turn two-step sign-in on.

    The code is spent by it. The session that did it is lifted; no other ends. Raise SetupTokenInvalid,
    SessionRevoked, or InvalidCode, which tells a clock that is minutes off: here it cannot help to guess.
    """
    secret = _secret_of(setup_token, account.id, session_id)
    now = clock.now()
    typed, as_text = codes.app_code(code), base64.b32encode(secret).decode()
    step = codes.matching_step(as_text, typed, now) if typed else None
    if typed is None or step is None:
        raise InvalidCode(_about_the_clock(as_text, typed, now), field="code")
    row = {
        "user_id": account.id,
        "secret": sealing.seal(PURPOSE, secret, belongs_to=account.id.bytes),
        "last_step": step,
        "created_at": now,
        "last_used_at": None,
    }
    with database.transaction():
        user = switch.lock(account.id, asked_in=session_id)
        was_replaced = find(account.id) is not None
        _write(row)
        switch.turn_on(user, session_id=session_id, way="password+app")
        made = recovery.make_if_none(account.id)
        if was_replaced:
            sessions.distrust_all(account.id)
        is_new = user.two_step_since is None
        activity.record("two_step_on" if is_new else "second_step_changed", account.id)
        notices.changed(
            account.id, "on" if is_new else "app_replaced" if was_replaced else "app_added"
        )
    events.record("two_step_on", user_id=account.id, session_id=session_id, factor="app")
    return made


def remove(user_id: uuid.UUID, session_id: uuid.UUID) -> bool:
    """Remove the app; without a passkey two-step sign-in is off with it. Return False if there was none.

    Raise SessionRevoked.
    """
    with database.transaction():
        user = switch.lock(user_id, asked_in=session_id)
        was_there = database.run(_DELETE, {"owner_id": user_id}) == 1
        if was_there:
            sessions.distrust_all(user_id)
            is_off = switch.turn_off_without_factors(user)
            activity.record("two_step_off" if is_off else "second_step_changed", user_id)
            notices.changed(user_id, "off" if is_off else "app_removed")
    if was_there:
        events.record("app_removed", user_id=user_id)
    return was_there


def delete_made_since(user_id: uuid.UUID, since: datetime) -> bool:
    """Delete an app set up at that moment or later; for a transaction that has locked the user's row."""
    return database.run(_DELETE_MADE_SINCE, {"owner_id": user_id, "since": since}) == 1


def turn_off(user_id: uuid.UUID, session_id: uuid.UUID | None) -> bool:
    """Turn two-step sign-in off; app, recovery codes and trusted browsers go. Return False if it was off.

    Raise SessionRevoked if the session has ended that asks; None is the operator.
    """
    with database.transaction():
        user = switch.lock(user_id, asked_in=session_id)
        database.run(_DELETE, {"owner_id": user_id})
        if user.two_step_since is not None:
            switch.turn_off(user)
            activity.record("two_step_off", user_id)
            notices.changed(user_id, "off")
    if user.two_step_since is not None:
        events.record("two_step_off", user_id=user_id)
    return user.two_step_since is not None


def find(user_id: uuid.UUID) -> Row | None:
    """Return the user's app, None where there is none."""
    return database.row(_FIND, {"owner_id": user_id})


def use(user_id: uuid.UUID, code: str, now: datetime) -> bool:
    """Use up the code of six digits; False for a wrong one, and for one of a step that has been used."""
    app = find(user_id)
    opened = app and _open(user_id, app.secret)
    if app is None or not opened:
        return False
    step = codes.matching_step(base64.b32encode(opened.content).decode(), code, now)
    if step is None:
        return False
    resealed = (
        sealing.seal(PURPOSE, opened.content, belongs_to=user_id.bytes)
        if opened.is_outdated
        else app.secret
    )
    key = {"owner_id": user_id, "step": step, "now": now}
    # Of many that show one code at once, one moves the step.
    return database.run(_USE, key | {"resealed": resealed}) == 1


def reseal(row: Row) -> bool | None:
    """Seal one app's secret with today's SECRET_KEY; False if it is already, None if nothing opens it."""
    opened = _open(row.user_id, row.secret)
    if opened is None or not opened.is_outdated:
        return None if opened is None else False
    resealed = sealing.seal(PURPOSE, opened.content, belongs_to=row.user_id.bytes)
    key = {"owner_id": row.user_id, "seen": row.secret, "resealed": resealed}
    return database.run(_RESEAL, key) == 1


def reseal_all(*, is_dry_run: bool) -> dict[str, int]:
    """Seal anew what older secrets have sealed; return how many were outdated, current, unreadable."""
    counted = {"outdated": 0, "current": 0, "unreadable": 0}
    for row in database.rows(EVERY):
        opened = _open(row.user_id, row.secret)
        if opened and opened.is_outdated and not is_dry_run:
            reseal(row)
        outdated = "outdated" if opened and opened.is_outdated else "current"
        counted[outdated if opened else "unreadable"] += 1
    return counted


def _open(user_id: uuid.UUID, sealed: bytes) -> sealing.Opened | None:
    try:
        return sealing.open_(PURPOSE, sealed, belongs_to=user_id.bytes)
    except sealing.Unreadable:
        # A secret was dropped too early. Recovery codes and passkeys go on; the step is never skipped.
        events.record("second_step_unreadable", outcome="error", user_id=user_id)
        return None


def _setup(account: Account, secret: bytes, token: str) -> Setup:
    as_text = base64.b32encode(secret).decode()
    site = current_app.config["SITE_NAME"].replace(
        ":", " "
    )  # which divides the two names in a label
    return Setup(
        as_text, pyotp.TOTP(as_text).provisioning_uri(account.email, issuer_name=site), token
    )


def _secret_of(setup_token: str, user_id: uuid.UUID, session_id: uuid.UUID) -> bytes:
    is_short = len(setup_token) <= tokens.MAX_TOKEN
    text = tokens.unsign(_SETUP, setup_token, max_age=SETUP_LIFETIME) if is_short else None
    if text is None:
        raise SetupTokenInvalid
    sealed = base64.urlsafe_b64decode(text)
    try:
        return sealing.open_(_SETUP, sealed, belongs_to=user_id.bytes + session_id.bytes).content
    except sealing.Unreadable:
        raise SetupTokenInvalid from None


def _about_the_clock(secret: str, typed: str | None, now: datetime) -> str | None:
    offset = codes.clock_offset(secret, typed, now) if typed else None
    if offset is None:
        return None
    minutes = max(1, round(abs(offset) / timedelta(minutes=1)))
    by = "about a minute" if minutes == 1 else f"about {minutes} minutes"
    which = "slow" if offset < timedelta(0) else "fast"
    return f"Your phone's clock is {by} {which}. Set it to automatic and try again"


def _write(row: dict[str, object]) -> None:
    insert = database.upsert(AuthenticatorApp)
    changed = {name: row[name] for name in row if name != "user_id"}
    database.run(
        insert.values(**row).on_conflict_do_update(
            index_elements=[AuthenticatorApp.user_id], set_=changed
        )
    )


_OWN = AuthenticatorApp.user_id == bindparam("owner_id")
_FIND = select(*AuthenticatorApp.__table__.c).where(_OWN)
_DELETE = delete(AuthenticatorApp).where(_OWN)
_DELETE_MADE_SINCE = _DELETE.where(
    AuthenticatorApp.created_at >= bindparam("since", type_=UtcDateTime())
)
_USE = (
    update(AuthenticatorApp)
    .where(_OWN, AuthenticatorApp.last_step < bindparam("step"))
    .values(
        last_step=bindparam("step"), last_used_at=bindparam("now"), secret=bindparam("resealed")
    )
)
_RESEAL = (
    update(AuthenticatorApp)
    .where(_OWN, AuthenticatorApp.secret == bindparam("seen"))
    .values(secret=bindparam("resealed"))
)
EVERY = select(AuthenticatorApp.user_id, AuthenticatorApp.secret)
