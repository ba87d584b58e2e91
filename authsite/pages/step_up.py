"""Step-up on pages: a field in the very form that wants it, never a detour.

A view makes its form by `prepared`, validates it, then asks `confirmed`; either way the form is shown again
with what was typed where something lacks, the field included if freshness ran out while it was filled in.
"""

from typing import Any, TypeVar

from flask import g

from .. import sessions, step_up
from ..errors import InvalidCode, InvalidInput, PasskeyInvalid, WrongCurrentPassword
from ..web import authentication
from ..web.forms import ConfirmingForm
from . import answers

WRONG_CURRENT = "Your current password is wrong"
F = TypeVar("F", bound=ConfirmingForm)


def prepared(form: F) -> F:
    """Return the form with the field that confirms who fills it in, or without one where that is fresh."""
    caller = authentication.current_session()
    if not step_up.fresh_until(caller):
        return asking(form, caller)
    form.wants()
    return form


def asking(form: F, caller: sessions.Resumed) -> F:
    """Return the form with the field that confirms who fills it in, and what a passkey may answer instead."""
    return _with_fields(form, caller, step_up.passkey_options(caller))


def asking_as_to_sign_in(form: F, caller: sessions.Resumed) -> F:
    """Return the form as `asking` does; a passkey may answer instead of the password too."""
    return _with_fields(form, caller, step_up.sign_in_options(caller))


def confirmed(form: ConfirmingForm) -> bool:
    """Return whether the sender is known freshly, by this form if need be; else say so at its field.

    Raise TooManyAttempts. This browser's cookie has a new secret then.
    """
    if not form.asks_for_proof:
        return True
    try:
        grant = step_up.confirm(
            g.unproven if "unproven" in g else authentication.current_session(),
            password=form.proof("current_password"),
            code=form.proof("current_code"),
            credential=form.proof("current_passkey"),
        )
    except WrongCurrentPassword:
        form.refuse("current_password", WRONG_CURRENT)
        return False
    except (InvalidCode, PasskeyInvalid) as wrong:
        _refuse(form, wrong.message)
        return False
    except InvalidInput:
        _refuse(form, PasskeyInvalid.message)
        return False
    authentication.confirmed(grant)
    form.passkey_options = None
    form.wants()
    return True


def _refuse(form: ConfirmingForm, message: str) -> None:
    """Say it at the field that the form shows."""
    form.refuse("current_code" if "current_code" in form else "current_password", message)


def _with_fields(form: F, caller: sessions.Resumed, options: dict[str, Any] | None) -> F:
    # Under another name than the one that it is bound to the browser knows of none.
    form.passkey_options = None if answers.own_origin_if_elsewhere() else options
    passkey = ["current_passkey"] if form.passkey_options else []
    if caller.two_step_since is None:
        form.wants("current_password", *passkey)
        return form
    form.wants("current_code", *passkey)
    if options and "otp" not in step_up.methods(caller):
        form.current_code.label.text = "Enter a recovery code to confirm it is you"
    return form
