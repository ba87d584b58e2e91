"""\"This wasn't me\": what the links lead to in mails that report an act."""

from typing import Any

from flask import Blueprint, g, redirect, request, session
from flask.typing import ResponseReturnValue

from .. import accounts, not_me, sessions
from ..errors import EmailTokenInvalid, InvalidInput
from ..web import authentication, limits
from ..web.forms import EmailForm
from . import answers

blueprint = Blueprint("not_me", __name__)

ALREADY = "That device is already signed out."
EVERYTHING = (
    "Every device is signed out, and the password no longer works. Open the link that we have just sent"
    " you to choose a new one."
)


@blueprint.get("/not-me")
def show_not_me() -> ResponseReturnValue:
    """Show what was reported and what can be done; a link's token first leaves the URL. Nothing is done."""
    if "token" in request.args:
        answers.keep_link("not_me")
        return redirect("/not-me", 303)
    return _page(EmailForm())


@blueprint.post("/not-me")
@limits.not_me
def report() -> ResponseReturnValue:
    """Sign the device out; with the address typed, everything."""
    token = session.get("not_me", "")
    try:
        if "email" in request.form:
            return _end_everything(token)
        found = not_me.find(token)
        is_first = not_me.end_session(token, **_facts())
    except EmailTokenInvalid:
        return _unusable_link()
    if "session" in g and str(authentication.current_session().id) == found.of:
        authentication.forget()  # it was this browser's own; the link stays at hand
        session["not_me"] = token
    return redirect("/not-me", 303) if is_first else answers.told(ALREADY, "/not-me")


def _end_everything(token: str) -> ResponseReturnValue:
    form = EmailForm()
    if not form.validate():
        return _page(form)
    owner = not_me.find(token).account
    try:
        not_me.end_everything(token, form.email.data or "", **_facts())
    except InvalidInput:
        form.refuse("email", accounts.OTHER_ADDRESS)
        return _page(form)
    session.pop("not_me")
    if "session" in g and authentication.current_session().account.id == owner.id:
        authentication.forget()
    return answers.done(EVERYTHING, answers.LOGIN)


def _facts() -> dict[str, Any]:
    client = authentication.browser()
    return {"device_name": sessions.describe(client).name, "ip_address": client.ip_address}


def _page(form: EmailForm) -> ResponseReturnValue:
    try:
        found = not_me.find(session.get("not_me", ""))
    except EmailTokenInvalid:
        return _unusable_link()
    return answers.page("not_me/report.html", form=form, report=found)


def _unusable_link() -> ResponseReturnValue:
    return answers.unusable_link("not_me", "not_me/unusable_link.html")
