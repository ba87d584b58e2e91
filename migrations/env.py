"""Alembic's entry: the application's engine, one migration at a time, the same on both databases."""

import contextlib
import time

from alembic import context
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

from authsite.database import Base, UtcDateTime, transactional_engine
from authsite.database.models import User

assert User.metadata is Base.metadata  # the tables are known once the models are imported

# How long a lock on the tables is waited for: who comes after us waits behind us, and PostgreSQL takes a
# circle of waiting for a deadlock after a second, and ends one of those in it, a request perhaps.
PATIENCE = "500ms"
PAUSE_SECONDS = 0.5
MOST_TRIES = 240

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
            if not _is_there_already():
                _lock_tables(connection)
            context.run_migrations()


def _is_there_already() -> bool:
    wanted = context.get_revision_argument()
    wanted = context.get_head_revisions() if wanted in {"head", "heads"} else (wanted,)
    return set(context.get_context().get_current_heads()) == set(wanted)


def _lock_tables(connection: Connection) -> None:
    """Take all tables for ourselves, or none of them: then those who use them finish, and we try again."""
    if connection.dialect.name != "postgresql":
        return
    tables = ", ".join(f'"{name}"' for name in sorted(inspect(connection).get_table_names()))
    for tries_left in reversed(range(MOST_TRIES if tables else 0)):
        with contextlib.suppress(OperationalError if tries_left else ()), connection.begin_nested():
            connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE}'"))
            connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            return
        time.sleep(PAUSE_SECONDS)


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # A migration may take its time.
        connection.connection.driver_connection.answer_timeout = None
        connection.execute(text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    else:
        # BEGIN IMMEDIATE: the second waits for the first, which may take its time.
        connection.connection.driver_connection.execute("PRAGMA busy_timeout = 120000")
        connection.begin()


def _render_item(kind: str, item: object, autogen_context: object) -> str | bool:
    """Write our column type as the one it stores, so that a migration imports nothing of ours."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


run()
