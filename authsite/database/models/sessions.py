"""Signed-in devices."""

import uuid
from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    Uuid,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime
from .checks import one_of

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
    "not_me",
    "email_undone",
    "account_deleted",
)
# A device whose session ended like this may be a thief's: it is new again at its next sign-in.
DISTRUSTED_ENDS = (
    *("password_changed", "password_reset", "revoked", "reuse_detected", "not_me"),
    *("email_undone", "account_deleted"),
)
ENTRANCES = ("page", "api", "oauth")
# How its user proved who they are; with `trusted` the browser's cookie stood for the second step.
WAYS_TO_SIGN_IN = (
    "password",
    "password+app",
    "password+recovery",
    "password+passkey",
    "password+trusted",
    "passkey",
)
DEVICE_TYPES = ("desktop", "mobile", "tablet", "tv", "console", "bot", "cli", "other")


class UserSession(Base):
    """One signed-in device, from sign-in to 30 days after its end.

    It is live while `ended_at` is NULL, `expires_at` is ahead and its user is active.
    """

    __tablename__ = "user_sessions"
    __table_args__ = (
        CheckConstraint(one_of("end_reason", END_REASONS), name="end_reason"),
        CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended"),
        CheckConstraint(one_of("entrance", ENTRANCES), name="entrance"),
        CheckConstraint(one_of("device_type", DEVICE_TYPES), name="device_type"),
        CheckConstraint(one_of("signed_in_with", WAYS_TO_SIGN_IN), name="signed_in_with"),
        CheckConstraint("(bound_key IS NULL) = (bound_at IS NULL)", name="bound"),
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
    # The rotation, named by its time, of which nothing has been used yet: a client may have lost the answer.
    unused_rotation_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # Of a browser session: SHA-256 of the cookie's 256-bit secret.
    cookie_digest: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    # Of one that is bound: the point of its browser's key on P-256, and since when it is.
    bound_key: Mapped[bytes | None] = mapped_column(LargeBinary(64))
    bound_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # When the last challenge was made that the key has signed: that one and all before are used up.
    key_proved_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # When its owner was last told that it was used without a proof.
    unproven_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    is_remembered: Mapped[bool] = mapped_column(default=True, server_default=true())
    signed_in_with: Mapped[str] = mapped_column(
        String(20), default="password", server_default="password"
    )
    # Of a browser session: when its user last proved who they are. An API session's access token says it.
    authenticated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
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
    # Of a browser session: the origins of the products that it was handed to, the first one first.
    products: Mapped[str | None] = mapped_column(Text)
    # The name of the device that ended it, where that was another one.
    ended_from: Mapped[str | None] = mapped_column(String(MAX_DEVICE_NAME))
