"""The second step: finish a sign-in that has begun with the password."""

from urllib.parse import urlencode

from flask import Blueprint, flash, g, redirect, request, session
from flask.typing import ResponseReturnValue

from .. import second_steps
from ..errors import InvalidCode, MfaTokenInvalid, SecondStepRequired
from ..web import authentication, limits
from ..web.forms import CodeForm
from . import answers

blueprint = Blueprint("second_steps", __name__)

TOO_LATE = "Sign in again. You took longer than 10 minutes."
OVERTAKEN = "Sign in again. This sign-in was completed, or your password has changed meanwhile."
WRONG_APP_CODE = "That code is wrong or has been used. Wait for the next one"
WRONG_RECOVERY_CODE = "That recovery code is wrong or has been used"
SECOND_STEP = "/login/second-step"
PENDING = "second_step"


def ask(required: SecondStepRequired) -> ResponseReturnValue:
    """Keep the pending sign-in in the cookie, and lead to where it is finished."""
    session[PENDING] = required.mfa_token
    return redirect(_address(SECOND_STEP), 303)


@blueprint.get("/login/second-step")
def show_second_step() -> ResponseReturnValue:
    """Show the form for a code; without a pending sign-in lead to where one begins."""
    return _code_page(CodeForm(), _pending())


@blueprint.post("/login/second-step")
@limits.second_step
def second_step() -> ResponseReturnValue:
    """Sign this browser in, and trust it from now on if that is ticked."""
    form, waiting = CodeForm(), _pending()
    if waiting is None or not form.validate():
        return _code_page(form, waiting)
    try:
        authentication.complete_sign_in(waiting, form.code.data or "", is_trusted=form.trust.data)
    except InvalidCode:
        form.refuse("code", WRONG_RECOVERY_CODE if _wants_recovery() else WRONG_APP_CODE)
        return _code_page(form, waiting)
    except MfaTokenInvalid:
        return _start_again(OVERTAKEN)
    return redirect(answers.next_location(), 303)


def _pending() -> second_steps.pending.Pending | None:
    try:
        return second_steps.pending.read(session.get(PENDING, ""), is_page=True)
    except MfaTokenInvalid:
        return None


def _code_page(form: CodeForm, waiting: second_steps.pending.Pending | None) -> ResponseReturnValue:
    if waiting is None:
        return _start_again(TOO_LATE)
    methods = second_steps.methods_of(waiting.user_id)
    return answers.page(
        "second_steps/sign_in.html",
        form=form,
        wants_recovery=_wants_recovery() or "otp" not in methods,
        with_app=_address(SECOND_STEP) if "otp" in methods else None,
        with_recovery=_address(SECOND_STEP, how="recovery") if "recovery_code" in methods else None,
    )


def _wants_recovery() -> bool:
    return request.args.get("with") == "recovery"


def _start_again(word: str) -> ResponseReturnValue:
    """Lead to the sign-in page, with a word for whose pending sign-in is gone."""
    if session.pop(PENDING, None) is not None:
        flash(word)
    elif "session" in g:
        return redirect(answers.next_location(), 303)
    return redirect(_address(answers.LOGIN), 303)


def _address(path: str, *, how: str | None = None) -> str:
    """Return a path of the sign-in, which leads on to where this one does."""
    query = {"with": how} if how else {}
    if "next" in request.args:
        query["next"] = answers.next_location()
    return f"{path}?{urlencode(query, safe='/')}" if query else path
