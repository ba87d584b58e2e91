"""The rotation of which nothing has been used yet."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Empty: of what was rotated before, nobody knows whether it was used.
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.add_column(
            sa.Column("unused_rotation_at", sa.DateTime(timezone=True), nullable=True)
        )


def downgrade() -> None:
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.drop_column("unused_rotation_at")
