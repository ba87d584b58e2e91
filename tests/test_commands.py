"""The command line: what an operator or a scheduler sees, exit statuses included."""

import contextlib
import json
import os
import pty
import select as selecting
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import CliRunner
from flask.cli import FlaskGroup
from sqlalchemy import func, make_url, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from authsite import (
    accounts,
    activity,
    clock,
    commands,
    config,
    create_app,
    database,
    exports,
    outboxes,
    passwords,
    registrations,
    service_clients,
    sessions,
    throttling,
)
from authsite.commands import shell
from authsite.database.models import OutgoingMail, PasswordReset, SignInFailures, User, UserSession
from authsite.errors import (
    InactiveAccount,
    InvalidClient,
    InvalidCredentials,
    ServiceBusy,
    SessionRevoked,
    TooManyAttempts,
)
from authsite.mail import outbox
from tests import factories, services
from tests.factories import NEW_PASSWORD, PASSWORD

OLD = timedelta(days=60)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
# Where a process or a terminal is the subject, one database is enough.
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def cli(app, app_context):
    """Return a function that runs a command in this process."""

    def run(*arguments: str, stdin: str | None = None):
        return app.test_cli_runner().invoke(args=list(arguments), input=stdin)

    return run


@pytest.fixture
def ada(app_context):
    return factories.account()


@pytest.fixture
def environ(database_url):
    """What a process of its own needs to find the same database."""
    return os.environ | {"DATABASE_URL": database_url, "SECRET_KEY": services.SECRET_KEY}


def flask(*arguments: str, environ: dict, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=services.ROOT,
        env=environ,
        capture_output=True,
        timeout=60,
        **more,
    )


def count(model) -> int:
    return database.row(select(func.count()).select_from(model))[0]


OURS = sorted(
    name for name, command in shell.blueprint.cli.commands.items() if command.callback is not None
)


# Output

ANSWERS = [
    ["cleanup-sessions", "--json"],
    ["cleanup-activity", "--json"],
    ["cleanup-accounts", "--json"],
    ["cleanup", "--json"],
    ["session-stats", "--json"],
    ["reencrypt-secrets", "--json"],
    ["list-sessions", "ada@example.com", "--json"],
    ["show-user", "ada@example.com", "--json"],
    ["export-user", "ada@example.com"],
]


def test_every_command_that_speaks_json_is_in_the_table(app):
    speaking = {
        name
        for name, command in app.cli.commands.items()
        if any("--json" in each.opts for each in command.params)
    }
    assert speaking <= {arguments[0] for arguments in ANSWERS}


@pytest.mark.parametrize("arguments", ANSWERS, ids=lambda each: each[0])
def test_standard_output_holds_the_answer_and_nothing_else(cli, ada, arguments):
    """CONTRACT §5: `flask ... --json | jq` works; what happened stands on standard error."""
    factories.session_rows(ada, 3)
    factories.session_rows(ada, 3, age=OLD)
    result = cli(*arguments)

    assert result.exit_code == 0
    json.loads(result.stdout)  # one document


@pytest.mark.site
@on_one_database
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_command_can_be_piped_into_jq(ada, environ, log_format):
    """As a process of its own."""
    factories.session_rows(ada, 7, age=OLD)
    ended = flask(
        "cleanup-sessions", "--json", environ=environ | {"LOG_FORMAT": log_format}, text=True
    )

    assert json.loads(ended.stdout)["deleted"] == 7
    [event] = ended.stderr.splitlines()
    assert event.startswith('{"time"') == (log_format == "json")
    assert "cleanup" in event


# cleanup-sessions


def test_cleanup_deletes_the_dead_and_says_how_many(cli, ada):
    """PR-02, FA-07."""
    factories.session_rows(ada, 7, age=OLD)
    factories.session_rows(ada, 2)
    result = cli("cleanup-sessions")

    assert (result.exit_code, result.stdout.rstrip("\n")) == (0, "Deleted 7 sessions.")
    assert count(UserSession) == 2


