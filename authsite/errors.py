"""The failures that a caller can act on. Nothing here knows HTTP: problems.py gives each its status."""

from datetime import datetime
from typing import Any


class AuthsiteError(Exception):
    """A refusal with a stable `code` for programs and a `message` for people."""

    code = "internal_error"
    message = "There is a problem with the service"

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message or self.message)
        self.message = message or self.message
        self.field = field


class MalformedRequest(AuthsiteError):
    code = "malformed_request"
    message = "The request could not be read"


class UnsupportedMediaType(AuthsiteError):
    code = "unsupported_media_type"
    message = "The content type of the request is not supported"


class UnsupportedEncoding(AuthsiteError):
    code = "unsupported_media_type"
    message = "Send the body as it is, not compressed"


class InvalidInput(AuthsiteError):
    """`errors` holds (field, message) pairs; the field is None where no single input is at fault."""

    code = "validation_error"
    message = "Check the fields named in errors"

    def __init__(self, errors: list[tuple[str | None, str]]) -> None:
        super().__init__(errors[0][1] if len(errors) == 1 else None)
        self.errors = errors


class WeakPassword(AuthsiteError):
    code = "validation_error"
    message = "Choose a different password"


class InvalidCredentials(AuthsiteError):
    code = "invalid_credentials"
    message = "Invalid email or password"


class WrongCurrentPassword(AuthsiteError):
    code = "invalid_credentials"
    message = "Current password is incorrect"


class InactiveAccount(AuthsiteError):
    code = "inactive_account"
    message = "User account is inactive"


class AccountBeingDeleted(InactiveAccount):
    """Closed, and gone after `delete_after`, unless its owner keeps it."""

    def __init__(self, delete_after: datetime) -> None:
        day = f"{delete_after.day} {delete_after:%B %Y}"
        super().__init__(
            f"This account will be deleted on {day}. To keep it, open the link in our email"
        )


class EmailNotVerified(AuthsiteError):
    """The password was right; the link has just been mailed, unless three went out within the hour."""

    code = "email_not_verified"
    message = "Confirm your email address to sign in. We have sent you a link."


class TooManyAttempts(AuthsiteError):
    """`retry_after` is in whole seconds."""

    code = "rate_limited"
    message = "Too many attempts. Try again later."

    def __init__(self, retry_after: int, message: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)


class EmailTaken(AuthsiteError):
    code = "email_taken"
    message = "User with this email already exists"


class UnknownAccount(AuthsiteError):
    code = "not_found"
    message = "No account has this email address"


class NotAuthenticated(AuthsiteError):
    code = "not_authenticated"
    message = "Authentication is required"


class TokenExpired(AuthsiteError):
    code = "token_expired"
    message = "Access token has expired"


class TokenInvalid(AuthsiteError):
    code = "token_invalid"
    message = "Invalid access token"


class RefreshTokenExpired(TokenExpired):
    message = "Refresh token has expired. Please log in again."


class RefreshTokenInvalid(TokenInvalid):
    message = "Invalid refresh token"


class SessionRevoked(AuthsiteError):
    code = "session_revoked"
    message = "Session has been revoked. Please log in again."


class Forbidden(AuthsiteError):
    code = "forbidden"
    message = "You are not allowed to do this"


class InsufficientAuthentication(AuthsiteError):
    """Signed in, but too long ago (RFC 9470). `max_age` is in whole seconds.

    Where the second step has to be shown as well there is `acr_values`.
    """

    code = "insufficient_user_authentication"
    message = "Confirm it is you to continue"

    def __init__(self, max_age: int, *, acr_values: str | None = None) -> None:
        super().__init__()
        self.max_age = max_age
        if acr_values:
            self.acr_values = acr_values


class ProofRefused(AuthsiteError):
    code = "forbidden"
    message = "The proof of this browser's key was not accepted"


class SessionNotFound(AuthsiteError):
    code = "not_found"
    message = "Session not found"


class InvalidClient(AuthsiteError):
    code = "invalid_client"
    message = "The service's name or secret is wrong"


class ResetTokenInvalid(AuthsiteError):
    code = "reset_token_invalid"
    message = "Invalid or expired password reset token"


class EmailTokenInvalid(AuthsiteError):
    code = "email_token_invalid"
    message = "Invalid or expired email confirmation link"


class UnsupportedGrantType(AuthsiteError):
    code = "validation_error"
    message = "The grant type must be password or refresh_token"


class SecondStepRequired(AuthsiteError):
    """The password was right, and is not enough. `mfa_token` is the pending sign-in, good for 10 minutes."""

    code = "mfa_required"
    message = "Enter the code from your authenticator app to finish signing in"
    expires_in = 600

    def __init__(self, mfa_token: str, methods: list[str]) -> None:
        super().__init__(None if "otp" in methods else self.without_app)
        self.mfa_token = mfa_token
        self.methods = methods
        self.passkey_options: dict[str, Any] | None = None

    without_app = "Use your passkey or a recovery code to finish signing in"


class InvalidCode(AuthsiteError):
    code = "invalid_code"
    message = "The code is wrong or has been used"


class MfaTokenInvalid(AuthsiteError):
    code = "mfa_token_invalid"
    message = "The sign-in has expired or was completed. Start again."


class PasskeyInvalid(AuthsiteError):
    code = "passkey_invalid"
    message = "That passkey was not accepted"


class PasskeyExpired(PasskeyInvalid):
    """It has signed what was shown to it too long ago."""


class PasskeyRefused(AuthsiteError):
    """A new one."""

    code = "passkey_invalid"
    message = "That passkey cannot be added"


class UnknownPasskey(AuthsiteError):
    """`credential_id` is only set where no such passkey exists: its password manager may forget it then."""

    code = "invalid_credentials"
    message = "This passkey is not known here"

    def __init__(self, *, credential_id: str | None = None) -> None:
        super().__init__()
        self.credential_id = credential_id


class PasskeySignInExpired(UnknownPasskey):
    """It has signed what was shown to it too long ago."""


class PasskeyExists(AuthsiteError):
    code = "passkey_exists"
    message = "This passkey has been added already"


class TooManyPasskeys(AuthsiteError):
    code = "too_many_passkeys"
    message = "You have 20 passkeys, and there cannot be more. Remove one first"


class PasskeysUnavailable(AuthsiteError):
    code = "passkeys_unavailable"
    message = (
        "Passkeys need a site that is reached by a name, and this one is reached by an address"
    )


class PasskeyNotFound(AuthsiteError):
    code = "not_found"
    message = "Passkey not found"


class SetupTokenInvalid(AuthsiteError):
    code = "setup_token_invalid"
    message = "The setup has expired. Start again."


class NoSecondStep(AuthsiteError):
    code = "no_second_step"
    message = "Add an authenticator app or a passkey first"


class AlreadyReplaced(AuthsiteError):
    code = "already_replaced"
    message = "These recovery codes have been replaced already"


class ServiceBusy(AuthsiteError):
    """More is asked than can be done soon; `retry_after` is in whole seconds."""

    code = "service_unavailable"
    message = "The service is unavailable. Try again later."
    retry_after = 2
