"""What a fault of the database means, for who can mend it: the log and the command line alone."""

import sqlite3
import threading

import psycopg

from .. import events

TABLES_MISSING = "The tables are missing: run flask db upgrade"
TABLES_OUTDATED = "The tables are of an older version: run flask db upgrade"


def advice(error: BaseException) -> str | None:
    """Return what to do about an error of SQLAlchemy's; None where only the database's keeper can know."""
    cause = getattr(error, "orig", None)
    if isinstance(cause, psycopg.errors.UndefinedTable):
        return TABLES_MISSING
    if isinstance(cause, psycopg.errors.UndefinedColumn):
        return TABLES_OUTDATED
    if isinstance(cause, sqlite3.OperationalError):
        said = str(cause)
        if said.startswith("no such table"):
            return TABLES_MISSING
        if said.startswith("no such column") or "has no column named" in said:
            return TABLES_OUTDATED
    return None


def describe(error: BaseException) -> str:
    """Return what to do about an error, or its kind; never its text, which holds what was asked."""
    return advice(error) or type(getattr(error, "orig", None) or error).__name__


class News:
    """What keeps something from working, told to the log at each change and not at each try."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._changes = threading.Lock()
        self._last: str | None = None

    def tell(self, reason: str | None) -> None:
        """Record the reason if it is another one than before; None is that it works."""
        with self._changes:
            if reason == self._last:
                return
            self._last = reason
        if reason is None:
            events.record(self._event)
        else:
            events.record(self._event, outcome="error", reason=reason)
