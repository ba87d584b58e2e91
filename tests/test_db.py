"""The database: what a transaction promises, and what each of the two needs to be told."""

import os
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest
from flask_migrate import upgrade
from sqlalchemy import event, exc, insert, select, text

from authsite import create_app, database
from authsite.database.models import User, UserSession
from authsite.server import threads
from tests import factories, services

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
USERS = User.__table__


@pytest.fixture
def ada(app_context):
    return factories.account()


@pytest.fixture
def on_sqlite(sqlite_url):
    app = create_app({"DATABASE_URL": sqlite_url, "SECRET_KEY": services.SECRET_KEY})
    with app.app_context():
        yield app
        database.engine().dispose()


def rename(account, name: str) -> None:
    database.run(USERS.update().where(USERS.c.id == account.id).values(first_name=name))


def name_of(account) -> str:
    return database.row(select(USERS.c.first_name).where(USERS.c.id == account.id))[0]


# transaction()


def test_what_a_transaction_did_is_there_afterwards(ada):
    with database.transaction():
        rename(ada, "Augusta")

    assert name_of(ada) == "Augusta"


def test_a_transaction_that_fails_has_done_nothing(ada):
    def fail() -> None:
        with database.transaction():
            rename(ada, "Augusta")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert name_of(ada) == "Ada"


def test_an_inner_transaction_joins_the_outer(ada):
    """What the inner one did is undone with the outer: verbs can be put together."""

    def fail() -> None:
        with database.transaction():
            with database.transaction():
                rename(ada, "Augusta")
            assert name_of(ada) == "Augusta"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert name_of(ada) == "Ada"


def test_nobody_sees_a_transaction_before_its_commit(ada, app):
    seen = []

    def look() -> None:
        with app.app_context():
            seen.append(name_of(ada))

    with database.transaction():
        rename(ada, "Augusta")
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    assert seen == ["Ada"]


def test_a_statement_by_itself_is_committed_at_once(ada, app):
    """Outside a transaction no other connection has to wait for anything."""
    rename(ada, "Augusta")
    seen = []

    def look() -> None:
        with app.app_context():
            seen.append(name_of(ada))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == ["Augusta"]


def test_a_statement_by_itself_sends_nothing_else(ada):
    """Neither BEGIN nor ROLLBACK: they would cost more than the statement."""
    seen = []
    note = lambda *arguments: seen.append(arguments[0])  # noqa: E731
    for name in ("begin", "commit", "rollback"):
        event.listen(database.engine(), name, note)
    sent = []
    note_sent = lambda *arguments: sent.append(arguments[2])  # noqa: E731
    event.listen(database.engine(), "before_cursor_execute", note_sent)
    name_of(ada)
    for name in ("begin", "commit", "rollback"):
        event.remove(database.engine(), name, note)
    event.remove(database.engine(), "before_cursor_execute", note_sent)

    assert len(sent) == 1


def test_the_connection_comes_back_when_a_transaction_fails(app_context):
    """Else a pool of ten would be empty after ten failures."""
    for _ in range(15):
        with pytest.raises(exc.DBAPIError), database.transaction():
            database.run(text("INSERT INTO no_such_table VALUES (1)"))

    assert database.row(text("SELECT 1"))[0] == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_number_of_changed_rows_is_told(ada, count):
    """Verbs decide by it: one that is -1 or unknown would let everybody pass."""
    for number in range(count):
        factories.account(f"user{number}@example.com")
    change = USERS.update().where(USERS.c.email.like("user%")).values(first_name="X")

    assert database.run(change) == count
    with database.transaction():
        assert database.run(change) == count
    copied = [USERS.c[name] for name in ("id", "email")]
    select_none = select(
        *copied, *(USERS.c[c.name] for c in USERS.c if c.name not in ("id", "email"))
    )
    nothing = insert(User).from_select(
        ["id", "email", *(c.name for c in USERS.c if c.name not in ("id", "email"))],
        select_none.where(USERS.c.email == "nobody"),
        include_defaults=False,
    )
    assert database.run(nothing) == 0
    assert database.run(USERS.delete().where(USERS.c.email.like("user%"))) == count


# after_commit()


def test_what_is_to_follow_a_commit_follows_it(ada):
    order = []
    with database.transaction():
        with database.transaction():
            database.after_commit(lambda: order.append(name_of(ada)))
        rename(ada, "Augusta")
        order.append("inside")

    assert order == ["inside", "Augusta"]


