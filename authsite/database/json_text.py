"""Rows that the database itself writes as JSON, as both databases spell it.

Of long lists: where Python makes the same text of the values, its process answers nobody else for five times
as long.
"""

from typing import Any

from sqlalchemy import Boolean, ColumnElement, Text, Uuid
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from . import UtcDateTime

# As clock.rfc3339 writes it.
_MOMENT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'


class JsonObject(FunctionElement[str]):
    """Columns of one row as the text of an object of their names; raises nothing, NULL is null."""

    inherit_cache = True
    type = Text()


@compiles(JsonObject)
def _object_on_postgresql(element: JsonObject, compiler: SQLCompiler, **options: Any) -> str:
    # Not json_build_object, which writes blanks around each colon and behind each comma.
    columns = ", ".join(
        f'{_spelled_on_postgresql(each, compiler.process(each, **options))} AS "{each.name}"'
        for each in element.clauses
    )
    return f"(SELECT CAST(row_to_json(told) AS text) FROM (SELECT {columns}) AS told)"  # noqa: S608


def _spelled_on_postgresql(column: ColumnElement[Any], sql: str) -> str:
    return (
        f"to_char({sql} AT TIME ZONE 'UTC', '{_MOMENT}')"
        if isinstance(column.type, UtcDateTime)
        else sql
    )


@compiles(JsonObject, "sqlite")
def _object_on_sqlite(element: JsonObject, compiler: SQLCompiler, **options: Any) -> str:
    members = ", ".join(
        f"'{each.name}', {_spelled_on_sqlite(each, compiler.process(each, **options))}"
        for each in element.clauses
    )
    return f"json_object({members})"


def _spelled_on_sqlite(column: ColumnElement[Any], sql: str) -> str:
    """Return the value as JSON has it: SQLite has no type for it."""
    if isinstance(column.type, UtcDateTime):
        return f"replace({sql}, ' ', 'T') || 'Z'"
    if isinstance(column.type, Uuid):
        parts = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
        return " || '-' || ".join(f"substr({sql}, {start}, {length})" for start, length in parts)
    if isinstance(column.type, Boolean):
        return f"json(CASE {sql} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END)"
    return sql
