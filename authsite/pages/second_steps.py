"""The second step: finish a sign-in with it, set it up, take it away."""

from typing import Any

from flask import Blueprint, Response, flash, g, redirect, request, session
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from .. import clock, passkeys, passwords, second_steps, sessions
from ..errors import (
    AlreadyReplaced,
    InvalidCode,
    InvalidInput,
    MfaTokenInvalid,
    NoSecondStep,
    PasskeyInvalid,
    SecondStepRequired,
    SetupTokenInvalid,
)
from ..web import authentication, limits
from ..web.forms import AppForm, CodeForm, ConfirmingForm, NewCodesForm, SavedCodesForm
from . import answers, step_up

blueprint = Blueprint("second_steps", __name__)

TOO_LATE = "Sign in again. You took longer than 10 minutes."
OVERTAKEN = "Sign in again. This sign-in was completed, or your password has changed meanwhile."
WRONG_APP_CODE = "That code is wrong or has been used. Wait for the next one"
WRONG_RECOVERY_CODE = "That recovery code is wrong or has been used"
STAYS_ON = "The authenticator app is removed. A passkey is asked for after your password."
NOT_ACCEPTED = "That passkey was not accepted. Try again"
SECOND_STEP = "/login/second-step"
PENDING = "second_step"
SETUP = "app_setup"
SECURITY = "/account/security"
RECOVERY_CODES = "/account/two-step/recovery-codes"
NO_APP = "There is no authenticator app."
REPLACED = "These recovery codes have been replaced since. Make new ones if you do not have them."


def ask(required: SecondStepRequired, *, kept: str | None = None) -> ResponseReturnValue:
    """Keep the pending sign-in in the cookie, and lead to where it is finished; on to what was `kept`."""
    session[PENDING] = required.mfa_token
    return redirect(answers.leading_on(SECOND_STEP, kept=kept), 303)


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
        authentication.complete_sign_in(
            waiting,
            form.code.data or "",
            credential=form.credential.data or "",
            is_trusted=form.trust.data,
        )
    except (PasskeyInvalid, InvalidInput):
        form.refuse(None, NOT_ACCEPTED)
        return _code_page(form, waiting)
    except InvalidCode:
        form.refuse("code", WRONG_RECOVERY_CODE if _wants_recovery() else WRONG_APP_CODE)
        return _code_page(form, waiting)
    except MfaTokenInvalid:
        return _start_again(OVERTAKEN)
    return redirect(answers.next_location(), 303)


@blueprint.get("/account/security")
@authentication.login_required
@limits.read_two_step
def show_security() -> ResponseReturnValue:
    """Show what an account is protected with."""
    caller = authentication.current_session()
    return answers.page(
        "second_steps/security.html",
        since=caller.two_step_since,
        password_changed_at=passwords.changed_at(caller.account.id),
        overview=second_steps.overview.of(caller.account.id),
    )


@blueprint.get("/account/two-step/app")
@authentication.login_required
@limits.read_two_step
def show_app_setup() -> ResponseReturnValue:
    """Show what an authenticator app scans; the same again until its 15 minutes are over."""
    return _setup_page(step_up.prepared(AppForm()), _setup())


@blueprint.post("/account/two-step/app")
@authentication.login_required
@limits.set_up_app
def set_up_app() -> ResponseReturnValue:
    """Keep the app that has shown the code; the recovery codes that are made then are shown once."""
    form, caller = step_up.prepared(AppForm()), authentication.current_session()
    setup = _setup()
    if not form.validate() or not step_up.confirmed(form):
        return _setup_page(form, setup)
    try:
        made = second_steps.apps.confirm(
            caller.account, caller.id, setup_token=setup.setup_token, code=form.code.data or ""
        )
    except InvalidCode as wrong:
        form.refuse("code", wrong.message)
        return _setup_page(form, setup)
    session.pop(SETUP)
    # The session that turned it on is fresh: a copy of its cookie from before shall not be.
    authentication.confirmed(sessions.renew(caller, authenticated_at=clock.now()))
    if made.recovery_codes is None:
        return answers.done("Your new authenticator app is set up. The old one stopped.", SECURITY)
    return _codes_page(made)


@blueprint.get("/account/two-step/app/remove")
@authentication.login_required
@limits.read_two_step
def show_remove_app() -> ResponseReturnValue:
    """Say what follows from removing the app."""
    if second_steps.apps.find(authentication.current_session().account.id) is None:
        return answers.told(NO_APP, SECURITY)
    return _removal_page(step_up.prepared(ConfirmingForm()))


@blueprint.post("/account/two-step/app/remove")
@authentication.login_required
@limits.remove_app
def remove_app() -> ResponseReturnValue:
    """Remove the app."""
    form = step_up.prepared(ConfirmingForm())
    if not form.validate() or not step_up.confirmed(form):
        return _removal_page(form)
    caller = authentication.current_session()
    second_steps.apps.remove(caller.account.id, caller.id)
    is_kept_on = second_steps.switch.has_factor(caller.account.id)
    return answers.done(STAYS_ON if is_kept_on else "Two-step sign-in is off.", SECURITY)


@blueprint.get("/account/two-step/on")
@authentication.login_required
@limits.read_two_step
def show_turn_on() -> ResponseReturnValue:
    """Say what follows from asking for a passkey after the password."""
    return answers.page("passkeys/turn_on.html", form=step_up.prepared(ConfirmingForm()))


