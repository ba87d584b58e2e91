"""Delete one's account, and keep it after all by the link in the mail."""

from flask import Blueprint, g, redirect, request, session
from flask.typing import ResponseReturnValue

from .. import clock, deletions, sessions
from ..errors import EmailTokenInvalid, InvalidInput, WrongCurrentPassword
from ..web import authentication, limits, times
from ..web.forms import DeleteAccountForm, KeepAccountForm
from . import answers, step_up

blueprint = Blueprint("deletions", __name__)

DELETED = "Your account is deleted."
KEPT = "Your account is kept. Sign in to go on."
KEPT_AND_RESET = (
    "Your account is kept, and the password no longer works. Open the link that we have just sent you to"
    " choose a new one."
)


@blueprint.get("/account/delete")
@authentication.login_required
def show_delete() -> ResponseReturnValue:
    """Say what is deleted and when, and show the button that asks for it."""
    return _delete_page(step_up.prepared(DeleteAccountForm()))


@blueprint.post("/account/delete")
@authentication.login_required
@limits.delete_account
def delete() -> ResponseReturnValue:
    """Close the account, to be deleted in some days, or delete it at once; this browser is signed out."""
    form = step_up.prepared(DeleteAccountForm())
    if not form.validate() or not step_up.confirmed(form):
        return _delete_page(form)
    try:
        delete_after = deletions.request(
            authentication.current_session(),
            ip_address=authentication.remote_address(),
            password=form.current_password.data or "",
        )
    except WrongCurrentPassword:
        form.refuse("current_password", step_up.WRONG_CURRENT)
        return _delete_page(form)
    authentication.forget()
    if delete_after is None:
        return answers.done(DELETED, answers.LOGIN)
    word = f"Your account will be deleted on {times.utc_full_date(delete_after)}."
    return answers.done(f"{word} To keep it, open the link in our email.", answers.LOGIN)


@blueprint.get("/keep-account")
def show_keep() -> ResponseReturnValue:
    """Show what keeps the account; a link's token first leaves the URL. Nothing is done."""
    if "token" in request.args:
        answers.keep_link("keep_account")
        return redirect("/keep-account", 303)
    return _keep_page(KeepAccountForm())


@blueprint.post("/keep-account")
@limits.keep_account
def keep() -> ResponseReturnValue:
    """Keep the account, for who types the address that the link went to; nobody is signed in by it."""
    form = KeepAccountForm()
    if not form.validate():
        return _keep_page(form)
    client, is_reset = authentication.browser(), form.choice.data == "keep_and_reset"
    try:
        deletions.keep(
            session.get("keep_account", ""),
            form.email.data or "",
            is_reset=is_reset,
            device_name=sessions.describe(client).name,
            ip_address=client.ip_address,
        )
    except InvalidInput as refusal:
        form.refuse("email", refusal.message)
        return _keep_page(form)
    except EmailTokenInvalid:
        return _unusable_link()
    session.pop("keep_account")
    # Who is signed in to another account stays so, and is not led to the login page.
    leads_to = answers.HOME if "session" in g else answers.LOGIN
    return answers.done(KEPT_AND_RESET if is_reset else KEPT, leads_to)


def _delete_page(form: DeleteAccountForm) -> ResponseReturnValue:
    account, now = authentication.current_session().account, clock.now()
    delete_after = deletions.due_at(account.id, now)
    return answers.page(
        "deletions/delete.html",
        form=form,
        account=account,
        delete_after=delete_after if delete_after > now else None,
    )


def _keep_page(form: KeepAccountForm) -> ResponseReturnValue:
    try:
        account, delete_after = deletions.find(session.get("keep_account", ""))
    except EmailTokenInvalid:
        return _unusable_link()
    return answers.page(
        "deletions/keep.html", form=form, account=account, delete_after=delete_after
    )


def _unusable_link() -> ResponseReturnValue:
    return answers.unusable_link("keep_account", "deletions/unusable_link.html")
