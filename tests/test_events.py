"""The log: one event, one line, and never what was typed in."""

import json
import logging
import re
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
import requests

from authsite import events
from tests import services

CONTROL = {
    "CR": "\r",
    "LF": "\n",
    "CRLF": "\r\n",
    "NUL": "\x00",
    "ESC": "\x1b[31m",
    "backspace": "\x08",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "lone surrogate": "\ud800",
}


@pytest.fixture(autouse=True)
def _no_request_was_before():
    mark = events.context.set({})
    yield
    events.context.reset(mark)


@pytest.fixture
def write():
    """Return a function that writes through the formatter of the service."""

    def format_record(message: str = "message", *arguments, **more) -> str:
        record = logging.LogRecord(
            "authsite", logging.INFO, __file__, 1, message, arguments, more.pop("exc_info", None)
        )
        vars(record).update(more)
        return events.JsonFormatter().format(record)

    return format_record


def fail_with(text: str) -> tuple:
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


def test_an_event_is_one_json_object_with_its_facts(write):
    """LG-03."""
    line = json.loads(write(facts={"event": "login", "outcome": "success", "count": 3}))

    assert line | {"time": ""} == {
        "time": "",
        "level": "info",
        "logger": "authsite",
        "event": "login",
        "outcome": "success",
        "count": 3,
    }
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)


def test_an_event_carries_what_the_request_knows(write):
    """LG-03: request id, address, user agent."""
    mark = events.context.set({"request_id": "r" * 20, "ip": "203.0.113.7", "user_agent": "curl"})
    try:
        line = json.loads(write(facts={"event": "login"}))
    finally:
        events.context.reset(mark)

    assert (line["request_id"], line["ip"], line["user_agent"]) == ("r" * 20, "203.0.113.7", "curl")
    assert "request_id" not in json.loads(write(facts={"event": "login"}))


@pytest.mark.parametrize("where", ["fact", "message", "context", "name of a fact"])
@pytest.mark.parametrize("character", CONTROL)
def test_no_character_breaks_the_line_or_acts_on_a_terminal(write, character, where):
    """LG-02: escaped, so that it can still be read what it was."""
    text = f'before{CONTROL[character]}{{"event": "forged"}}'
    mark = events.context.set({"user_agent": text} if where == "context" else {})
    try:
        line = write(
            message="%s",
            args=(text,),
            **({"facts": {"event": "x", "name": text}} if where == "fact" else {}),
            **({"facts": {"event": "x", text: 1}} if where == "name of a fact" else {}),
        )
    finally:
        events.context.reset(mark)

    assert line.isascii()
    assert line.isprintable()
    assert (
        text in str(list(json.loads(line).items()))
        or text in json.loads(line).values()
        or (text in json.loads(line))
    )


def test_a_failure_is_told_by_place_and_type_without_its_words(write):
    """LG-01: the text of an exception may be what was typed in."""
    line = write("Unexpected failure", exc_info=fail_with("three random words"))
    trace = json.loads(line)["exception"]

    assert trace[0] == "ValueError"
    assert __file__ in trace[1]
    assert "fail_with" in trace[1]
    assert "three random words" not in line
    assert "\n" not in line


def test_the_cause_of_a_failure_is_not_told_in_words_either(write):
    """LG-01."""
    try:
        try:
            raise ValueError("three random words")
        except ValueError as cause:
            raise RuntimeError("another secret") from cause
    except RuntimeError:
        line = write("Unexpected failure", exc_info=sys.exc_info())

    assert "three random words" not in line
    assert "another secret" not in line


def test_what_json_does_not_know_is_written_as_text(write):
    moment = datetime(2026, 3, 1, 12)  # noqa: DTZ001
    line = json.loads(write(facts={"event": "x", "at": moment, "path": {1}}))

    assert line["at"] == str(moment)


def test_recording_adds_the_outcome(caplog):
    """LG-03."""
    caplog.set_level(logging.INFO, "authsite.events")
    events.record("login")
    events.record("login", outcome="failure", user_id=7)

    facts = [record.facts for record in caplog.records]
    assert facts == [
        {"event": "login", "outcome": "success"},
        {"event": "login", "outcome": "failure", "user_id": 7},
    ]


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        ("success", "INFO"),
        ("ignored", "INFO"),
        ("required", "INFO"),
        ("refused", "WARNING"),
        ("failure", "WARNING"),
        ("lockout", "WARNING"),
        ("postponed", "WARNING"),
        ("given_up", "ERROR"),
        ("error", "ERROR"),
    ],
)
def test_an_alarm_by_level_hears_of_faults_alone(caplog, outcome, level):
    """What others are refused is a warning."""
    caplog.set_level(logging.INFO, "authsite.events")
    events.record("login", outcome=outcome)

    assert [record.levelname for record in caplog.records] == [level]


