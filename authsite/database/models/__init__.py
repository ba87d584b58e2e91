"""The tables. Verbs read and write them with statements; a row read is a plain, immutable Row.

Indexes are chosen for the hot paths: a request names its session by primary key, a rotation changes no
indexed column (PostgreSQL then updates in place, "HOT"), the list goes by (user_id, ended_at), and the
clean-up walks the primary key, which is ordered by time.
"""

from .activity import EVENT_KINDS, AccountEvent
from .email_changes import EmailChange
from .failures import SignInFailures
from .mail_quotas import MailQuota
from .mails import OutgoingMail
from .passkeys import MAX_CREDENTIAL_ID, MAX_PASSKEY_NAME, Passkey
from .registrations import Registration
from .second_steps import AuthenticatorApp, RecoveryCode, SpentToken, TrustedBrowser
from .sessions import (
    DEVICE_TYPES,
    DISTRUSTED_ENDS,
    END_REASONS,
    ENTRANCES,
    MAX_DEVICE_ID,
    MAX_DEVICE_NAME,
    MAX_IP_ADDRESS,
    MAX_USER_AGENT,
    WAYS_TO_SIGN_IN,
    UserSession,
)
from .users import (
    ACCOUNT_COLUMNS,
    MAX_EMAIL,
    MAX_NAME,
    MAX_PHONE,
    Account,
    PasswordReset,
    User,
    UserEmail,
)
from .webhooks import OutgoingEvent

__all__ = [
    "ACCOUNT_COLUMNS",
    "DEVICE_TYPES",
    "DISTRUSTED_ENDS",
    "END_REASONS",
    "ENTRANCES",
    "EVENT_KINDS",
    "MAX_CREDENTIAL_ID",
    "MAX_DEVICE_ID",
    "MAX_DEVICE_NAME",
    "MAX_EMAIL",
    "MAX_IP_ADDRESS",
    "MAX_NAME",
    "MAX_PASSKEY_NAME",
    "MAX_PHONE",
    "MAX_USER_AGENT",
    "WAYS_TO_SIGN_IN",
    "Account",
    "AccountEvent",
    "AuthenticatorApp",
    "EmailChange",
    "MailQuota",
    "OutgoingEvent",
    "OutgoingMail",
    "Passkey",
    "PasswordReset",
    "RecoveryCode",
    "Registration",
    "SignInFailures",
    "SpentToken",
    "TrustedBrowser",
    "User",
    "UserEmail",
    "UserSession",
]
