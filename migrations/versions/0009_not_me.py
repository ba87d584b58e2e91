"""A session may end because its user says that it is not theirs."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BEFORE = (
    "logged_out",
    "revoked",
    "password_changed",
    "password_reset",
    "reuse_detected",
    "deactivated",
    "replaced",
    "evicted",
)


def upgrade() -> None:
    _allow(*BEFORE, "not_me")


def downgrade() -> None:
    op.execute("UPDATE user_sessions SET end_reason = 'revoked' WHERE end_reason = 'not_me'")
    _allow(*BEFORE)


def _allow(*reasons: str) -> None:
    words = ", ".join(f"'{each}'" for each in reasons)
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.drop_constraint("end_reason", type_="check")
        sessions.create_check_constraint("end_reason", f"end_reason IN ({words})")