def test_every_outcome_that_is_recorded_has_its_level_by_choice():
    """A new word for what has gone wrong must not pass for good news."""
    sources = "".join(path.read_text() for path in (services.ROOT / "authsite").rglob("*.py"))
    outcomes = set(re.findall(r'outcome="(\w+)"', sources))

    assert {"refused", "error", "failure"} <= outcomes
    assert outcomes - set(events.LEVELS) <= {"success", "ignored", "required", "dropped"}


# Text


@pytest.fixture
def write_text():
    def format_record(message: str = "message", *arguments, level=logging.INFO, **more) -> str:
        record = logging.LogRecord(
            more.pop("name", "authsite"),
            level,
            __file__,
            1,
            message,
            arguments,
            more.pop("exc_info", None),
        )
        vars(record).update(more, created=1_800_000_000.25)
        return events.TextFormatter().format(record)

    return format_record


REQUEST = {
    "event": "request",
    "outcome": "success",
    "method": "GET",
    "path": "/account",
    "status": 200,
    "milliseconds": 3.1,
    "user_id": None,
}


@pytest.mark.parametrize(
    ("level", "facts", "line"),
    [
        (logging.INFO, REQUEST, "GET /account 200 in 3.1 ms"),
        (
            logging.INFO,
            {"event": "login", "outcome": "success", "user_id": "1-2"},
            "login user_id=1-2",
        ),
        (
            logging.WARNING,
            {"event": "login", "outcome": "failure"},
            "warning: login failure ip=203.0.113.7 request_id=rrrr",
        ),
        (
            logging.ERROR,
            REQUEST | {"status": 500, "outcome": "error"},
            "error: GET /account 500 in 3.1 ms ip=203.0.113.7 request_id=rrrr",
        ),
    ],
)
def test_text_is_a_line_for_a_person(write_text, level, facts, line):
    mark = events.context.set({"request_id": "rrrr", "ip": "203.0.113.7", "user_agent": "curl"})
    try:
        assert write_text(facts=facts, level=level) == f"2027-01-15 08:00:00Z {line}"
    finally:
        events.context.reset(mark)


@pytest.mark.parametrize("where", ["fact", "message", "path", "mail"])
@pytest.mark.parametrize("character", sorted(set(CONTROL) - {"LF", "CR", "CRLF"}))
def test_no_character_of_text_acts_on_a_terminal(write_text, character, where):
    """LG-02"""
    hostile = f"before{CONTROL[character]}after"
    line = {
        "fact": lambda: write_text(facts={"event": "x", "outcome": "success", "name": hostile}),
        "message": lambda: write_text("%s", args=(hostile,)),
        "path": lambda: write_text(facts=REQUEST | {"path": hostile}),
        "mail": lambda: write_text(letter=hostile),
    }[where]()

    assert all(each.isprintable() for each in line.splitlines())
    assert "before" in line
    assert CONTROL[character] not in line.replace("\n", "")


@pytest.mark.parametrize(
    "forged", ["a\n2027-01-15 08:00:00Z login", "a user_id=7", 'a" user_id="7']
)
def test_no_fact_of_a_client_looks_like_another(write_text, forged):
    """LG-02"""
    line = write_text(facts={"event": "x", "outcome": "success", "name": forged})

    assert line.count("\n") == 0
    assert line.endswith(f"x name={json.dumps(forged)}")


def test_a_failure_in_text_has_its_places_and_not_its_words(write_text):
    """LG-01"""
    said = write_text(
        "Unexpected failure", level=logging.ERROR, exc_info=fail_with("three random words")
    )
    first, kind, *places = said.splitlines()

    assert first.startswith("2027-01-15 08:00:00Z error: Unexpected failure")
    assert kind.strip() == "ValueError"
    assert __file__ in places[0]
    assert "three random words" not in said


@pytest.mark.site
def test_a_library_that_warns_is_a_line_of_the_same_form_without_the_words_of_its_exception():
    """LG-01, LG-02: Python's own way out would be a traceback, with what was typed in."""
    ran = run(
        "import logging\ntry:\n    raise ValueError('three random words')\nexcept ValueError:\n"
        "    logging.getLogger('some.library').exception('It failed')"
    )
    line = json.loads(ran.stderr)

    assert (line["level"], line["logger"], line["message"]) == (
        "error",
        "some.library",
        "It failed",
    )
    assert line["exception"][0] == "ValueError"
    assert "three random words" not in ran.stderr


