"""The database: one statement by itself, or several in one `transaction()`.

Verbs speak SQLAlchemy Core: measured on the authenticated read, a Core statement built once costs a
third of the same through the ORM. A statement outside `transaction()` runs in autocommit, without the
round trips of BEGIN and ROLLBACK; inside, it belongs to the transaction. Rows come back immutable.
"""

import contextlib
import functools
import os
import secrets
import select as selecting
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, cast

import psycopg
import sqlalchemy
from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from psycopg.rows import namedtuple_row
from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Engine,
    Insert,
    MetaData,
    Select,
    and_,
    delete,
    event,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import PoolProxiedConnection, QueuePool
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.types import TypeDecorator

from ..server import threads

MIGRATIONS = Path(__file__).parents[2] / "migrations"

# What a statement answers: immutable, with its columns as attributes.
Row = sqlalchemy.Row[*tuple[Any, ...]]


# The clean-up's transactions: sign-ins and refreshes may have to wait for one of them.
FIRST_BATCH = 1000
LARGEST_BATCH = 5000
BATCH_SECONDS = 0.1


class Base(DeclarativeBase):
    # Every constraint has a name that both databases know, so that migrations can speak of it.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(model_class=Base, disable_autonaming=True)

# Else the count of an INSERT from a SELECT is -1 on PostgreSQL, which reads like success.
_COUNTED = {"preserve_rowcount": True}

# Threads that wait for a connection, beside those that have one: together half of a process's.
MOST_WAITING = 22

_making = threading.Lock()
_connection: ContextVar[Connection | None] = ContextVar("authsite_connection", default=None)
_after_commit: ContextVar[list[Callable[[], None]] | None] = ContextVar(
    "authsite_after_commit", default=None
)


@contextlib.contextmanager
def transaction() -> Iterator[None]:
    """Commit what the block did, or nothing of it if it raises; an inner one joins the outer."""
    if _connection.get() is not None:
        yield
        return
    callbacks: list[Callable[[], None]] = []
    with transactional_engine().begin() as connection:
        mark, callback_mark = _connection.set(connection), _after_commit.set(callbacks)
        try:
            yield
        finally:
            _connection.reset(mark)
            _after_commit.reset(callback_mark)
    for callback in callbacks:
        callback()


def after_commit(callback: Callable[[], None]) -> None:
    """Call `callback` once the transaction that is open now has been committed."""
    callbacks = _after_commit.get()
    assert callbacks is not None, "only inside a transaction"
    callbacks.append(callback)


# What a statement meets when its connection is ended; not what has taken too long, which would again.
HUNG_UP = (psycopg.OperationalError, psycopg.errors.AdminShutdown, psycopg.errors.CrashShutdown)


