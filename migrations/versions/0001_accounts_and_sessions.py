"""Accounts, sessions, password resets, outgoing mail, sign-in failures."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sign_in_failures",
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("recent", sa.Integer(), nullable=False),
        sa.Column("window_ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("consecutive", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_sign_in_failures"),
    )
    op.create_index("ix_sign_in_failures_window_ends_at", "sign_in_failures", ["window_ends_at"])

    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("first_name", sa.String(length=100), nullable=False),
        sa.Column("last_name", sa.String(length=100), nullable=True),
        sa.Column("phone_number", sa.String(length=32), nullable=True),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("password_changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("is_superuser", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "outgoing_mails",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_outgoing_mails_user_id_users", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_outgoing_mails"),
    )
    op.create_index("ix_outgoing_mails_due_at", "outgoing_mails", ["due_at"])
    op.create_index("ix_outgoing_mails_user_id", "outgoing_mails", ["user_id"])

    op.create_table(
        "password_resets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_password_resets_user_id_users", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_password_resets"),
    )
    op.create_index(
        "ix_password_resets_user_id_created_at", "password_resets", ["user_id", "created_at"]
    )

    # op.f: these names are complete, the naming convention must not put its prefix before them again.
    op.create_table(
        "user_sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("entrance", sa.String(length=8), nullable=False),
        sa.Column("refresh_jti", sa.String(length=32), nullable=True),
        sa.Column("previous_jti", sa.String(length=32), nullable=True),
        sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cookie_digest", sa.LargeBinary(length=32), nullable=True),
        sa.Column("is_remembered", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("device_name", sa.String(length=64), nullable=False),
        sa.Column("given_name", sa.String(length=64), nullable=True),
        sa.Column("browser", sa.String(length=64), nullable=True),
        sa.Column("os", sa.String(length=64), nullable=True),
        sa.Column("device_type", sa.String(length=16), nullable=False),
        sa.Column("device_id", sa.String(length=255), nullable=True),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("user_agent", sa.String(length=512), nullable=True),
        sa.Column("location_city", sa.String(length=100), nullable=True),
        sa.Column("location_country", sa.String(length=100), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("absolute_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.String(length=20), nullable=True),
        sa.Column("ended_from", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "device_type IN ('desktop', 'mobile', 'tablet', 'tv', 'console', 'bot', 'cli', 'other')",
            name=op.f("ck_user_sessions_device_type"),
        ),
        sa.CheckConstraint(
            "end_reason IN ('logged_out', 'revoked', 'password_changed', 'password_reset', 'reuse_detected', 'deactivated', 'replaced', 'evicted')",
            name=op.f("ck_user_sessions_end_reason"),
        ),
        sa.CheckConstraint(
            "entrance IN ('page', 'api', 'oauth')", name=op.f("ck_user_sessions_entrance")
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (end_reason IS NULL)", name=op.f("ck_user_sessions_ended")
        ),
        sa.CheckConstraint(
            "(refresh_jti IS NULL) <> (cookie_digest IS NULL)",
            name=op.f("ck_user_sessions_one_credential"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_user_sessions_user_id_users", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_user_sessions"),
        postgresql_with={"fillfactor": 90},
    )
    op.create_index("ix_user_sessions_user_id_ended_at", "user_sessions", ["user_id", "ended_at"])


def downgrade() -> None:
    op.drop_index("ix_user_sessions_user_id_ended_at", "user_sessions")

    op.drop_table("user_sessions")
    op.drop_index("ix_password_resets_user_id_created_at", "password_resets")

    op.drop_table("password_resets")
    op.drop_index("ix_outgoing_mails_user_id", "outgoing_mails")
    op.drop_index("ix_outgoing_mails_due_at", "outgoing_mails")

    op.drop_table("outgoing_mails")
    op.drop_table("users")
    op.drop_index("ix_sign_in_failures_window_ends_at", "sign_in_failures")

    op.drop_table("sign_in_failures")
