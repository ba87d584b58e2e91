"""What stands beside the password: authenticator apps, recovery codes, browsers that are trusted."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime
from .sessions import MAX_DEVICE_ID, MAX_DEVICE_NAME, MAX_IP_ADDRESS


class AuthenticatorApp(Base):
    """The one app of a user: a second device is a passkey's job, and replacing is one overwrite."""

    __tablename__ = "authenticator_apps"

    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    # Sealed (crypto/sealing.py): a copy of this table makes no codes.
    secret: Mapped[bytes] = mapped_column(LargeBinary(64))
    # The number of the latest half minute whose code was used (RFC 6238 §4.2): none works twice.
    last_step: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class RecoveryCode(Base):
    """One of ten, as SHA-256 of user id and code: 120 random bits need neither salt nor work (ASVS 6.5.2)."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    set_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class TrustedBrowser(Base):
    """A browser that need not show the second step, as SHA-256 of user id and its cookie's 256-bit secret."""

    __tablename__ = "trusted_browsers"
    __table_args__ = (Index("ix_trusted_browsers_expires_at", "expires_at"),)

    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    device_id: Mapped[str | None] = mapped_column(String(MAX_DEVICE_ID))
    device_name: Mapped[str] = mapped_column(String(MAX_DEVICE_NAME))
    ip_address: Mapped[str | None] = mapped_column(String(MAX_IP_ADDRESS))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SpentToken(Base):
    """A signed thing that works once and has been used; gone once it would have expired anyway."""

    __tablename__ = "spent_tokens"
    __table_args__ = (Index("ix_spent_tokens_expires_at", "expires_at"),)

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
