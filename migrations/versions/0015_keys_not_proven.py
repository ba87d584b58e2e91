"""When a bound session was last used without its key, and that this happens in an account."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

ADDED = "key_not_proven"
BEFORE = (
    *("registered", "email_verified", "signed_in", "sign_in_failed", "sign_in_blocked"),
    *("signed_out", "device_signed_out", "devices_signed_out", "refresh_reused"),
    *("password_changed", "password_set", "password_reset_requested", "password_reset"),
    *("details_changed", "email_change_requested", "email_change_cancelled", "email_changed"),
    *("email_change_undone", "not_me_reported", "data_exported", "deletion_requested"),
    *("deletion_cancelled", "deactivated", "activated", "two_step_on", "two_step_off"),
    *("second_step_changed", "recovery_code_used", "passkey_added", "passkey_removed"),
)


def upgrade() -> None:
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.add_column(sa.Column("unproven_at", sa.DateTime(timezone=True), nullable=True))
    _allow(*BEFORE, ADDED)


def downgrade() -> None:
    op.execute(f"DELETE FROM account_events WHERE kind = '{ADDED}'")  # noqa: S608
    _allow(*BEFORE)
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.drop_column("unproven_at")


def _allow(*kinds: str) -> None:
    words = ", ".join(f"'{each}'" for each in kinds)
    with op.batch_alter_table("account_events") as events:
        events.drop_constraint("kind", type_="check")
        events.create_check_constraint("kind", f"kind IN ({words})")