def run(program: str, **more) -> subprocess.CompletedProcess:
    program = f"from authsite import events\nevents.configure('json')\n{program}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=services.ROOT, capture_output=True, text=True, **more)


@pytest.mark.site
def test_configuring_again_writes_each_event_once():
    ran = run("events.configure('json')\nevents.record('login')")

    assert len(ran.stderr.splitlines()) == 1
    assert json.loads(ran.stderr)["event"] == "login"
    assert ran.stdout == ""


@pytest.mark.site
def test_a_closed_standard_error_breaks_nothing():
    """LG-04: a log that cannot be written must not fail a request."""
    ran = run(
        "import os, sys\nos.close(2)\nevents.record('login')\nsys.stdout.write('went on')\n"
        "sys.stdout.flush()\nos._exit(0)"
    )

    assert (ran.returncode, ran.stdout) == (0, "went on")


@pytest.mark.site
def test_a_full_disk_breaks_nothing():
    """LG-04."""
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [
                sys.executable,
                "-c",
                "import os, sys\nfrom authsite import events\nevents.configure('json')\n"
                "events.record('login')\nsys.stdout.write('went on')\nsys.stdout.flush()\nos._exit(0)",
            ],
            cwd=services.ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
        )

    assert (ran.returncode, ran.stdout) == (0, "went on")


# The programs


@pytest.fixture
def flask_run(sqlite_url, tmp_path):
    """Return a function that runs the development server for some requests and returns what it wrote."""

    def serve(talk, **environ: str) -> tuple[str, str]:
        port = services.free_port()
        environ |= {"DATABASE_URL": sqlite_url, "SECRET_KEY": services.SECRET_KEY}
        with (tmp_path / "out").open("w+") as out, (tmp_path / "err").open("w+") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "flask", "run", "--port", str(port)],
                cwd=services.ROOT,
                env={"PATH": "/usr/bin:/bin", "FLASK_SKIP_DOTENV": "1", **environ},
                stdout=out,
                stderr=err,
            )
            try:
                services.wait_until(lambda: "Running on" in (tmp_path / "err").read_text())
                talk(f"http://{services.HOST}:{port}", (tmp_path / "err").read_text)
            finally:
                process.terminate()
                process.wait(30)
        return (tmp_path / "out").read_text(), (tmp_path / "err").read_text()

    return serve


def _register(url: str, said) -> None:
    details = {"email": "ada@example.com", "password": "three random words", "first_name": "Ada"}
    assert requests.post(f"{url}/api/v1/auth/register", json=details, timeout=30).status_code == 201
    assert requests.get(f"{url}/login?token=SECRET", timeout=30).status_code == 200
    services.wait_until(lambda: "mail=verify_email" in said() and "GET /login" in said())


@pytest.mark.site
def test_in_development_each_request_is_one_plain_line_and_each_mail_is_readable_once(flask_run):
    """Flask's own server would tell each request a second time, query and all."""
    out, said = flask_run(_register)
    lines = said.splitlines()

    assert "{" not in said
    assert sum("/api/v1/auth/register" in line for line in lines) == 1
    [page] = [line for line in lines if "/login" in line]
    assert re.fullmatch(r"[-0-9]+ [0-9:]+Z GET /login 200 in [0-9.]+ ms", page)
    assert "SECRET" not in said
    [link] = [line for line in lines if "/verify-email?token=" in line]
    assert re.fullmatch(r"http://localhost:5000/verify-email\?token=[\w.-]+", link)
    assert said.count("Mail to ada@example.com") == 1
    assert "mail" not in out


@pytest.mark.site
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_application_gunicorn_and_worker_write_the_one_form_that_is_asked_for(
    sqlite_url, log_format
):
    environ = {"DATABASE_URL": sqlite_url, "LOG_FORMAT": log_format}
    with services.Site(environ, workers=1) as site:
        requests.get(f"{site.url}/login", timeout=30)
        said = site.output()
    ran = subprocess.run(
        # One turn of the worker's work, with a mail that nobody takes.
        [sys.executable, "-c", WORK],
        cwd=services.ROOT,
        env=site.environ | {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(services.free_port())},
        capture_output=True,
        text=True,
    )

    assert "gunicorn" in said
    assert "/login" in said
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "postponed" in ran.stderr
    for line in (said + ran.stderr).splitlines():
        assert line.startswith('{"time"') == (log_format == "json"), line


WORK = """
from authsite import accounts, passwords
from authsite.mail import outbox
from wsgi import app

with app.app_context():
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    accounts.register(email="ada@example.com", password="three random words", first_name="Ada")
    passwords.request_reset("ada@example.com", device_name="curl", ip_address=None)
    assert outbox.deliver() == (0, 1)
"""