class Prepared:
    """A statement of the hot paths, written as SQL once.

    On PostgreSQL it goes to the driver directly, which prepares it on the server: measured on the
    authenticated read, 100 µs instead of the 300 that SQLAlchemy takes to execute what it has compiled.
    The connection comes from the same pool, or is the one of the transaction that is open; the rows look
    alike. On SQLite it is a statement like any other. Values go as they are: no JSON, no `IN` a list.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]] | ReturningUpdate[Any] | Insert) -> None:
        self.statement = statement
        self._is_read = isinstance(statement, Select)
        self._make_row: Callable[[Sequence[Any]], Any] | None = None

    @functools.cached_property
    def _written(self) -> tuple[bytes, dict[str, Any]]:
        """The SQL, and the values that stand in the statement itself.

        Not before it is first sent: no process sends them all, and each takes 1 to 2 ms to write.
        """
        compiled = self.statement.compile(dialect=psycopg_dialect.dialect())  # type: ignore[no-untyped-call]
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        return str(compiled).encode(), constants  # the driver would encode it anew each time

    def fetch(self, parameters: Mapping[str, Any] | None, *, only_first: bool = False) -> Any:
        """Return all rows, or the first one (None where there is none)."""
        if is_sqlite():
            with _connected() as connection:
                result = connection.execute(self.statement, parameters)
                return result.first() if only_first else result.all()
        cursor = self._send(parameters)
        return cursor.fetchone() if only_first else cursor.fetchall()

    def run(self, parameters: Mapping[str, Any] | None) -> int:
        """Execute it and return how many rows it changed."""
        if is_sqlite():
            return run(self.statement, parameters)
        return self._send(parameters).rowcount

    def _send(self, parameters: Mapping[str, Any] | None) -> psycopg.Cursor[Any]:
        """Return a cursor that holds the whole answer; what fails, fails as any statement does."""
        try:
            return self._send_directly(parameters)
        except psycopg.Error as error:
            raise DBAPIError.instance(
                self._written[0].decode(), None, error, psycopg.Error, hide_parameters=True
            ) from error

    def _send_directly(self, parameters: Mapping[str, Any] | None) -> psycopg.Cursor[Any]:
        connection = _connection.get()
        if connection is not None:
            return self._execute(connection.connection, parameters)
        autocommit: Engine = current_app.extensions["autocommit_engine"]
        try:
            return self._send_by_itself(autocommit, parameters)
        except psycopg.OperationalError as error:
            # The server hung up between the pool's look at the connection and the question.
            if not self._is_read or type(error) not in HUNG_UP:
                raise
        return self._send_by_itself(autocommit, parameters)

    def _send_by_itself(
        self, autocommit: Engine, parameters: Mapping[str, Any] | None
    ) -> psycopg.Cursor[Any]:
        pooled = autocommit.raw_connection()
        try:
            return self._execute(pooled, parameters)
        finally:
            pooled.close()

    def _execute(
        self, pooled: PoolProxiedConnection, parameters: Mapping[str, Any] | None
    ) -> psycopg.Cursor[Any]:
        driver_connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
        cursor = driver_connection.cursor(binary=True, row_factory=self._row_maker)
        sql, constants = self._written
        return cursor.execute(sql, {**constants, **(parameters or {})})

    def _row_maker(self, cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], Any]:
        """Return what makes rows of values; the columns of a statement are always the same."""
        if self._make_row is None:
            self._make_row = namedtuple_row(cursor)
        return self._make_row


def row(
    statement: Executable | Prepared, parameters: Mapping[str, Any] | None = None
) -> Row | None:
    """Return the statement's first row, or None."""
    if isinstance(statement, Prepared):
        return cast("Row | None", statement.fetch(parameters, only_first=True))
    with _connected() as connection:
        return connection.execute(statement, parameters).first()


def rows(
    statement: Executable | Prepared, parameters: Mapping[str, Any] | None = None
) -> Sequence[Row]:
    """Return all of the statement's rows."""
    if isinstance(statement, Prepared):
        return cast("Sequence[Row]", statement.fetch(parameters))
    with _connected() as connection:
        return connection.execute(statement, parameters).all()


def run(
    statement: Executable | Prepared,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
) -> int:
    """Execute a statement and return how many rows it changed."""
    if isinstance(statement, Prepared):
        return statement.run(cast("Mapping[str, Any] | None", parameters))
    with _connected() as connection:
        return connection.execute(statement, parameters, execution_options=_COUNTED).rowcount


@contextlib.contextmanager
def _connected() -> Iterator[Connection]:
    connection = _connection.get()
    if connection is not None:
        yield connection
        return
    with current_app.extensions["autocommit_engine"].connect() as connection:
        yield connection


def init_app(app: Flask) -> None:
    """Bind the database; no connection is made before a request needs one (safe across a fork)."""
    if not app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
        app.config["SQLALCHEMY_ENGINE_OPTIONS"]["poolclass"] = BoundedPool
    db.init_app(app)
    with app.app_context():
        engine = db.engine
    if engine.dialect.name == "sqlite":
        event.listen(engine, "do_connect", _make_file)
        event.listen(engine, "connect", _set_sqlite_pragmas)
        event.listen(engine, "begin", _begin_immediate)
        app.extensions["has_citus"] = False
        transactional = engine
        autocommit: Engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    else:
        event.listen(engine, "do_connect", _connect_impatiently)

        @event.listens_for(engine, "connect")
        def note_citus(connection: ImpatientConnection, _record: Any) -> None:
            app.extensions["has_citus"] = connection.has_citus

        event.listen(engine, "checkout", _refuse_dropped)
        autocommit = engine  # by its options: the most frequent use sets nothing on a connection
        transactional = engine.execution_options(isolation_level="READ COMMITTED")
    app.extensions["autocommit_engine"] = autocommit
    app.extensions["transactional_engine"] = transactional


