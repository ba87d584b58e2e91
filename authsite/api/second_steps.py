"""The second step: finish a sign-in with it, set it up, take it away."""

from typing import Any

from flask import Blueprint, Response, jsonify

from .. import passkeys, second_steps, sessions
from ..errors import InvalidInput
from ..web import authentication, limits
from ..web.forms import AppSetupForm, RecoveryCodesForm, SecondStepForm, TwoStepForm
from . import answers

blueprint = Blueprint("second_steps", __name__)


@blueprint.post("/auth/login/second-step")
@authentication.public
@limits.second_step
def complete_login() -> Response:
    """Sign the device in whose password was right, with a code or a passkey."""
    form = SecondStepForm.from_json()
    code, credential = form.code.data or "", form.credential.data or ""
    if not code and not credential:
        raise InvalidInput([("code", "Enter the code")])
    waiting = second_steps.pending.read(form.mfa_token.data or "", is_page=False)
    client = authentication.client(device_name=answers.NAMELESS.get(waiting.entrance))
    if credential:
        signed_in = passkeys.complete(waiting, credential, client=client)
    else:
        signed_in = second_steps.complete_with_code(waiting, code, client=client)
    return answers.issued_tokens(signed_in.grant)


@blueprint.get("/users/me/two-step")
@limits.read_two_step
def get_two_step() -> dict[str, Any]:
    """Return whether a second step is asked for, and what there is of it."""
    caller = authentication.current_session()
    found = second_steps.overview.of(caller.account.id)
    app = found.app and {name: getattr(found.app, name) for name in ("created_at", "last_used_at")}
    return {
        "enabled_since": caller.two_step_since,
        "app": app,
        "recovery_codes_left": found.recovery_codes_left,
        "recovery_set_id": found.recovery_set_id,
        "passkeys": found.passkeys,
        "trusted_browsers": found.trusted_browsers,
    }


@blueprint.post("/users/me/two-step/app")
@limits.set_up_app
@authentication.step_up_required
def begin_app_setup() -> Response:
    """Return a secret for an authenticator app; nothing is kept until a code of it has been shown."""
    caller = authentication.current_session()
    setup = second_steps.apps.begin(caller.account, caller.id)
    lifetime = int(second_steps.apps.SETUP_LIFETIME.total_seconds())
    return answers.never_stored(jsonify(**setup._asdict(), expires_in=lifetime))


@blueprint.put("/users/me/two-step/app")
@limits.set_up_app
@authentication.step_up_required
def confirm_app_setup() -> Response:
    """Keep the app that has shown this code, and turn two-step sign-in on."""
    form = AppSetupForm.from_json()
    caller = authentication.current_session()
    made = second_steps.apps.confirm(
        caller.account,
        caller.id,
        setup_token=form.setup_token.data or "",
        code=form.code.data or "",
    )
    return _codes(made)


@blueprint.put("/users/me/two-step")
@limits.switch_two_step
@authentication.step_up_required
def switch_two_step() -> Response:
    """Turn two-step sign-in on with what there is of it, or off with all of it but passkeys."""
    form = TwoStepForm.from_json()
    caller = authentication.current_session()
    if form.enabled.data:
        return _codes(second_steps.switch.enable(caller.account.id, caller.id))
    second_steps.apps.turn_off(caller.account.id, caller.id)
    return _codes(None)


@blueprint.delete("/users/me/two-step/app")
@limits.remove_app
@authentication.step_up_required
def remove_app() -> dict[str, Any]:
    """Remove the app."""
    caller = authentication.current_session()
    second_steps.apps.remove(caller.account.id, caller.id)
    return answers.message("Authenticator app removed")


@blueprint.post("/users/me/two-step/recovery-codes")
@limits.replace_recovery_codes
@authentication.step_up_required
def replace_recovery_codes() -> Response:
    """Answer ten new recovery codes in place of the set that the caller knows."""
    form = RecoveryCodesForm.from_json()
    if "replaces" not in form.given:
        raise InvalidInput([("replaces", "Give the id of a set of recovery codes, or null")])
    caller = authentication.current_session()
    made = second_steps.recovery.replace(caller.account.id, caller.id, replaces=form.set_id)
    return _codes(made)


@blueprint.delete("/users/me/trusted-browsers")
@limits.distrust_browsers
def forget_trusted_browsers() -> dict[str, Any]:
    """Ask every browser for the second step again."""
    count = sessions.distrust_all(authentication.current_session().account.id)
    return answers.message(f"{count} browsers forgotten")


def _codes(made: second_steps.recovery.Made | None) -> Response:
    codes, set_id = made or (None, None)
    return answers.never_stored(jsonify(recovery_codes=codes, set_id=set_id))
