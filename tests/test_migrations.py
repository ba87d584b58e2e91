"""Migrations: there and back on both databases, equal to the models, and safe beside each other."""

import os
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask_migrate import downgrade, upgrade
from sqlalchemy import CheckConstraint, inspect, select, text

from authsite import accounts, clock, create_app, database, deletions, sessions
from authsite.database import Base
from authsite.database.models import UserSession
from tests import factories, services
from tests.bench import rows


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def blank_url(request, tmp_path):
    """A database without a single table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'blank.db'}"
        return
    with services.new_database(request.getfixturevalue("postgresql_server_url")) as url:
        yield url


@pytest.fixture
def blank(blank_url):
    environ = {"DATABASE_URL": blank_url, "SECRET_KEY": services.SECRET_KEY}
    # No thread that mails a link may still hold a connection when the test is over.
    app = create_app(environ | {"EMAIL_VERIFICATION": "off"})
    with app.app_context():
        yield app
        database.engine().dispose()


def tables() -> set[str]:
    return set(inspect(database.engine()).get_table_names()) - {"alembic_version"}


def test_the_tables_are_those_of_the_models(blank):
    """Nothing differs that Alembic can see: tables, columns, types, nullability, indexes, uniqueness."""
    upgrade()
    with database.engine().connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []

    assert tables() == set(Base.metadata.tables)


def test_every_check_stands_in_the_database_by_its_name(blank):
    """Alembic never compares them: one forgotten in a migration would be missed."""
    upgrade()
    inspector = inspect(database.engine())
    for table in Base.metadata.tables.values():
        expected = {
            str(each.name) for each in table.constraints if isinstance(each, CheckConstraint)
        }
        found = {each["name"] for each in inspector.get_check_constraints(table.name)}
        assert found == expected, table.name


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("end_reason", "bored"),
        ("end_reason", "revoked"),  # without a moment
        ("entrance", "window"),
        ("device_type", "toaster"),
        ("cookie_digest", b"x" * 32),  # beside a jti
        ("refresh_jti", None),  # and no digest
    ],
)
def test_the_checks_hold(app_context, column, value):
    """By what they refuse: their text is not compared with the models' anywhere."""
    ada = factories.account()
    with pytest.raises(Exception, match=r"(?i)check"):
        factories.session_rows(ada, **{column: value})


@pytest.mark.slow
def test_up_down_and_up_again(blank):
    upgrade()
    assert tables()
    factories.account()
    downgrade(revision="base")
    assert tables() == set()

    upgrade()
    assert tables() == set(Base.metadata.tables)
    assert factories.account().email == "ada@example.com"


def test_upgrading_what_is_up_to_date_keeps_the_rows(blank):
    """DP-10: each release runs it."""
    upgrade()
    ada = factories.account()
    upgrade()

    assert database.row(text("SELECT count(*) FROM users"))[0] == 1
    assert factories.grant(ada).user_id == ada.id


@pytest.mark.slow
def test_each_account_of_an_older_database_gets_the_row_of_its_address(blank):
    upgrade(revision="0002")
    names = [f"user{number}@example.com" for number in range(3)]
    with database.transaction():
        for number, email in enumerate(names, 1):
            database.run(OLD_USER, {"id": f"{number:032x}", "email": email})
    upgrade()

    assert accounts.find_by_email(names[2]).id == uuid.UUID(int=3)
    listed = database.rows(text("SELECT email, kept_until FROM user_emails ORDER BY email"))
    assert [tuple(row) for row in listed] == [(email, None) for email in names]
    downgrade(revision="0002")
    assert database.row(text("SELECT count(*) FROM users"))[0] == 3


@pytest.mark.slow
def test_who_signed_in_just_before_a_release_is_still_fresh_after_it(blank):
    """On pages; whoever signed in before cannot be, and an API session's token says it itself."""
    upgrade()
    now = clock.now()
    ada = factories.account()
    page = {"entrance": "page", "refresh_jti": None}
    (lately,) = factories.session_rows(ada, cookie_digest=b"a" * 32, **page)
    factories.session_rows(ada, age=timedelta(minutes=16), cookie_digest=b"b" * 32, **page)
    factories.session_rows(ada)
    downgrade(revision="0005")
    upgrade()

    rows = database.rows(select(UserSession.id, UserSession.authenticated_at))
    found = {row.id: row.authenticated_at for row in rows if row.authenticated_at}
    assert found == {lately["id"]: lately["created_at"]}
    assert lately["created_at"] >= now


