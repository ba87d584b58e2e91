"""What happened in an account."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KINDS = (
    *("registered", "email_verified", "signed_in", "sign_in_failed", "sign_in_blocked"),
    *("signed_out", "device_signed_out", "devices_signed_out", "refresh_reused"),
    *("password_changed", "password_set", "password_reset_requested", "password_reset"),
    *("details_changed", "email_change_requested", "email_change_cancelled", "email_changed"),
    *("email_change_undone", "not_me_reported", "data_exported", "deletion_requested"),
    *("deletion_cancelled", "deactivated", "activated"),
)


def upgrade() -> None:
    kinds = ", ".join(f"'{kind}'" for kind in KINDS)
    op.create_table(
        "account_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=True),
        sa.Column("device_name", sa.String(length=64), nullable=True),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("location_country", sa.String(length=100), nullable=True),
        sa.Column("target", sa.String(length=64), nullable=True),
        sa.CheckConstraint(f"kind IN ({kinds})", name=op.f("ck_account_events_kind")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_account_events_user_id_users", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_account_events"),
    )
    op.create_index("ix_account_events_user_id_id", "account_events", ["user_id", "id"])


def downgrade() -> None:
    op.drop_table("account_events")