@contextlib.contextmanager
def refusing_passwords():
    """The URL of a PostgreSQL server as far as its word that the password is wrong."""
    fields = b'SFATAL\0C28P01\0Mpassword authentication failed for user "ada"\0\0'
    with socket.create_server((services.HOST, 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(8)  # whether there is TLS
                connection.sendall(b"N")
                connection.recv(1024)
                connection.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"postgresql://ada:hunter2@{services.HOST}:{listener.getsockname()[1]}/ada?sslmode=prefer"
        thread.join()


@contextlib.contextmanager
def unusable(what, server_url, tmp_path):
    """Yield the URL of a database that cannot be migrated."""
    url = make_url(server_url).set(drivername="postgresql")
    if what == "no server":
        yield f"postgresql://ada:hunter2@{services.HOST}:{services.free_port()}/ada"
    elif what == "wrong password":
        with refusing_passwords() as refusing:
            yield refusing
    elif what == "no database":
        yield url.set(database="nothing").render_as_string(hide_password=False)
    elif what == "no user":
        yield url.set(username="nobody").render_as_string(hide_password=False)
    elif what == "a loop":
        (tmp_path / "loop").symlink_to("loop")
        yield f"sqlite:///{tmp_path}/loop"
    else:
        with services.new_database(server_url) as read_only:
            name = make_url(read_only).database
            with psycopg.connect(read_only, autocommit=True) as connection:
                connection.execute(
                    f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'
                )
            yield read_only


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("what", "command", "reason"),
    [
        ("no server", "upgrade", "no server listens at its address"),
        ("no server", "current", "no server listens at its address"),
        ("wrong password", "upgrade", "user or password is wrong"),
        ("no user", "current", "there is no such user"),
        ("no database", "upgrade", "there is no database of this name"),
        ("read-only", "upgrade", "it can only be read"),
        ("a loop", "current", "its file cannot be opened"),
    ],
)
def test_a_migration_of_what_cannot_be_used_is_refused_in_one_line(
    postgresql_server_url, tmp_path, what, command, reason
):
    """LG-01: not by a traceback, which shows what was asked, where and as whom."""
    with unusable(what, postgresql_server_url, tmp_path) as url:
        app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
        ended = app.test_cli_runner().invoke(args=["db", command])
        with app.app_context():
            database.engine().dispose()
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[-1] == f"Error: The database failed ({reason})."
    assert "hunter2" not in ended.output
    assert not isinstance(ended.exception, SQLAlchemyError)


def test_cleanup_again_has_nothing_to_do(cli, ada):
    """FA-07: it can be run as often as one likes."""
    factories.session_rows(ada, 3, age=OLD)
    cli("cleanup-sessions")
    result = cli("cleanup-sessions")

    assert (result.exit_code, result.stdout.rstrip("\n")) == (0, "Deleted 0 sessions.")


def test_a_dry_run_says_how_many_and_deletes_nothing(cli, ada):
    """FA-07: also nothing of what goes along with the sessions."""
    factories.session_rows(ada, 3, age=OLD)
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    result = cli("cleanup-sessions", "--dry-run", "--keep-days", "0")

    assert (result.exit_code, result.stdout.rstrip("\n")) == (0, "Would delete 3 sessions.")
    assert (count(UserSession), count(PasswordReset)) == (3, 1)


@pytest.mark.parametrize(("keep_days", "deleted"), [("0", 3), ("5", 2), ("30", 1), ("365", 0)])
def test_cleanup_keeps_what_died_in_the_days_that_are_to_be_kept(cli, ada, keep_days, deleted):
    """PR-01."""
    for ended in (1, 20, 40):
        factories.session_rows(
            ada, age=timedelta(days=41), ended=timedelta(days=ended), lifetime=OLD
        )
    [live] = factories.session_rows(ada)
    result = cli("cleanup-sessions", "--keep-days", keep_days, "--json")

    assert json.loads(result.stdout)["deleted"] == deleted
    assert sessions.resume_api(live["id"], ada.id)


def test_cleanup_speaks_json(cli, ada):
    factories.session_rows(ada, 4, age=OLD)
    result = cli("cleanup-sessions", "--json", "--batch-size", "3")
    told = json.loads(result.stdout)

    assert result.exit_code == 0
    assert told.pop("seconds") >= 0
    assert told == {"deleted": 4, "dry_run": False, "keep_days": 30}


def test_cleanup_also_takes_what_else_is_over(cli, ada, time_machine):
    """PR-01: reset requests and counters of failures do not stay for ever either."""
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, "wrong password")
    time_machine.move_to(clock.now() + OLD, tick=False)

    assert cli("cleanup-sessions").exit_code == 0
    assert (count(PasswordReset), count(SignInFailures)) == (0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--keep-days", "-1"],
        ["--keep-days", "abc"],
        ["--keep-days", "1.5"],
        ["--batch-size", "0"],
        ["--batch-size", "1000000"],
        ["--no-such-option"],
        ["surplus"],
    ],
)
def test_bad_arguments_exit_with_2_and_delete_nothing(cli, ada, arguments):
    """FA-07."""
    factories.session_rows(ada, age=OLD)

    assert cli("cleanup-sessions", *arguments).exit_code == 2
    assert count(UserSession) == 1


