"""Claims to an address that are no accounts yet, and mails to people who have none."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "registrations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("first_name", sa.String(length=100), nullable=False),
        sa.Column("last_name", sa.String(length=100), nullable=True),
        sa.Column("phone_number", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registrations"),
    )
    op.create_index("ix_registrations_email_created_at", "registrations", ["email", "created_at"])
    op.create_index("ix_registrations_expires_at", "registrations", ["expires_at"])
    with op.batch_alter_table("outgoing_mails") as mails:
        mails.alter_column("user_id", existing_type=sa.Uuid(), nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM outgoing_mails WHERE user_id IS NULL")
    with op.batch_alter_table("outgoing_mails") as mails:
        mails.alter_column("user_id", existing_type=sa.Uuid(), nullable=False)
    op.drop_index("ix_registrations_expires_at", "registrations")
    op.drop_index("ix_registrations_email_created_at", "registrations")
    op.drop_table("registrations")
