"""Change one's address, confirm it from the new mailbox, change it back from the old one."""

from flask import Blueprint, g, redirect, request, session
from flask.typing import ResponseReturnValue

from .. import accounts, email_changes, sessions, spelling
from ..errors import (
    EmailTaken,
    EmailTokenInvalid,
    InvalidCredentials,
    InvalidInput,
)
from ..web import authentication, limits
from ..web.forms import ChangeEmailForm, EmailForm, PasswordForm
from . import answers, step_up

blueprint = Blueprint("email_changes", __name__)

HERE = "/account/email"
TOO_MANY = "Too many links were asked for in the last hour. Try again later"
SIGN_IN_FIRST = (
    "Your account asks for a second step. Sign in first, then open the link in our email again."
    " Your address is unchanged."
)
TAKEN = "That email address belongs to another account. Yours is unchanged."
UNDONE = (
    "Your address is changed back and every device is signed out. Open the link that we have just sent you"
    " to choose a new password."
)


@blueprint.get("/account/email")
@authentication.login_required
@limits.read_email
def show_change() -> ResponseReturnValue:
    """Show one's address, the change that waits if one does, and the form for another."""
    return _change_page(step_up.prepared(ChangeEmailForm()))


@blueprint.post("/account/email")
@authentication.login_required
@limits.change_email
def change() -> ResponseReturnValue:
    """Mail a link to the new address."""
    form = step_up.prepared(ChangeEmailForm())
    if not form.validate() or not step_up.confirmed(form):
        return _change_page(form)
    email = form.email.data or ""
    try:
        is_mailed = email_changes.request(
            authentication.current_session(), email, ip_address=authentication.remote_address()
        )
    except InvalidInput as refusal:
        form.refuse("email", refusal.message)
        return _change_page(form)
    if not is_mailed:
        form.refuse("email", TOO_MANY)
        return _change_page(form)
    shown = spelling.readable_email(email)
    return answers.done(
        f"We are sending a link to {shown}. Nothing changes until you open it.", HERE
    )


@blueprint.post("/account/email/cancel")
@authentication.login_required
@limits.cancel_email_change
def cancel() -> ResponseReturnValue:
    """Make the link that waits worthless."""
    account = authentication.current_session().account
    email_changes.cancel(account.id)
    shown = spelling.readable_email(account.email)
    return answers.done(f"Change cancelled. Your email address stays {shown}.", HERE)


@blueprint.get("/confirm-email")
def show_confirm() -> ResponseReturnValue:
    """Show the button that changes the address; a link's token first leaves the URL. Nothing is used up."""
    if "token" in request.args:
        answers.keep_link("change_email")
        return redirect("/confirm-email", 303)
    return _confirm_page(PasswordForm())


@blueprint.post("/confirm-email")
@limits.confirm_email_change
def confirm() -> ResponseReturnValue:
    """Change the address, by the session of its account or with its password, which signs in.

    Where two-step sign-in is on, the password alone changes nothing: its owner signs in first.
    """
    try:
        return _confirm_own() if "session" in g else _confirm_by_password()
    except EmailTokenInvalid:
        return _unusable_link()
    except EmailTaken:
        return answers.told(TAKEN, HERE if "session" in g else answers.LOGIN)


@blueprint.get("/undo-email")
def show_undo() -> ResponseReturnValue:
    """Show what was changed and how to change it back; a link's token first leaves the URL."""
    if "token" in request.args:
        answers.keep_link("undo_email")
        return redirect("/undo-email", 303)
    return _undo_page(EmailForm())


@blueprint.post("/undo-email")
@limits.undo_email_change
def undo() -> ResponseReturnValue:
    """Change the address back, for who types the one that the link went to."""
    form = EmailForm()
    if not form.validate():
        return _undo_page(form)
    client = authentication.browser()
    try:
        account = email_changes.undo(
            session.get("undo_email", ""),
            form.email.data or "",
            device_name=sessions.describe(client).name,
            ip_address=client.ip_address,
        )
    except InvalidInput as refusal:
        form.refuse("email", refusal.message)
        return _undo_page(form)
    except EmailTokenInvalid:
        return _unusable_undo()
    session.pop("undo_email")
    if "session" in g and authentication.current_session().account.id == account.id:
        authentication.forget()
    return answers.done(UNDONE, answers.LOGIN)


def _change_page(form: ChangeEmailForm) -> ResponseReturnValue:
    account = authentication.current_session().account
    waiting = email_changes.find_waiting(account.id)
    return answers.page("email_changes/change.html", form=form, account=account, waiting=waiting)


def _confirm_own() -> ResponseReturnValue:
    token, account = session.get("change_email", ""), authentication.current_session().account
    if email_changes.find(token).account.id != account.id:
        return _confirm_page(PasswordForm())
    changed = email_changes.confirm(account.id, token)
    session.pop("change_email")
    return answers.done(_changed(changed.email), HERE)


def _confirm_by_password() -> ResponseReturnValue:
    form = PasswordForm()
    if not form.validate():
        return _confirm_page(form)
    token = session.get("change_email", "")
    try:
        authenticated = accounts.authenticate(
            email_changes.find(token).account.email,
            form.password.data or "",
            browser=authentication.browser().device_id,
            even_unverified=True,
        )
    except InvalidCredentials:
        form.refuse("password", answers.WRONG_PASSWORD)
        return _confirm_page(form)
    # Nothing is changed before the second step, which only a sign-in asks for.
    if authenticated.two_step_since is not None:
        return answers.told(SIGN_IN_FIRST, answers.LOGIN)
    account = email_changes.confirm(authenticated.account.id, token)
    session.pop("change_email")
    authentication.sign_in(authenticated._replace(account=account), is_remembered=False)
    return answers.done(_changed(account.email), HERE)


def _changed(email: str) -> str:
    return f"Your email address is now {spelling.readable_email(email)}."


def _confirm_page(form: PasswordForm) -> ResponseReturnValue:
    """Return what confirms the change, by who is signed in; 410 for a link that no longer works."""
    try:
        found = email_changes.find(session.get("change_email", ""))
    except EmailTokenInvalid:
        return _unusable_link()
    if "session" in g and authentication.current_session().account.id != found.account.id:
        return answers.page("addresses/other_account.html", email=found.new_email)
    return answers.page("email_changes/confirm.html", form=form, change=found)


def _undo_page(form: EmailForm) -> ResponseReturnValue:
    try:
        found = email_changes.find_undoable(session.get("undo_email", ""))
    except EmailTokenInvalid:
        return _unusable_undo()
    return answers.page("email_changes/undo.html", form=form, change=found)


def _unusable_link() -> ResponseReturnValue:
    return answers.unusable_link("change_email", "email_changes/unusable_link.html")


def _unusable_undo() -> ResponseReturnValue:
    return answers.unusable_link("undo_email", "email_changes/unusable_undo.html")
