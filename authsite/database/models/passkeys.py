"""Passkeys."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime

MAX_CREDENTIAL_ID = 1023  # WebAuthn §4
MAX_PASSKEY_NAME = 64
MAX_TRANSPORTS = 64


class Passkey(Base):
    """The public half of a key that its owner's device or password manager keeps (WebAuthn Level 3)."""

    __tablename__ = "passkeys"
    __table_args__ = (Index("ix_passkeys_user_id", "user_id"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    credential_id: Mapped[bytes] = mapped_column(LargeBinary(MAX_CREDENTIAL_ID), unique=True)
    # As COSE_Key (RFC 9052 §7), which names its algorithm.
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    # The highest that was seen; 0 for the many that do not count.
    sign_count: Mapped[int] = mapped_column(BigInteger)
    # Which model made it, by its own word.
    aaguid: Mapped[bytes] = mapped_column(LargeBinary(16))
    # How it can be reached, in WebAuthn's words with spaces between.
    transports: Mapped[str] = mapped_column(String(MAX_TRANSPORTS))
    # Whether it may be copied to other devices of its owner, which never changes, and whether it is.
    is_backup_eligible: Mapped[bool]
    is_backed_up: Mapped[bool]
    name: Mapped[str] = mapped_column(String(MAX_PASSKEY_NAME))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
