"""The log: one event, one line, and never what was typed in."""

import json
import logging
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

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


def run(program: str, **more) -> subprocess.CompletedProcess:
    program = f"from authsite import events\nevents.configure()\n{program}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=services.ROOT, capture_output=True, text=True, **more)


def test_configuring_again_writes_each_event_once():
    ran = run("events.configure()\nevents.record('login')")

    assert len(ran.stdout.splitlines()) == 1
    assert json.loads(ran.stdout)["event"] == "login"
    assert ran.stderr == ""


def test_a_closed_standard_output_breaks_nothing():
    """LG-04: a log that cannot be written must not fail a request."""
    ran = run(
        "import os, sys\nos.close(1)\nevents.record('login')\nsys.stderr.write('went on')\n"
        "sys.stderr.flush()\nos._exit(0)"
    )

    assert (ran.returncode, ran.stderr) == (0, "went on")


def test_a_full_disk_breaks_nothing():
    """LG-04."""
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [
                sys.executable,
                "-c",
                "import os, sys\nfrom authsite import events\nevents.configure()\n"
                "events.record('login')\nsys.stderr.write('went on')\nsys.stderr.flush()\nos._exit(0)",
            ],
            cwd=services.ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert (ran.returncode, ran.stderr) == (0, "went on")
