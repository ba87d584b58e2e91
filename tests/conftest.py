"""What every test stands on: both databases, the real limiter, outbox, templates, cookies and CSRF.

Replaced are two things only: the clock (time-machine, where a test moves it) and the cost of a password
hash. What each application would compile alike is compiled once. A test that asks for `app` runs twice, on
SQLite and on PostgreSQL.
"""

import gc
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from sqlalchemy import event

from authsite import create_app, database
from authsite.crypto import hashing
from authsite.extensions import limiter
from tests import colocation, compiled, ownership, quick_half, racing, services

MakeApp = Callable[..., Flask]

# Collecting makes millions of objects that last as long as the run. To look through them for refuse was a
# third of collecting, and a tenth of what the tests themselves took.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


def pytest_itemcollected(item: pytest.Item) -> None:
    quick_half.mark(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    quick_half.begin(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    quick_half.end()


@pytest.fixture(scope="session", autouse=True)
def _cheap_hashes() -> Iterator[None]:
    """A hash takes a tenth of a millisecond, where it is asked for: no thread of its own has to wake."""
    with pytest.MonkeyPatch.context() as patch:
        cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        patch.setattr(hashing, "HASHER", cheap)
        patch.setattr(hashing, "_nicely", lambda hash_or_verify, *texts: hash_or_verify(*texts))
        yield


@pytest.fixture(scope="session", autouse=True)
def _routes_are_compiled_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        compiled.once_for_all_applications(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _every_statement_on_a_users_rows_names_the_user() -> Iterator[None]:
    with ownership.enforced():
        yield


@pytest.fixture(scope="session", autouse=True)
def _every_statement_is_one_that_citus_answers(
    _every_statement_on_a_users_rows_names_the_user: None,
) -> Iterator[None]:
    with colocation.enforced():
        yield


@pytest.fixture(scope="session")
def postgresql_server_url() -> Iterator[str]:
    """A server on which a test may create databases of its own."""
    with services.shared_postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_url(postgresql_server_url: str) -> Iterator[str]:
    """A PostgreSQL database that has been migrated; each test finds it empty."""
    with services.new_database(postgresql_server_url) as url:
        _migrate(url)
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    with services.shared_valkey() as url:
        yield url


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # In memory, where there is room: each commit waits for a disk, and no row here has to outlive the run.
    memory = Path("/dev/shm")
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**28
    folder = Path(tempfile.mkdtemp(prefix="authsite-tests-", dir=memory)) if has_room else None
    path = (folder or tmp_path_factory.mktemp("template")) / "authsite.db"
    _migrate(f"sqlite:///{path}")
    yield path
    if folder:
        shutil.rmtree(folder)


def _migrate(url: str) -> None:
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
    with app.app_context():
        upgrade()
        database.engine().dispose()


@pytest.fixture
def sqlite_url(_sqlite_template: Path) -> str:
    """An empty, migrated file, under the same address for every test."""
    path = _sqlite_template.with_name("test.db")
    for each in (path, path.with_name("test.db-wal"), path.with_name("test.db-shm")):
        each.unlink(missing_ok=True)
    shutil.copyfile(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def _empty_postgresql(postgresql_url: str) -> Iterator[Callable[[], None]]:
    """Empties the database over a connection that is kept: thousands of tests do so."""
    connections = [psycopg.connect(postgresql_url, autocommit=True)]

    def empty() -> None:
        try:
            connections[0].execute(_EMPTY)
        except psycopg.OperationalError:  # the test has ended all connections
            connections[0].close()
            connections[0] = psycopg.connect(postgresql_url, autocommit=True)
            connections[0].execute(_EMPTY)

    yield empty
    connections[0].close()


@pytest.fixture
def empty_postgresql_url(
    postgresql_url: str, _empty_postgresql: Callable[[], None]
) -> Iterator[str]:
    yield postgresql_url
    _empty_postgresql()


# With the users go all rows that are theirs.
_TABLES = (
    *("users", "sign_in_failures", "registrations", "outgoing_mails", "outgoing_events"),
    *("spent_tokens", "user_emails"),
)
_EMPTY = ";".join(f"DELETE FROM {table}" for table in _TABLES).encode()


@pytest.fixture(scope="session")
def spread_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database whose tables `flask distribute-tables` has spread; each test finds it empty.

    By the Citus that TEST_CITUS_URL names; without by what stands in for it, which spreads nothing.
    """
    with services.citus_database(request.getfixturevalue) as url:
        _migrate(url)
        app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
        told = app.test_cli_runner().invoke(args=["distribute-tables"])
        assert told.exit_code == 0, told.output
        with app.app_context():
            database.engine().dispose()
        yield url


@pytest.fixture
def empty_spread_url(spread_url: str) -> Iterator[str]:
    yield spread_url
    with psycopg.connect(spread_url, autocommit=True) as connection:
        connection.execute(_EMPTY)


@pytest.fixture(
    scope="session",
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)],
)
def _track(request: pytest.FixtureRequest) -> Iterator[tuple[racing.Track, Flask]]:
    with ExitStack() as opened:
        if request.param == "sqlite":
            template = request.getfixturevalue("_sqlite_template")
            path = shutil.copyfile(template, template.with_name("raced.db"))
            url = f"sqlite:///{path}"
        else:
            server_url = request.getfixturevalue("postgresql_server_url")
            url = opened.enter_context(services.new_database(server_url))
            _migrate(url)
        environ = {"DATABASE_URL": url, "RATELIMIT_ENABLED": "0"}
        site = services.Site(environ, workers=2, app="tests.served_in_races:app")
        track = racing.Track(opened.enter_context(site))
        opened.callback(track.close)
        app = application({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
        opened.callback(dispose, app)
        yield track, app


@pytest.fixture
def track(_track: tuple[racing.Track, Flask]) -> Iterator[racing.Track]:
    """Two worker processes on a database, which this process sees too; each test finds it empty.

    Limits are not the subject here.
    """
    track, app = _track
    with app.app_context():
        yield track
        with database.engine().begin() as connection:
            for table in _TABLES:
                connection.exec_driver_sql(f"DELETE FROM {table}")


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty, migrated database: the test runs on both kinds, if it does not say which."""
    name = "sqlite_url" if request.param == "sqlite" else f"empty_{request.param}_url"
    return str(request.getfixturevalue(name))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that asks for a database on both; where its module says ALSO_SPREAD, on a third.

    Who names a Citus has them all run on it. A slow one is a race, or as many inputs as can be thought of: it
    is about two databases.
    """
    marks = metafunc.definition.iter_markers("parametrize")
    if "database_url" not in metafunc.fixturenames or any("database_url" in m.args for m in marks):
        return
    is_slow = metafunc.definition.get_closest_marker("slow") is not None
    says_so = getattr(metafunc.module, "ALSO_SPREAD", False) or services.CITUS_URL is not None
    also_spread = says_so and not is_slow
    metafunc.parametrize(
        "database_url", ["sqlite", "postgresql", *["spread"] * also_spread], indirect=True
    )


# Making the application takes longer than most tests: one that is described alike is used again, its
# settings and the limiter, which all applications share, as they were when it was new.
_made: dict[tuple[Any, ...], tuple[Flask, dict[str, Any], dict[str, Any]]] = {}


def application(environ: dict[str, str]) -> Flask:
    """Return the application that these variables describe, as if new; its mail waits in the outbox."""
    key = tuple(sorted(environ.items()))
    if key not in _made:
        app = create_app(environ)
        app.jinja_env.bytecode_cache = compiled.TEMPLATES
        app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
        _made[key] = app, dict(app.config), dict(vars(limiter))
    app, settings, limiter_state = _made[key]
    app.config.clear()
    app.config.update(settings)
    vars(limiter).update(limiter_state)
    limiter.reset()
    return app


@pytest.fixture
def make_app(database_url: str) -> Iterator[MakeApp]:
    """Make the application from environment variables, as a deployment does; mail waits in the outbox.

    A test that adds routes asks for an application of its own.
    """
    usual = {
        "DATABASE_URL": database_url,
        "SECRET_KEY": services.SECRET_KEY,
        "EMAIL_VERIFICATION": "off",  # no mail but those that a test is about
    }
    used = []

    def make(*, is_of_its_own: bool = False, **environ: str) -> Flask:
        if is_of_its_own:
            app = create_app(usual | environ)
            app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
        else:
            app = application(usual | environ)
        used.append(app)
        return app

    yield make
    shared = _made.get(tuple(sorted(usual.items())), (None,))[0]
    for app in used:
        # The connections of the application that most tests use are kept; SQLite's file is replaced.
        if app is not shared or database_url.startswith("sqlite"):
            dispose(app)


def dispose(app: Flask) -> None:
    with app.app_context():
        database.engine().dispose()


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app()


@pytest.fixture
def app_context(app: Flask) -> Iterator[Flask]:
    """For tests of verbs: the application is current, no request is."""
    with app.app_context():
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def sent_statements(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[list[str]]]:
    """Collect the SQL that is sent inside the block; BEGIN and COMMIT are not counted."""
    with app.app_context():
        engine = database.engine()

    @contextmanager
    def collect() -> Iterator[list[str]]:
        sent: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
            if not statement.startswith("BEGIN"):
                sent.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        try:
            yield sent
        finally:
            event.remove(engine, "before_cursor_execute", note)

    @contextmanager
    def collect_in_driver() -> Iterator[list[str]]:
        # The hottest statements pass SQLAlchemy by: they are seen where all of them go through.
        engine.connect().close()  # what a new connection asks is not the request's
        sent: list[str] = []
        execute = psycopg.Cursor.execute

        caller = threading.get_ident()

        def note(cursor: Any, statement: Any, *more: Any, **options: Any) -> Any:
            text = statement.decode() if isinstance(statement, bytes) else str(statement)
            # Nor is what another asks, made since the server hung up, or a thread that an earlier test left.
            if threading.get_ident() == caller and "pg_backend_pid()" not in text:
                sent.append(text)
            return execute(cursor, statement, *more, **options)

        with monkeypatch.context() as patch:
            patch.setattr(psycopg.Cursor, "execute", note)
            yield sent

    return collect if engine.dialect.name == "sqlite" else collect_in_driver


@pytest.fixture
def mailbox() -> Iterator[services.Mailbox]:
    """A real SMTP server; `outbox.deliver()` of an app made with MAIL_SERVER and MAIL_PORT fills it."""
    with services.Mailbox() as box:
        yield box


@pytest.fixture(scope="session")
def playwright() -> Iterator[Any]:
    """Playwright, which runs once in a process."""
    from playwright.sync_api import sync_playwright  # slow to import, and few tests need it

    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def chromium(playwright: Any) -> Iterator[Any]:
    """A real Chromium; the same engine without a window's machinery: half the time for each test."""
    from tests.browser.conftest import launched

    with launched(playwright, "chromium-headless-shell", "chromium") as browser:
        yield browser