@pytest.mark.site
def test_an_unreachable_database_exits_with_1(tmp_path):
    """FA-07, LG-01: and its password is not shown."""
    url = f"postgresql://user:hunter2@127.0.0.1:{services.free_port()}/nothing"
    ended = flask(
        "cleanup-sessions",
        environ=os.environ | {"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY},
        text=True,
    )

    assert ended.returncode == 1
    told = "Error: The database failed (no server listens at its address)."
    assert ended.stderr.splitlines()[-1] == told
    assert "SELECT" not in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def run_at_a_terminal(arguments: list[str], environ: dict) -> tuple[int, str, str]:
    """Run a command whose standard error is a terminal; return its status, output, and what it drew."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", *arguments],
        cwd=services.ROOT,
        env=environ | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
    )
    os.close(follower)
    drawn = b""
    while True:
        with contextlib.suppress(OSError):
            if selecting.select([leader], [], [], 0.1)[0]:
                drawn += os.read(leader, 65536)
                continue
        if process.poll() is not None:
            break
    os.close(leader)
    with process.stdout:
        return process.returncode, process.stdout.read(), drawn.decode()


@pytest.mark.site
@on_one_database
def test_a_terminal_gets_a_progress_bar(ada, environ):
    """CONTRACT §5: on standard error, so that what is piped on stays clean."""
    factories.session_rows(ada, 30, age=OLD)
    status, output, drawn = run_at_a_terminal(["cleanup-sessions", "--batch-size", "10"], environ)

    assert status == 0
    assert "Looking through sessions" in drawn
    assert "100%" in drawn
    assert output == "Deleted 30 sessions.\n"


@pytest.mark.site
@on_one_database
def test_a_scheduler_gets_no_progress_bar(ada, environ):
    """CONTRACT §5."""
    factories.session_rows(ada, 3, age=OLD)
    ended = flask("cleanup-sessions", environ=environ, text=True)

    assert (ended.returncode, ended.stdout) == (0, "Deleted 3 sessions.\n")
    assert "%" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1  # the event


@pytest.mark.site
def test_a_cleanup_that_is_told_to_stop_leaves_whole_batches(ada, environ):
    """FA-07: SIGTERM in the middle loses nothing that lives, and the next run does the rest."""
    factories.session_rows(ada, 1000, age=OLD)
    live = factories.session_rows(ada, 5)
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "cleanup-sessions", "--batch-size", "1"],
        cwd=services.ROOT,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    services.wait_until(lambda: count(UserSession) < 1000)
    process.terminate()
    status = process.wait(10)

    assert status != 0
    assert 5 < count(UserSession) < 1005
    before = clock.now() - timedelta(days=30)
    assert sum(found for _, found in sessions.delete_dead(before, batch_size=5000)) > 0
    assert {row.id for row in sessions.active_for(ada.id)} == {row["id"] for row in live}
    assert count(UserSession) == 5


# the second step


def test_two_step_sign_in_is_turned_off_for_who_has_lost_everything(cli, ada):
    factories.turn_on(ada)
    mails_before = count(OutgoingMail)
    done = cli("reset-two-step", ada.email)
    assert (done.exit_code, done.stdout) == (
        0,
        "Two-step sign-in is off for ada@example.com. All its sessions have ended. Its owner is mailed.\n",
    )
    assert sessions.active_for(ada.id) == []
    assert count(OutgoingMail) == mails_before + 1
    assert factories.grant(ada)
    assert cli("reset-two-step", "nobody@example.com").exit_code == 1


def test_where_two_step_sign_in_was_off_no_mail_is_told_of(cli, ada):
    factories.grant(ada)
    done = cli("reset-two-step", ada.email, "--passkeys")
    assert done.stdout == (
        "Two-step sign-in was off already for ada@example.com. All its sessions have ended."
        " It has no passkeys any more. No mail is sent: nothing was taken away.\n"
    )
    assert sessions.active_for(ada.id) == []
    assert count(OutgoingMail) == 0


def test_secrets_are_encrypted_anew_and_what_is_left_is_counted(cli, ada):
    factories.turn_on(ada)
    found = json.loads(cli("reencrypt-secrets", "--dry-run", "--json").stdout)
    assert found == {"outdated": 0, "current": 1, "unreadable": 0, "dry_run": True}
    said = cli("reencrypt-secrets").output
    assert "Encrypted 0 secrets anew; 1 was current." in said


# session-stats


def test_statistics_for_people_and_for_programs(cli, ada):
    factories.session_rows(ada, 1)
    factories.session_rows(ada, 1, signed_in_with="password+app")
    factories.session_rows(ada, 3, age=timedelta(days=8))
    factories.session_rows(ada, 10, ended=timedelta(0))
    people, programs = cli("session-stats"), cli("session-stats", "--json")

    assert people.exit_code == programs.exit_code == 0
    assert json.loads(programs.stdout) == {
        "active": 2,
        "aal2": 1,
        "expired": 3,
        "ended": {"revoked": 10},
        "device_types": {"cli": 2},
    }
    assert people.stdout.splitlines() == [
        "active         2",
        "aal2           1",
        "expired        3",
        "ended         10",
        "  revoked     10",
        "device types   2",
        "  cli          2",
    ]


# send-mail


@pytest.fixture
def with_mail(make_app, mailbox):
    """An application that sends to a real server, and what has arrived there."""
    app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port))
    with app.app_context():
        yield app, mailbox


def test_send_mail_delivers_what_waits(with_mail):
    app, mailbox = with_mail
    passwords.request_reset(factories.account().email, device_name="curl", ip_address=None)
    result = app.test_cli_runner().invoke(args=["send-mail"])

    assert (result.exit_code, result.stdout.rstrip("\n")) == (0, "Sent 1, failed 0, waiting 0.")
    assert mailbox.recipients == [["ada@example.com"]]


def test_send_mail_says_that_the_server_is_down_and_when_it_tries_next(make_app, time_machine):
    """A scheduler is to know; the mail waits for the next time."""
    time_machine.move_to(NOON, tick=False)
    port = services.free_port()
    app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(port))
    with app.app_context():
        passwords.request_reset(factories.account().email, device_name="curl", ip_address=None)
        result = app.test_cli_runner().invoke(args=["send-mail"])
        again = app.test_cli_runner().invoke(args=["send-mail"])

    next_try = "The next try is at 2026-03-01T12:01:00Z, by `flask worker` or this command."
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"The mail server 127.0.0.1:{port} cannot be reached: Connection refused.",
        "Sent 0, failed 1, waiting 1.",
        next_try,
    ]
    assert again.exit_code == 0
    assert again.stdout.splitlines() == ["Sent 0, failed 0, waiting 1.", next_try]


@on_one_database
def test_send_mail_says_each_reason_once(make_app):
    with services.RefusingMailbox("451 later") as server:
        app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(server.port))
        with app.app_context():
            for name in ("ada", "grace"):
                email = factories.account(f"{name}@example.com").email
                passwords.request_reset(email, device_name="curl", ip_address=None)
            said = app.test_cli_runner().invoke(args=["send-mail"]).stdout.splitlines()

    reason = f"The mail server 127.0.0.1:{server.port} does not take mail for the recipient (451)."
    assert said[:2] == [reason, "Sent 0, failed 2, waiting 2."]


# What the server answers, and what the command says of it; the sentence for the server's name is cut off.
REFUSALS = [
    ("RCPT", "550 5.1.1 no such user", "does not take mail for the recipient (550)."),
    ("RCPT", "451 4.7.1 greylisted", "does not take mail for the recipient (451)."),
    ("MAIL", "550 not from you", "does not take mail from MAIL_DEFAULT_SENDER (550)."),
    ("DATA", "554 5.7.1 spam\x1b[2J", "does not take the mail (554)."),
]


@on_one_database
@pytest.mark.parametrize(("to", "answer", "said"), REFUSALS, ids=[each[1] for each in REFUSALS])
def test_send_test_mail_tells_what_the_server_answers(make_app, to, answer, said):
    """In words, and in the server's own, which may not act on the terminal."""
    with services.RefusingMailbox(answer, to=to) as server:
        app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(server.port))
        result = app.test_cli_runner().invoke(args=["send-test-mail", "Ops@Example.com"])
        quietly = app.test_cli_runner().invoke(args=["send-mail"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-2:] == [
        f"Error: The mail server 127.0.0.1:{server.port} {said}",
        f"It says: {answer[4:].replace(chr(27), ' ')}",
    ]
    assert (server.asked, server.messages) == (1, [])
    assert quietly.stdout == "Sent 0, failed 0, waiting 0.\n"  # nothing is left to be tried again


@on_one_database
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"MAIL_USE_TLS": "1"},
            "cannot be spoken with: STARTTLS extension not supported by server.",
        ),
        ({"MAIL_USE_SSL": "1"}, "does not speak TLS as MAIL_USE_TLS and MAIL_USE_SSL ask for it."),
        (
            {"MAIL_USERNAME": "me", "MAIL_PASSWORD": "hunter2"},
            "cannot be spoken with: SMTP AUTH extension not supported by server.",
        ),
    ],
    ids=lambda each: "".join(each) if isinstance(each, dict) else "",
)
def test_send_test_mail_tells_what_is_wrong_with_the_settings(make_app, mailbox, settings, said):
    """By the names of the settings, and without their secrets."""
    app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port), **settings)
    result = app.test_cli_runner().invoke(args=["send-test-mail", "ops@example.com"])

    assert result.exit_code == 1
    last = f"Error: The mail server 127.0.0.1:{mailbox.port} {said}"
    assert result.stderr.splitlines()[-1] == last
    assert "hunter2" not in result.output
    assert mailbox.messages == []