OLD_USER = text(
    "INSERT INTO users (id, email, first_name, password_hash, password_changed_at, created_at, updated_at)"
    " VALUES (:id, :email, 'Ada', '', '2026-01-01', '2026-01-01', '2026-01-01')"
)


WHOLE_LIFE = [
    *("current", "heads", "branches", "show", "history", "history --indicate-current", "check"),
    *("upgrade", "upgrade", "current", "current --verbose", "check", "history --indicate-current"),
    *("history --rev-range current:", "history --rev-range 0005:0007", "show 0099"),
    *("stamp head", "stamp heads", "stamp 0099", "stamp --purge head", "stamp base", "stamp head"),
    *("downgrade", "current", "upgrade +1", "upgrade +1", "upgrade 0099", "downgrade 0099"),
    *("upgrade --sql", "upgrade --sql 0018:0019", "downgrade --sql 0019:0018", "downgrade --sql"),
    *("stamp --sql head", "stamp --sql 0018:0019", "migrate --sql", "current", "downgrade base"),
    *("downgrade base", "current", "check", "upgrade heads", "list-templates"),
]


@pytest.mark.slow
def test_no_command_of_migrations_ends_in_a_traceback(blank):
    """Whatever the state of the database: done, or refused in a line."""
    for command in WHOLE_LIFE:
        ended = blank.test_cli_runner().invoke(args=["db", *command.split()])
        assert ended.exception is None or isinstance(ended.exception, SystemExit), command
        assert ended.exit_code in {0, 1}, command
        assert "Traceback" not in ended.output, command

    assert tables() == set(Base.metadata.tables)


