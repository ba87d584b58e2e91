"""The second step of a sign-in: asked for after the right password, and done once."""

import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

from flask import current_app
from sqlalchemy import BindParameter, Uuid, bindparam, exists, select

from .. import accounts, activity, clock, database, events, sessions, throttling
from ..database.models import (
    ACCOUNT_COLUMNS,
    Account,
    AuthenticatorApp,
    Passkey,
    RecoveryCode,
    User,
)
from ..errors import InvalidCode, MfaTokenInvalid, SecondStepRequired
from . import apps, codes, notices, pending, recovery

WARN_AT = 3

# Spends a factor inside the transaction that writes the session, and returns how the user signed in.
Spend = Callable[[uuid.UUID], str]


class SignedIn(NamedTuple):
    grant: sessions.Grant
    is_remembered: bool
    trust: sessions.Trust | None


def require(
    authenticated: accounts.Authenticated,
    *,
    entrance: str,
    is_remembered: bool = True,
    trust_secrets: Sequence[str] = (),
) -> str:
    """Return how the user has signed in if the password is enough, else raise SecondStepRequired.

    It is where two-step sign-in is off, or one of the secrets in the browser's cookie is of a trust that
    the user gave it.
    """
    user_id = authenticated.account.id
    if authenticated.two_step_since is None:
        return "password"
    if any(sessions.is_trusted(user_id, secret) for secret in trust_secrets):
        return "password+trusted"
    token = pending.token_for(authenticated, entrance=entrance, is_remembered=is_remembered)
    events.record("second_step", outcome="required", user_id=user_id, entrance=entrance)
    raise SecondStepRequired(token, methods_of(user_id))


def methods_of(user_id: uuid.UUID) -> list[str]:
    """Return what the user can show: `otp`, `recovery_code`, `webauthn`.

    A passkey only where the site has a name, to which it is bound.
    """
    found = database.row(_METHODS, {"owner_id": user_id})
    assert found is not None
    methods = [name for name in ("otp", "recovery_code", "webauthn") if getattr(found, name)]
    return [each for each in methods if each != "webauthn" or current_app.config["PASSKEY_RP_ID"]]


def complete_with_code(
    waiting: pending.Pending,
    code: str,
    *,
    client: sessions.Client,
    is_trusted: bool = False,
) -> SignedIn:
    """Sign in with a code of the app or a recovery code.

    Raise MfaTokenInvalid, InvalidCode or TooManyAttempts. Wrong codes are counted by account, before they
    are looked at; only a right second step clears the count, never a right password.
    """
    with throttling.second_step(waiting.user_id) as attempt:
        try:
            signed_in = complete(
                waiting,
                lambda user_id: use_code(user_id, code),
                client=client,
                is_trusted=is_trusted,
            )
        except InvalidCode:
            _warn(waiting.user_id)
            raise
        attempt.succeeded()
    return signed_in


def _warn(user_id: uuid.UUID) -> None:
    """From the third wrong code on mail the owner that the password is known, at most once a day."""
    if throttling.wrong_second_steps(user_id) < WARN_AT:
        return
    now = clock.now()
    today = f"{user_id} {now:%Y-%m-%d}"
    with database.transaction():
        if pending.spend_once("password known", today, expires_at=now + timedelta(days=1)):
            notices.password_known(user_id)


def complete(
    waiting: pending.Pending, spend: Spend, *, client: sessions.Client, is_trusted: bool = False
) -> SignedIn:
    """Write the session of a pending sign-in in one transaction with the factor that it spends.

    A fault undoes all of it: no code is burnt without a session.
    """
    with database.transaction():
        user = database.row(_LOCK, {"owner_id": waiting.user_id})
        if user is None or user.password_changed_at != waiting.password_changed_at:
            raise MfaTokenInvalid
        way = spend(waiting.user_id)
        pending.spend(waiting)
        grant = sessions.start(
            Account._make(user[: len(ACCOUNT_COLUMNS)]),
            password_changed_at=waiting.password_changed_at,
            client=client,
            entrance=waiting.entrance,
            is_remembered=waiting.is_remembered,
            signed_in_with=way,
        )
        tell(waiting.user_id, way, session_id=grant.session_id)
        trust = (
            sessions.trust(
                waiting.user_id,
                device_id=client.device_id,
                device_name=sessions.describe(client).name,
                ip_address=client.ip_address,
            )
            if is_trusted and waiting.entrance == "page"
            else None
        )
    events.record("second_step", user_id=waiting.user_id, way=way, entrance=waiting.entrance)
    return SignedIn(grant, waiting.is_remembered, trust)


def use_code(user_id: uuid.UUID, typed: str) -> str:
    """Use up the code that was typed, of either kind, and return how the user signed in with it.

    For a transaction that has locked the user's row. Raise InvalidCode.
    """
    if (code := codes.app_code(typed)) and apps.use(user_id, code, clock.now()):
        return "password+app"
    if (code := codes.recovery_code(typed)) and recovery.use(user_id, code):
        activity.record("recovery_code_used", user_id)
        events.record("recovery_code", user_id=user_id)
        return "password+recovery"
    events.record("second_step", outcome="failure", user_id=user_id)
    raise InvalidCode(field="code")


def tell(user_id: uuid.UUID, way: str, *, session_id: uuid.UUID) -> None:
    """Mail the owner which session has used a recovery code, where that is what `use_code` has used up."""
    if way == "password+recovery":
        left = recovery.summary(user_id)
        notices.recovery_code_used(user_id, left.left if left else 0, session_id=session_id)


_OWNER: BindParameter[uuid.UUID] = bindparam("owner_id", type_=Uuid())
_LOCK = (
    select(*ACCOUNT_COLUMNS, User.password_changed_at)
    .where(User.id == _OWNER, User.is_active)
    .with_for_update(key_share=True)
)
_METHODS = select(
    exists().where(AuthenticatorApp.user_id == _OWNER).label("otp"),
    exists()
    .where(RecoveryCode.user_id == _OWNER, RecoveryCode.used_at.is_(None))
    .label("recovery_code"),
    exists().where(Passkey.user_id == _OWNER).label("webauthn"),
)
