"""When the user of a browser session last proved who they are."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The most that STEP_UP_MINUTES may be: what signed in before is not fresh either way, and no million rows
# are written, and locked until the commit, for a value that nothing would read.
COUNTS_FOR = timedelta(minutes=15)

SESSIONS = sa.table(
    "user_sessions",
    sa.column("cookie_digest", sa.LargeBinary()),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("authenticated_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.add_column(
            sa.Column("authenticated_at", sa.DateTime(timezone=True), nullable=True)
        )
    op.execute(
        SESSIONS.update()
        .where(
            SESSIONS.c.cookie_digest.is_not(None),
            SESSIONS.c.created_at > datetime.now(UTC) - COUNTS_FOR,
        )
        .values(authenticated_at=SESSIONS.c.created_at)
    )


def downgrade() -> None:
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.drop_column("authenticated_at")
