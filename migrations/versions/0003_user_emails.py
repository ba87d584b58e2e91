"""Whose an address is: the one place where it is unique."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "user_emails",
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("kept_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_user_emails_user_id_users", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("email", name="pk_user_emails"),
    )
    # Who registers meanwhile, with the code of the release before, gets a row later: `accounts.adopt`.
    op.execute("INSERT INTO user_emails (email, user_id) SELECT email, id FROM users")
    op.create_index("ix_user_emails_user_id", "user_emails", ["user_id"])


def downgrade() -> None:
    op.drop_index("ix_user_emails_user_id", "user_emails")
    op.drop_table("user_emails")
