"""Step-up: whether the bearer is fresh, and making it so."""

from typing import Any

from flask import Blueprint, Response, jsonify

from .. import step_up
from ..web import authentication, limits
from ..web.forms import StepUpForm
from . import answers

blueprint = Blueprint("step_up", __name__)


@blueprint.get("/auth/step-up")
@limits.read_step_up
def get_step_up() -> dict[str, Any]:
    """Return until when the bearer is fresh, and what confirms it."""
    caller = authentication.current_session()
    options = step_up.passkey_options(caller)
    return {
        "fresh_until": step_up.fresh_until(caller),
        "max_age": int(step_up.max_age().total_seconds()),
        "methods": step_up.methods(caller),
    } | ({"publicKey": options} if options else {})


@blueprint.post("/auth/step-up")
@limits.step_up
def confirm_step_up() -> Response:
    """Answer a fresh access token to who proves again who they are; the refresh token stays."""
    form = StepUpForm.from_json()
    grant = step_up.confirm(
        authentication.current_session(),
        password=form.password.data or "",
        code=form.code.data or "",
        credential=form.credential.data or "",
    )
    assert grant.authenticated_at is not None
    return answers.never_stored(
        jsonify(
            **answers.access_token(grant), fresh_until=grant.authenticated_at + step_up.max_age()
        )
    )
