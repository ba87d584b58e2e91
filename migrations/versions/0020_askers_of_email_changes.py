"""Which session asked for a change of address: it ends with it."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("email_changes") as changes:
        changes.add_column(sa.Column("session_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("email_changes") as changes:
        changes.drop_column("session_id")
