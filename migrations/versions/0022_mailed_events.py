"""Of an act that is mailed sometimes, whether it was."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("account_events") as events:
        events.add_column(sa.Column("is_mailed", sa.Boolean(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("account_events") as events:
        events.drop_column("is_mailed")
