"""Mails that wait."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    Uuid,
)
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime
from .users import MAX_EMAIL


class OutgoingMail(Base):
    """A mail that waits. It is written out when it is sent: neither words nor a link stand here."""

    __tablename__ = "outgoing_mails"
    __table_args__ = (
        CheckConstraint("user_id IS NULL OR recipient IS NULL", name="one_recipient"),
        Index("ix_outgoing_mails_due_at", "due_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    # NULL where there is no account yet: the facts then name the registration that it goes to.
    user_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    # Of the last mail of all, whose user is gone; it stands here for as long as that waits.
    recipient: Mapped[str | None] = mapped_column(String(MAX_EMAIL))
    name: Mapped[str] = mapped_column(String(32))
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # When it may be tried; a drainer that takes it moves this ahead, which is its lease.
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
