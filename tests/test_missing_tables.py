"""A database without tables, or with those of an older version: said to the operator, and to nobody else."""

import logging
import re
import subprocess
import sys
import uuid

import pytest
from flask_migrate import upgrade
from sqlalchemy.exc import DBAPIError, ProgrammingError

from authsite import create_app, database
from authsite.database import faults
from authsite.web import headers
from tests import factories, services
from tests.factories import PASSWORD
from tests.pages.conftest import EMAIL, Browser
from tests.test_architecture import FOR_SERVICES, PUBLIC_API

MISSING = "The tables are missing: run flask db upgrade"
OUTDATED = "The tables are of an older version: run flask db upgrade"
V1 = "/api/v1"


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
)
def blank_url(request, tmp_path_factory):
    """A database without a single table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('blank') / 'blank.db'}"
        return
    with services.new_database(request.getfixturevalue("postgresql_server_url")) as url:
        yield url


def make(url: str, **environ: str):
    environ = {"RATELIMIT_ENABLED": "0", "EMAIL_VERIFICATION": "off"} | environ
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY} | environ)
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    return app


@pytest.fixture(scope="module")
def held(blank_url):
    """An application whose tables have gone, with a browser and a client that were signed in."""
    app = make(blank_url)
    browser = Browser(app)
    with app.app_context():
        upgrade()
        ada = factories.account()
        grant = factories.grant(ada)
        tokens = factories.access_token(grant), factories.refresh_token(grant)
        browser.sign_in()
        form = browser.csrf_token("/account/password")
        with database.engine().begin() as connection:
            database.db.metadata.drop_all(connection)
            connection.exec_driver_sql("DROP TABLE alembic_version")
    yield app, browser, form, tokens
    with app.app_context():
        database.engine().dispose()


@pytest.fixture(autouse=True)
def _all_that_is_logged(caplog):
    caplog.set_level(logging.INFO, "authsite.events")


def reasons(caplog, event: str = "database_unavailable") -> set[tuple[str, str]]:
    found = [each for each in caplog.records if getattr(each, "facts", {}).get("event") == event]
    return {(each.levelname, each.facts.get("reason")) for each in found}


def is_plain_503(answer) -> bool:
    """Whether it is the answer that a visitor gets of any database that is away."""
    assert "table" not in answer.text.lower().replace("table-", "")
    assert "flask db" not in answer.text
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0


def address(rule) -> str:
    return re.sub(r"<(?:\w+:)?\w+>", "01a214d0-0a14-7a82-b9ec-9e64ba990d5e", rule.rule)


def test_every_api_route_behind_a_token_answers_503_and_the_log_says_what_to_do(held, caplog):
    app, _, _, (access_token, _) = held
    bearer = {"Authorization": f"Bearer {access_token}"}
    client = app.test_client()
    asked = 0
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith("/api/") or rule.endpoint in PUBLIC_API | FOR_SERVICES:
            continue
        for method in rule.methods - {"OPTIONS", "HEAD"}:
            caplog.clear()
            answer = client.open(address(rule), method=method, json={}, headers=bearer)
            assert is_plain_503(answer), (method, rule.rule, answer.text)
            assert answer.json["errors"][0]["code"] == "service_unavailable"
            assert reasons(caplog) == {("ERROR", MISSING)}
            asked += 1
    assert asked > 15


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("/auth/login", {"json": {"email": EMAIL, "password": PASSWORD}}),
        ("/auth/login/oauth", {"data": {"username": EMAIL, "password": PASSWORD}}),
        ("/auth/register", {"json": {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"}}),
        ("/auth/password-reset/request", {"json": {"email": EMAIL}}),
        ("/auth/refresh", {"json": {"refresh_token": "its own"}}),
        ("/auth/revoke", {"data": {"token": "its own"}}),
    ],
)
def test_what_is_open_to_everybody_answers_503_too(held, caplog, path, how):
    app, _, _, (_, refresh_token) = held
    for body in how.values():
        body |= {name: refresh_token for name in ("refresh_token", "token") if name in body}

    assert is_plain_503(app.test_client().post(V1 + path, **how))
    assert reasons(caplog) == {("ERROR", MISSING)}


def test_who_was_signed_in_sees_the_plain_page_wherever_he_goes(held, caplog):
    app, browser, _, _ = held
    seen = 0
    for rule in app.url_map.iter_rules():
        others = ("/api/", "/.authsite/", *headers.FOR_PROXIES, *headers.HEALTH)
        if "GET" not in rule.methods or rule.rule.startswith(others):
            continue
        answer = browser.get(address(rule))
        assert answer.status_code != 500, rule.rule
        if rule.rule.startswith("/account"):
            assert is_plain_503(answer), (rule.rule, answer.status_code)
            seen += 1
        answer.close()
    assert seen > 8
    assert reasons(caplog) == {("ERROR", MISSING)}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/login", {"email": EMAIL, "password": PASSWORD}),
        ("/register", {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"}),
        ("/forgot-password", {"email": EMAIL}),
    ],
)
def test_a_form_that_a_visitor_sends_is_answered_by_the_plain_page(held, caplog, path, fields):
    app = held[0]

    assert is_plain_503(Browser(app).post(path, **fields))
    assert reasons(caplog) == {("ERROR", MISSING)}


def test_a_form_that_was_open_is_answered_by_the_plain_page(held, caplog):
    _, browser, form, _ = held
    answer = browser.send("/account/devices/revoke-others", {"csrf_token": form})

    assert is_plain_503(answer)
    assert reasons(caplog) == {("ERROR", MISSING)}


def test_readyz_says_so_in_the_log_once_and_never_in_its_answer(held, caplog):
    client = held[0].test_client()
    for _ in range(3):
        answer = client.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "not ready\n")

    assert [each.facts for each in caplog.records] == [
        {"event": "readiness", "outcome": "error", "reason": MISSING}
    ]
    assert client.get("/healthz").status_code == 200


# The command line

ONE_ACCOUNT = (
    *("activate-user", "create-user", "deactivate-user", "delete-user", "export-user"),
    *("list-sessions", "reset-two-step", "revoke-sessions", "send-reset", "set-password"),
    *("show-user", "unlock", "verify-email"),
)
ALL = (
    *("cleanup", "cleanup-accounts", "cleanup-activity", "cleanup-sessions"),
    *("reencrypt-secrets", "send-mail", "session-stats"),
)
ARGUMENTS = {
    **{name: [EMAIL] for name in ONE_ACCOUNT},
    **{name: [] for name in ALL},
    "change-email": [EMAIL, "new@example.com"],
    "revoke-session": [str(uuid.uuid4())],
}
# They ask no database, or go on until it is there.
WITHOUT = {
    *("check-config", "forward-auth-key", "send-test-mail", "service-client", "worker"),
    "distribute-tables",  # refuses such a database for another reason first
}


def test_every_command_says_what_to_run(held):
    app = held[0]
    ours = {
        name
        for name, command in app.cli.commands.items()
        if command.callback and command.callback.__module__.startswith("authsite")
    }
    for name in sorted(ours - WITHOUT):
        result = app.test_cli_runner().invoke(args=[name, *ARGUMENTS[name]], input=f"{PASSWORD}\n")
        assert (result.exit_code, result.stdout) == (1, ""), name
        assert result.stderr.splitlines()[-1] == f"Error: {MISSING}", name


@pytest.mark.site
def test_a_worker_says_it_once_and_goes_on_when_they_are_there(tmp_path):
    """Not at each of its turns."""
    url = f"sqlite:///{tmp_path / 'blank.db'}"
    environ = {"PATH": "/usr/bin:/bin", "DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY}
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER], cwd=services.ROOT, env=environ, stderr=file
        )
    try:
        services.wait_until(lambda: "turn 3" in errors.read_text(), seconds=30)
        app = make(url)
        with app.app_context():
            upgrade()
            database.engine().dispose()
        services.wait_until(lambda: "Z worker\n" in errors.read_text(), seconds=30)
    finally:
        worker.terminate()
        worker.wait(30)

    assert errors.read_text().count(MISSING) == 1
    assert "Traceback" not in errors.read_text()


# The worker itself, with short turns that it counts.
WORKER = """
import sys
from authsite.commands import worker
from authsite.mail import outbox
from wsgi import app

