"""What the routes and forms of the second step cannot say of themselves, for the OpenAPI document."""

from ...errors import (
    AlreadyReplaced,
    InvalidCode,
    MfaTokenInvalid,
    NoSecondStep,
    PasskeyInvalid,
    SetupTokenInvalid,
)
from ...web import forms, shapes
from ...web.openapi import Operation
from .words import CODE_LOCKOUT

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.second_steps.complete_login": Operation(
        "Finish signing in",
        "With `code`, or with `credential`: what a passkey has answered to `passkey_options`."
        " After 403 `mfa_required`, with its `mfa_token`, whichever of the two ways to sign in it came from."
        " A wrong code leaves the pending sign-in good. Every token that is not good gets the same answer:"
        f" sign in again. {CODE_LOCKOUT}",
        "Tokens",
        form=forms.SecondStepForm,
        example={"mfa_token": shapes.MFA_TOKEN, "code": "492039"},
        errors=(InvalidCode(field="code"), PasskeyInvalid(), MfaTokenInvalid()),
        takes_device_id=True,
    ),
    "api.second_steps.get_two_step": Operation(
        "Read what there is of a second step",
        "Whether two-step sign-in is on, and with what.",
        "TwoStep",
    ),
    "api.second_steps.begin_app_setup": Operation(
        "Begin to set up an authenticator app",
        "Show `uri` as a QR code, or `secret` to be typed. Nothing changes until a code of the app has been"
        " sent with `setup_token`, within 15 minutes and from this session.",
        "AppSetup",
    ),
    "api.second_steps.confirm_app_setup": Operation(
        "Finish setting up an authenticator app",
        "Takes the place of an app that there was, and turns two-step sign-in on: the answer then has ten"
        " recovery codes, this once. A clock of the phone that is minutes off is told in the refusal.",
        "RecoveryCodes",
        form=forms.AppSetupForm,
        example={"setup_token": shapes.SETUP_TOKEN, "code": "492039"},
        errors=(InvalidCode(field="code"), SetupTokenInvalid()),
    ),
    "api.second_steps.switch_two_step": Operation(
        "Turn two-step sign-in on or off",
        "Off removes the app, the recovery codes and the trust in browsers. On wants an app or a passkey.",
        "RecoveryCodes",
        form=forms.TwoStepForm,
        example={"enabled": False},
        errors=(NoSecondStep(),),
    ),
    "api.second_steps.remove_app": Operation(
        "Remove the authenticator app",
        "Where nothing else is left to ask for, two-step sign-in is off with it. Doing it again changes"
        " nothing.",
        "Message",
        message="Authenticator app removed",
    ),
    "api.second_steps.replace_recovery_codes": Operation(
        "Make new recovery codes",
        "Ten, shown this once; the old ones stop working, and browsers that were trusted are asked again."
        " `replaces` is the set that you know: of two calls at once, one is refused.",
        "RecoveryCodes",
        form=forms.RecoveryCodesForm,
        example={"replaces": shapes.SET_ID},
        errors=(AlreadyReplaced(), NoSecondStep()),
    ),
    "api.second_steps.forget_trusted_browsers": Operation(
        "Trust no browser any longer",
        "Each is asked for the second step at its next sign-in.",
        "Message",
        message="2 browsers forgotten",
    ),
}
