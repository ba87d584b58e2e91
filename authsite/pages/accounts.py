"""Accounts: register, log in, one's details."""

from typing import Any

from flask import Blueprint, current_app, g, make_response, redirect, request, session
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.wrappers import Response

from .. import accounts, passkeys, registrations, sessions, spelling
from ..errors import (
    AccountBeingDeleted,
    EmailNotVerified,
    EmailTaken,
    InactiveAccount,
    InvalidCredentials,
    InvalidInput,
    PasskeySignInExpired,
    PasskeysUnavailable,
    UnknownPasskey,
)
from ..web import authentication, limits
from ..web.forms import DetailsForm, LoginForm, PasskeySignInForm, RegisterForm
from . import answers

blueprint = Blueprint("accounts", __name__)

WRONG = "Email or password is wrong. Check both and try again"
UNKNOWN_PASSKEY = "That passkey is not known here. Sign in with your password"
TOO_LATE = "That took too long. Try again"
PASSKEY = "/login/passkey"
INACTIVE = "This account has been deactivated. Ask the operator of this site to open it again"
INACTIVE_SUPPORT = Markup(
    'This account has been deactivated. <a href="{}">Write to {}</a> to have it opened again'
)
TAKEN = Markup(
    "An account with this email address already exists."
    ' <a href="{}">Sign in</a> or <a href="{}">reset your password</a>'
)
# What tells Windows 11 from 10 and one phone from another; browsers send it once they were asked.
ACCEPT_CH = "Sec-CH-UA-Model, Sec-CH-UA-Platform-Version"


@blueprint.get("/")
def home() -> Response:
    """Lead to the devices, or to the login page."""
    return redirect(answers.HOME if "session" in g else authentication.entrance())


@blueprint.get("/register")
def show_register() -> ResponseReturnValue:
    """Show the form for a new account."""
    if "session" in g:
        return redirect(answers.next_location() if "next" in request.args else answers.HOME)
    return _register_page(RegisterForm())


@blueprint.post("/register")
@limits.register
def register() -> ResponseReturnValue:
    """Create an account and sign this browser in."""
    form = RegisterForm()
    if not form.validate():
        return _register_page(form)
    person: dict[str, Any] = {
        "email": form.email.data or "",
        "password": form.password.data or "",
        "first_name": form.first_name.data or "",
    }
    if registrations.are_claims():
        return _claim(person)
    try:
        registered = accounts.register(**person)
    except EmailTaken:
        ways = answers.leading_on(answers.LOGIN), answers.leading_on(answers.FORGOT)
        form.refuse("email", TAKEN.format(*ways))
        return _register_page(form)
    authentication.sign_in(registered, is_remembered=False)
    return answers.signed_in(answers.ACCOUNT_CREATED)


@blueprint.get("/login")
def show_login() -> ResponseReturnValue:
    """Show the sign-in form."""
    if "session" in g:
        return redirect(answers.next_location())
    return _login_page(LoginForm())


@blueprint.post("/login")
@limits.login
def login() -> ResponseReturnValue:
    """Sign this browser in."""
    form = LoginForm()
    if not form.validate():
        return _login_page(form)
    try:
        authenticated = accounts.authenticate(
            form.email.data or "",
            form.password.data or "",
            browser=authentication.browser().device_id,
        )
        authentication.sign_in(authenticated, is_remembered=form.remember.data)
    except InvalidCredentials:
        form.refuse("email", WRONG)
    except AccountBeingDeleted as refusal:
        form.refuse("email", refusal.message)
    except InactiveAccount:
        form.refuse("email", _inactive())
    except EmailNotVerified as refusal:
        answers.keep_next()
        form.refuse("email", refusal.message)
    else:
        return redirect(answers.next_location(), 303)
    return _login_page(form)


