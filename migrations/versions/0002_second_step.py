"""A second step: authenticator apps, recovery codes, trusted browsers, tokens that work once."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WAYS = "'password', 'password+app', 'password+recovery', 'password+passkey', 'password+trusted', 'passkey'"


def upgrade() -> None:
    with op.batch_alter_table("users") as users:
        users.add_column(sa.Column("two_step_since", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.add_column(
            sa.Column(
                "signed_in_with", sa.String(length=20), server_default="password", nullable=False
            )
        )
        sessions.create_check_constraint("signed_in_with", f"signed_in_with IN ({WAYS})")
    op.create_table(
        "authenticator_apps",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("secret", sa.LargeBinary(length=64), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        _of_user("authenticator_apps"),
        sa.PrimaryKeyConstraint("user_id", name="pk_authenticator_apps"),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("set_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        _of_user("recovery_codes"),
        sa.PrimaryKeyConstraint("user_id", "digest", name="pk_recovery_codes"),
    )
    op.create_table(
        "trusted_browsers",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=255), nullable=True),
        sa.Column("device_name", sa.String(length=64), nullable=False),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        _of_user("trusted_browsers"),
        sa.PrimaryKeyConstraint("user_id", "digest", name="pk_trusted_browsers"),
    )
    op.create_table(
        "spent_tokens",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_spent_tokens"),
    )
    op.create_index("ix_spent_tokens_expires_at", "spent_tokens", ["expires_at"])


def downgrade() -> None:
    for table in ("spent_tokens", "trusted_browsers", "recovery_codes", "authenticator_apps"):
        op.drop_table(table)
    with op.batch_alter_table("user_sessions") as sessions:
        sessions.drop_constraint("signed_in_with", type_="check")
        sessions.drop_column("signed_in_with")
    with op.batch_alter_table("users") as users:
        users.drop_column("two_step_since")


def _of_user(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_user_id_users"
    return sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=name, ondelete="CASCADE")