def test_send_test_mail_sends_one_at_once(with_mail):
    app, mailbox = with_mail
    result = app.test_cli_runner().invoke(args=["send-test-mail", " Ops@Example.com "])

    said = f"The mail server 127.0.0.1:{mailbox.port} has taken the mail for ops@example.com.\n"
    assert (result.exit_code, result.stdout) == (0, said)
    assert (mailbox.recipients, count(OutgoingMail)) == ([["ops@example.com"]], 0)
    assert mailbox.subjects == ["Test email from authsite"]


@pytest.mark.parametrize("address", ["ops", "", "a@b@c", "ops@example.com\r\nBcc: all@example.com"])
def test_send_test_mail_wants_an_address(with_mail, address):
    app, mailbox = with_mail
    result = app.test_cli_runner().invoke(args=["send-test-mail", address])

    assert (result.exit_code, "Error: Enter" in result.stderr) == (1, True)
    assert mailbox.messages == []


@on_one_database
def test_without_a_server_the_test_mail_went_nowhere(cli):
    result = cli("send-test-mail", "ops@example.com")

    said = "No MAIL_SERVER is set: the mail stands in the log and went nowhere.\n"
    assert (result.exit_code, result.stdout) == (0, said)


@pytest.mark.site
@on_one_database
@pytest.mark.parametrize("command", [["worker"], ["send-mail", "--loop"]], ids=" ".join)
def test_the_worker_delivers_until_it_is_told_to_stop(with_mail, environ, command):
    """DP-08: what is queued while it runs leaves at its next turn, and SIGTERM ends it with 0."""
    _, mailbox = with_mail
    mail = {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(mailbox.port)}
    worker = subprocess.Popen(
        [sys.executable, "-m", "flask", *command],
        cwd=services.ROOT,
        env=environ | mail,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        ada = factories.account()
        for expected in (1, 2):
            passwords.request_reset(ada.email, device_name="curl", ip_address=None)
            services.wait_until(lambda n=expected: len(mailbox.messages) == n, seconds=30)
        services.wait_until(lambda: outbox.depth() == 0)
        started = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        output = worker.communicate(timeout=20)[0]
    finally:
        worker.kill()

    assert worker.returncode == 0, output
    assert time.monotonic() - started < 10
    assert "Traceback" not in output
    assert ada.email not in output


# Accounts


@pytest.mark.parametrize("email", ["grace@example.com", " Grace@Example.COM "])
def test_create_user_reads_the_password_from_standard_input(cli, email):
    """CONTRACT §5: never an argument, where every process could read it."""
    result = cli("create-user", email, stdin=f"{PASSWORD}\n")

    assert (result.exit_code, result.stdout.rstrip("\n")) == (0, "Created grace@example.com.")
    account = accounts.authenticate("grace@example.com", PASSWORD).account
    assert (account.first_name.lower().strip(), account.is_superuser) == ("grace", False)


def test_create_user_makes_a_superuser_only_when_asked(cli):
    """DP-13: there is no other way to become one."""
    cli("create-user", "root@example.com", "--superuser", "--first-name", "Root", stdin=PASSWORD)
    account = accounts.authenticate("root@example.com", PASSWORD).account

    assert (account.first_name, account.is_superuser) == ("Root", True)


@pytest.mark.parametrize(
    ("email", "password", "said"),
    [
        ("grace@example.com", "short", "Password must be at least 8 characters"),
        ("grace@example.com", "password1", "This password is on a list of commonly used"),
        ("grace@example.com", "grace@example.com", "Password must not be your email address"),
        ("grace@example.com", "x" * 100 + "y" * 29, "Password must be 128 characters or fewer"),
        ("grace@example.com", "", "Enter a password"),
        ("grace@example.com", "three\x00words", "This holds a character that cannot be used"),
        ("grace", PASSWORD, "Enter an email address in the correct format"),
        ("", PASSWORD, "Enter your email address"),
        ("ada@example.com", PASSWORD, "User with this email already exists"),
        ("ADA@example.com", PASSWORD, "User with this email already exists"),
    ],
)
def test_create_user_is_held_to_the_rules_of_the_api(cli, ada, email, password, said):
    """PW-11, PW-08, AP-11."""
    result = cli("create-user", email, stdin=f"{password}\n")

    assert result.exit_code == 1
    assert said in result.stderr
    assert count(User) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["grace"], "Enter an email address in the correct format"),
        (["ADA@example.com"], "User with this email already exists"),
        (["grace@example.com", "--first-name", "x" * 101], "First name must be 100 characters"),
    ],
)
def test_create_user_says_what_is_wrong_before_it_asks_for_a_password(
    cli, ada, monkeypatch, arguments, said
):
    """Nobody invents a password, and types it twice, to hear that the address is taken."""
    monkeypatch.setattr(commands.accounts, "with_password", lambda _use: pytest.fail("asked"))
    result = cli("create-user", *arguments)

    assert (result.exit_code, said in result.stderr) == (1, True)
    assert count(User) == 1


