"""The second step: finish a sign-in that has begun with the password."""

from flask import Blueprint, Response

from .. import second_steps
from ..web import authentication, limits
from ..web.forms import SecondStepForm
from . import answers

blueprint = Blueprint("second_steps", __name__)


@blueprint.post("/auth/login/second-step")
@authentication.public
@limits.second_step
def complete_login() -> Response:
    """Sign the device in whose password was right, with a code."""
    form = SecondStepForm.from_json()
    waiting = second_steps.pending.read(form.mfa_token.data or "", is_page=False)
    signed_in = second_steps.complete_with_code(
        waiting,
        form.code.data or "",
        client=authentication.client(device_name=answers.NAMELESS.get(waiting.entrance)),
    )
    return answers.issued_tokens(signed_in.grant)
