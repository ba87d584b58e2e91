"""Security events and the log: one JSON line each, never a secret or an address of mail."""

import contextlib
import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import orjson

_log = logging.getLogger("authsite.events")

context: ContextVar[Mapping[str, Any]] = ContextVar(
    "authsite_event_context", default=MappingProxyType({})
)


def record(event: str, *, outcome: str = "success", **facts: object) -> None:
    """Log one event of SECURITY LG-03 with what the request knows (request id, IP, user agent)."""
    if not _log.isEnabledFor(logging.INFO):
        return
    # As Logger.info does, but for the walk up the stack to find who has called it.
    entry = logging.LogRecord(_log.name, logging.INFO, "", 0, event, None, None)
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
            line["exception"] = self._traceback(record)
        return _to_json(line)

    def _traceback(self, record: logging.LogRecord) -> list[str]:
        """Return where it happened and the type; the text of an exception may hold what was typed in."""
        assert record.exc_info is not None
        kind, _value, trace = record.exc_info
        lines = [kind.__qualname__ if kind else ""]
        while trace is not None:
            code = trace.tb_frame.f_code
            lines.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        return lines


def _to_json(line: dict[str, Any]) -> str:
    """Return one line of ASCII, whatever it holds; for nearly all the fast encoder's is that already."""
    with contextlib.suppress(TypeError):  # half a surrogate pair
        text = orjson.dumps(line, default=str, option=orjson.OPT_PASSTHROUGH_DATETIME)
        if text.isascii():
            return text.decode()
    return json.dumps(line, default=str)


def configure() -> None:
    """Send this package's log to standard output as JSON lines; called by the factory, repeatable."""
    log = logging.getLogger("authsite")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(JsonFormatter())
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        # SQLAlchemy logs as the class of its pool, which is ours: that it was made anew is nobody's news.
        logging.getLogger("authsite.database").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a closed standard output must not fail a request