def flask_db(*arguments: str, url: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flask", "db", *arguments],
        cwd=services.ROOT,
        env=os.environ | {"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.site
def test_the_revision_of_a_database_is_told_on_standard_output(blank, blank_url):
    """While PostgreSQL is migrated too: who only looks waits for nobody."""
    upgrade(revision="0018")
    with database.engine().connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(6241957330)"))
        ended = flask_db("current", url=blank_url)

    assert (ended.returncode, ended.stdout) == (0, "0018\n"), ended.stderr


@pytest.mark.site
def test_the_statements_of_a_migration_are_printed_and_nothing_is_connected_to():
    url = f"postgresql://ada@{services.HOST}:{services.free_port()}/ada"
    ended = flask_db("upgrade", "--sql", url=url)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("BEGIN;\n")
    assert ended.stdout.endswith("COMMIT;\n\n")
    assert all(f"CREATE TABLE {name} (" in ended.stdout for name in Base.metadata.tables)


@pytest.mark.site
def test_two_upgrades_at_once_are_safe(blank_url):
    """DP-10: two release phases, or two first starts, on one empty database."""
    # The variables of this run, so that coverage and the like go on working in the children.
    environ = os.environ | {"DATABASE_URL": blank_url, "SECRET_KEY": services.SECRET_KEY}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "flask", "db", "upgrade"],
            cwd=services.ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [each.communicate(timeout=60)[0] for each in running]

    assert [each.returncode for each in running] == [0, 0], outputs
    app = create_app({"DATABASE_URL": blank_url, "SECRET_KEY": services.SECRET_KEY})
    with app.app_context():
        assert tables() == set(Base.metadata.tables)
        assert database.row(text("SELECT count(*) FROM alembic_version"))[0] == 1
        database.engine().dispose()


def test_a_migration_that_fails_leaves_nothing_half_done(blank, monkeypatch):
    """DP-10: on both databases all of it stands in one transaction."""
    from alembic import op

    real, made = op.create_index, []

    def fail_at_the_third(*arguments, **more):
        made.append(arguments)
        if len(made) == 3:
            raise RuntimeError("the disk is full")
        return real(*arguments, **more)

    monkeypatch.setattr(op, "create_index", fail_at_the_third)
    with pytest.raises(SystemExit):
        upgrade()
    monkeypatch.undo()
    assert tables() == set()

    upgrade()
    assert tables() == set(Base.metadata.tables)


def test_a_rotation_changes_no_indexed_column(app_context):
    """PERFORMANCE: what moves with each refresh stands in no index, so PostgreSQL updates in place."""
    moving = {
        *("refresh_jti", "previous_jti", "rotated_at", "last_used_at", "expires_at", "ip_address"),
    }
    indexes = inspect(database.engine()).get_indexes("user_sessions")

    assert not moving & {column for each in indexes for column in each["column_names"]}


@pytest.mark.postgresql
@pytest.mark.parametrize("blank_url", ["postgresql"], indirect=True)
def test_a_migration_lets_people_by_while_it_waits_for_who_was_there_before(blank_url):
    """DP-10: behind a migration that waits for a lock everybody would wait, and in a circle somebody fail."""
    environ = os.environ | {"DATABASE_URL": blank_url, "SECRET_KEY": services.SECRET_KEY}
    flask = [sys.executable, "-m", "flask", "db"]
    run = {"cwd": services.ROOT, "env": environ, "stdout": subprocess.DEVNULL}
    rows.migrate(blank_url)
    dsn = rows.driverless(blank_url)
    with psycopg.connect(dsn) as slow, psycopg.connect(dsn, autocommit=True) as quick:
        slow.execute("SELECT * FROM user_sessions")  # and its transaction stays open
        migrating = subprocess.Popen([*flask, "downgrade", "0001"], **run)
        try:
            services.wait_until(lambda: quick.execute(WAITS_FOR_TABLES).fetchone(), seconds=60)
            quick.execute("SET lock_timeout = '30s'")
            for _ in range(3):
                quick.execute("SELECT * FROM user_sessions")
            assert migrating.poll() is None
        finally:
            slow.rollback()
        assert migrating.wait(timeout=60) == 0


WAITS_FOR_TABLES = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"


def test_each_file_has_its_migrations_name_and_they_follow_one_another():
    """DP-10: by the names of the files a service knows which schemas are older than its own."""
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())

    assert [Path(each.path).name.partition("_")[0] for each in scripts] == [
        each.revision for each in scripts
    ]
    assert scripts == sorted(scripts, key=lambda each: each.revision, reverse=True)


def test_a_service_is_ready_once_its_database_is_migrated(tmp_path):
    """DP-10, AP-17: before that it says so; a newer schema than its own is good, as during a release."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
    client = app.test_client()
    before = client.get("/readyz")
    assert (before.status_code, before.text) == (503, "not ready\n")
    with app.app_context():
        upgrade()
        assert client.get("/readyz").status_code == 200
        with database.engine().begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'of tomorrow'")
        assert client.get("/readyz").status_code == 200
        database.engine().dispose()


def test_deletions_come_and_go_without_taking_a_session_along(blank):
    """On SQLite a table made anew for its check would: dropping the old one deletes all that refers to it."""
    upgrade()
    ada, grace = factories.account(), factories.account("grace@example.com")
    kept = factories.grant(ada)
    factories.grant(grace)
    deletions.request_by_operator(grace.email)
    deletions.request_by_operator(
        grace.email, is_at_once=True
    )  # and a mail waits that names its reader
    factories.grant(factories.account("joan@example.com"))
    deletions.request_by_operator("joan@example.com")
    downgrade(revision="0016")
    reasons = database.rows(text("SELECT end_reason FROM user_sessions WHERE ended_at IS NOT NULL"))
    assert [row[0] for row in reasons] == ["deactivated"]
    assert database.row(text("SELECT count(*) FROM users WHERE NOT is_active"))[0] == 1
    upgrade()

    assert database.row(text("SELECT count(*) FROM user_sessions"))[0] == 2
    assert sessions.resume_api(kept.session_id, ada.id).account.id == ada.id
