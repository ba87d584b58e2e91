"""Changes of an account's address."""

import uuid
from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, and_
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime
from .sessions import MAX_DEVICE_NAME, MAX_IP_ADDRESS
from .users import MAX_EMAIL


class EmailChange(Base):
    """One change of address: asked for, confirmed, and undone or beyond it.

    It waits while neither `confirmed_at` nor `ended_at` is set and `expires_at` is ahead. It can be undone
    while it is confirmed, not ended, and `undo_until` is ahead. The links are the signed id and go to the
    addresses that stand here, whatever the account's is by then: a copy of this table changes nothing.
    """

    __tablename__ = "email_changes"
    __table_args__ = (
        Index("ix_email_changes_user_id_created_at", "user_id", "created_at"),
        Index("ix_email_changes_new_email_created_at", "new_email", "created_at"),
        Index("ix_email_changes_created_at", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    old_email: Mapped[str] = mapped_column(String(MAX_EMAIL))
    new_email: Mapped[str] = mapped_column(String(MAX_EMAIL))
    # Of one that is not: anybody may have typed it, so nobody there is told anything or may undo.
    old_was_verified: Mapped[bool]
    # Who asked; NULL for the operator. No foreign key: it outlives the session's row.
    session_id: Mapped[uuid.UUID | None]
    device_name: Mapped[str | None] = mapped_column(String(MAX_DEVICE_NAME))
    ip_address: Mapped[str | None] = mapped_column(String(MAX_IP_ADDRESS))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    confirmed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # NULL where there is nothing to undo it by.
    undo_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # Cancelled, overtaken, or undone.
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


_IS_PENDING = and_(EmailChange.confirmed_at.is_(None), EmailChange.ended_at.is_(None))
# Of two that are asked for at once one waits.
Index(
    "uq_email_changes_pending",
    EmailChange.user_id,
    unique=True,
    postgresql_where=_IS_PENDING,
    sqlite_where=_IS_PENDING,
)
