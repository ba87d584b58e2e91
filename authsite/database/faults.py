"""What a fault of the database means, for who can mend it: the log and the command line alone."""

import functools
import re
import sqlite3
import threading

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from .. import events
from . import MIGRATIONS, rows

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


def is_unusable(error: BaseException) -> bool:
    """Return whether nothing of the kind can succeed until the database's keeper has done something."""
    cause = getattr(error, "orig", None)
    return advice(error) is not None or isinstance(cause, psycopg.errors.ReadOnlySqlTransaction)


def describe(error: BaseException) -> str:
    """Return what to do about an error, what it means, or its kind.

    Never its text, which holds what was asked, or where and as whom.
    """
    cause = getattr(error, "orig", None) or error
    return advice(error) or _reason(cause) or type(cause).__name__


def _reason(cause: BaseException) -> str | None:
    if isinstance(cause, psycopg.errors.ReadOnlySqlTransaction):
        return "it can only be read"
    if not isinstance(cause, psycopg.OperationalError | sqlite3.OperationalError):
        return None
    said = str(cause)
    return next((reason for pattern, reason in _REASONS if re.search(pattern, said)), None)


# Of those who open a database: libpq and servers say it in words alone. In another language it is not known.
_REASONS = (
    ("Connection refused|No such file or directory", "no server listens at its address"),
    ("resolve host|translate host name", "the name of its server is not known"),
    ("timeout expired|timed out", "its server does not answer"),
    ("password authentication failed|no password supplied", "user or password is wrong"),
    ('role ".*" does not exist', "there is no such user"),
    ('database ".*" does not exist', "there is no database of this name"),
    ("unable to open database file", "its file cannot be opened"),
    ("readonly database", "it can only be read"),
    ("too many (clients|connections)", "its server has too many connections"),
)


def of_tables() -> str | None:
    """Return what to do about tables that are missing, outdated or cannot be asked; None if all is well."""
    try:
        found = rows(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError as error:
        return advice(error) or f"The database failed ({describe(error)})"
    versions = {row.version_num for row in found}
    if not versions:
        return TABLES_MISSING
    # What is not known here is newer: while a release goes on, old code serves the new schema.
    return TABLES_OUTDATED if versions & _older_versions() else None


@functools.cache
def _older_versions() -> frozenset[str]:
    """Return the migrations after which another one has come; each file has its migration's name."""
    numbers = (path.name.partition("_")[0] for path in MIGRATIONS.glob("versions/*_*.py"))
    return frozenset(sorted(numbers)[:-1])


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
