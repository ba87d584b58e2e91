"""Counts that are over are found beside those that are kept for a month, however many these are."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

NAME, HAS_NO_RUN = "ix_sign_in_failures_without_a_run", sa.text("consecutive = 0")


def upgrade() -> None:
    op.create_index(
        NAME,
        "sign_in_failures",
        ["window_ends_at"],
        postgresql_where=HAS_NO_RUN,
        sqlite_where=HAS_NO_RUN,
    )


def downgrade() -> None:
    op.drop_index(NAME, "sign_in_failures")
