"""The JSON API under /api/v1: bearer tokens only, no cookie is ever read or set."""

from flask import Blueprint

from ..extensions import csrf
from ..web import authentication
from . import (
    accounts,
    activity,
    addresses,
    deletions,
    documentation,
    email_changes,
    exports,
    operations,
    passkeys,
    passwords,
    second_steps,
    services,
    sessions,
    step_up,
)

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")
blueprint.before_request(authentication.from_bearer)

for _child in (
    accounts.blueprint,
    activity.blueprint,
    addresses.blueprint,
    email_changes.blueprint,
    passwords.blueprint,
    exports.blueprint,
    deletions.blueprint,
    step_up.blueprint,
    second_steps.blueprint,
    passkeys.blueprint,
    sessions.blueprint,
    services.blueprint,
    documentation.blueprint,
):
    # No cookie counts here, so there is no request to forge; a parent's exemption does not cover children.
    csrf.exempt(_child)
    blueprint.register_blueprint(_child)

__all__ = ["blueprint", "operations"]