def test_the_password_never_stands_in_the_output(cli, ada):
    """LG-01."""
    for command in ("create-user", "set-password"):
        result = cli(command, "ada@example.com", stdin=f"{NEW_PASSWORD}\n")
        assert NEW_PASSWORD not in result.output


def test_set_password_changes_it_and_ends_every_session(cli, ada):
    """SE-13."""
    held = factories.grant(ada)
    result = cli("set-password", "ADA@example.com", stdin=f"{NEW_PASSWORD}\n")

    assert result.exit_code == 0
    assert result.stdout.rstrip("\n") == (
        "Changed the password of ada@example.com. All its sessions ended."
    )
    assert accounts.authenticate(ada.email, NEW_PASSWORD).account.id == ada.id
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, PASSWORD)
    with pytest.raises(SessionRevoked):
        sessions.resume_api(held.session_id, ada.id)


@pytest.mark.parametrize("password", ["short", "password1", "ada@example.com", "", "a\x00bcdefgh"])
def test_set_password_is_held_to_the_policy(cli, ada, password):
    """PW-11."""
    held = factories.grant(ada)
    result = cli("set-password", ada.email, stdin=f"{password}\n")

    assert result.exit_code == 1
    assert sessions.resume_api(held.session_id, ada.id)
    assert accounts.authenticate(ada.email, PASSWORD)


def test_a_password_on_standard_input_is_taken_to_the_letter(cli, ada):
    """PW-06: only the end of the line is not part of it."""
    cli("set-password", ada.email, stdin="  spaces at both ends  \r\nsecond line\n")

    assert accounts.authenticate(ada.email, "  spaces at both ends  ")


@pytest.mark.site
@on_one_database
@pytest.mark.parametrize(
    ("locale", "typed"),
    [("C", b"caf\xe9 on the corner\n"), ("C.UTF-8", b"\xff\xfe" * 8 + b"\n")],
    ids=["Latin-1", "no encoding"],
)
def test_bytes_that_are_no_text_are_refused_in_a_line(ada, environ, locale, typed):
    """PW-08: they come in as halves of surrogate pairs, or not at all."""
    ended = flask("set-password", ada.email, environ=environ | {"LC_ALL": locale}, input=typed)

    assert ended.returncode == 1
    assert b"This holds a character that cannot be used" in ended.stderr
    assert b"Traceback" not in ended.stderr
    assert accounts.authenticate(ada.email, PASSWORD)


def at_terminal(*arguments: str, environ: dict, typed: list[str]) -> tuple[int, str]:
    """Run a command at a terminal and type each line once it is asked for; return status and output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(services.ROOT)
        command = [sys.executable, "-m", "flask", *arguments]
        os.execve(sys.executable, command, environ | {"TERM": "xterm"})
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone with the process
        for line in typed:
            asked = shown.count(b": ")
            while not (shown.endswith(b": ") and shown.count(b": ") > asked):
                assert selecting.select([terminal], [], [], 30)[0], shown
                shown += os.read(terminal, 1024)
            os.write(terminal, f"{line}\n".encode())
        while chunk := os.read(terminal, 1024):
            shown += chunk
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return status, shown.decode()


@pytest.mark.site
@on_one_database
def test_a_terminal_is_asked_twice_and_shows_nothing(ada, environ):
    """CONTRACT §5: prompted, hidden, confirmed; and asked again where the password is too weak."""
    environ["LOG_FORMAT"] = "json"  # its lines hold no prompt
    typed = ["short", "short", NEW_PASSWORD, NEW_PASSWORD]
    status, shown = at_terminal("create-user", "grace@example.com", environ=environ, typed=typed)

    assert status == 0, shown
    assert "Password must be at least 8 characters. Try another." in shown
    assert not [each for each in typed if each in shown]
    assert accounts.authenticate("grace@example.com", NEW_PASSWORD)


def test_deactivate_and_activate(cli, ada):
    """SE-14."""
    held = factories.grant(ada)
    result = cli("deactivate-user", "ADA@example.com")

    assert (result.exit_code, result.stdout.rstrip("\n")) == (0, "Deactivated ada@example.com.")
    with pytest.raises(SessionRevoked):
        sessions.resume_api(held.session_id, ada.id)
    with pytest.raises(InactiveAccount):
        accounts.authenticate(ada.email, PASSWORD)

    result = cli("activate-user", ada.email)
    assert (result.exit_code, result.stdout.rstrip("\n")) == (0, "Activated ada@example.com.")
    assert accounts.authenticate(ada.email, PASSWORD)


def test_revoke_sessions_ends_all_and_says_how_many(cli, ada):
    """SE-12."""
    held = [factories.grant(ada), factories.grant(ada, entrance="page")]
    other = factories.grant(factories.account("grace@example.com"))
    result = cli("revoke-sessions", ada.email)

    assert result.exit_code == 0
    assert result.stdout.rstrip("\n") == "Ended 2 sessions of ada@example.com."
    assert not sessions.active_for(ada.id)
    assert {row.end_reason for row in sessions.recently_ended_for(ada.id)} == {"revoked"}
    assert sessions.resume_api(other.session_id, other.user_id)
    assert held


@pytest.mark.parametrize(
    "command", ["deactivate-user", "activate-user", "set-password", "revoke-sessions"]
)
@pytest.mark.parametrize("email", ["nobody@example.com", "not an address", "\udcff@example.com"])
def test_an_unknown_address_exits_with_1(cli, ada, command, email):
    result = cli(command, email, stdin=f"{NEW_PASSWORD}\n")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert accounts.authenticate(ada.email, PASSWORD)


@pytest.mark.parametrize("command", OURS)
def test_every_command_tells_what_it_does(cli, command):
    result = cli(command, "--help")

    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 3
    assert result.output.endswith("\n  Exit status: 0 done, 1 failed, 2 bad arguments.\n")


def test_the_list_of_commands_says_whole_sentences_and_only_what_operators_use():
    """Click cuts what does not fit in 80 columns; Flask-Limiter's command knows no limit of ours."""
    environ = {"DATABASE_URL": services.UNUSED_DATABASE_URL, "SECRET_KEY": services.SECRET_KEY}
    group = FlaskGroup(create_app=lambda: create_app(environ))
    result = CliRunner().invoke(group, ["--help"], terminal_width=78)
    lines = result.stdout.partition("Commands:\n")[2].splitlines()

    assert {line.split()[0] for line in lines} == {*OURS, "db", "routes", "run", "shell"}
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


