"""What the routes and forms of step-up cannot say of themselves, for the OpenAPI document."""

from ...errors import InvalidCode, PasskeyInvalid, WrongCurrentPassword
from ...web import forms
from ...web.openapi import Operation
from .words import LOCKOUT, PASSWORD

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.step_up.get_step_up": Operation(
        "Read whether your access token is fresh",
        "Calls that cannot be taken back want proof of who you are that is at most `max_age` seconds old. The"
        " access token of a sign-in has it, and that of a confirmation; a refreshed one never has.",
        "StepUp",
    ),
    "api.step_up.confirm_step_up": Operation(
        "Confirm that it is you",
        "Answers a fresh access token for the same session; the refresh token stays as it is. Where two-step"
        " sign-in is on, send `code` instead of `password`: one of the app, or a recovery code; or"
        " `credential`: what a passkey has answered to `publicKey`. After 401"
        " `insufficient_user_authentication` do not refresh and do not sign out: call this, then repeat the"
        f" call with the token that it answers. A wrong password counts as a failed sign-in. {LOCKOUT}",
        "FreshToken",
        form=forms.StepUpForm,
        example={"password": PASSWORD},
        errors=(
            WrongCurrentPassword(field="password"),
            InvalidCode(field="code"),
            PasskeyInvalid(),
        ),
    ),
}
