"""gunicorn's own lines: JSON as the application's are, and never a path, a query or a header of a request.

A refused request line or a fault is logged by gunicorn with the line, which may hold the token of a link that
still works (SECURITY RS-15). Loaded by its path, like worker.py.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from gunicorn.glogging import Logger

# What gunicorn says of a request begins like this; all that follows is the request's.
OF_REQUESTS = ("Invalid request from ip=", "Error handling request", "Error parsing headers")


class WithoutRequest(logging.Filter):
    """Keep what was wrong with a request, by its kind, and drop what the request said."""

    def filter(self, record: logging.LogRecord) -> bool:
        for beginning in OF_REQUESTS:
            if str(record.msg).startswith(beginning):
                address = str(record.msg).partition("ip=")[2].partition(":")[0][:45]
                record.msg, record.args = "A request could not be read or answered", ()
                record.ip = address or None
        return True


class JsonFormatter(logging.Formatter):
    """One line for each event; of an exception the kind and the places, for its text may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "ip", None):
            line["ip"] = record.ip  # type: ignore[attr-defined]
        if record.exc_info and record.exc_info[0]:
            line["exception"] = [record.exc_info[0].__qualname__]
            trace = record.exc_info[2]
            while trace is not None:
                code = trace.tb_frame.f_code
                line["exception"].append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
                trace = trace.tb_next
        return json.dumps(line, default=str)


class Log(Logger):
    """gunicorn's logger, with the filter always and JSON where the application writes it."""

    writes_json = False  # gunicorn_conf.py knows LOG_FORMAT

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.addFilter(WithoutRequest())
            if self.writes_json:
                handler.setFormatter(JsonFormatter())
