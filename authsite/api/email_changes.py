"""Changes of address over the API; undoing one is for a person at a page."""

from typing import Any

from flask import Blueprint

from .. import email_changes
from ..web import authentication, limits
from ..web.forms import EmailForm, EmailTokenForm
from . import answers

blueprint = Blueprint("email_changes", __name__)


@blueprint.post("/users/me/email")
@limits.change_email
@authentication.step_up_required
def change_email() -> tuple[dict[str, Any], int]:
    """Mail a link to the new address; the answer does not tell whether it is free."""
    form = EmailForm.from_json()
    email_changes.request(
        authentication.current_session(),
        form.email.data or "",
        ip_address=authentication.remote_address(),
    )
    return answers.message("Check your new email address to confirm the change"), 202


@blueprint.delete("/users/me/email")
@limits.cancel_email_change
def cancel_email_change() -> dict[str, Any]:
    """Make the link that waits worthless, if one does."""
    email_changes.cancel(authentication.current_session().account.id)
    return answers.message("Change of email address cancelled")


@blueprint.post("/users/me/email/confirm")
@limits.confirm_email_change
def confirm_email_change() -> dict[str, Any]:
    """Take the new address with the token of the link that was mailed to it."""
    form = EmailTokenForm.from_json()
    account = authentication.current_session().account
    return email_changes.confirm(account.id, form.token.data or "").public()
