"""Browser sessions that are bound to a key which stays in the browser."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

COLUMNS = (
    ("bound_key", sa.LargeBinary(64)),
    ("bound_at", sa.DateTime(timezone=True)),
    ("key_proved_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    with op.batch_alter_table("user_sessions") as sessions:
        for name, kind in COLUMNS:
            sessions.add_column(sa.Column(name, kind, nullable=True))
        sessions.create_check_constraint("bound", "(bound_key IS NULL) = (bound_at IS NULL)")


def downgrade() -> None:
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.drop_constraint("bound", type_="check")
        for name, _ in COLUMNS:
            sessions.drop_column(name)
