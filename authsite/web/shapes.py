"""What goes over the wire, in JSON Schema's words: the shapes, headers and codes of CONTRACT §1."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from ..database.models import (
    DEVICE_TYPES,
    EVENT_KINDS,
    MAX_DEVICE_ID,
    MAX_DEVICE_NAME,
    MAX_EMAIL,
    MAX_NAME,
    MAX_PASSKEY_NAME,
    MAX_PHONE,
)

# What each `code` of a problem means to a client; `type` of the problem leads to it in the page.
CODES = {
    "invalid_credentials": "The e-mail address or the password is wrong. Ask for both again.",
    "inactive_account": "The password is right, but the account has been closed.",
    "not_authenticated": "No access token came with the request. Send Authorization: Bearer.",
    "token_expired": "The token is too old. An access token: refresh once, store both new tokens and"
    " repeat the request. A refresh token: sign in again.",
    "token_invalid": "The token is not one that this service issued for this purpose. Sign in again.",
    "session_revoked": "The session has ended: signed out, here or from another device, replaced by a"
    " new sign-in of this device, or ended because the password changed or a used refresh token came"
    " back. Throw both tokens away and sign in again; do not refresh.",
    "insufficient_user_authentication": "You are signed in, but this wants proof of who you are that is at"
    " most max_age seconds old. Do not refresh and do not sign out: call POST /api/v1/auth/step-up and repeat"
    " the request with the token that it answers.",
    "forbidden": "You are signed in, but this is not yours; or the request did not come over https.",
    "invalid_client": "The service's name or secret is missing or wrong. Send both by HTTP Basic.",
    "email_taken": "An account with this e-mail address exists already.",
    "validation_error": "The body was read, but its members are not all right. Each entry of errors"
    " names one in field, with words that can be shown to people.",
    "malformed_request": "The request is not what it says it is. Its JSON is none, has a member twice, is"
    " nested too deeply or is not UTF-8; a form has a field twice or in the query string, holds a"
    " `client_secret`, or lacks its `token`; an access token came in the query string beside the one in the"
    " header; or the cookies are too large. Any other token or password in a query string is not read.",
    "unsupported_media_type": "The Content-Type is not the one that this endpoint reads, or the"
    " body is compressed; then Accept-Encoding says identity.",
    "payload_too_large": "The body is larger than 64 KiB.",
    "not_found": "There is no such session, or nothing at this address.",
    "method_not_allowed": "The address exists but not for this method; the header Allow has those it"
    " does answer to.",
    "rate_limited": "Too many requests, or too many wrong passwords for one account. Wait for the"
    " seconds in Retry-After.",
    "mfa_required": "The password is right, and the account asks for a second step. Send mfa_token with a"
    " code, or with what a passkey answers to passkey_options, to POST /api/v1/auth/login/second-step.",
    "invalid_code": "The code is wrong, or has been used: each works once. Ask for the next one.",
    "mfa_token_invalid": "The pending sign-in took more than ten minutes, was completed, or the password"
    " has changed meanwhile. Sign in again.",
    "setup_token_invalid": "The setup of an authenticator app took more than 15 minutes, or began in"
    " another session. Begin again.",
    "no_second_step": "There is no authenticator app and no passkey yet.",
    "already_replaced": "Somebody has made new recovery codes since. Read the current set's id first.",
    "passkey_invalid": "The passkey has not signed what was shown to it here and lately, is not this user's,"
    " or cannot be taken. Ask for new options and try again.",
    "passkey_exists": "This passkey has been added already, here or to another account.",
    "too_many_passkeys": "The account has 20 passkeys, and one has to go first.",
    "passkeys_unavailable": "The site is reached by an address, and passkeys need a name.",
    "email_not_verified": "The password is right, but this site lets nobody in whose address is not"
    " confirmed. A link to do so is on its way.",
    "email_token_invalid": "The link has been used, has expired, was sent to another address than the account"
    " has now, belongs to another account, or never was one. Ask for a new link.",
    "reset_token_invalid": "The reset link has been used, has expired, has been replaced by a newer one,"
    " or never was one. Ask for a new link.",
    "service_unavailable": "The service cannot do its work just now; nothing was changed. Try again"
    " after the seconds in Retry-After.",
    "internal_error": "A fault of ours. Report request_id.",
}

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIuLi4ifQ.c2lnbmF0dXJl"  # noqa: S105
EMAIL_TOKEN = "ImFkYSI.aSRz4A.c2lnbmF0dXJl"  # noqa: S105
CHANGE_TOKEN = "ImNoYW5nZSI.aSRz4A.c2lnbmF0dXJl"  # noqa: S105
SETUP_TOKEN = "IkFRSUQi.aSRz4A.c2lnbmF0dXJl"  # noqa: S105
SET_ID = "01937b61-02aa-7f0e-8c11-5f0d7e2b9a44"
MFA_TOKEN = "WyIwMTkzIl0.aSRz4A.c2lnbmF0dXJl"  # noqa: S105
REGISTRATION_TOKEN = "ImNsYWltIg.aSRz4A.c2lnbmF0dXJl"  # noqa: S105
ID = {"type": "string", "format": "uuid", "examples": ["01936f2a-7c4e-7b1d-9a57-3f6b2c1d4e5f"]}
TIME = {"type": "string", "format": "date-time", "description": "In UTC, ending in Z."}
CHALLENGE = "bWFkZSBoZXJl"
REQUEST_OPTIONS = {
    "challenge": CHALLENGE,
    "timeout": 600_000,
    "rpId": "accounts.example.com",
    "allowCredentials": [],
    "userVerification": "required",
}
CREATION_OPTIONS = {
    "rp": {"id": "accounts.example.com", "name": "authsite"},
    "user": {"id": "AZNvKnxO", "name": "ada@example.com", "displayName": "Ada"},
    "challenge": CHALLENGE,
    "pubKeyCredParams": [{"type": "public-key", "alg": -7}],
    "timeout": 600_000,
    "excludeCredentials": [],
    "authenticatorSelection": {
        "residentKey": "required",
        "requireResidentKey": True,
        "userVerification": "required",
    },
    "attestation": "none",
}
ASSERTION = {
    "id": "a2V5",
    "rawId": "a2V5",
    "type": "public-key",
    "response": {
        "clientDataJSON": "e30",
        "authenticatorData": "ZGF0YQ",
        "signature": "c2lnbmVk",
        "userHandle": "AZNvKnxO",
    },
}
REGISTRATION = {
    "id": "a2V5",
    "rawId": "a2V5",
    "type": "public-key",
    "response": {
        "clientDataJSON": "e30",
        "attestationObject": "b2JqZWN0",
        "transports": ["internal"],
    },
}
PASSKEY = {
    "id": "01937b61-02aa-7f0e-8c11-5f0d7e2b9a45",
    "name": "Chrome on Windows",
    "created_at": "2026-11-02T09:15:00.250000Z",
    "last_used_at": "2026-11-23T17:58:00.500000Z",
    "is_backed_up": True,
    "transports": ["hybrid", "internal"],
}
USER = {
    "id": "01936f2a-7c4e-7b1d-9a57-3f6b2c1d4e5f",
    "email": "ada@example.com",
    "email_verified": True,
    "first_name": "Ada",
    "last_name": "Lovelace",
    "phone_number": "+442079460958",
    "is_active": True,
    "is_superuser": False,
    "created_at": "2026-11-02T09:15:00.250000Z",
    "updated_at": "2026-11-02T09:15:00.250000Z",
}
EMAIL_VERIFIED = {
    "type": "boolean",
    "description": "Whether the owner of the account has shown to read the mail of this address. Trust the"
    " address with nothing before.",
}
SESSION = {
    "id": "01937b61-02aa-7f0e-8c11-5f0d7e2b9a43",
    "device_name": "Chrome on Windows",
    "device_id": None,
    "ip_address": "203.0.113.7",
    "location_city": None,
    "location_country": "United Kingdom",
    "last_used_at": "2026-11-23T18:04:00.125000Z",
    "created_at": "2026-11-02T09:15:00.250000Z",
    "expires_at": "2026-11-30T18:04:00.125000Z",
    "browser": "Chrome",
    "os": "Windows",
    "device_type": "desktop",
    "is_current": True,
    "aal": 2,
    "amr": ["pwd", "otp", "mfa"],
    "authenticated_at": "2026-11-23T17:58:00.500000Z",
}


def text(most: int | None = None, **keywords: Any) -> dict[str, Any]:
    return {"type": "string"} | ({"maxLength": most} if most else {}) | keywords


def or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _object(description: str, properties: dict[str, Any], **keywords: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": list(properties),
        "properties": properties,
        **keywords,
    }


SCHEMAS: dict[str, dict[str, Any]] = {
    "User": _object(
        "An account.",
        {
            "id": ID,
            "email": text(MAX_EMAIL, format="email"),
            "email_verified": EMAIL_VERIFIED,
            "first_name": text(MAX_NAME),
            "last_name": or_null(text(MAX_NAME)),
            "phone_number": or_null(text(MAX_PHONE)),
            "is_active": {"type": "boolean", "description": "Whether it may sign in."},
            "is_superuser": {
                "type": "boolean",
                "description": "For the product behind: nothing in this service reads it, and only"
                " `flask create-user --superuser` sets it.",
            },
            "created_at": TIME,
            "updated_at": TIME,
        },
        examples=[USER],
    ),
    "Email": _object(
        "The address of an account.",
        {
            "email": text(MAX_EMAIL, format="email"),
            "email_verified": EMAIL_VERIFIED,
            "pending_email": or_null(text(MAX_EMAIL, format="email")),
            "pending_expires_at": or_null(TIME),
        },
        examples=[
            {
                "email": "ada@example.com",
                "email_verified": True,
                "pending_email": "ada.lovelace@example.com",
                "pending_expires_at": "2026-11-24T18:04:00.125000Z",
            }
        ],
    ),
    "Session": _object(
        "A device on which the user is signed in. All that it tells of itself is hearsay.",
        {
            "id": ID,
            "device_name": text(
                MAX_DEVICE_NAME,
                description="The name that the user gave, or what a person would call the device.",
            ),
            "device_id": or_null(
                text(MAX_DEVICE_ID, description="What the client sent as X-Device-Id.")
            ),
            "ip_address": or_null(text(description="IPv4 or IPv6.")),
            "location_city": or_null(text(description="Where the address seems to be.")),
            "location_country": or_null(text(description="Where the address seems to be.")),
            "last_used_at": TIME
            | {"description": "Noted at each refresh, and else at most once a minute. In UTC."},
            "created_at": TIME,
            "expires_at": TIME
            | {"description": "Seven days after the last refresh, at most 30 after signing in."},
            "browser": or_null(text()),
            "os": or_null(text()),
            "device_type": {"type": "string", "enum": list(DEVICE_TYPES)},
            "is_current": {
                "type": "boolean",
                "description": "Whether it is the session of the access token that asks.",
            },
            "aal": {
                "type": "integer",
                "enum": [1, 2],
                "description": "Authenticator assurance level (NIST SP 800-63B-4): 2 after a second step.",
            },
            "amr": {
                "type": "array",
                "items": text(),
                "description": "How its user signed in, in the words of RFC 8176.",
            },
            "authenticated_at": or_null(TIME)
            | {
                "description": "When its user last proved who they are, in UTC. Null for sessions of this"
                " API, whose access token says it as auth_time, and where a browser that is trusted was"
                " not asked."
            },
        },
        examples=[SESSION],
    ),
    "SessionList": _object(
        "The live sessions of the user.",
        {
            "sessions": {"type": "array", "items": "Session"},
            "total": {"type": "integer", "minimum": 0},
        },
        examples=[{"sessions": [SESSION], "total": 1}],
    ),
    "Tokens": _object(
        "Both tokens of a session. Store them together, and replace them together.",
        {
            "access_token": text(description="For the Authorization header, for 15 minutes."),
            "refresh_token": text(
                description="For POST /api/v1/auth/refresh, once, for 7 days; 30 days after signing in"
                " there is no more refreshing."
            ),
            "token_type": {"type": "string", "const": "bearer"},
            "expires_in": {
                "type": "integer",
                "description": "Seconds for which the access token is good.",
            },
        },
        examples=[
            {
                "access_token": TOKEN,
                "refresh_token": TOKEN,
                "token_type": "bearer",
                "expires_in": 900,
            }
        ],
    ),
    "Export": _object(
        "All that is held of a person.",
        {
            "format": {"type": "string", "const": "authsite-export/1"},
            "exported_at": TIME,
            "about": {
                "type": "object",
                "description": "What the data is for, how long it is kept and where it came from.",
            },
            "account": {"type": "object"},
            "passkeys": {"type": "array", "items": {"type": "object"}},
            "authenticator_apps": {"type": "array", "items": {"type": "object"}},
            "trusted_browsers": {"type": "array", "items": {"type": "object"}},
            "password_resets": {"type": "array", "items": {"type": "object"}},
            "email_changes": {"type": "array", "items": {"type": "object"}},
            "sessions": {"type": "array", "items": {"type": "object"}},
            "activity": {"type": "array", "items": {"type": "object"}},
            "counts": {
                "type": "object",
                "description": "The lengths of the lists.",
                "additionalProperties": {"type": "integer"},
            },
        },
    ),
    "Activity": _object(
        "What happened in an account.",
        {
            "events": {
                "type": "array",
                "items": _object(
                    "One act.",
                    {
                        "id": ID,
                        "kind": text(enum=list(EVENT_KINDS)),
                        "created_at": TIME,
                        "session_id": or_null(ID) | {"description": "The session that acted."},
                        "device_name": or_null(text(description="The device that acted.")),
                        "ip_address": or_null(text()),
                        "location_country": or_null(text()),
                        "target": or_null(text(description="What was acted on.")),
                        "is_current": {
                            "type": "boolean",
                            "description": "Whether the session of the access token acted.",
                        },
                    },
                ),
            },
            "next": or_null(ID)
            | {"description": "Send it as `before` to go on; null: that was all."},
        },
        examples=[
            {
                "events": [
                    {
                        "id": "01937b61-02aa-7f0e-8c11-5f0d7e2b9a44",
                        "kind": "device_signed_out",
                        "created_at": "2026-11-23T18:04:00.125000Z",
                        "session_id": SESSION["id"],
                        "device_name": "Chrome on Windows",
                        "ip_address": "203.0.113.7",
                        "location_country": "United Kingdom",
                        "target": "Firefox on Linux",
                        "is_current": True,
                    }
                ],
                "next": None,
            }
        ],
    ),
    "StepUp": _object(
        "Whether the access token is fresh, and what makes it so.",
        {
            "fresh_until": or_null(TIME) | {"description": "In UTC, ending in Z; null: it is not."},
            "max_age": {"type": "integer", "description": "Seconds for which a proof counts."},
            "methods": {
                "type": "array",
                "items": text(enum=["password", "otp", "recovery_code", "webauthn"]),
                "description": "What POST /api/v1/auth/step-up takes: the password, or a code of one of these"
                " kinds, or what a passkey answers to `publicKey`, which is there with `webauthn`.",
            },
        },
        examples=[{"fresh_until": "2026-11-23T18:14:00Z", "max_age": 600, "methods": ["password"]}],
    ),
    "FreshToken": _object(
        "A fresh access token of the same session.",
        {
            "access_token": text(description="For the Authorization header, for 15 minutes."),
            "token_type": {"type": "string", "const": "bearer"},
            "expires_in": {
                "type": "integer",
                "description": "Seconds for which the access token is good.",
            },
            "fresh_until": TIME,
        },
        examples=[
            {
                "access_token": TOKEN,
                "token_type": "bearer",
                "expires_in": 900,
                "fresh_until": "2026-11-23T18:14:00Z",
            }
        ],
    ),
    "TwoStep": _object(
        "What there is of a second step.",
        {
            "enabled_since": or_null(TIME)
            | {"description": "In UTC, ending in Z; null: two-step sign-in is off."},
            "app": {
                "type": ["object", "null"],
                "description": "The authenticator app, if there is one.",
                "required": ["created_at", "last_used_at"],
                "properties": {"created_at": TIME, "last_used_at": or_null(TIME)},
            },
            "recovery_codes_left": {"type": "integer", "minimum": 0, "maximum": 10},
            "recovery_set_id": or_null(ID),
            "passkeys": {"type": "integer", "minimum": 0},
            "trusted_browsers": {
                "type": "integer",
                "minimum": 0,
                "description": "How many skip the second step.",
            },
        },
        examples=[
            {
                "enabled_since": "2026-11-02T09:30:00.250000Z",
                "app": {"created_at": "2026-11-02T09:30:00.250000Z", "last_used_at": None},
                "recovery_codes_left": 8,
                "recovery_set_id": SET_ID,
                "passkeys": 0,
                "trusted_browsers": 1,
            }
        ],
    ),
    "Passkey": _object(
        "A passkey of the user.",
        {
            "id": ID,
            "name": text(MAX_PASSKEY_NAME),
            "created_at": TIME,
            "last_used_at": or_null(TIME),
            "is_backed_up": {
                "type": "boolean",
                "description": "Whether a password manager keeps it; else it is on one device only.",
            },
            "transports": {
                "type": "array",
                "items": text(),
                "description": "How a browser may reach it.",
            },
        },
        examples=[PASSKEY],
    ),
    "Passkeys": _object(
        "The user's passkeys, oldest first.",
        {"passkeys": {"type": "array", "items": "Passkey"}},
        examples=[{"passkeys": [PASSKEY]}],
    ),
    "PasskeyOptions": _object(
        "What to hand to the browser.",
        {
            "publicKey": {
                "type": "object",
                "description": "For `PublicKeyCredential.parseRequestOptionsFromJSON`, and its result for"
                " `navigator.credentials.get` (WebAuthn Level 3).",
            }
        },
        examples=[{"publicKey": REQUEST_OPTIONS}],
    ),
    "NewPasskeyOptions": _object(
        "What to hand to the browser.",
        {
            "publicKey": {
                "type": "object",
                "description": "For `PublicKeyCredential.parseCreationOptionsFromJSON`, and its result for"
                " `navigator.credentials.create` (WebAuthn Level 3).",
            }
        },
        examples=[{"publicKey": CREATION_OPTIONS}],
    ),
    "AppSetup": _object(
        "What an authenticator app needs (RFC 6238: SHA-1, 6 digits, 30 seconds).",
        {
            "secret": text(description="In base 32, to be typed."),
            "uri": text(format="uri", description="otpauth:, to be shown as a QR code."),
            "setup_token": text(description="For the call that finishes it."),
            "expires_in": {
                "type": "integer",
                "description": "Seconds until it has to be finished.",
            },
        },
        examples=[
            {
                "secret": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
                "uri": "otpauth://totp/authsite:ada%40example.com?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
                "&issuer=authsite",
                "setup_token": SETUP_TOKEN,
                "expires_in": 900,
            }
        ],
    ),
    "RecoveryCodes": _object(
        "Recovery codes, shown once: each signs in once in place of the app.",
        {
            "recovery_codes": {
                "type": ["array", "null"],
                "items": text(),
                "description": "Null where none were made.",
            },
            "set_id": or_null(ID) | {"description": "Names the current set; null: there is none."},
        },
        examples=[{"recovery_codes": ["k7qd2x-mp93ta-vhe8rn-4cwz6j"], "set_id": SET_ID}],
    ),
    "Message": _object(
        "It is done.",
        {"success": {"type": "boolean", "const": True}, "message": text()},
        examples=[{"success": True, "message": "Logged out successfully"}],
    ),
    "Problem": _object(
        "A refusal (RFC 9457).",
        {
            "type": text(format="uri", description="Leads to what the code means."),
            "title": text(description="The name of the status."),
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": text(description="What went wrong, for people."),
            "instance": text(format="uri-reference", description="The path that was asked."),
            "success": {"type": "boolean", "const": False},
            "request_id": text(description="What the header X-Request-Id has."),
            "errors": {
                "type": "array",
                "minItems": 1,
                "description": "One for each input at fault; only one where no input is.",
                "items": _object(
                    "What is wrong.",
                    {
                        "code": {
                            "type": "string",
                            "enum": list(CODES),
                            "description": "Stable, for programs.",
                        },
                        "message": text(description="For people."),
                        "field": or_null(text(description="The input at fault, if it is one.")),
                    },
                ),
            },
        },
    ),
    "OAuthProblem": {
        "description": "A refusal that OAuth libraries understand as well (RFC 6749 §5.2).",
        "allOf": [
            "Problem",
            _object(
                "The members of OAuth.",
                {
                    "error": {
                        "type": "string",
                        "enum": [
                            "invalid_request",
                            "invalid_client",
                            "invalid_grant",
                            "unsupported_grant_type",
                            "mfa_required",
                        ],
                    },
                    "error_description": text(),
                },
            ),
        ],
    },
    "Introspection": {
        "type": "object",
        "description": "Whose access token it is; of any other token `active: false` alone.",
        "required": ["active"],
        "properties": {
            "active": {"type": "boolean"},
            "token_type": {"type": "string", "const": "Bearer"},
            "iss": text(description="Who issued it."),
            "sub": ID | {"description": "The user's id."},
            "sid": ID | {"description": "The session's id, which the devices page shows."},
            "iat": {"type": "integer", "description": "Seconds since 1970."},
            "exp": {"type": "integer", "description": "Seconds since 1970."},
            "client_id": text(description="The service that asks."),
        },
        "examples": [
            {
                "active": True,
                "token_type": "Bearer",
                "iss": "authsite",
                "sub": USER["id"],
                "sid": SESSION["id"],
                "iat": 1_795_716_240,
                "exp": 1_795_717_140,
                "client_id": "billing",
            }
        ],
    },
    "Nothing": {"description": "It is done; the body is empty."},
    "Document": {"type": "object", "description": "An OpenAPI document."},
    "Page": {"type": "string", "description": "A page of HTML."},
}

SCHEMAS["Deletion"] = _object(
    "Every session has ended, this one included.",
    SCHEMAS["Message"]["properties"]
    | {"delete_after": or_null(TIME) | {"description": "From when on it is deleted; null: it is."}},
    examples=[
        {
            "success": True,
            "message": "Account will be deleted",
            "delete_after": "2026-12-03T18:04:00.125000Z",
        }
    ],
)
_MESSAGE, _TOKENS = SCHEMAS["Message"], SCHEMAS["Tokens"]
SCHEMAS["MessageAndTokens"] = _object(
    "It is done, and the session goes on with these tokens.",
    _MESSAGE["properties"] | _TOKENS["properties"],
    examples=[
        {"success": True, "message": "Password changed successfully"} | _TOKENS["examples"][0]
    ],
)

HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "Names this request in our log: the id that the client sent, else one of ours.",
        "required": True,
        "schema": text(pattern="^[A-Za-z0-9-]{20,200}$"),
    },
    "RateLimit": {
        "description": 'What is left (r) and the seconds until more is (t): `"login";r=9;t=60`.'
        " Absent where the request was refused before it was counted.",
        "schema": text(),
    },
    "RateLimit-Policy": {
        "description": 'The limit (q) for so many seconds (w): `"login";q=10;w=60`.',
        "schema": text(),
    },
    "Retry-After": {
        "description": "Whole seconds to wait.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": 'Bearer; with error="invalid_token" if a token came and is not good (RFC 6750), with'
        ' error="insufficient_user_authentication" and max_age, with two-step sign-in also'
        ' acr_values="aal2", if it is not fresh (RFC 9470). Basic for services.',
        "required": True,
        "schema": text(pattern="^(Bearer|Basic)"),
    },
    "ETag": {"description": "Changes with the document.", "schema": text()},
}
HEADERS_OF_STATUS = {
    HTTPStatus.UNAUTHORIZED: ["WWW-Authenticate"],
    HTTPStatus.TOO_MANY_REQUESTS: ["Retry-After"],
    HTTPStatus.SERVICE_UNAVAILABLE: ["Retry-After"],
}

PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "X-Request-Id": (
        "header",
        {
            "description": "An id for this request, 20 to 200 letters, digits and hyphens. Any other is"
            " replaced by one of ours.",
            "schema": text(),
            "example": "3f6b2c1d-4e5f-4a57-9b1d-7c4e01936f2a",
        },
    ),
    "X-Device-Id": (
        "header",
        {
            "description": "An id that the client chose for this device and keeps, of printable ASCII. A"
            " label, not a secret. Signing in again with it ends the device's older session.",
            "schema": text(MAX_DEVICE_ID, minLength=1, pattern="^[!-~]([ -~]*[!-~])?$"),
            "example": "kitchen-laptop",
        },
    ),
    "limit": (
        "query",
        {
            "description": "How many events to answer at most.",
            "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50},
        },
    ),
    "before": (
        "query",
        {"description": "Only what happened before the event of this id.", "schema": ID},
    ),
    "kind": (
        "query",
        {"description": "Only events of this kind.", "schema": text(enum=list(EVENT_KINDS))},
    ),
    "session_id": (
        "path",
        {
            "description": "The id of one of your sessions. Text that is no id names none: 404.",
            "schema": ID,
            "example": SESSION["id"],
        },
    ),
    "passkey_id": (
        "path",
        {
            "description": "The id of one of your passkeys. Text that is no id names none: 404.",
            "schema": ID,
            "example": PASSKEY["id"],
        },
    ),
}