def test_mail_of_a_command_waits_for_a_worker_or_leaves_with_it(cli, ada):
    """A command that ends at once still has its mail in the outbox."""
    cli("set-password", ada.email, stdin=f"{NEW_PASSWORD}\n")

    assert [row.name for row in database.rows(select(OutgoingMail.name))] == ["password_changed"]


def test_a_service_client_gets_a_secret_that_its_entry_lets_in(app, monkeypatch):
    """Shown once; the entry holds its digest only."""
    shown = app.test_cli_runner().invoke(args=["service-client", "billing"])
    assert shown.exit_code == 0
    secret, listed = (line.rpartition("  ")[2] for line in shown.output.splitlines())
    assert secret not in listed
    known = config.VARIABLES["SERVICE_CLIENTS"][1](listed)
    monkeypatch.setitem(app.config, "SERVICE_CLIENTS", known)
    with app.app_context():
        assert service_clients.authenticate("billing", secret) == "billing"
        with pytest.raises(InvalidClient):
            service_clients.authenticate("billing", listed.rpartition(":")[2])
    assert secret not in app.test_cli_runner().invoke(args=["service-client", "billing"]).output


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a,b", "x" * 65, "ä"])
def test_a_name_that_the_setting_could_not_hold_is_refused(app, name):
    assert app.test_cli_runner().invoke(args=["service-client", name]).exit_code == 2


# An operator's look


def test_show_user_tells_an_account_by_address_or_id(cli, ada, time_machine):
    """Its last sign-ins also where they have ended."""
    time_machine.move_to(NOON, tick=False)
    factories.session_rows(ada, 2)
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    held = factories.grant(ada, user_agent=agent, ip_address="203.0.113.7")
    sessions.end(ada.id, held.session_id, reason="logged_out")
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, "wrong password")

    for name in ("Ada@Example.com", str(ada.id)):
        told = cli("show-user", name)
        assert told.exit_code == 0
        for line in (
            f"id               {ada.id}",
            "email            ada@example.com",
            "first name       Ada",
            "two-step         off",
            "app              no",
            "passkeys         0",
            "recovery codes   0",
            "state            open",
            "wrong passwords  1",
            "sessions         2",
            "signed in        2026-03-01T12:00:00Z  Firefox on Linux  203.0.113.7",
        ):
            assert line in told.stdout.splitlines()
        assert "argon2" not in told.output


def test_show_user_tells_a_program_the_same(cli, ada, time_machine):
    time_machine.move_to(NOON, tick=False)
    factories.grant(ada, ip_address="203.0.113.7", device_name="A telephone")
    accounts.deactivate(ada.email)

    assert json.loads(cli("show-user", ada.email, "--json").stdout) == {
        "id": str(ada.id),
        "email": "ada@example.com",
        "first_name": "Ada",
        "email_verified_at": None,
        "created_at": f"{ada.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "is_active": False,
        "delete_after": None,
        "is_superuser": False,
        "two_step_since": None,
        "has_authenticator_app": False,
        "passkeys": 0,
        "recovery_codes": 0,
        "wrong_passwords": 0,
        "wrong_codes": 0,
        "sessions": 0,
        "last_sign_ins": [
            {
                "created_at": "2026-03-01T12:00:00Z",
                "device_name": "A telephone",
                "ip_address": "203.0.113.7",
            }
        ],
    }
    nobody = cli("show-user", "nobody@example.com", "--json")
    assert (nobody.exit_code, nobody.stdout) == (1, "")
    accounts.activate(ada.email)
    cli("delete-user", ada.email)
    shown = json.loads(cli("show-user", ada.email, "--json").stdout)
    assert shown["delete_after"] == "2026-03-08T12:00:00Z"


def test_show_user_tells_of_the_second_step_and_nothing_that_is_secret(cli, ada, time_machine):
    time_machine.move_to(NOON, tick=False)
    phone, codes = factories.turn_on(ada)
    lines = cli("show-user", ada.email).stdout.splitlines()
    shown = cli("show-user", ada.email, "--json").stdout
    facts = json.loads(shown)

    assert {
        "two-step         on since 2026-03-01T11:59:30Z",
        "app              yes",
        "passkeys         0",
        f"recovery codes   {len(codes)}",
    } < set(lines)
    assert (facts["two_step_since"], facts["has_authenticator_app"]) == (
        "2026-03-01T11:59:30Z",
        True,
    )
    assert (facts["passkeys"], facts["recovery_codes"]) == (0, len(codes))
    assert not [each for each in [phone.secret, *codes] if each in shown]


@pytest.mark.parametrize("is_cut", [False, True])
def test_the_mail_of_an_export_leaves_after_all_that_is_printed(cli, app, ada, monkeypatch, is_cut):
    """On a terminal of development it would fall into the JSON. Cut off, the owner hears of it as well."""
    happened = []
    export = exports.export_for_operator

    def watched(email):
        for piece in export(email):
            happened.append("printed")
            yield piece
            if is_cut:
                raise ServiceBusy

    monkeypatch.setitem(app.config, "DELIVER_MAIL_AFTER_COMMIT", True)
    monkeypatch.setattr(exports, "export_for_operator", watched)
    monkeypatch.setattr(outboxes.Drainer, "wake", lambda _drainer: happened.append("woken"))
    done = cli("export-user", ada.email)

    assert done.exit_code == is_cut
    assert happened[0] == "printed"
    assert happened.index("woken") == happened.count("printed")