def test_nothing_follows_a_transaction_that_failed(ada):
    called = []

    def fail() -> None:
        with database.transaction():
            database.after_commit(lambda: called.append(True))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.transaction():
        rename(ada, "Augusta")
    assert called == []


def test_a_commit_that_fails_is_followed_by_nothing(ada):
    """The promise is after the commit, not after the block."""
    called = []

    def break_commit(_connection) -> None:
        raise RuntimeError("the server is gone")

    event.listen(database.engine(), "commit", break_commit)
    try:
        with pytest.raises(RuntimeError), database.transaction():
            database.after_commit(lambda: called.append(True))
    finally:
        event.remove(database.engine(), "commit", break_commit)

    assert called == []


def test_outside_a_transaction_nothing_can_follow_a_commit(app_context):
    with pytest.raises(AssertionError):
        database.after_commit(lambda: None)


# Times


def test_a_naive_time_is_refused(ada):
    """It names no moment: SQLite would take it for UTC, PostgreSQL for the server's zone."""
    statement = USERS.update().where(USERS.c.id == ada.id)
    with pytest.raises(exc.StatementError, match="naive"):
        database.run(statement.values(updated_at=datetime(2026, 3, 1, 12)))  # noqa: DTZ001


@pytest.mark.parametrize(
    "moment",
    [
        NOON,
        NOON.astimezone(timezone(timedelta(hours=5, minutes=30))),
        NOON.astimezone(timezone(-timedelta(hours=11))),
        NOON + timedelta(microseconds=1),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
def test_a_time_comes_back_as_the_same_moment_in_utc(ada, moment):
    """To the microsecond: the guard against a changed password compares it."""
    database.run(USERS.update().values(updated_at=moment))
    found = database.row(select(USERS.c.updated_at))[0]

    assert found == moment
    assert found.utcoffset() == timedelta(0)
    assert database.row(select(USERS.c.id).where(USERS.c.updated_at == moment)) is not None


# Time-ordered ids


def test_ids_are_version_7_in_the_order_of_their_moments():
    """RFC 9562 §5.7; the clean-up walks them from the oldest."""
    moments = [NOON + timedelta(milliseconds=each) for each in range(0, 5000, 7)]
    ids = [database.uuid7(moment) for moment in moments]

    assert ids == sorted(ids)
    assert {each.version for each in ids} == {7}
    assert {each.variant for each in ids} == {uuid.RFC_4122}
    assert {str(each) for each in ids} == {str(uuid.UUID(str(each))) for each in ids}


def test_ids_of_one_moment_cannot_be_guessed():
    """AP-14: 74 random bits; each of them takes both values."""
    ids = [database.uuid7(NOON).int for _ in range(500)]
    random_bits = (1 << 62) - 1 | ((1 << 12) - 1) << 64
    ones = zeros = 0
    for each in ids:
        ones |= each
        zeros |= ~each

    assert len(set(ids)) == 500
    assert ones & zeros & random_bits == random_bits


@pytest.mark.parametrize("milliseconds", [-1000, -1, 0, 1, 1000])
def test_the_first_id_of_a_moment_bounds_all_others(milliseconds):
    bound = database.first_uuid7(NOON)
    others = [database.uuid7(NOON + timedelta(milliseconds=milliseconds)) for _ in range(100)]

    assert all((each > bound) == (milliseconds >= 0) for each in others)


def test_the_databases_order_ids_as_python_does(ada):
    """The clean-up compares in the database with bounds that were made here."""
    rows = [
        row["id"]
        for age in range(20)
        for row in factories.session_rows(ada, age=timedelta(days=age * 3))
    ]
    table = UserSession.__table__
    bound = database.first_uuid7(datetime.now(UTC) - timedelta(days=30))
    found = [row.id for row in database.rows(select(table.c.id).order_by(table.c.id))]

    assert found == sorted(rows)
    smaller = database.rows(select(table.c.id).where(table.c.id < bound))
    assert {row.id for row in smaller} == {each for each in rows if each < bound}


# SQLite


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("busy_timeout", 5000), ("foreign_keys", 1)]
)
def test_every_sqlite_connection_has_its_pragmas(on_sqlite, pragma, value):
    """FA-08, PR-03: the defaults are a rollback journal, no patience, no foreign keys."""
    engine = on_sqlite.extensions["autocommit_engine"]
    with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value
    assert database.row(text(f"PRAGMA {pragma}"))[0] == value


