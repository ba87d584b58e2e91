"""Addresses: what is known of one's own, and confirming it."""

from typing import Any

from flask import Blueprint

from .. import addresses, email_changes
from ..web import authentication, limits
from ..web.forms import EmailTokenForm
from . import answers

blueprint = Blueprint("addresses", __name__)


@blueprint.get("/users/me/email")
@limits.read_email
def get_email() -> dict[str, Any]:
    """Return the address of the account behind the token, whether it is confirmed, and what it may become."""
    account = authentication.current_session().account
    waiting = email_changes.find_waiting(account.id)
    return {
        "email": account.email,
        "email_verified": account.email_verified_at is not None,
        "pending_email": waiting and waiting.new_email,
        "pending_expires_at": waiting and waiting.expires_at,
    }


@blueprint.post("/users/me/email/verification")
@limits.request_verification
def request_email_verification() -> dict[str, Any]:
    """Mail a link to confirm the address, if that is to be done; the answer does not tell."""
    addresses.request_verification(authentication.current_session().account)
    return answers.message("If your address is not confirmed yet, we have sent a link")


@blueprint.post("/users/me/email/verify")
@limits.verify_email
def verify_email() -> dict[str, Any]:
    """Confirm the address with the token of the link."""
    form = EmailTokenForm.from_json()
    account = authentication.current_session().account
    return addresses.verify(account.id, form.token.data or "").public()
