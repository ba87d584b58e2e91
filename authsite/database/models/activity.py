"""What happened in an account."""

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime
from .checks import one_of
from .sessions import MAX_DEVICE_NAME, MAX_IP_ADDRESS

# A new kind is a word here and a migration that writes the check anew.
EVENT_KINDS = (
    *("registered", "email_verified", "signed_in", "sign_in_failed", "sign_in_blocked"),
    *("signed_out", "device_signed_out", "devices_signed_out", "refresh_reused"),
    *("password_changed", "password_set", "password_reset_requested", "password_reset"),
    *("details_changed", "email_change_requested", "email_change_cancelled", "email_changed"),
    *("email_change_undone", "not_me_reported", "data_exported", "deletion_requested"),
    *("deletion_cancelled", "deactivated", "activated", "two_step_on", "two_step_off"),
    *("second_step_changed", "recovery_code_used", "passkey_added", "passkey_removed"),
    "key_not_proven",
    *("second_step_failed", "second_step_blocked"),
)


class AccountEvent(Base):
    """One act, written in its own transaction and never changed; it goes with the account or with time.

    Without device, session and address it was the operator's act.
    """

    __tablename__ = "account_events"
    __table_args__ = (
        CheckConstraint(one_of("kind", EVENT_KINDS), name="kind"),
        Index("ix_account_events_user_id_id", "user_id", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # The session that acted. No foreign key: the event outlives the row.
    session_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    device_name: Mapped[str | None] = mapped_column(String(MAX_DEVICE_NAME))
    ip_address: Mapped[str | None] = mapped_column(String(MAX_IP_ADDRESS))
    location_country: Mapped[str | None] = mapped_column(String(100))
    # What was acted on: a device, or an address with most of it hidden.
    target: Mapped[str | None] = mapped_column(String(64))
    # Of an act that is mailed sometimes, whether it was; NULL where its kind tells.
    is_mailed: Mapped[bool | None]