@blueprint.post("/account/two-step/on")
@authentication.login_required
@limits.switch_two_step
def turn_on() -> ResponseReturnValue:
    """Ask for what there is of a second step; recovery codes that are made then are shown once."""
    form, caller = step_up.prepared(ConfirmingForm()), authentication.current_session()
    if not form.validate() or not step_up.confirmed(form):
        return answers.page("passkeys/turn_on.html", form=form)
    try:
        made = second_steps.switch.enable(caller.account.id, caller.id)
    except NoSecondStep as refusal:
        return answers.told(f"{refusal.message}.", SECURITY)
    if made.recovery_codes is None:
        return answers.done("Two-step sign-in is on.", SECURITY)
    return _codes_page(made)


@blueprint.get("/account/two-step/recovery-codes")
@authentication.login_required
@limits.read_two_step
def show_recovery_codes() -> ResponseReturnValue:
    """Say how many codes are left, and offer new ones; the codes themselves nobody can show again."""
    return _new_codes_page(step_up.prepared(NewCodesForm()))


@blueprint.post("/account/two-step/recovery-codes")
@authentication.login_required
@limits.replace_recovery_codes
def replace_recovery_codes() -> ResponseReturnValue:
    """Make ten new codes and show them, this once."""
    form = step_up.prepared(NewCodesForm())
    if not form.validate() or not step_up.confirmed(form):
        return _new_codes_page(form)
    caller = authentication.current_session()
    try:
        made = second_steps.recovery.replace(caller.account.id, caller.id, replaces=form.set_id)
    except AlreadyReplaced:
        return answers.told(REPLACED, RECOVERY_CODES)
    except NoSecondStep:
        return answers.done("Two-step sign-in is off.", SECURITY)
    return _codes_page(made)


@blueprint.post("/account/two-step/recovery-codes.txt")
@authentication.login_required
@limits.read_two_step
def download_recovery_codes() -> ResponseReturnValue:
    """Send the codes of the page back as a file, if they are the current ones."""
    form, caller = SavedCodesForm(), authentication.current_session()
    codes = (form.codes.data or "").split()
    is_current = form.validate() and second_steps.recovery.is_current(caller.account.id, codes)
    if not is_current:
        return answers.told(REPLACED, RECOVERY_CODES)
    response = Response("".join(f"{code}\r\n" for code in codes), mimetype="text/plain")
    response.headers["Content-Disposition"] = 'attachment; filename="recovery-codes.txt"'
    return response


@blueprint.post("/account/two-step/browsers/forget")
@authentication.login_required
@limits.distrust_browsers
def forget_trusted_browsers() -> ResponseReturnValue:
    """Ask every browser for the second step again."""
    count = sessions.distrust_all(authentication.current_session().account.id)
    return answers.done(f"Forgot {count} browser{'' if count == 1 else 's'}.", SECURITY)


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
        passkey_options=_passkey_options(waiting) if "webauthn" in methods else None,
        wants_recovery=_wants_recovery() or "otp" not in methods,
        with_app=answers.leading_on(SECOND_STEP) if "otp" in methods else None,
        with_recovery=answers.leading_on(SECOND_STEP, how="recovery")
        if "recovery_code" in methods
        else None,
    )


def _passkey_options(waiting: second_steps.pending.Pending) -> dict[str, Any]:
    how = {"purpose": passkeys.SECOND_STEP, "subject": waiting.jti}
    return passkeys.options_of(waiting.user_id, **how)


def _wants_recovery() -> bool:
    return request.args.get("with") == "recovery"


def _start_again(word: str) -> ResponseReturnValue:
    """Lead to the sign-in page, with a word for whose pending sign-in is gone."""
    if session.pop(PENDING, None) is not None:
        flash(word, authentication.NOTICE)
    elif "session" in g:
        return redirect(answers.next_location(), 303)
    return redirect(answers.leading_on(answers.LOGIN), 303)


def _setup() -> second_steps.apps.Setup:
    """Return the setup that waits in the cookie, or a new one, which waits there from now on."""
    caller = authentication.current_session()
    try:
        return second_steps.apps.resume(caller.account, caller.id, session.get(SETUP, ""))
    except SetupTokenInvalid:
        setup = second_steps.apps.begin(caller.account, caller.id)
        session[SETUP] = setup.setup_token
        return setup


def _setup_page(form: AppForm, setup: second_steps.apps.Setup) -> ResponseReturnValue:
    import segno  # only here: few pages draw

    # Black on white with its quiet zone, in dark mode as well: else scanners do not find it.
    picture = segno.make(setup.uri, micro=False).svg_inline(
        border=4, dark="#000", light="#fff", omitsize=True
    )
    return answers.page(
        "second_steps/set_up.html",
        form=form,
        setup=setup,
        picture=Markup(picture),  # noqa: S704 - of squares
        key=" ".join(setup.secret[at : at + 4] for at in range(0, len(setup.secret), 4)),
        is_on=authentication.current_session().two_step_since is not None,
    )


def _removal_page(form: ConfirmingForm) -> ResponseReturnValue:
    found = second_steps.overview.of(authentication.current_session().account.id)
    return answers.page("second_steps/remove.html", form=form, passkeys=found.passkeys)


def _new_codes_page(form: NewCodesForm) -> ResponseReturnValue:
    caller = authentication.current_session()
    if caller.two_step_since is None:
        return answers.done("Two-step sign-in is off.", SECURITY)
    overview = second_steps.overview.of(caller.account.id)
    return answers.page("second_steps/new_codes.html", form=form, overview=overview)


def _codes_page(made: second_steps.recovery.Made) -> ResponseReturnValue:
    return answers.page("second_steps/codes.html", codes=made.recovery_codes)
