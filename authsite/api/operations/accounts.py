"""What the routes and forms of accounts cannot say of themselves, for the OpenAPI document."""

from http import HTTPStatus

from ...errors import (
    EmailNotVerified,
    EmailTaken,
    EmailTokenInvalid,
    InactiveAccount,
    InvalidCredentials,
    RefreshTokenExpired,
    RefreshTokenInvalid,
    SecondStepRequired,
    SessionRevoked,
    UnsupportedGrantType,
    WrongCurrentPassword,
)
from ...web import forms, shapes
from ...web.openapi import Operation
from .words import LOCKOUT, PASSWORD, SECOND_STEP

MFA_REQUIRED = SecondStepRequired(shapes.MFA_TOKEN, ["otp", "recovery_code"])

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.accounts.register": Operation(
        "Create an account",
        "The address is kept in lower case; two accounts cannot share it. This signs nobody in. Where the"
        " site confirms addresses first, the answer is always 202 and does not tell whether the address has"
        " an account; the mail does.",
        "User",
        status=201,
        form=forms.RegisterForm,
        example={
            "email": "ada@example.com",
            "password": PASSWORD,
            "first_name": "Ada",
            "last_name": "Lovelace",
            "phone_number": "+44 20 7946 0958",
        },
        errors=(EmailTaken(field="email"),),
        accepted="Check your email to finish creating your account",
    ),
    "api.accounts.confirm_registration": Operation(
        "Finish creating an account",
        "Where the site confirms addresses first, with the token of the link that was mailed and the password"
        " that was chosen. A wrong password leaves the link good. Elsewhere there is no such address: 404.",
        "User",
        status=201,
        form=forms.ConfirmRegistrationForm,
        example={"token": shapes.REGISTRATION_TOKEN, "password": PASSWORD},
        errors=(
            EmailTokenInvalid(),
            WrongCurrentPassword(field="password"),
            HTTPStatus.NOT_FOUND,
            EmailTaken(field="email"),
        ),
    ),
    "api.accounts.login": Operation(
        "Sign in",
        "Begins a session for this device and answers with its tokens. An unknown address and a wrong"
        f" password get the same answer. {SECOND_STEP} {LOCKOUT}",
        "Tokens",
        form=forms.LoginForm,
        example={"email": "ada@example.com", "password": PASSWORD},
        errors=(InvalidCredentials(), InactiveAccount(), EmailNotVerified(), MFA_REQUIRED),
        takes_device_id=True,
    ),
    "api.accounts.login_oauth": Operation(
        "Sign in, or refresh, as OAuth libraries do",
        "The same as `POST /api/v1/auth/login`, and counted with it, for OAuth's password grant (RFC 6749"
        " §4.3): a form instead of JSON, and errors that also have the members `error` and"
        " `error_description`. With `grant_type=refresh_token` (§6) and a `refresh_token` it is the same as"
        " `POST /api/v1/auth/refresh`, and counted with that."
        f" `scope` is ignored. Credentials in the query string are refused. {SECOND_STEP} {LOCKOUT}",
        "Tokens",
        form=forms.OAuthPasswordForm,
        example={"grant_type": "password", "username": "ada@example.com", "password": PASSWORD},
        errors=(
            InvalidCredentials(),
            InactiveAccount(),
            EmailNotVerified(),
            MFA_REQUIRED,
            UnsupportedGrantType(field="grant_type"),
            RefreshTokenExpired(),
            RefreshTokenInvalid(),
            SessionRevoked(),
        ),
        takes_device_id=True,
    ),
    "api.accounts.refresh_token": Operation(
        "Change a refresh token for its successor",
        "Answers with a new pair of tokens; the refresh token that was sent is then used up. Calls with the"
        " same token at the same time, or again because the answer was lost, all get the one successor for"
        " a short time. A token that was used up earlier is taken for stolen: its session ends.",
        "Tokens",
        form=forms.RefreshForm,
        example={"refresh_token": shapes.TOKEN},
        errors=(RefreshTokenExpired(), RefreshTokenInvalid(), SessionRevoked()),
    ),
    "api.accounts.get_current_user_info": Operation(
        "Read your account", "The account behind the access token.", "User"
    ),
    "api.accounts.get_current_user_profile": Operation(
        "Read your account, by its other address", "The same as `GET /api/v1/auth/me`.", "User"
    ),
    "api.accounts.update_current_user": Operation(
        "Change your details",
        "Changes the members that are named and leaves the others as they are.",
        "User",
        form=forms.DetailsForm,
        example={"first_name": "Augusta", "last_name": None},
    ),
}
