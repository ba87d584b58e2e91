"""Alembic's entry: the application's engine, one migration at a time, the same on both databases."""

from alembic import context
from sqlalchemy import Connection, text

from authsite.database import Base, UtcDateTime, transactional_engine
from authsite.database.models import User

assert User.metadata is Base.metadata  # the tables are known once the models are imported

# Any number will do, as long as it stays: two release phases at once take turns by it.
ADVISORY_LOCK = 6_241_957_330


def run() -> None:
    with transactional_engine().connect() as connection:
        _lock(connection)
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=connection.dialect.name == "sqlite",
            render_item=_render_item,
            compare_type=True,
            compare_server_default=False,
        )
        # The lock began the transaction that the migrations run in, and ends with it.
        with (
            connection.begin() if not connection.in_transaction() else connection.get_transaction()
        ):
            context.run_migrations()


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # A migration may take its time.
        connection.connection.driver_connection.answer_timeout = None
        connection.execute(text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    else:
        connection.begin()  # BEGIN IMMEDIATE: the second waits for the first


def _render_item(kind: str, item: object, autogen_context: object) -> str | bool:
    """Write our column type as the one it stores, so that a migration imports nothing of ours."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


run()