@blueprint.post("/login/passkey")
@limits.login
def login_with_passkey() -> ResponseReturnValue:
    """Sign this browser in by a passkey alone."""
    # The form holds what was sent back; a page shows the empty one, which has none of its fields.
    sent, form, unknown = PasskeySignInForm(), LoginForm(formdata=None), None
    try:
        sent.validate()
        authentication.sign_in_with_passkey(
            sent.credential.data or "", is_remembered=sent.remembers.data
        )
    except PasskeySignInExpired:
        form.refuse(None, TOO_LATE)
    except UnknownPasskey as refusal:
        form.refuse(None, UNKNOWN_PASSKEY)
        unknown = refusal.credential_id
    except InvalidInput:
        form.refuse(None, UNKNOWN_PASSKEY)
    except EmailNotVerified as refusal:
        answers.keep_next()
        form.refuse(None, refusal.message)
    except (AccountBeingDeleted, PasskeysUnavailable) as refusal:
        form.refuse(None, refusal.message)
    except InactiveAccount:
        form.refuse(None, _inactive())
    else:
        return redirect(answers.next_location(), 303)
    return _login_page(form, unknown=unknown)


@blueprint.get("/account")
@authentication.login_required
@limits.read_account
def show_details() -> ResponseReturnValue:
    """Show one's details."""
    return _details_page(DetailsForm(obj=authentication.current_session().account))


@blueprint.post("/account")
@authentication.login_required
@limits.update_account
def update_details() -> ResponseReturnValue:
    """Write one's details."""
    form = DetailsForm()
    if not form.validate():
        return _details_page(form)
    account = authentication.current_session().account
    accounts.update_details(
        account.id, {name: form[name].data or None for name in accounts.EDITABLE}
    )
    return answers.done("Your details are saved.", "/account")


def _claim(person: dict[str, Any]) -> ResponseReturnValue:
    """Say that a mail is under way; the link in it needs no password in this browser."""
    client = authentication.browser()
    session["registration"] = registrations.claim(
        **person, device_name=sessions.describe(client).name, ip_address=client.ip_address
    )
    answers.keep_next()
    # Shown at once: a redirect would have to carry the address in a cookie or a URL.
    return answers.page(
        "registrations/sent.html",
        email=person["email"],
        login=answers.leading_on(answers.LOGIN),
        register=answers.leading_on(answers.REGISTER),
    )


def _register_page(form: RegisterForm) -> ResponseReturnValue:
    return _asking_for_hints(
        answers.page("accounts/register.html", form=form, login=answers.leading_on(answers.LOGIN))
    )


def _login_page(form: LoginForm, *, unknown: str | None = None) -> ResponseReturnValue:
    """Return the page; `unknown` is a passkey that its password manager may forget."""
    page = answers.page(
        "accounts/login.html",
        form=form,
        # A refused passkey shows this page too, under its own path.
        action=answers.leading_on(answers.LOGIN),
        is_needed="next" in request.args,
        register=answers.leading_on(answers.REGISTER),
        forgot=answers.leading_on(answers.FORGOT),
        passkey_options=_passkey_options(),
        passkey_action=answers.leading_on(PASSKEY),
        unknown=unknown and {"rpId": current_app.config["PASSKEY_RP_ID"], "credentialId": unknown},
    )
    return _asking_for_hints(page)


def _passkey_options() -> dict[str, Any] | None:
    if not passkeys.are_available() or answers.own_origin_if_elsewhere():
        return None
    return passkeys.sign_in_options(authentication.form_secret())


def _inactive() -> str:
    """Return what to say of a closed account; whom to ask is no secret."""
    address = current_app.config["SUPPORT_EMAIL"]
    if address is None:
        return INACTIVE
    shown = spelling.readable_email(address)
    return INACTIVE_SUPPORT.format(current_app.config["SUPPORT_URL"], shown)


def _asking_for_hints(page: ResponseReturnValue) -> Response:
    response = make_response(page)
    response.headers["Accept-CH"] = ACCEPT_CH
    return response


def _details_page(form: DetailsForm) -> ResponseReturnValue:
    return answers.page(
        "accounts/details.html", form=form, account=authentication.current_session().account
    )
