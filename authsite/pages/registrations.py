"""Finish creating an account, by the link that was mailed to its address."""

from flask import Blueprint, redirect, request, session
from flask.typing import ResponseReturnValue

from .. import registrations
from ..errors import EmailTaken, EmailTokenInvalid, WrongCurrentPassword
from ..web import authentication, limits
from ..web.forms import PasswordForm
from . import answers

blueprint = Blueprint("registrations", __name__)


@blueprint.get("/register/confirm")
def show_confirm() -> ResponseReturnValue:
    """Show the button that creates the account; a link's token first leaves the URL. Nothing is used up."""
    if "token" in request.args:
        answers.keep_link("confirm_registration")
        return redirect("/register/confirm", 303)
    return _confirm_page(PasswordForm())


@blueprint.post("/register/confirm")
@limits.confirm_registration
def confirm() -> ResponseReturnValue:
    """Create the account and sign in, in the browser that registered or with the password."""
    form = PasswordForm()
    try:
        confirmed = registrations.confirm(
            session.get("confirm_registration", ""),
            password=form.password.data,
            own_claim=session.get("registration"),
        )
    except WrongCurrentPassword:
        if form.validate():
            form.refuse("password", answers.WRONG_PASSWORD)
        return _confirm_page(form)
    except EmailTokenInvalid:
        return _unusable_link()
    except EmailTaken:
        session.pop("confirm_registration")
        login = answers.leading_on(answers.LOGIN, kept=answers.kept_next())
        return answers.told("You already have an account with this email address.", login)
    kept = answers.kept_next()  # signing in empties the cookie
    authentication.sign_in(confirmed, is_remembered=False)
    return answers.signed_in(answers.ACCOUNT_CREATED, kept)


def _confirm_page(form: PasswordForm) -> ResponseReturnValue:
    try:
        claim = registrations.find(session.get("confirm_registration", ""))
    except EmailTokenInvalid:
        return _unusable_link()
    is_own = session.get("registration") == claim.id
    return answers.page(
        "registrations/confirm.html", form=form, email=claim.email, is_elsewhere=not is_own
    )


def _unusable_link() -> ResponseReturnValue:
    return answers.unusable_link("confirm_registration", "registrations/unusable_link.html")
