"""Every statement is one that Citus can answer, read from what the service executes where Citus is.

Where the tables are spread a statement is answered by one machine, if each table in it is asked for by what
it is spread by, and all of them lie together. Others are sent to all machines: the few that may are below.
What Citus refuses altogether is rows of tables that do not lie together, a lock on rows of several machines,
and a conflict on what does not hold the column that the table is spread by.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from flask import current_app
from sqlalchemy import Column, Delete, Engine, Insert, Select, Table, Update, event
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, BindParameter

from authsite import database
from authsite.database.spreading import SPREAD_BY
from tests import ownership

CLEANS_UP = "cleans up"
# These ask all machines, by the function that executes them, and why.
FANS_OUT = {
    "authsite.accounts.delete_given_up": CLEANS_UP,
    "authsite.activity.count_before": CLEANS_UP,
    "authsite.activity.delete_old": CLEANS_UP,
    "authsite.deletions._delete_rest": "takes the user's addresses out of the list",
    "authsite.deletions._delete_some": "finds the user's addresses in the list",
    "authsite.deletions.count_due": CLEANS_UP,
    "authsite.deletions.delete_due": CLEANS_UP,
    "authsite.deletions.due_at": "finds until when an address of the user's is kept",
    "authsite.email_changes.count_dead": CLEANS_UP,
    "authsite.email_changes.delete_dead": CLEANS_UP,
    "authsite.email_changes.undo_change": "gives up what undone changes took",
    "authsite.mail.outbox._asked_within_a_day": "counts who wants to have an address",
    "authsite.mail.quotas.delete_over": CLEANS_UP,
    "authsite.passkeys.adding._write": "tells whether another account has a passkey",
    "authsite.passwords._find_owner": "finds the user of a link of the release before",
    "authsite.passwords.delete_dead_resets": CLEANS_UP,
    "authsite.second_steps.apps.reseal_all": "seals every secret anew, for the operator",
    "authsite.second_steps.pending.delete_spent": CLEANS_UP,
    "authsite.sessions.cleanup._counts": "counts, for the operator",
    "authsite.sessions.cleanup.count_before": CLEANS_UP,
    "authsite.sessions.cleanup.delete_dead": CLEANS_UP,
    "authsite.sessions.ending.find_owner": "tells another's session from none",
    "authsite.sessions.trusted.delete_expired_trusts": CLEANS_UP,
    "authsite.throttling.delete_stale": CLEANS_UP,
    "authsite.throttling.forget_browsers": "takes several counts away in one statement",
}


class CitusRefuses(AssertionError):
    """A statement that several machines would have to answer, or none could."""


@contextmanager
def enforced() -> Iterator[None]:
    """Inside the block the service fails with CitusRefuses at such a statement."""
    read: set[tuple[str, str]] = set()

    def look(statement: Any, sql: str) -> None:
        where = _origin()
        if not _has_citus() or not where.startswith("authsite.") or (where, sql) in read:
            return
        found = [each for each in faults(statement) if each != FAN_OUT or where not in FANS_OUT]
        if found:
            raise CitusRefuses(f"{where} {', '.join(found)}: {sql}")
        read.add((where, sql))

    def look_at(
        _connection: Any, _cursor: Any, sql: str, _values: Any, context: Any, *_: Any
    ) -> None:
        if context and context.compiled and context.compiled.statement is not None:
            look(context.compiled.statement, sql)

    send = database.Prepared._send

    def look_and_send(prepared: Any, parameters: Any) -> Any:
        look(prepared.statement, prepared._written[0].decode())
        return send(prepared, parameters)

    event.listen(Engine, "before_cursor_execute", look_at)
    database.Prepared._send = look_and_send
    try:
        yield
    finally:
        database.Prepared._send = send
        event.remove(Engine, "before_cursor_execute", look_at)


FAN_OUT = "asks all machines"


def faults(statement: Any) -> list[str]:
    """Return what keeps one machine from answering the statement."""
    parts = list(visitors.iterate(statement))
    together = {_lies(part) for part in parts if _is_ours(part)}
    found = []
    if len(together) > 1:
        found.append(f"asks for {' and '.join(sorted(together))}, which do not lie together")
    fans_out = bool(_unpinned(statement, parts))
    if fans_out:
        found.append(FAN_OUT)
    if fans_out and any(getattr(part, "_for_update_arg", None) is not None for part in parts):
        found.append("locks rows of several machines")
    if isinstance(statement, Insert) and not _holds(statement):
        found.append("meets conflicts on what does not hold the column it is spread by")
    return found


def _is_ours(part: Any) -> bool:
    """Return whether this is a table of the service, not the database's own."""
    return isinstance(part, Table) and part.metadata is database.Base.metadata


def _lies(table: Table) -> str:
    column = SPREAD_BY[table.name]
    if column is None:
        return "the coordinator"
    return "a user" if column == "user_id" or table.name == "users" else table.name


def _unpinned(statement: Any, parts: list[Any]) -> set[Table]:
    """Return the tables of which it does not say, in a condition that always holds, whose rows it means."""
    asked: set[Table] = set()
    named: set[Table] = set()
    for part in parts:
        if not isinstance(part, Select | Update | Delete):
            continue
        tables = ownership._tables(part)
        asked |= {each for each in tables if _is_ours(each) and SPREAD_BY[each.name] is not None}
        conditions = [*ownership._all_of(part.whereclause)]
        if isinstance(part, Select):
            conditions += [c for on in _joins(part) for c in ownership._all_of(on)]
        for each in conditions:
            named |= _named_by(each)
    return asked - named


def _joins(statement: Select[Any]) -> Iterator[Any]:
    for source in statement.get_final_froms():
        for part in visitors.iterate(source):
            if hasattr(part, "onclause"):
                yield part.onclause


def _named_by(condition: Any) -> set[Table]:
    """Return the tables that the condition binds to one value, or to the row beside it."""
    if not isinstance(condition, BinaryExpression) or condition.operator not in (
        operators.eq,
        operators.is_not_distinct_from,
    ):
        return set()
    sides = (condition.left, condition.right)
    keys = [each for each in sides if isinstance(each, Column) and _is_key(each)]
    if len(keys) == 2 or (keys and any(isinstance(each, BindParameter) for each in sides)):
        return {each.table for each in keys}
    return set()


def _is_key(column: Any) -> bool:
    return _is_ours(column.table) and SPREAD_BY[column.table.name] == column.name


def _holds(statement: Insert) -> bool:
    """Return whether the constraint that may conflict, if it is named, holds the column."""
    conflict: Any = getattr(statement, "_post_values_clause", None)
    elements = getattr(conflict, "inferred_target_elements", None)
    column = SPREAD_BY[statement.table.name]
    return not elements or column in {getattr(each, "key", each) for each in elements}


def _has_citus() -> bool:
    return bool(current_app and current_app.extensions.get("has_citus"))


def _origin() -> str:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return ownership._origin(frame)