@pytest.mark.parametrize("name", ["nobody@example.com", "01a21a7f-7e02-721c-ba92-75890a2bbe42"])
@pytest.mark.parametrize("command", ["show-user", "list-sessions", "unlock", "send-reset"])
def test_whom_nobody_knows_is_shown_to_nobody(cli, ada, command, name):
    result = cli(command, name)

    assert (result.exit_code, "Error: No account has this " in result.stderr) == (1, True)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("show-user", "nobody@example.com"),
        ("revoke-session", "01a21a7f-7e02-721c-ba92-75890a2bbe42"),
    ],
)
def test_the_database_is_told_where_it_is_one_that_nobody_has_named(
    cli, ada, app, monkeypatch, arguments
):
    """Only there: who looks for a user of production has forgotten its settings."""
    where = " in instance/authsite.db, the development database\n"
    assert where not in cli(*arguments).stderr
    monkeypatch.setitem(app.config, "MIGRATE_AT_START", True)
    found_nothing = cli(*arguments)

    assert (found_nothing.exit_code, found_nothing.stdout) == (1, "")
    assert found_nothing.stderr.endswith(where)
    assert where not in cli("create-user", ada.email).stderr


def test_one_session_is_found_and_ended_and_the_others_stay(cli, ada):
    grace = factories.account(email="grace@example.com")
    factories.session_rows(ada, 2)
    factories.session_rows(grace)
    found = json.loads(cli("list-sessions", ada.email, "--json").stdout)
    ended = cli("revoke-session", found[0]["id"])

    assert len(found) == 2
    assert ended.exit_code == 0
    assert [str(each.id) for each in sessions.active_for(ada.id)] == [found[1]["id"]]
    assert len(sessions.active_for(grace.id)) == 1
    assert found[1]["id"] in cli("list-sessions", ada.email).output
    assert found[0]["id"] not in cli("list-sessions", ada.email).output


def test_the_sessions_stand_under_what_they_tell(cli, ada):
    factories.session_rows(ada, device_name="A telephone with a long name")
    factories.session_rows(ada, ip_address="203.0.113.7")
    heads, *lines = cli("list-sessions", ada.email).stdout.splitlines()
    columns = {name: heads.index(name) for name in ("DEVICE", "ADDRESS", "SIGNED IN", "LAST USED")}
    assert heads.startswith("ID ")
    assert {line[columns["ADDRESS"] :].split()[0] for line in lines} == {"-", "203.0.113.7"}
    assert all(line[columns["LAST USED"] :].endswith("Z") for line in lines)


def test_an_account_without_sessions_is_said_to_have_none(cli, ada):
    assert cli("list-sessions", ada.email).stdout == "ada@example.com is signed in nowhere.\n"
    assert cli("list-sessions", ada.email, "--json").stdout == "[]\n"


def test_a_session_is_signed_out_once_and_then_is_so_already(cli, ada):
    (row,) = factories.session_rows(ada)
    assert cli("revoke-session", str(row["id"])).stdout == "Signed out curl.\n"
    again = cli("revoke-session", str(row["id"]))
    assert (again.exit_code, again.stdout) == (0, "curl is signed out already.\n")


def test_a_session_that_is_none_is_not_ended(cli, ada):
    factories.session_rows(ada)
    assert cli("revoke-session", "01a21a7f-7e02-721c-ba92-75890a2bbe42").exit_code == 1
    assert cli("revoke-session", "no-id").exit_code == 2
    assert len(sessions.active_for(ada.id)) == 1


def test_unlock_lets_the_owner_sign_in_again(cli, ada):
    """Whom others have locked out need not wait."""
    throttling.close(ada.email)
    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ada.email, PASSWORD)

    assert cli("unlock", ada.email).exit_code == 0
    assert accounts.authenticate(ada.email, PASSWORD).account.id == ada.id


# A link from the operator


def test_send_reset_mails_the_link_before_it_ends(with_mail):
    """Also to whom others have asked three links for within the hour; the mail says who has sent it."""
    app, mailbox = with_mail
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = (
        True  # as in a deployment: and yet it waits for no thread
    )
    ada = factories.account()
    with outboxes.held_back():
        for _ in range(passwords.MAX_RESETS_PER_HOUR):
            passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    outbox.deliver()
    result = app.test_cli_runner().invoke(args=["send-reset", " ADA@example.com"])

    said = f"The mail server 127.0.0.1:{mailbox.port} has taken the link for ada@example.com.\n"
    assert (result.exit_code, result.stdout) == (0, said)
    assert "An operator of authsite sent you this link." in mailbox.text()
    assert "Device" not in mailbox.text()
    link = mailbox.token("/reset-password")
    assert passwords.find_reset(link)[1].id == ada.id
    assert (mailbox.recipients[-1], count(OutgoingMail)) == (["ada@example.com"], 0)


@on_one_database
@pytest.mark.parametrize(
    ("answer", "again"),
    [
        ("550 5.1.1 no such user", "It is not tried again."),
        ("451 later", "The next try is at 2026-03-01T12:01:00Z."),
    ],
)
def test_send_reset_says_why_no_link_left(make_app, time_machine, answer, again):
    """Not delivered is not done: the link waits for the next try, or its recipient is refused for good."""
    time_machine.move_to(NOON, tick=False)
    with services.RefusingMailbox(answer) as server:
        app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(server.port))
        with app.app_context():
            email = factories.account().email
            result = app.test_cli_runner().invoke(args=["send-reset", email])
            assert count(OutgoingMail) == again.startswith("The next")

    assert (result.exit_code, result.stdout, server.messages) == (1, "", [])
    refusal = f"does not take mail for the recipient ({answer[:3]}). {again}"
    assert refusal in result.stderr