@pytest.mark.parametrize("name", ["own.db", "link.db"])
def test_sqlites_files_are_their_owners_alone(tmp_path, name):
    """They hold the digests of passwords; beside one by a link as beside one by its name."""
    (tmp_path / "link.db").symlink_to(tmp_path / "own.db")
    url = f"sqlite:///{tmp_path / name}"
    before = os.umask(0o022)
    try:
        app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
        with app.app_context():
            upgrade()
            factories.account()
            modes = {each.name: oct(each.stat().st_mode & 0o777) for each in tmp_path.glob("own*")}
            database.engine().dispose()
    finally:
        os.umask(before)

    assert modes == dict.fromkeys(["own.db", "own.db-wal", "own.db-shm"], "0o600")


def test_the_mode_of_a_file_that_was_there_is_not_ours(tmp_path):
    """Its owner may let a group read it."""
    path = tmp_path / "own.db"
    path.touch(mode=0o640)
    app = create_app({"DATABASE_URL": f"sqlite:///{path}", "SECRET_KEY": services.SECRET_KEY})
    with app.app_context():
        assert database.row(text("SELECT 1"))[0] == 1
        database.engine().dispose()

    assert path.stat().st_mode & 0o777 == 0o640


def test_sqlite_writers_wait_for_each_other(on_sqlite):
    """FA-08: a transaction that first reads and then writes must not fail for another writer."""
    ada = factories.account()
    inside, failures = threading.Event(), []

    def write_slowly() -> None:
        with on_sqlite.app_context(), database.transaction():
            rename(ada, "Slow")
            inside.set()
            time.sleep(0.3)

    thread = threading.Thread(target=write_slowly)
    thread.start()
    inside.wait(5)
    try:
        with database.transaction():
            before = name_of(ada)
            rename(ada, f"{before} and quick")
    except exc.OperationalError as error:
        failures.append(error)
    thread.join()

    assert failures == []
    assert name_of(ada) == "Slow and quick"


def test_sqlite_readers_do_not_wait_for_a_writer(on_sqlite):
    """FA-08: WAL."""
    ada = factories.account()
    seen = []

    def look() -> None:
        with on_sqlite.app_context():
            seen.append(name_of(ada))

    with database.transaction():
        rename(ada, "Augusta")
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(3)

    assert seen == ["Ada"]


# PostgreSQL


@pytest.fixture
def on_postgresql(empty_postgresql_url):
    app = create_app({"DATABASE_URL": empty_postgresql_url, "SECRET_KEY": services.SECRET_KEY})
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    with app.app_context():
        yield app
        database.engine().dispose()


@pytest.mark.postgresql
@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout"])
def test_no_statement_and_no_lock_is_waited_for_longer_than_ten_seconds(on_postgresql, setting):
    """FA-02: by itself or in a transaction; 0 would be for ever."""
    by_itself = database.row(text(f"SHOW {setting}"))[0]
    with database.transaction():
        inside = database.row(text(f"SHOW {setting}"))[0]

    assert by_itself == inside
    assert 0 < int(inside.removesuffix("s")) <= 10


@pytest.mark.postgresql
def test_the_time_of_an_answer_is_that_of_what_was_asked(on_postgresql, monkeypatch):
    """PW-14: what a transaction sets asks nothing, and each made a far database look near."""
    database.row(text("SELECT 1"))  # a new connection asks questions of its own
    times = []
    monkeypatch.setattr(threads, "waited", times.append)
    database.row(text("SELECT pg_sleep(0.02)"))
    with database.transaction():
        database.row(text("SELECT pg_sleep(0.02)"))
        database.row(text("SELECT pg_sleep(0.02)"))

    assert len(times) == 3
    assert min(times) > 0.02


@pytest.mark.postgresql
def test_a_connection_whose_first_question_fails_is_closed(on_postgresql, monkeypatch):
    """FA-01: it never reaches the pool, and the server would count it until it is collected."""
    opened = []

    def fail(connection):
        opened.append(connection)
        raise psycopg.OperationalError("the server hung up")

    monkeypatch.setattr(database, "_is_pooled", fail)
    with pytest.raises(exc.OperationalError):
        database.row(text("SELECT 1"))
    assert [each.closed for each in opened] == [True]


@pytest.mark.postgresql
def test_postgresql_answers_times_in_utc(on_postgresql):
    """FA-10: whatever zone the server is in."""
    assert database.row(text("SHOW TimeZone"))[0] == "UTC"
