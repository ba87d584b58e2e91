"""Step-up: who it is, proved again and lately, before what cannot be taken back (RFC 9470, ASVS 7.5.3).

What is fresh is the credential that is shown: a browser's cookie, whose secret a confirmation renews, or the
very access token that a sign-in or a confirmation answered. A copy that was made before, of a cookie, an
access or a refresh token, never becomes privileged when the owner confirms.
"""

from datetime import datetime, timedelta
from typing import Any

from flask import current_app

from . import clock, database, events, passkeys, passwords, second_steps, sessions, throttling
from .errors import InsufficientAuthentication, InvalidInput

PASSWORD = "password"  # noqa: S105


def max_age() -> timedelta:
    """Return how long a proof counts."""
    return timedelta(minutes=current_app.config["STEP_UP_MINUTES"])


def fresh_until(session: sessions.Resumed) -> datetime | None:
    """Return until when the credential that was shown is fresh, None if it is not.

    Nothing that was proved before two-step sign-in was turned on counts.
    """
    proved_at, two_step_since = session.authenticated_at, session.two_step_since
    if proved_at is None or (two_step_since and proved_at < two_step_since):
        return None
    until = proved_at + max_age()
    return until if until > clock.now() else None


def require(session: sessions.Resumed) -> None:
    """Raise InsufficientAuthentication unless the credential that was shown is fresh."""
    if fresh_until(session) is None:
        events.record(
            "step_up", outcome="required", user_id=session.account.id, session_id=session.id
        )
        raise InsufficientAuthentication(
            int(max_age().total_seconds()), acr_values="aal2" if session.two_step_since else None
        )


def methods(session: sessions.Resumed) -> list[str]:
    """Return what confirms: the password, or where two-step sign-in is on what there is of a second step."""
    if session.two_step_since is None:
        return [PASSWORD]
    return second_steps.methods_of(session.account.id)


def passkey_options(session: sessions.Resumed) -> dict[str, Any] | None:
    """Return what a passkey of the user may answer to confirm, None where none will do."""
    return sign_in_options(session) if session.two_step_since else None


def sign_in_options(session: sessions.Resumed) -> dict[str, Any] | None:
    """Return what a passkey of the user may answer who is asked for as much as to sign in, None without one.

    That is enough also where two-step sign-in is off: who signs in by a passkey may know no password.
    """
    if "webauthn" not in second_steps.methods_of(session.account.id):
        return None
    how = {"purpose": passkeys.CONFIRM, "subject": str(session.id)}
    return passkeys.options_of(session.account.id, **how)


def confirm(
    session: sessions.Resumed, *, password: str = "", code: str = "", credential: str = ""
) -> sessions.Grant:
    """Return what the caller's session goes on with, fresh: `authenticated_at` and a new cookie secret.

    An API session keeps its refresh token: a client that stores the older of two crossing answers would
    else trip the detection of reuse. A page may take a passkey where two-step sign-in is off, too. Raise
    WrongCurrentPassword, InvalidCode, PasskeyInvalid, TooManyAttempts or, where what has to be shown lacks or
    cannot be read, InvalidInput. SessionRevoked if the session has ended meanwhile.
    """
    # Before the check, which takes its time: what is turned on meanwhile makes this proof one of before.
    now = clock.now()
    if credential and (session.two_step_since or session.entrance == "page"):
        passkeys.confirm(session, credential)
    elif session.two_step_since is None:
        _check_password(session, password)
    else:
        _check_code(session, code)
    events.record("step_up", user_id=session.account.id, session_id=session.id)
    if session.entrance == "page":
        return sessions.renew(session, authenticated_at=now)
    names = session.id, session.account.id
    return sessions.Grant(*names, now, session.expires_at, authenticated_at=now)


def _check_password(session: sessions.Resumed, password: str) -> None:
    if not password:
        raise InvalidInput([("password", "Enter your password to confirm it is you")])
    passwords.confirm(session.account, password, field="password", event="step_up")


def _check_code(session: sessions.Resumed, code: str) -> None:
    if not code:
        raise InvalidInput([("code", "Enter a code to confirm it is you")])
    user_id = session.account.id
    with throttling.second_step(user_id) as attempt:
        with database.transaction():
            second_steps.switch.lock(user_id, asked_in=session.id)
            way = second_steps.use_code(user_id, code)
            second_steps.tell(user_id, way, session_id=session.id)
        attempt.succeeded()
