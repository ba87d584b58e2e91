"""What Citus tells of how it would answer a statement, read from its EXPLAIN."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg


def explain(connection: psycopg.Connection, statement: str, values: Any) -> Any:
    """Return the plan of a statement, with its values written into it.

    Of one with parameters Citus may choose the machine only when it executes it, and EXPLAIN does not.
    """
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
    (plan,) = cursor.fetchone() or ()
    return json.loads(plan) if isinstance(plan, str) else plan


def tasks(plan: Any) -> list[int]:
    """Return of how many tasks each distributed query in it is made: `[1]` is one machine, asked once.

    A query inside that has to be answered first is one more; of what stays on the coordinator there is none.
    """
    return list(_tasks(plan))


def _tasks(part: Any) -> Iterator[int]:
    if isinstance(part, dict):
        if "Job" in part:
            yield part["Job"]["Task Count"]
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _tasks(each)
