"""Wrong codes are told to the owner of the account."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

BEFORE = (
    *("registered", "email_verified", "signed_in", "sign_in_failed", "sign_in_blocked"),
    *("signed_out", "device_signed_out", "devices_signed_out", "refresh_reused"),
    *("password_changed", "password_set", "password_reset_requested", "password_reset"),
    *("details_changed", "email_change_requested", "email_change_cancelled", "email_changed"),
    *("email_change_undone", "not_me_reported", "data_exported", "deletion_requested"),
    *("deletion_cancelled", "deactivated", "activated"),
    *("two_step_on", "two_step_off", "second_step_changed"),
    *("recovery_code_used", "passkey_added", "passkey_removed"),
    "key_not_proven",
)
ADDED = ("second_step_failed", "second_step_blocked")


def upgrade() -> None:
    _allow(*BEFORE, *ADDED)


def downgrade() -> None:
    op.execute(f"DELETE FROM account_events WHERE kind IN ({_quoted(*ADDED)})")  # noqa: S608
    _allow(*BEFORE)


def _allow(*kinds: str) -> None:
    with op.batch_alter_table("account_events") as events:
        events.drop_constraint("kind", type_="check")
        events.create_check_constraint("kind", f"kind IN ({_quoted(*kinds)})")


def _quoted(*words: str) -> str:
    return ", ".join(f"'{each}'" for each in words)
