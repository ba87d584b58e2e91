"""What a clean-up looks for is found without reading the table."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

INDEXES = (
    ("password_resets", "expires_at"),
    ("trusted_browsers", "expires_at"),
    ("mail_quotas", "window_ends_at"),
    ("email_changes", "created_at"),
)


def upgrade() -> None:
    for table, column in INDEXES:
        op.create_index(f"ix_{table}_{column}", table, [column])


def downgrade() -> None:
    for table, column in INDEXES:
        op.drop_index(f"ix_{table}_{column}", table)
