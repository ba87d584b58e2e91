"""Passwords: change, ask for a reset link, choose a new one with it."""

from flask import Blueprint, g, redirect, request, session
from flask.typing import ResponseReturnValue

from .. import passwords, sessions
from ..clients import devices
from ..errors import ResetTokenInvalid, WeakPassword, WrongCurrentPassword
from ..web import authentication, limits
from ..web.forms import ChangePasswordForm, EmailForm, NewPasswordForm
from . import answers

blueprint = Blueprint("passwords", __name__)

WRONG_CURRENT = "Your current password is wrong"


@blueprint.get("/account/password")
@authentication.login_required
def show_change() -> ResponseReturnValue:
    """Show the form for another password."""
    return _change_page(ChangePasswordForm())


@blueprint.post("/account/password")
@authentication.login_required
@limits.change_password
def change() -> ResponseReturnValue:
    """Change the password; this browser goes on with a new cookie, all other devices are signed out."""
    form = ChangePasswordForm()
    if not form.validate():
        return _change_page(form)
    caller = authentication.current_session()
    try:
        changed = passwords.change(
            caller,
            form.current_password.data or "",
            form.new_password.data or "",
            ip_address=authentication.remote_address(),
        )
    except WrongCurrentPassword:
        form.refuse("current_password", WRONG_CURRENT)
        return _change_page(form)
    except WeakPassword as weak:
        form.refuse("new_password", weak.message)
        return _change_page(form)
    authentication.remember(changed.grant, is_remembered=caller.is_remembered)
    words = ["Password changed."]
    if changed.ended:
        words.append(answers.others_signed_out(changed.ended))
    return answers.done(" ".join(words))


@blueprint.get("/forgot-password")
def show_forgot() -> ResponseReturnValue:
    """Show the form that asks for a reset link."""
    return _forgot_page(EmailForm())


@blueprint.post("/forgot-password")
@limits.request_reset
def forgot() -> ResponseReturnValue:
    """Mail a reset link, if the address has an account; the answer does not tell."""
    form = EmailForm()
    if not form.validate():
        return _forgot_page(form)
    client = authentication.browser()
    passwords.request_reset(
        form.email.data or "",
        device_name=devices.describe(client.user_agent, dict(client.hints)).name,
        ip_address=client.ip_address,
    )
    answers.keep_next()
    # Shown at once: a redirect would have to carry the address in a cookie or a URL.
    return answers.page(
        "passwords/sent.html",
        email=form.email.data,
        again=answers.leading_on(answers.FORGOT),
        login=answers.leading_on(answers.LOGIN),
    )


@blueprint.get("/reset-password")
def show_reset() -> ResponseReturnValue:
    """Show the form for a new password; a link's token first leaves the URL. Nothing is used up."""
    if "token" in request.args:
        answers.keep_link("reset")
        return redirect("/reset-password", 303)
    return _reset_page(NewPasswordForm())


@blueprint.post("/reset-password")
@limits.confirm_reset
def reset() -> ResponseReturnValue:
    """Set the new password, end every session and lead to the login page."""
    form = NewPasswordForm()
    if not form.validate():
        return _reset_page(form)
    client = authentication.browser()
    try:
        account = passwords.reset(
            session.get("reset", ""),
            form.password.data or "",
            device_name=devices.describe(client.user_agent, dict(client.hints)).name,
            ip_address=client.ip_address,
        )
    except WeakPassword as weak:
        form.refuse("password", weak.message)
        return _reset_page(form)
    except ResetTokenInvalid:
        return _unusable_link()
    if "session" in g and g.session.account.id != account.id:
        # This browser's cookie goes, and was another account's: nobody could use that session again.
        sessions.end(g.session.account.id, g.session.id, reason="logged_out")
    login = answers.leading_on(answers.LOGIN, kept=answers.kept_next())
    authentication.forget()
    return answers.done("Password changed. Sign in with your new password.", login)


def _forgot_page(form: EmailForm) -> ResponseReturnValue:
    return answers.page("passwords/forgot.html", form=form, login=answers.leading_on(answers.LOGIN))


def _change_page(form: ChangePasswordForm) -> ResponseReturnValue:
    return answers.page(
        "passwords/change.html", form=form, account=authentication.current_session().account
    )


def _reset_page(form: NewPasswordForm) -> ResponseReturnValue:
    """Return the form for the account that the link names; 410 for a link that no longer works."""
    try:
        _, account = passwords.find_reset(session.get("reset", ""))
    except ResetTokenInvalid:
        return _unusable_link()
    return answers.page("passwords/reset.html", form=form, account=account)


def _unusable_link() -> ResponseReturnValue:
    return answers.unusable_link("reset", "passwords/unusable_link.html")
