"""Deleting one's account; keeping it after all is for a person at a page."""

from typing import Any

from flask import Blueprint

from .. import deletions
from ..web import authentication, limits
from . import answers

blueprint = Blueprint("deletions", __name__)


@blueprint.delete("/users/me")
@limits.delete_account
@authentication.step_up_required
def delete_current_user() -> dict[str, Any]:
    """Close the account behind the token, to be deleted in some days, or delete it at once."""
    delete_after = deletions.request(
        authentication.current_session(), ip_address=authentication.remote_address()
    )
    words = "Account will be deleted" if delete_after else "Account deleted"
    return answers.message(words) | {"delete_after": delete_after}
