"""Claims to an address that are no accounts yet."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime
from .users import MAX_EMAIL, MAX_NAME, MAX_PHONE


class Registration(Base):
    """What somebody typed to register, until the link that was mailed to the address comes back.

    Claims to one address live side by side, so nobody can keep it from its owner. The link is the signed id:
    a copy of this table makes no account.
    """

    __tablename__ = "registrations"
    __table_args__ = (
        Index("ix_registrations_email_created_at", "email", "created_at"),
        Index("ix_registrations_expires_at", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    email: Mapped[str] = mapped_column(String(MAX_EMAIL))
    password_hash: Mapped[str] = mapped_column(String(255))
    first_name: Mapped[str] = mapped_column(String(MAX_NAME))
    last_name: Mapped[str | None] = mapped_column(String(MAX_NAME))
    phone_number: Mapped[str | None] = mapped_column(String(MAX_PHONE))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
