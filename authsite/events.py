"""Security events and the log, on standard error: one line each, never a secret or an address of mail.

JSON for machines; in development text, for a person who reads along.
"""

import contextlib
import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import orjson

_log = logging.getLogger("authsite.events")
# So that an alarm by level works: a fault of ours is an error, what others are refused a warning.
LEVELS = {
    **dict.fromkeys(("error", "given_up"), logging.ERROR),
    **dict.fromkeys(("refused", "failure", "lockout", "postponed", "too_many"), logging.WARNING),
}

context: ContextVar[Mapping[str, Any]] = ContextVar(
    "authsite_event_context", default=MappingProxyType({})
)


def record(event: str, *, outcome: str = "success", **facts: object) -> None:
    """Log one event of SECURITY LG-03 with what the request knows (request id, IP, user agent)."""
    level = LEVELS.get(outcome, logging.INFO)
    if not _log.isEnabledFor(level):
        return
    # As Logger.log does, but for the walk up the stack to find who has called it.
    entry = logging.LogRecord(_log.name, level, "", 0, event, None, None)
    entry.facts = {"event": event, "outcome": outcome} | facts
    _log.handle(entry)


class JsonFormatter(logging.Formatter):
    """One event, one line: json.dumps escapes CR, LF, ESC and everything outside ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        line |= {**context.get()} | getattr(record, "facts", {"message": record.getMessage()})
        if record.exc_info and record.exc_info[0]:
            line["exception"] = _places(record)
        return _to_json(line)


def _to_json(line: dict[str, Any]) -> str:
    """Return one line of ASCII, whatever it holds; for nearly all the fast encoder's is that already."""
    with contextlib.suppress(TypeError):  # half a surrogate pair
        text = orjson.dumps(line, default=str, option=orjson.OPT_PASSTHROUGH_DATETIME)
        if text.isascii():
            return text.decode()
    return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """One event, one line: what happened and to whom; a mail as its reader sees it.

    What a client may have written cannot begin a line, act on a terminal or look like another fact.
    """

    def format(self, record: logging.LogRecord) -> str:
        if record.name == "werkzeug":
            return record.getMessage()  # where it listens; none of it is a client's
        if hasattr(record, "letter"):
            return "\n".join(map(_printable, record.letter.splitlines()))
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        facts = dict(getattr(record, "facts", {}))
        line = _told(facts) if facts else _printable(record.getMessage())
        if record.levelno >= logging.WARNING:
            known = context.get()
            facts |= {name: known.get(name) for name in ("ip", "request_id")}
            line = f"{record.levelname.lower()}: {line}"
        more = [f"{name}={_quoted(value)}" for name, value in facts.items() if value is not None]
        places = _places(record) if record.exc_info and record.exc_info[0] else []
        return "\n    ".join([" ".join([at, line, *more]), *places])


def _told(facts: dict[str, Any]) -> str:
    """Return the words for an event; take from its facts what they say."""
    event, outcome = facts.pop("event"), facts.pop("outcome")
    if event == "request":
        took = facts.pop("milliseconds")
        words = f"{facts.pop('method')} {_quoted(facts.pop('path'))} {facts.pop('status')}"
        return f"{words} in {took} ms"
    # An error is called one already, by its level.
    return str(event) if outcome in {"success", "error"} else f"{event} {outcome}"


def _quoted(value: object) -> str:
    """Return a value so that it is one word, or in quotation marks."""
    text = str(value)
    return text if _WORD.fullmatch(text) else json.dumps(text)


def _printable(text: str) -> str:
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


_WORD = re.compile(r"[A-Za-z0-9_./:@+~%-]+")


def _places(record: logging.LogRecord) -> list[str]:
    """Return where it happened and the type; the text of an exception may hold what was typed in."""
    assert record.exc_info is not None
    kind, _value, trace = record.exc_info
    lines = [kind.__qualname__ if kind else ""]
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return lines


def show(letter: str) -> None:
    """Put a whole mail in the log, where there is no server to send it by: a person is to read it."""
    _log.info(letter, extra={"letter": letter})


class StandardError(logging.StreamHandler[Any]):
    """What standard error is when something is written: a command's answer has standard output to itself."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _is_told_elsewhere(record: logging.LogRecord) -> bool:
    """Return whether this is the line of Flask's own server for a request, which has a line of ours."""
    return record.name == "werkzeug" and " - - [" in str(record.msg)


_handler = StandardError()
_handler.addFilter(lambda record: not _is_told_elsewhere(record))


def configure(log_format: str) -> None:
    """Send all logs of this process to standard error; called by the factory, repeatable."""
    _handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    # The libraries' warnings too: they would be lines of another form, with the text of exceptions.
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)
    logging.getLogger("authsite").setLevel(logging.INFO)
    # SQLAlchemy logs as the class of its pool, which is ours: that it was made anew is nobody's news.
    logging.getLogger("authsite.database").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a closed standard error must not fail a request