def upsert(table: Any) -> Any:
    """Return an INSERT into the table that may say what happens on a conflict, as both databases spell it."""
    return (sqlite if is_sqlite() else postgresql).insert(table)


def is_among(column: Any, ids: Select[Any]) -> ColumnElement[bool]:
    """Return the condition that the column holds one of these ids, which are found first, and once."""
    if is_sqlite():
        return cast("ColumnElement[bool]", column.in_(ids))
    # As an array, then each by its key. Joined, PostgreSQL may look for all of them again for each row of a
    # table whose size it does not know yet: a minute instead of 50 ms.
    return cast("ColumnElement[bool]", column == func.any(func.array(ids.scalar_subquery())))


def count(table: Any, *conditions: ColumnElement[bool]) -> int:
    """Return how many rows of the table meet the conditions."""
    found = row(select(func.count()).select_from(table).where(*conditions))
    return found[0] if found else 0


def delete_in_batches(
    key: Any,
    is_dead: ColumnElement[bool],
    *,
    most: int | None = None,
    in_order: bool = False,
) -> Iterator[int]:
    """Delete rows in short transactions of at most so many; yield how many in each.

    `key` is the primary key, or the first of its columns; `in_order` of it where that matters. Rows that
    another transaction holds are skipped: nobody is waited for. Citus claims no rows on several machines:
    where it is installed stretches of the key are deleted, and a row that is held is waited for. A batch that
    takes long makes the next one smaller.
    """
    most = most or LARGEST_BATCH
    size, last, is_over = min(most, FIRST_BATCH), None, False
    while not is_over:
        began_at = time.monotonic()
        if has_citus():
            deleted, last = _delete_stretch(key, is_dead, last, size)
            is_over = last is None
        else:
            deleted = _delete_claimed(key, is_dead, size, in_order=in_order)
            is_over = not deleted
        if deleted:
            yield deleted
        size = next_size(size, began_at, most=most)


def next_size(size: int, began_at: float, *, most: int) -> int:
    """Return how many rows the next batch may have, after one of this size that began then."""
    share = BATCH_SECONDS / (time.monotonic() - began_at)
    # At most twice as many as before: what took no time may have found nothing to delete.
    return max(1, min(most, int(size * min(share, 2))))


def _delete_claimed(key: Any, is_dead: ColumnElement[bool], size: int, *, in_order: bool) -> int:
    """Delete so many dead rows that nobody holds and return how many there were."""
    is_whole = len(key.table.primary_key) == 1
    dead = select(key if is_whole else place()).select_from(key.table).where(is_dead).limit(size)
    claimed = (dead.order_by(key) if in_order else dead).with_for_update(skip_locked=True)
    return run(delete(key.table).where(is_among(key if is_whole else place(), claimed)))


def _delete_stretch(
    key: Any, is_dead: ColumnElement[bool], last: Any, size: int
) -> tuple[int, Any]:
    """Delete so many dead rows after `last`; return how many there were, and the last, None at the end."""
    stretch = is_dead if last is None else and_(is_dead, key > last)
    end = row(select(key).where(stretch).order_by(key).offset(size - 1).limit(1))
    if end is None:
        return run(delete(key.table).where(stretch)), None
    return run(delete(key.table).where(stretch, key <= end[0])), end[0]


def place() -> ColumnElement[Any]:
    """Return where a row lies, which stands for its key inside one statement that locks it."""
    return literal_column("rowid" if is_sqlite() else "ctid")


def has_citus() -> bool:
    """Return whether the database has Citus, which may spread the tables over machines."""
    if "has_citus" not in current_app.extensions:
        with _connected():
            pass  # the first connection tells
    return bool(current_app.extensions["has_citus"])


def is_sqlite() -> bool:
    """Return whether this application runs on SQLite."""
    autocommit: Engine = current_app.extensions["autocommit_engine"]
    return autocommit.dialect.name == "sqlite"


def engine() -> Engine:
    """Return the engine of the current application, which owns its pool of connections."""
    return db.engine


def transactional_engine() -> Engine:
    """Return the engine whose connections begin a transaction with their first statement."""
    return cast(Engine, current_app.extensions["transactional_engine"])


