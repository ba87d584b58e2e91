"""Accounts, and the requests for a new password."""

import uuid
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    Uuid,
    false,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime

MAX_EMAIL = 254
MAX_NAME = 100
MAX_PHONE = 32


class User(Base):
    __tablename__ = "users"
    __table_args__ = (CheckConstraint("delete_after IS NULL OR NOT is_active", name="deletion"),)

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    # As it is shown. Its own constraint is for code of the release before, which knows no user_emails.
    email: Mapped[str] = mapped_column(String(MAX_EMAIL), unique=True)
    # Since when the address is known to be read by the account's owner. NULL: anybody may have typed it.
    email_verified_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    first_name: Mapped[str] = mapped_column(String(MAX_NAME))
    last_name: Mapped[str | None] = mapped_column(String(MAX_NAME))
    phone_number: Mapped[str | None] = mapped_column(String(MAX_PHONE))
    password_hash: Mapped[str] = mapped_column(String(255))
    # Moves whenever the password does, not when its hash is renewed: a sign-in that verified an older
    # password is refused when it comes to write its session.
    password_changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # Since when a sign-in needs a second step; while it is set an app or a passkey exists. NULL: off.
    two_step_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    is_active: Mapped[bool] = mapped_column(default=True, server_default=true())
    # From when on all that is the user's may go; until then its owner can keep it. NULL: it stays.
    delete_after: Mapped[datetime | None] = mapped_column(UtcDateTime)
    is_superuser: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


Index(
    "ix_users_delete_after",
    User.delete_after,
    postgresql_where=User.delete_after.is_not(None),
    sqlite_where=User.delete_after.is_not(None),
)


class UserEmail(Base):
    """Whose an address is. This primary key is what makes it unique; `users.email` only shows it.

    An address that was given up stays its account's until `kept_until`, for its owner may undo the change.
    """

    __tablename__ = "user_emails"

    email: Mapped[str] = mapped_column(String(MAX_EMAIL), primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    kept_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


_IS_KEPT = UserEmail.kept_until.is_not(None)
# For the clean-up: of all addresses few are kept.
Index(
    "ix_user_emails_kept_until",
    UserEmail.kept_until,
    postgresql_where=_IS_KEPT,
    sqlite_where=_IS_KEPT,
)


class Account(NamedTuple):
    """What may be shown of a user: never the password's hash."""

    id: uuid.UUID
    email: str
    email_verified_at: datetime | None
    first_name: str
    last_name: str | None
    phone_number: str | None
    is_active: bool
    is_superuser: bool
    created_at: datetime
    updated_at: datetime

    def public(self) -> dict[str, Any]:
        """Return the account as its owner, and the products it is told to, may see it."""
        members = self._asdict()
        verified_at = members.pop("email_verified_at")
        head = {name: members.pop(name) for name in ("id", "email")}
        return head | {"email_verified": verified_at is not None} | members


ACCOUNT_COLUMNS = [User.__table__.c[name] for name in Account._fields]


class PasswordReset(Base):
    """One request for a reset. Its link is the signed id, so a copy of this table opens nothing."""

    __tablename__ = "password_resets"
    __table_args__ = (
        Index("ix_password_resets_user_id_created_at", "user_id", "created_at"),
        Index("ix_password_resets_expires_at", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # NULL while the link works; used, superseded and overtaken links have it.
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