worker.TURN_SECONDS, deliver, turns = 0.05, outbox.deliver, []

def counted(**how):
    turns.append(0)
    print("turn", len(turns), file=sys.stderr, flush=True)
    return deliver(**how)

outbox.deliver = counted
with app.app_context():
    worker.work_until_stopped()
"""


# An older version


@pytest.mark.parametrize("revision", ["0001"])
def test_tables_of_an_older_version_are_told_as_such(blank_url, caplog, revision):
    """Deployed without the release's migrations."""
    app = make(blank_url)
    with app.app_context():
        upgrade(revision=revision)
        client = app.test_client()
        login = client.post(f"{V1}/auth/login", json={"email": EMAIL, "password": PASSWORD})
        ready = client.get("/readyz")
        with database.engine().begin() as connection:
            database.db.metadata.drop_all(connection)
            connection.exec_driver_sql("DROP TABLE alembic_version")
        database.engine().dispose()

    assert is_plain_503(login)
    assert reasons(caplog) <= {("ERROR", MISSING), ("ERROR", OUTDATED)}
    assert len(reasons(caplog)) == 1
    assert ready.status_code == 503
    assert reasons(caplog, "readiness") == {("ERROR", OUTDATED)}


def test_no_command_tells_what_is_not_in_tables_of_an_older_version(blank_url):
    """Nor that tables are missing which a migration has yet to make."""
    app = make(blank_url)
    said = {}
    with app.app_context():
        upgrade(revision="0004")  # whose an address is can be asked, and nothing is in it
        for name in (*ONE_ACCOUNT, "change-email", "revoke-session", "cleanup-activity"):
            result = app.test_cli_runner().invoke(
                args=[name, *ARGUMENTS[name]], input=f"{PASSWORD}\n"
            )
            said[name] = result.exit_code, result.stdout, result.stderr.splitlines()[-1]
        with database.engine().begin() as connection:
            database.db.metadata.drop_all(connection)
            connection.exec_driver_sql("DROP TABLE alembic_version")
        database.engine().dispose()

    assert said == dict.fromkeys(said, (1, "", f"Error: {OUTDATED}"))


def test_a_missing_column_is_an_older_version_and_other_faults_are_what_they_are(blank_url):
    app = make(blank_url)
    said = {}
    with app.app_context():
        for statement in ("SELECT 1 FROM absent", "SELECT absent", "SELECT 1 +", "SELECT 'x' FROM"):
            with (
                pytest.raises(DBAPIError) as failed,
                database.engine().connect() as connection,
            ):
                connection.exec_driver_sql(statement)
            said[statement] = faults.advice(failed.value)
        database.engine().dispose()

    assert said == {
        "SELECT 1 FROM absent": MISSING,
        "SELECT absent": OUTDATED,
        "SELECT 1 +": None,
        "SELECT 'x' FROM": None,
    }


def test_what_is_told_names_the_kind_of_a_fault_and_none_of_its_words():
    """LG-01"""
    fault = ProgrammingError("SELECT 'three random words'", {}, ValueError("three random words"))

    assert faults.describe(fault) == "ValueError"
    assert faults.advice(fault) is None
