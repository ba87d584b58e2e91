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


SETTINGS = {
    "target_metadata": Base.metadata,
    "compare_type": True,
    "compare_server_default": False,
}


def run() -> None:
    if context.is_offline_mode():
        _write()
        return
    with transactional_engine().connect() as connection:
        wanted = _wanted()
        if wanted is not None:
            _lock(connection)
        context.configure(
            connection=connection,
            render_as_batch=connection.dialect.name == "sqlite",
            render_item=_render_item,
            **SETTINGS,
        )
        # The lock began the transaction that the migrations run in, and ends with it.
        with (
            connection.begin() if not connection.in_transaction() else connection.get_transaction()
        ):
            if wanted is not None and set(context.get_context().get_current_heads()) != wanted:
                _lock_tables(connection)
            context.run_migrations()


def _write() -> None:
    """Print the statements of a migration (--sql): nothing is connected to, and nothing changed."""
    context.configure(
        dialect_name=transactional_engine().dialect.name, literal_binds=True, **SETTINGS
    )
    with context.begin_transaction():
        context.run_migrations()


def _wanted() -> set[str] | None:
    """Return the revisions that the database is to have, or None for a command that only looks."""
    try:
        wanted = context.get_revision_argument()
    except KeyError:  # current, check, history: these name no destination
        return None
    if wanted is None:
        return set()  # base
    if wanted in {"head", "heads"}:
        return set(context.get_head_revisions())
    return set(wanted) if isinstance(wanted, tuple) else {wanted}


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