def test_send_reset_says_that_an_account_is_deactivated(cli, ada):
    accounts.deactivate(ada.email)
    result = cli("send-reset", ada.email)

    assert (result.exit_code, "User account is inactive" in result.stderr) == (1, True)
    assert count(PasswordReset) == 0


# Words


@pytest.mark.parametrize(("number", "sessions_of"), [(1, "1 session"), (2, "2 sessions")])
def test_what_is_counted_has_its_plural(cli, ada, number, sessions_of):
    factories.session_rows(ada, number, age=OLD)
    factories.session_rows(ada, number)

    assert cli("cleanup-sessions", "--dry-run").stdout == f"Would delete {sessions_of}.\n"
    assert cli("cleanup-sessions").stdout == f"Deleted {sessions_of}.\n"
    said = cli("revoke-sessions", ada.email).stdout
    assert said == f"Ended {sessions_of} of ada@example.com.\n"
    assert cli("revoke-sessions", ada.email).stdout == "Ended 0 sessions of ada@example.com.\n"


COMPLAINT = (services.ROOT / "README.md").read_text().split("### A complaint")[1].split("\n## ")[0]


def test_the_walk_through_of_a_complaint_does_what_it_says(cli, ada):
    """README's lines in their order, for somebody who is locked out and whose account a stranger is in."""
    with outboxes.held_back():
        [stranger, other] = factories.session_rows(ada, 2)
    throttling.close(ada.email)
    done = []
    for line in COMPLAINT.split("```sh\n")[1].split("```")[0].splitlines():
        words, _, _ = line.partition("#")
        program, *arguments = words.replace("ID", str(stranger["id"])).split()
        assert program == ".venv/bin/flask"
        result = cli(*arguments)
        assert result.exit_code == 0, (line, result.output)
        done.append(arguments[0])
        if arguments[0] == "revoke-session":
            assert [each.id for each in sessions.active_for(ada.id)] == [other["id"]]

    assert {"show-user", "list-sessions", "revoke-session", "send-reset", "unlock"} <= set(done)
    assert not sessions.active_for(ada.id)
    assert accounts.authenticate(ada.email, PASSWORD).account.id == ada.id
    assert count(PasswordReset) == 1


# Deletions


def test_deleting_an_account_waits_and_can_be_taken_back(cli, app, ada):
    result = cli("delete-user", ada.email)
    day = clock.now() + timedelta(days=7)
    assert result.stdout == f"{ada.email} will be deleted on {day.day} {day:%B %Y}.\n"
    assert "to be deleted 2" in cli("show-user", ada.email).stdout
    again = cli("delete-user", ada.email)
    assert (again.exit_code, "will be deleted" in again.output) == (1, True)
    assert cli("deactivate-user", ada.email).exit_code == 1
    assert cli("activate-user", ada.email).exit_code == 0
    assert "open" in cli("show-user", ada.email).stdout


def test_deleting_at_once_leaves_nobody(cli, ada):
    assert cli("delete-user", ada.email, "--now").stdout == f"Deleted {ada.email}.\n"
    again = cli("delete-user", ada.email, "--now")
    assert (again.exit_code, "No account has this email address" in again.output) == (1, True)


def test_cleaning_up_accounts_takes_what_is_due_and_says_what(cli, ada, time_machine, caplog):
    registrations.claim(
        email="joan@example.com",
        password=PASSWORD,
        first_name="Joan",
        device_name="curl",
        ip_address=None,
    )
    cli("delete-user", ada.email)
    assert json.loads(cli("cleanup-accounts", "--json").stdout)["accounts"] == 0
    time_machine.move_to(clock.now() + timedelta(days=7), tick=False)
    one_each = "1 account, 1 unconfirmed registration, 0 changes of email address.\n"
    none = "0 accounts, 0 unconfirmed registrations, 0 changes of email address.\n"
    would = cli("cleanup-accounts", "--dry-run")
    assert would.stdout == f"Would delete {one_each}"
    assert cli("show-user", ada.email).exit_code == 0
    assert cli("cleanup-accounts").stdout == f"Deleted {one_each}"
    told = caplog.records[-1].facts
    assert [told[name] for name in ("accounts", "claims", "changes")] == [1, 1, 0]
    assert cli("show-user", ada.email).exit_code == 1
    assert cli("cleanup-accounts").stdout == f"Deleted {none}"
    assert cli("cleanup-accounts", "--batch-size", "0").exit_code == 2


def test_cleaning_up_does_all_three_though_one_fails(cli, ada, time_machine, monkeypatch):
    cli("delete-user", ada.email)
    factories.session_rows(ada, 2, age=timedelta(days=90))
    time_machine.move_to(clock.now() + timedelta(days=8), tick=False)
    would = cli("cleanup", "--dry-run")
    assert "Would delete 2 sessions" in would.stdout
    assert "Would delete 1 account," in would.stdout
    would = json.loads(cli("cleanup", "--dry-run", "--json").stdout)
    assert would["sessions"]["deleted"] == 2
    assert would["accounts"]["accounts"] == 1
    assert would["activity"]["dry_run"]

    def fail(*_, **__):
        raise OperationalError("DELETE", {}, Exception("gone"))
        yield

    monkeypatch.setattr(activity, "delete_old", fail)
    result = cli("cleanup")
    assert result.exit_code == 1
    assert "Deleted 2 sessions" in result.stdout
    assert "Deleted 1 account," in result.stdout
    told = cli("cleanup", "--json")
    assert (told.exit_code, "Error: The database failed" in told.stderr) == (1, True)
    told = json.loads(told.stdout)
    assert (told["sessions"]["deleted"], told["activity"]) == (0, None)
