"""What the routes and forms of the second step cannot say of themselves, for the OpenAPI document."""

from ...errors import InvalidCode, MfaTokenInvalid
from ...web import forms, shapes
from ...web.openapi import Operation
from .words import CODE_LOCKOUT

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.second_steps.complete_login": Operation(
        "Finish signing in with a code",
        "After 403 `mfa_required`, with its `mfa_token`, whichever of the two ways to sign in it came from. A"
        " wrong code leaves the pending sign-in good. Every token that is not good gets the same answer:"
        f" sign in again. {CODE_LOCKOUT}",
        "Tokens",
        form=forms.SecondStepForm,
        example={"mfa_token": shapes.MFA_TOKEN, "code": "492039"},
        errors=(InvalidCode(field="code"), MfaTokenInvalid()),
        takes_device_id=True,
    ),
}
