"""How often it was tried."""

from datetime import datetime

from sqlalchemy import (
    Index,
    LargeBinary,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime


class SignInFailures(Base):
    """Wrong passwords for one address, whether or not an account has it (SECURITY LT-04 to LT-06).

    Wrong codes of an account and mails of one kind to one address are counted here too.
    """

    __tablename__ = "sign_in_failures"
    __table_args__ = (
        Index("ix_sign_in_failures_window_ends_at", "window_ends_at"),
        # The clean-up looks for these each day; the others, of a run of wrong ones, are kept for a month.
        Index(
            "ix_sign_in_failures_without_a_run",
            "window_ends_at",
            postgresql_where=text("consecutive = 0"),
            sqlite_where=text("consecutive = 0"),
        ),
    )

    # A keyed digest: the table does not tell which addresses have been tried.
    key: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    recent: Mapped[int]
    window_ends_at: Mapped[datetime] = mapped_column(UtcDateTime)
    consecutive: Mapped[int]
