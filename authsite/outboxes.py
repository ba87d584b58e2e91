"""What every outbox does alike: rows that are due are taken, under a lease, by one of any number of drainers.

A drainer takes what is due by moving `due_at` ahead: one that dies leaves its rows to the others.
"""

import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flask import Flask, current_app
from sqlalchemy import ColumnElement, select, true, update

from . import clock, database

LEASE = timedelta(minutes=2)
BATCH = 10


def drain(
    table: Any,
    deliver_one: Callable[[database.Row], bool],
    *,
    of: ColumnElement[bool] | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> tuple[int, int]:
    """Deliver all rows that are due; return how many left and how many did not.

    Once `is_stopping` the row at hand is the last.
    """
    sent = failed = 0
    condition = true() if of is None else of
    while not is_stopping() and (claimed := claim(table, condition)):
        for row in claimed:
            # A slow server may have used up the lease of those at the end: they are another's by now.
            if is_stopping() or row.due_at <= clock.now():
                break
            if deliver_one(row):
                sent += 1
            else:
                failed += 1
    return sent, failed


def claim(table: Any, of: ColumnElement[bool]) -> list[database.Row]:
    """Take a batch of due rows; nobody else gets them until the lease has run out."""
    now = clock.now()
    due = (
        select(table.id)
        .where(table.due_at <= now, of)
        .order_by(table.due_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(table)
        .where(database.is_among(table.id, due), table.due_at <= now)
        .values(due_at=now + LEASE, attempts=table.attempts + 1)
        .returning(*table.__table__.c)
    )
    return list(database.rows(statement))


def wake_after_commit(name: str, deliver: Callable[[], object]) -> None:
    """Have the drainer of this name deliver once the transaction that is open now is committed."""
    if current_app.config["DELIVER_MAIL_AFTER_COMMIT"]:
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        drainers: dict[str, Drainer] = app.extensions.setdefault("outboxes", {})
        database.after_commit(drainers.setdefault(name, Drainer(app, name, deliver)).wake)


class Drainer:
    """One daemon thread of this process that delivers after each commit that queued something."""

    def __init__(self, app: Flask, name: str, deliver: Callable[[], object]) -> None:
        self._app = app
        self._name = name
        self._deliver = deliver
        self._work = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        self._work.set()
        with self._lock:
            # Made at the first row, so always on this side of a fork.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self._work.wait():
            self._work.clear()
            with self._app.app_context(), contextlib.suppress(Exception):
                # Whatever goes wrong, the rows are still there for the next run.
                self._deliver()
