"""What the routes and forms of passwords cannot say of themselves, for the OpenAPI document."""

from ...errors import ResetTokenInvalid, WrongCurrentPassword
from ...web import forms
from ...web.openapi import Operation
from .words import LOCKOUT, NEW_PASSWORD, PASSWORD

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.passwords.change_current_user_password": Operation(
        "Change your password",
        "Ends all your other sessions; this one goes on with the tokens of the answer, and a copy of its"
        " refresh token made before is worthless. A wrong current password counts as a failed"
        f" sign-in. {LOCKOUT}",
        "MessageAndTokens",
        form=forms.ChangePasswordForm,
        example={"current_password": PASSWORD, "new_password": NEW_PASSWORD},
        errors=(WrongCurrentPassword(field="current_password"),),
    ),
    "api.passwords.request_password_reset": Operation(
        "Ask for a link to reset a password",
        "The answer is always the same and does not tell whether the address has an account. The link"
        " works once and for 60 minutes, and a newer one replaces it.",
        "Message",
        message="If your email is registered, you will receive a password reset link shortly",
        form=forms.EmailForm,
        example={"email": "ada@example.com"},
    ),
    "api.passwords.confirm_password_reset": Operation(
        "Reset a password",
        "Sets the new password with the token of the link and ends every session of the user. Every token"
        " that is not good gets the same answer.",
        "Message",
        message="Password has been reset successfully. You can now log in with your new password.",
        form=forms.ResetForm,
        example={"token": "Imt4V2ZQIg.aSRz4A.c2lnbmF0dXJl", "new_password": NEW_PASSWORD},
        errors=(ResetTokenInvalid(),),
    ),
}
