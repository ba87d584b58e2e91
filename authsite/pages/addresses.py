"""Addresses: confirm one's own by the link that was mailed to it."""

from flask import Blueprint, current_app, flash, g, redirect, request, session
from flask.typing import ResponseReturnValue

from .. import accounts, addresses, spelling
from ..database.models import Account
from ..errors import EmailTokenInvalid, InvalidCredentials, SecondStepRequired
from ..web import authentication, limits
from ..web.forms import PasswordForm
from . import answers, second_steps

blueprint = Blueprint("addresses", __name__)

CONFIRMED = "Email address confirmed."


@blueprint.get("/verify-email")
def show_verify() -> ResponseReturnValue:
    """Show the button that confirms an address; a link's token first leaves the URL. Nothing is used up."""
    if "token" in request.args:
        answers.keep_link("verify_email")
        return redirect("/verify-email", 303)
    return _verify_page(PasswordForm())


@blueprint.post("/verify-email")
@limits.verify_email
def verify() -> ResponseReturnValue:
    """Confirm the address, by the session of its account or with its password, which signs in."""
    if "session" in g:
        return _verify_own()
    form = PasswordForm()
    if not form.validate():
        return _verify_page(form)
    token = session.get("verify_email", "")
    try:
        authenticated = accounts.authenticate(
            addresses.find_unverified(token).email,
            form.password.data or "",
            browser=authentication.browser().device_id,
            even_unverified=True,
        )
        account = addresses.verify(authenticated.account.id, token)
    except InvalidCredentials:
        form.refuse("password", answers.WRONG_PASSWORD)
        return _verify_page(form)
    except EmailTokenInvalid:
        return _unusable_link()
    session.pop("verify_email")
    kept = answers.kept_next()
    flash(CONFIRMED)  # for who is asked for a second step now; else the cookie is emptied
    try:
        authentication.sign_in(authenticated._replace(account=account), is_remembered=False)
    except SecondStepRequired as required:
        return second_steps.ask(required, kept=kept)
    return answers.signed_in(CONFIRMED, kept or answers.HOME)


@blueprint.post("/account/email/resend")
@authentication.login_required
@limits.request_verification
def resend() -> ResponseReturnValue:
    """Mail the link to confirm one's address again."""
    account = authentication.current_session().account
    if account.email_verified_at:
        return answers.done("Your email address is confirmed.")
    if current_app.config["EMAIL_VERIFICATION"] == "off":
        return answers.done("Here nobody has to confirm an email address. No link is sent.")
    shown = spelling.readable_email(account.email)
    if not addresses.request_verification(account):
        return answers.done(
            f"No more links go to {shown} for now. Open the last one, or try again in an hour."
        )
    return answers.done(f"We are sending a link to {shown}. It works for 24 hours.")


def _verify_own() -> ResponseReturnValue:
    account = authentication.current_session().account
    try:
        if addresses.find_unverified(session.get("verify_email", "")).id != account.id:
            return _verify_page(PasswordForm())
        addresses.verify(account.id, session["verify_email"])
    except EmailTokenInvalid:
        return _unusable_link()
    session.pop("verify_email")
    return answers.done(CONFIRMED)


def _verify_page(form: PasswordForm) -> ResponseReturnValue:
    """Return what confirms the address, by who is signed in; 410 for a link that no longer works."""
    try:
        account = addresses.find_unverified(session.get("verify_email", ""))
    except EmailTokenInvalid:
        return _unusable_link()
    if "session" in g and not _is_own(account):
        return answers.page("addresses/other_account.html", email=account.email)
    return answers.page("addresses/verify.html", form=form, account=account)


def _is_own(account: Account) -> bool:
    return authentication.current_session().account.id == account.id


def _unusable_link() -> ResponseReturnValue:
    return answers.unusable_link("verify_email", "addresses/unusable_link.html")
