"""Accounts that are to be deleted, and the mail that says that one was."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

REASONS_BEFORE = (
    *("logged_out", "revoked", "password_changed", "password_reset", "reuse_detected"),
    *("deactivated", "replaced", "evicted", "not_me", "email_undone"),
)
IS_DUE_ONCE = sa.text("delete_after IS NOT NULL")
IS_CLOSED = "delete_after IS NULL OR NOT is_active"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        # Where the table is made anew for its check, dropping the old one deletes all that refers to it.
        op.execute(
            f"ALTER TABLE users ADD COLUMN delete_after DATETIME"
            f" CONSTRAINT ck_users_deletion CHECK ({IS_CLOSED})"
        )
    else:
        op.add_column("users", sa.Column("delete_after", sa.DateTime(timezone=True), nullable=True))
        op.create_check_constraint("deletion", "users", IS_CLOSED)
    op.create_index(
        "ix_users_delete_after",
        "users",
        ["delete_after"],
        postgresql_where=IS_DUE_ONCE,
        sqlite_where=IS_DUE_ONCE,
    )
    with op.batch_alter_table("outgoing_mails") as mails:
        mails.add_column(sa.Column("recipient", sa.String(length=254), nullable=True))
        mails.create_check_constraint("one_recipient", "user_id IS NULL OR recipient IS NULL")
    _allow(*REASONS_BEFORE, "account_deleted")


def downgrade() -> None:
    op.execute(
        "UPDATE user_sessions SET end_reason = 'deactivated' WHERE end_reason = 'account_deleted'"
    )
    _allow(*REASONS_BEFORE)
    op.execute("DELETE FROM outgoing_mails WHERE recipient IS NOT NULL")
    with op.batch_alter_table("outgoing_mails") as mails:
        mails.drop_constraint("one_recipient", type_="check")
        mails.drop_column("recipient")
    op.drop_index("ix_users_delete_after", "users")
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("deletion", "users", type_="check")
    op.drop_column("users", "delete_after")


def _allow(*reasons: str) -> None:
    words = ", ".join(f"'{each}'" for each in reasons)
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.drop_constraint("end_reason", type_="check")
        sessions.create_check_constraint("end_reason", f"end_reason IN ({words})")
