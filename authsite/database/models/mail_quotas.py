"""How many mails a user has had."""

import uuid
from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime


class MailQuota(Base):
    """Mails of one kind to one user since the window began: others cause them, so there is a most of each."""

    __tablename__ = "mail_quotas"
    __table_args__ = (Index("ix_mail_quotas_window_ends_at", "window_ends_at"),)

    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    sent: Mapped[int]
    window_ends_at: Mapped[datetime] = mapped_column(UtcDateTime)
