"""What the routes and forms of passkeys cannot say of themselves, for the OpenAPI document."""

from ...errors import (
    EmailNotVerified,
    InactiveAccount,
    PasskeyExists,
    PasskeyNotFound,
    PasskeyRefused,
    PasskeysUnavailable,
    TooManyPasskeys,
    UnknownPasskey,
)
from ...web import forms, shapes
from ...web.openapi import Operation

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.passkeys.passkey_sign_in_options": Operation(
        "Begin to sign in by a passkey",
        "Good for ten minutes and for one sign-in. Nothing is kept, and no user has to be named: the passkey"
        " says whose it is.",
        "PasskeyOptions",
        errors=(PasskeysUnavailable(),),
    ),
    "api.passkeys.login_with_passkey": Operation(
        "Sign in by a passkey",
        "With what the passkey answers to the options. It signs in alone: no password and no second step is"
        " asked for, since the device has verified its user. One that is unknown, removed or has signed"
        " something else gets the same answer.",
        "Tokens",
        form=forms.CredentialForm,
        example={"credential": shapes.ASSERTION},
        errors=(UnknownPasskey(), InactiveAccount(), EmailNotVerified(), PasskeysUnavailable()),
        takes_device_id=True,
    ),
    "api.passkeys.list_passkeys": Operation(
        "List one's passkeys",
        "All of them, at most 20.",
        "Passkeys",
    ),
    "api.passkeys.passkey_creation_options": Operation(
        "Begin to add a passkey",
        "Good for ten minutes, in this session. Nothing is kept.",
        "NewPasskeyOptions",
        errors=(TooManyPasskeys(), PasskeysUnavailable()),
    ),
    "api.passkeys.add_passkey": Operation(
        "Add a passkey",
        "With what the browser answers to the options. The owner is mailed. Nothing else changes: the"
        " password goes on signing in, alone where two-step sign-in is off.",
        "Passkey",
        status=201,
        form=forms.NewPasskeyForm,
        example={"credential": shapes.REGISTRATION, "name": "Chrome on Windows"},
        errors=(PasskeyRefused(), PasskeyExists(), TooManyPasskeys(), PasskeysUnavailable()),
    ),
    "api.passkeys.rename_passkey": Operation(
        "Rename a passkey",
        "For its owner only to see.",
        "Passkey",
        form=forms.PasskeyNameForm,
        example={"name": "Blue key"},
        errors=(PasskeyNotFound(),),
    ),
    "api.passkeys.remove_passkey": Operation(
        "Remove a passkey",
        "It cannot sign in any more; the owner is mailed. Browsers that were trusted are asked again, and"
        " where nothing else is left to ask for, two-step sign-in is off.",
        "Message",
        message="Passkey removed",
        errors=(PasskeyNotFound(),),
    ),
}
