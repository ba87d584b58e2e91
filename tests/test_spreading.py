"""The tables, spread over the machines of Citus: the command, the keys, and the acts of people after it.

Without TEST_CITUS_URL what runs is the stand-in of tests/citus_stand_in.py, on one PostgreSQL.
"""

import importlib
import inspect
import pkgutil
import re

import psycopg
import pytest
import sqlalchemy
from flask_migrate import downgrade, upgrade
from sqlalchemy import (
    Delete,
    Insert,
    Select,
    Update,
    bindparam,
    delete,
    exists,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql

import authsite
from authsite import accounts, clock, create_app, database, deletions, sessions
from authsite.database import Base, faults, spreading
from authsite.database.models import OutgoingMail, SpentToken, User, UserEmail, UserSession
from authsite.errors import InvalidCredentials
from tests import citus_plans, citus_stand_in, colocation, factories, services
from tests.factories import PASSWORD

BESIDE_USERS = [name for name, column in spreading.SPREAD_BY.items() if column == "user_id"]


@pytest.fixture
def blank_url(postgresql_server_url):
    with services.new_database(postgresql_server_url) as url:
        yield url


@pytest.fixture(scope="module")
def template_url(postgresql_server_url):
    """A database that was migrated once, to be copied."""
    with services.new_database(postgresql_server_url) as url:
        with application(url).app_context():
            upgrade()
            database.engine().dispose()
        yield url


@pytest.fixture
def migrated(postgresql_server_url, template_url):
    """A database of the test's own, as `flask db upgrade` leaves it, with the stand-in; its application."""
    with services.new_database(postgresql_server_url, template_url=template_url) as url:
        citus_stand_in.install(url)
        with application(url).app_context():
            yield url
            database.engine().dispose()


def application(url):
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    return app


def distribute(url, *options):
    """Run the command as an operator does, and return its exit code and what it said."""
    app = application(url)
    told = app.test_cli_runner().invoke(args=["distribute-tables", *options])
    with app.app_context():
        database.engine().dispose()
    return told.exit_code, told.output


def told(url) -> dict[str, tuple[str, bool]]:
    """Return what Citus has been told of each table: by which column, and whether beside the users."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT table_name::text, distribution_column, truncated, colocation_id FROM citus_tables"
        ).fetchall()
    assert all(truncated for _, _, truncated, _ in found), "nothing is left on the coordinator"
    of_users = next((group for name, _, _, group in found if name == "users"), None)
    return {name: (column, group == of_users) for name, column, _, group in found}


def keys(url) -> list[tuple[str, str, str]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE contype IN ('p', 'u', 'f') AND connamespace = 'public'::regnamespace ORDER BY 1, 2"
        ).fetchall()


# Which table goes where


def test_each_table_has_a_place():
    """A new one that has none would stay on the coordinator: its foreign key to users does nothing there."""
    assert set(spreading.SPREAD_BY) == set(Base.metadata.tables)


def test_what_is_a_users_lies_beside_the_user_or_is_known_not_to():
    """Where no foreign key reaches, the deletion's own statements must; see the next test."""
    apart = {"user_emails", "outgoing_mails", "outgoing_events"}
    of_a_user = {table.name for table in Base.metadata.sorted_tables if "user_id" in table.c}
    assert set(BESIDE_USERS) == of_a_user - apart


def test_a_deletion_names_each_table_with_a_users_rows_itself():
    """Only what tells the products that somebody is gone outlives him."""
    named = {statement.table.name for statement in deletions._REST}
    assert named == {t.name for t in Base.metadata.sorted_tables if "user_id" in t.c} - {
        "outgoing_events"
    }


# Its statements

ONE_USERS = UserSession.user_id == bindparam("owner_id")
TAKING = postgresql.insert(UserEmail)
ANSWERED = [
    select(UserSession.id).where(ONE_USERS),
    select(User.email)
    .join_from(UserSession, User, User.id == UserSession.user_id)
    .where(ONE_USERS),
    select(User.id).where(User.id == bindparam("owner_id")).with_for_update(),
    update(UserSession)
    .where(ONE_USERS, exists().where(User.id == UserSession.user_id))
    .values(os="x"),
    delete(UserEmail).where(UserEmail.email == "x"),
    select(OutgoingMail.id).with_for_update(skip_locked=True),
    TAKING.on_conflict_do_update(index_elements=[UserEmail.email], set_={"kept_until": None}),
    TAKING.on_conflict_do_nothing(),
]
NOT_ANSWERED = [
    (select(UserSession.id), "asks all machines"),
    (
        select(UserEmail.email).where(UserEmail.user_id == bindparam("owner_id")),
        "asks all machines",
    ),
    (select(UserSession.id).where(or_(ONE_USERS, UserSession.os == "x")), "asks all machines"),
    (select(UserSession.id).with_for_update(), "locks rows of several machines"),
    (select(User.id).where(User.email == "x").with_for_update(), "locks rows of several machines"),
    (select(User.id).join(UserEmail, UserEmail.email == User.email), "do not lie together"),
    (
        select(exists().where(ONE_USERS), exists().where(SpentToken.digest == b"")),
        "not lie together",
    ),
    (
        select(UserSession.id).join(OutgoingMail, OutgoingMail.user_id == ONE_USERS),
        "not lie together",
    ),
    (
        TAKING.on_conflict_do_update(index_elements=[UserEmail.user_id], set_={"kept_until": None}),
        "meets conflicts",
    ),
]


@pytest.mark.parametrize("statement", ANSWERED)
def test_what_citus_answers_passes(statement):
    assert colocation.faults(statement) == []


@pytest.mark.parametrize(("statement", "fault"), NOT_ANSWERED)
def test_what_citus_refuses_or_sends_everywhere_is_seen(statement, fault):
    assert any(fault in each for each in colocation.faults(statement))


@pytest.mark.parametrize("database_url", ["spread"], indirect=True)
def test_the_service_cannot_execute_such_a_statement_while_a_test_runs(app_context, monkeypatch):
    """Not even on the way that passes SQLAlchemy by."""
    assert database.has_citus()
    everybodys = database.Prepared(select(UserSession.id))
    monkeypatch.setattr(sessions.listing, "_LIST_ACTIVE", everybodys)
    with pytest.raises(colocation.CitusRefuses):
        sessions.active_for(accounts.NOBODY)


@pytest.mark.parametrize("name", colocation.FANS_OUT)
def test_each_exception_is_a_function_of_today(name):
    module, _, function = name.rpartition(".")
    assert inspect.isfunction(getattr(importlib.import_module(module), function))


def statements() -> dict[str, object]:
    """Return the statements that the modules of the service have built, by module and name."""
    names = [each.name for each in pkgutil.walk_packages(authsite.__path__, "authsite.")]
    found = {}
    for module in (importlib.import_module(name) for name in names if "server" not in name):
        for name, value in vars(module).items():
            statement = value.statement if isinstance(value, database.Prepared) else value
            if isinstance(statement, Select | Insert | Update | Delete):
                found[f"{module.__name__}.{name}"] = statement
    return found


def test_but_for_two_no_statement_asks_for_what_does_not_lie_together():
    """For these two others stand in where Citus is."""
    all_of_them = statements()
    assert len(all_of_them) > 100
    refused = {
        name: found
        for name, statement in all_of_them.items()
        if (found := [each for each in colocation.faults(statement) if each != colocation.FAN_OUT])
    }
    assert set(refused) == {
        "authsite.accounts._HOLDER",
        "authsite.accounts._BY_ID_WITH_FAILURES",
    }


# Its plans


def plan_of(task_count, **more):
    """Return what EXPLAIN (FORMAT JSON) answers on a coordinator (Citus 13, multi_explain.c)."""
    remote = [[{"Plan": {"Node Type": "Index Scan", "Relation Name": "user_sessions_102008"}}]]
    task = {"Node": "host=localhost port=9701 dbname=accounts", "Remote Plan": remote}
    shown = "All" if task_count == 1 else f"One of {task_count}"
    job = {"Task Count": task_count, "Tasks Shown": shown, "Tasks": [task]}
    scan = {
        "Node Type": "Custom Scan",
        "Custom Plan Provider": "Citus Adaptive",
        "Distributed Query": more | {"Job": job},
    }
    return [{"Plan": scan}]


LOCAL = [{"Plan": {"Node Type": "Index Scan", "Relation Name": "outgoing_mails"}}]
SORTED = [{"Plan": {"Node Type": "Sort", "Plans": [plan_of(32)[0]["Plan"]]}}]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (plan_of(1), [1]),
        (plan_of(32), [32]),
        (SORTED, [32]),
        (plan_of(1, Subplans=[{"PlannedStmt": plan_of(8)}]), [1, 8]),
        (LOCAL, []),
    ],
)
def test_the_tasks_of_a_plan_are_counted_wherever_they_stand(plan, expected):
    assert citus_plans.tasks(plan) == expected


