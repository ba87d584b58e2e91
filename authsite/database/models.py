"""The tables. Verbs read and write them with statements; a row read is a plain, immutable Row.

Indexes are chosen for the hot paths: a request names its session by primary key, a rotation changes no
indexed column (PostgreSQL then updates in place, "HOT"), the list goes by (user_id, ended_at), and the
clean-up walks the primary key, which is ordered by time.
"""

import uuid
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Uuid,
    false,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from . import Base, UtcDateTime

MAX_EMAIL = 254
MAX_NAME = 100
MAX_PHONE = 32
MAX_DEVICE_NAME = 64
MAX_DEVICE_ID = 255
MAX_USER_AGENT = 512
MAX_IP_ADDRESS = 45

END_REASONS = (
    "logged_out",
    "revoked",
    "password_changed",
    "password_reset",
    "reuse_detected",
    "deactivated",
    "replaced",
    "evicted",
)
ENTRANCES = ("page", "api", "oauth")
DEVICE_TYPES = ("desktop", "mobile", "tablet", "tv", "console", "bot", "cli", "other")


def _one_of(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


class User(Base):
    __tablename__ = "users"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    email: Mapped[str] = mapped_column(String(MAX_EMAIL), unique=True)
    first_name: Mapped[str] = mapped_column(String(MAX_NAME))
    last_name: Mapped[str | None] = mapped_column(String(MAX_NAME))
    phone_number: Mapped[str | None] = mapped_column(String(MAX_PHONE))
    password_hash: Mapped[str] = mapped_column(String(255))
    # Moves whenever the password does, not when its hash is renewed: a sign-in that verified an older
    # password is refused when it comes to write its session.
    password_changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    is_active: Mapped[bool] = mapped_column(default=True, server_default=true())
    is_superuser: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Account(NamedTuple):
    """What may be shown of a user: never the password's hash. The User of CONTRACT §1."""

    id: uuid.UUID
    email: str
    first_name: str
    last_name: str | None
    phone_number: str | None
    is_active: bool
    is_superuser: bool
    created_at: datetime
    updated_at: datetime


ACCOUNT_COLUMNS = [User.__table__.c[name] for name in Account._fields]


class UserSession(Base):
    """One signed-in device, from sign-in to 30 days after its end.

    It is live while `ended_at` is NULL, `expires_at` is ahead and its user is active.
    """

    __tablename__ = "user_sessions"
    __table_args__ = (
        CheckConstraint(_one_of("end_reason", END_REASONS), name="end_reason"),
        CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended"),
        CheckConstraint(_one_of("entrance", ENTRANCES), name="entrance"),
        CheckConstraint(_one_of("device_type", DEVICE_TYPES), name="device_type"),
        CheckConstraint("(refresh_jti IS NULL) <> (cookie_digest IS NULL)", name="one_credential"),
        Index("ix_user_sessions_user_id_ended_at", "user_id", "ended_at"),
        # Room in each page for the next version of a row: rotations stay in place.
        {"postgresql_with": {"fillfactor": 90}},
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    entrance: Mapped[str] = mapped_column(String(8))
    # Of an API session: the id of the one refresh token that is good, and of the one before it.
    refresh_jti: Mapped[str | None] = mapped_column(String(32))
    previous_jti: Mapped[str | None] = mapped_column(String(32))
    rotated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # Of a browser session: SHA-256 of the cookie's 256-bit secret.
    cookie_digest: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    is_remembered: Mapped[bool] = mapped_column(default=True, server_default=true())
    device_name: Mapped[str] = mapped_column(String(MAX_DEVICE_NAME))
    given_name: Mapped[str | None] = mapped_column(String(MAX_DEVICE_NAME))
    browser: Mapped[str | None] = mapped_column(String(64))
    os: Mapped[str | None] = mapped_column(String(64))
    device_type: Mapped[str] = mapped_column(String(16))
    device_id: Mapped[str | None] = mapped_column(String(MAX_DEVICE_ID))
    ip_address: Mapped[str | None] = mapped_column(String(MAX_IP_ADDRESS))
    user_agent: Mapped[str | None] = mapped_column(String(MAX_USER_AGENT))
    location_city: Mapped[str | None] = mapped_column(String(100))
    location_country: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # The second clock: nothing moves it.
    absolute_expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    end_reason: Mapped[str | None] = mapped_column(String(20))
    # The name of the device that ended it, where that was another one.
    ended_from: Mapped[str | None] = mapped_column(String(MAX_DEVICE_NAME))


class PasswordReset(Base):
    """One request for a reset. Its link is the signed id, so a copy of this table opens nothing."""

    __tablename__ = "password_resets"
    __table_args__ = (Index("ix_password_resets_user_id_created_at", "user_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # NULL while the link works; used, superseded and overtaken links have it.
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class OutgoingMail(Base):
    """A mail that waits. It is written out when it is sent: neither words, link nor address stand here."""

    __tablename__ = "outgoing_mails"
    __table_args__ = (Index("ix_outgoing_mails_due_at", "due_at"),)

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    name: Mapped[str] = mapped_column(String(32))
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # When it may be tried; a drainer that takes it moves this ahead, which is its lease.
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")


class SignInFailures(Base):
    """Wrong passwords for one address, whether or not an account has it (SECURITY LT-04 to LT-06)."""

    __tablename__ = "sign_in_failures"
    __table_args__ = (Index("ix_sign_in_failures_window_ends_at", "window_ends_at"),)

    # A keyed digest: the table does not tell which addresses have been tried.
    key: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    recent: Mapped[int]
    window_ends_at: Mapped[datetime] = mapped_column(UtcDateTime)
    consecutive: Mapped[int]
