"""Every statement on a user's rows names the user, read from what the whole suite has the service execute.

It is the guard against another's row, and the key by which the tables are spread over machines. Read is
each SELECT, UPDATE and DELETE by itself, those inside others too: of each table with a `user_id` it must
say, in a condition that always holds, whose rows it means.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sqlalchemy import Delete, Engine, Select, Subquery, Table, Update, event
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList

from authsite.database import Base

# The few that need not, by the function that executes them, and why.
EXCEPTIONS = {
    "authsite.accounts._holder": "finds the user of an address",
    "authsite.accounts.delete_given_up": "cleans up",
    "authsite.accounts.adopt": "lists addresses of all who registered during a release",
    "authsite.activity.count_before": "cleans up",
    "authsite.activity.delete_old": "cleans up",
    "authsite.email_changes.count_dead": "cleans up",
    "authsite.email_changes.delete_dead": "cleans up",
    "authsite.mail.outbox._asked_within_a_day": "counts who claims an address",
    "authsite.mail.outbox._find_holder": "finds the user of an address",
    "authsite.mail.outbox._is_anothers": "tells whether a claimed address has an account",
    "authsite.mail.outbox.depth": "counts, for the operator",
    "authsite.mail.outbox.next_due_at": "tells the operator when the first is due",
    "authsite.mail.quotas.delete_over": "cleans up",
    "authsite.outboxes.claim": "takes what is due, whosever it is",
    "authsite.outboxes.give_back": "gives back what it has taken",
    "authsite.passkeys.adding._write": "tells whether another account has a passkey",
    "authsite.passwords._find_owner": "finds the user of a link of the release before",
    "authsite.passwords.delete_dead_resets": "cleans up",
    "authsite.second_steps.apps.reseal_all": "seals every secret anew, for the operator",
    "authsite.sessions.cleanup._counts": "counts, for the operator",
    "authsite.sessions.cleanup.count_before": "cleans up",
    "authsite.sessions.cleanup.delete_dead": "cleans up",
    "authsite.sessions.ending.find_owner": "finds the user of a cookie of the release before, "
    "and tells another's session from none",
    "authsite.sessions.trusted.delete_expired_trusts": "cleans up",
    "authsite.webhooks.outbox.delete_orphans": "cleans up",
    "authsite.webhooks.outbox.depth": "counts, for the operator",
}


class NamesNoUser(AssertionError):
    """A statement on a user's rows that does not say whose."""


@contextmanager
def enforced() -> Iterator[None]:
    """Inside the block the service fails with NamesNoUser at such a statement."""
    read: set[str] = set()

    def look(_connection: Any, _cursor: Any, sql: str, _values: Any, context: Any, *_: Any) -> None:
        statement = context and context.compiled and context.compiled.statement
        if sql in read or statement is None:
            return
        where = _origin(sys._getframe())
        if not where.startswith("authsite.") or where in EXCEPTIONS:
            return
        if tables := unnamed(statement):
            raise NamesNoUser(f"{where} names no user of {', '.join(tables)}: {sql}")
        read.add(sql)

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", look)


def unnamed(statement: Any, outer: frozenset[Table] = frozenset()) -> list[str]:
    """Return the tables with a user's rows of which the statement, or one inside, names no user."""
    found: list[str] = []
    tables: frozenset[Table] = frozenset()
    if isinstance(statement, Select | Update | Delete):
        tables = _tables(statement)
        # What is inside a condition means by an outer table that one's row (SQLAlchemy's correlation).
        own = (tables - outer) or tables
        found = [
            table.name for table in own if "user_id" in table.c and not _named(statement, table)
        ]
    inner = frozenset() if isinstance(statement, Subquery) else outer | tables
    for part in statement.get_children():
        found += unnamed(part, inner)
    return sorted(set(found))


def _tables(statement: Select[Any] | Update | Delete) -> frozenset[Table]:
    if not isinstance(statement, Select):
        return frozenset({statement.table})
    parts = [part for source in statement.get_final_froms() for part in _joined(source)]
    return frozenset(part for part in parts if isinstance(part, Table))


def _joined(source: Any) -> Iterator[Any]:
    if hasattr(source, "left"):
        yield from _joined(source.left)
        yield from _joined(source.right)
    else:
        yield source


def _named(statement: Select[Any] | Update | Delete, table: Table) -> bool:
    return any(
        isinstance(each, BinaryExpression)
        # The latter where a row need not have a user: then too it is one user's, or nobody's.
        and each.operator in (operators.eq, operators.is_not_distinct_from)
        and each.left.compare(table.c.user_id)
        and isinstance(each.right, BindParameter)
        for each in _all_of(statement.whereclause)
    )


def _all_of(condition: Any) -> Iterator[Any]:
    """Return what must hold each: an alternative names nobody."""
    if isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        for each in condition.clauses:
            yield from _all_of(each)
    elif condition is not None:
        yield condition


def _origin(frame: FrameType | None) -> str:
    """Return the function that had the statement executed."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(("authsite.", "tests.")) and module not in (
            "authsite.database",
            __name__,
        ):
            name = frame.f_code.co_qualname.removesuffix(".<locals>.<genexpr>")
            return f"{module}.{name}"
        frame = frame.f_back
    return ""


def with_a_user() -> list[Table]:
    return [table for table in Base.metadata.sorted_tables if "user_id" in table.c]
