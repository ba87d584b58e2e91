"""Changes of an account's address, which can be undone."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

REASONS_BEFORE = (
    *("logged_out", "revoked", "password_changed", "password_reset", "reuse_detected"),
    *("deactivated", "replaced", "evicted", "not_me"),
)
IS_PENDING = sa.text("confirmed_at IS NULL AND ended_at IS NULL")
IS_KEPT = sa.text("kept_until IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "email_changes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("old_email", sa.String(length=254), nullable=False),
        sa.Column("new_email", sa.String(length=254), nullable=False),
        sa.Column("old_was_verified", sa.Boolean(), nullable=False),
        sa.Column("device_name", sa.String(length=64), nullable=True),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("undo_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_email_changes_user_id_users", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_email_changes"),
    )
    op.create_index(
        "uq_email_changes_pending",
        "email_changes",
        ["user_id"],
        unique=True,
        postgresql_where=IS_PENDING,
        sqlite_where=IS_PENDING,
    )
    op.create_index(
        "ix_email_changes_user_id_created_at", "email_changes", ["user_id", "created_at"]
    )
    op.create_index(
        "ix_email_changes_new_email_created_at", "email_changes", ["new_email", "created_at"]
    )
    op.create_index(
        "ix_user_emails_kept_until",
        "user_emails",
        ["kept_until"],
        postgresql_where=IS_KEPT,
        sqlite_where=IS_KEPT,
    )
    _allow(*REASONS_BEFORE, "email_undone")


def downgrade() -> None:
    op.execute("UPDATE user_sessions SET end_reason = 'not_me' WHERE end_reason = 'email_undone'")
    _allow(*REASONS_BEFORE)
    op.drop_index("ix_user_emails_kept_until", "user_emails")
    op.drop_table("email_changes")


def _allow(*reasons: str) -> None:
    words = ", ".join(f"'{each}'" for each in reasons)
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.drop_constraint("end_reason", type_="check")
        sessions.create_check_constraint("end_reason", f"end_reason IN ({words})")