class BoundedPool(QueuePool):
    """A pool for which only so many threads wait: with a frozen database, somebody answers the rest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)

    def _do_get(self) -> Any:
        if not self._waiting.acquire(blocking=False):
            raise sqlalchemy.exc.TimeoutError("too many wait for a connection already")
        try:
            return super()._do_get()
        finally:
            self._waiting.release()


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection that gives up on a server which has gone silent without closing anything.

    `statement_timeout` is the server's own and ends what takes too long; a frozen server or a network that
    swallows packets keeps it from ending anything.
    """

    # Seconds; more than statement_timeout. None waits for ever, which migrations may.
    answer_timeout: float | None = 9
    has_citus = False

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_timeout if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.pgconn.finish()  # its answer may still come, and would be taken for the next one's
            raise


class TimedCursor(psycopg.Cursor[Any]):
    """Tells how long each answer took. Of what the connection waits for, much asks nothing, as a setting."""

    def execute(self, *arguments: Any, **options: Any) -> Self:
        began = time.monotonic()
        super().execute(*arguments, **options)
        threads.waited(time.monotonic() - began)
        return self


def _connect_impatiently(_dialect: Any, _record: Any, args: Any, options: Any) -> Any:
    connection = ImpatientConnection.connect(*args, cursor_factory=TimedCursor, **options)
    try:
        if _is_pooled(connection):
            # The next transaction may run on another server connection, which has not prepared anything.
            connection.prepare_threshold = None
    except BaseException:
        connection.close()  # nobody else has seen it: it would stand open until it is collected
        raise
    return connection


def _refuse_dropped(connection: Any, _record: Any, _proxy: Any) -> None:
    """Have the pool replace its connections where the server has ended this one.

    An idle connection has nothing to say: what waits to be read is the server's farewell. Looking costs no
    round trip, as asking (pre-ping) does, and a write need not be sent twice, as after a retry.
    """
    if connection.closed:
        raise InvalidatePoolError
    poll = selecting.poll()
    poll.register(connection.fileno(), selecting.POLLIN)
    if poll.poll(0):
        raise InvalidatePoolError


def _is_pooled(connection: ImpatientConnection) -> bool:
    """Return whether a pooler (pgbouncer) stands between: it makes up the process id that it reports.

    In the same round trip the connection learns of Citus.
    """
    connection.autocommit = True
    served_by = connection.execute(
        "SELECT pg_backend_pid(), EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
    ).fetchone()
    assert served_by is not None
    connection.has_citus = served_by[1]
    return bool(served_by[0] != connection.info.backend_pid)


def _make_file(_dialect: Any, _record: Any, args: Any, _options: Any) -> None:
    """Make SQLite's file its owner's alone: it holds digests of passwords.

    SQLite gives those that it lays beside it (-wal, -shm) the mode of this one.
    """
    # A file that is closed loses all its locks in this process: nobody may have it open before.
    with _making, contextlib.suppress(OSError):  # SQLite tells what is wrong with the path
        path = os.path.realpath(args[0])
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _set_sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    # All our transactions write. A deferred one that reads first cannot wait for another writer when it
    # comes to write: SQLite answers "database is locked" at once. Taking the lock first makes it wait.
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC; naive values are refused, SQLite's naive ones come back aware."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime names no moment")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)

    def result_processor(self, dialect: Dialect, coltype: Any) -> Any:
        # PostgreSQL answers aware datetimes in the session's time zone, which is UTC: nothing to do.
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)


def uuid7(moment: datetime) -> uuid.UUID:
    """Return a time-ordered id with 74 random bits (RFC 9562 §5.7).

    Neighbours in time are neighbours in the index, and nobody can guess one.
    """
    random = secrets.randbits(74)
    value = (
        _milliseconds(moment) << 80
        | 7 << 76
        | (random >> 62) << 64
        | 0b10 << 62
        | random & (1 << 62) - 1
    )
    return uuid.UUID(int=value)


def first_uuid7(moment: datetime) -> uuid.UUID:
    """Return a bound: smaller than every id made at this moment or later, greater than all before."""
    return uuid.UUID(int=_milliseconds(moment) << 80)


def moment_of(made: uuid.UUID) -> datetime:
    """Return when such an id was made, or up to a millisecond before."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=made.int >> 80)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