def sent_by(act):
    """Do it and return the statements that it sent, with their values."""
    sent, execute = [], psycopg.Cursor.execute

    def note(cursor, statement, values=None, **options):
        sent.append((statement.decode() if isinstance(statement, bytes) else statement, values))
        return execute(cursor, statement, values, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", note)
        act()
    return sent


def table_of(statement):
    return re.search(r"(?:INTO|UPDATE|FROM|JOIN) ([a-z_]+)", statement)[1]


# What is asked most often, and the tables that its statements are about.
HOT = {
    "read": (lambda _ada, held, _page: sessions.resume_api(*held[:2]), ["user_sessions"]),
    "list": (lambda _ada, held, _page: sessions.resume_api_with_all(*held[:2]), ["user_sessions"]),
    "rotation": (
        lambda _ada, held, _page: sessions.rotate(*held[:2], held.jti),
        ["user_sessions"],
    ),
    "page": (
        lambda _ada, _held, page: sessions.resume_page(*page[:2], page.cookie_secret),
        ["user_sessions"],
    ),
    "forward auth": (
        lambda _ada, _held, page: sessions.resume_product(*page[:2]),
        ["user_sessions"],
    ),
    "sign-in": (
        lambda ada, _held, _page: factories.grant(ada),
        [
            *("user_emails", "sign_in_failures", "users", "user_sessions", "account_events"),
            *("user_sessions", "outgoing_mails"),
        ],
    ),
}


@pytest.mark.parametrize("act", HOT)
@pytest.mark.parametrize("database_url", ["spread"], indirect=True)
def test_each_statement_that_is_asked_most_is_one_task_of_one_machine(
    app_context, database_url, act
):
    """Without Citus its plan has no task, and what is held is which statements there are."""
    ada = factories.account()
    held, page = factories.grant(ada), factories.grant(ada, entrance="page")
    work, tables = HOT[act]
    sent = sent_by(lambda: work(ada, held, page))

    assert [table_of(statement) for statement, _ in sent] == tables
    with psycopg.connect(database_url) as connection:
        plans = [citus_plans.explain(connection, *each) for each in sent]
    one = [1] * services.HAS_CITUS
    expected = [one if spreading.SPREAD_BY[table] else [] for table in tables]
    assert [citus_plans.tasks(plan) for plan in plans] == expected


# The command


def test_it_refuses_sqlite(sqlite_url):
    assert distribute(sqlite_url) == (1, f"Error: {spreading.NOT_POSTGRESQL}\n")


@pytest.mark.postgresql
def test_it_refuses_a_postgresql_without_citus_and_changes_nothing(postgresql_url):
    before = keys(postgresql_url)
    for options in ([], ["--dry-run"]):
        assert distribute(postgresql_url, *options) == (1, f"Error: {spreading.NO_CITUS}\n")
    assert keys(postgresql_url) == before


@pytest.mark.postgresql
def test_it_refuses_missing_and_outdated_tables(blank_url):
    citus_stand_in.install(blank_url)
    assert distribute(blank_url) == (1, f"Error: {faults.TABLES_MISSING}\n")
    with application(blank_url).app_context():
        upgrade(revision="0018")
        database.engine().dispose()
    assert distribute(blank_url) == (1, f"Error: {faults.TABLES_OUTDATED}\n")
    assert told(blank_url) == {}


@pytest.mark.postgresql
def test_it_spreads_each_table_as_decided_and_says_what_it_did(migrated):
    before = keys(migrated)
    code, planned = distribute(migrated, "--dry-run")
    assert (code, keys(migrated), told(migrated)) == (0, before, {}), "a dry run changes nothing"

    code, said = distribute(migrated)
    assert code == 0
    assert "user_sessions: spread by user_id; primary key (user_id, id); index (id).\n" in said
    assert [f"-- {line.removesuffix('.')}" for line in said.splitlines()[:-1]] == [
        line for line in planned.splitlines() if line.startswith("--")
    ]
    assert told(migrated) == {
        name: (column, column in ("user_id", "id"))
        for name, column in spreading.SPREAD_BY.items()
        if column
    }
    foreign = {
        (name, definition) for name, _, definition in keys(migrated) if "FOREIGN" in definition
    }
    beside = "FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE"
    assert foreign == {(name, beside) for name in BESIDE_USERS}


@pytest.mark.postgresql
def test_what_was_found_by_its_id_alone_has_an_index_still(migrated):
    """A link of the release before, the clean-up and a refusal look for it so."""
    distribute(migrated)
    inspector = sqlalchemy.inspect(database.engine())
    for table in Base.metadata.sorted_tables:
        wanted = [column.name for column in table.primary_key]
        primary = inspector.get_pk_constraint(table.name)["constrained_columns"]
        indexed = [each["column_names"] for each in inspector.get_indexes(table.name)]
        assert wanted in [primary, *indexed], table.name


@pytest.mark.postgresql
def test_run_again_it_changes_nothing_and_says_so(migrated):
    distribute(migrated)
    before = keys(migrated), told(migrated)
    for options in ([], ["--dry-run"]):
        assert distribute(migrated, *options) == (
            0,
            "The tables are distributed already: nothing is to be done.\n",
        )
    assert (keys(migrated), told(migrated)) == before


@pytest.mark.postgresql
@pytest.mark.parametrize("steps", [1, 5, 14, 20])
def test_it_goes_on_where_it_was_cut_off(migrated, steps):
    planned = spreading.remaining()
    for number in range(steps):
        assert spreading.take_step() == planned[number]
    assert spreading.remaining() == planned[steps:]

    code, said = distribute(migrated)
    assert code == 0
    assert said.count("\n") == len(planned) - steps + 1
    assert spreading.remaining() == []


@pytest.mark.postgresql
def test_what_citus_refuses_is_said_and_leaves_the_table_as_it_was(migrated):
    """Such as a key that somebody added by hand."""
    with database.engine().begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX by_hand ON passkeys (aaguid)"))
    code, said = distribute(migrated)
    assert code == 1
    assert "by_hand" in said
    assert said.splitlines()[-1].endswith("What stands above is done. Run this again for the rest.")
    assert ("passkeys", "pk_passkeys", "PRIMARY KEY (id)") in keys(migrated)

    with database.engine().begin() as connection:
        connection.execute(text("DROP INDEX by_hand"))
    assert distribute(migrated)[0] == 0
    assert ("passkeys", "pk_passkeys", "PRIMARY KEY (user_id, id)") in keys(migrated)


@pytest.mark.postgresql
def test_an_account_that_was_not_listed_is_found_afterwards(migrated):
    """Code of an older release made it; there an address is looked up in the list alone."""
    ada, eve = factories.account(), factories.account("eve@example.com")
    database.run(UserEmail.__table__.delete().where(UserEmail.user_id == ada.id))
    assert distribute(migrated)[0] == 0
    with application(migrated).app_context():
        assert database.has_citus()
        assert accounts.authenticate(ada.email, PASSWORD).account == ada
        assert accounts.authenticate(eve.email, PASSWORD).account == eve
        with pytest.raises(InvalidCredentials):
            accounts.authenticate("nobody@example.com", PASSWORD)
        database.engine().dispose()


@pytest.mark.postgresql
def test_an_account_that_nobody_could_sign_in_to_afterwards_is_a_reason_to_refuse(migrated):
    ada, eve = factories.account(), factories.account("eve@example.com")
    kept = clock.now() + deletions.LONGEST_WAIT
    database.run(
        update(UserEmail).where(UserEmail.user_id == ada.id).values(user_id=eve.id, kept_until=kept)
    )
    before = keys(migrated)

    code, said = distribute(migrated)
    assert code == 1
    assert "Accounts whose address is kept for another one: 1." in said
    assert [each for each in keys(migrated) if each[0] == "users"] == [
        each for each in before if each[0] == "users"
    ]
    assert "users" not in told(migrated)


@pytest.mark.postgresql
def test_a_table_that_a_later_migration_adds_is_spread_by_the_next_run(migrated):
    """Citus takes it for a local one; keys are the migration's, columns come and go."""
    distribute(migrated)
    ada = factories.account()
    downgrade(revision="0017")  # before there were passkeys
    upgrade()
    assert "passkeys" not in told(migrated)
    assert [step.says.count("passkeys") for step in spreading.remaining()] == [0, 1, 1]

    code, said = distribute(migrated)
    assert (code, said.count("passkeys")) == (0, 2)
    assert told(migrated)["passkeys"] == ("user_id", True)
    assert database.row(select(User.email).where(User.id == ada.id)).email == ada.email
