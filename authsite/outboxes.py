"""What every outbox does alike: rows that are due are taken, under a lease, by one of any number of drainers.

A drainer takes what is due by moving `due_at` ahead: one that dies leaves its rows to the others. One that
ends in peace gives back what it has not come to.
"""

import atexit
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any

from flask import Flask, current_app
from sqlalchemy import ColumnElement, select, true, update

from . import clock, database

LEASE = timedelta(minutes=2)
BATCH = 10
# A process that ends goes on delivering for so long, and then waits so long for what is at hand.
FINISH_SECONDS = 5.0
LAST_ROW_SECONDS = 12.0


def drain(
    table: Any,
    deliver_one: Callable[[database.Row], bool],
    *,
    of: ColumnElement[bool] | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> tuple[int, int]:
    """Deliver all rows that are due; return how many left and how many did not.

    Once `is_stopping` the row at hand is the last, and the others go back.
    """
    sent = failed = 0
    condition = true() if of is None else of
    while not is_stopping() and (claimed := claim(table, condition)):
        try:
            # A slow server may have used up the lease of those at the end: they are another's by now.
            while claimed and claimed[0].due_at > clock.now() and not is_stopping():
                if deliver_one(claimed.pop(0)):
                    sent += 1
                else:
                    failed += 1
        finally:
            if claimed:
                give_back(table, claimed)
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


def give_back(table: Any, rows: Sequence[database.Row]) -> None:
    """Make rows of one batch due as if nobody had taken them; those that another holds by now stay his."""
    statement = (
        update(table)
        .where(table.id.in_([row.id for row in rows]), table.due_at == rows[0].due_at)
        .values(due_at=clock.now(), attempts=table.attempts - 1)
    )
    database.run(statement)


def wake_after_commit(name: str, deliver: Callable[..., object]) -> None:
    """Have the drainer of this name deliver once the transaction that is open now is committed."""
    if current_app.config["DELIVER_MAIL_AFTER_COMMIT"] and not _is_held_back.get():
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        drainers: dict[str, Drainer] = app.extensions.setdefault("outboxes", {})
        wake = drainers.setdefault(name, Drainer(app, name, deliver)).wake
        later = _is_put_off.get()
        database.after_commit(wake if later is None else partial(later.append, wake))


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Wake no drainer of this process for what is queued inside the block: who opened it delivers himself."""
    token = _is_held_back.set(True)
    try:
        yield
    finally:
        _is_held_back.reset(token)


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Wake the drainers for what is committed inside the block when it is left, also by an error.

    In development mail is printed, and would fall into the middle of what a command prints.
    """
    later: list[Callable[[], None]] = []
    token = _is_put_off.set(later)
    try:
        yield
    finally:
        _is_put_off.reset(token)
        for wake in later:
            wake()


@atexit.register
def finish() -> None:
    """Have the drainers of this process deliver what was queued, for some seconds, and end.

    A process that ends (a command, a worker of gunicorn) would else take with it the lease of what its
    drainers are about to deliver. What they do not come to is given back.
    """
    drainers = list(_running)
    end = time.monotonic() + FINISH_SECONDS
    for each in drainers:
        each.end_by(end)
    for each in drainers:
        each.join(end + LAST_ROW_SECONDS)


class Drainer:
    """One daemon thread of this process that delivers after each commit that queued something."""

    def __init__(self, app: Flask, name: str, deliver: Callable[..., object]) -> None:
        self._app = app
        self._name = name
        self._deliver = deliver
        self._changed = threading.Condition()
        self._has_work = False
        self._end: float | None = None
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        with self._changed:
            self._has_work = True
            self._changed.notify()
            # Made at the first row, so always on this side of a fork.
            if self._thread is None or not self._thread.is_alive():
                self._end = None
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                _running.add(self)
                self._thread.start()

    def end_by(self, end: float) -> None:
        """Have the thread end when there is no more to deliver, or after this time of the monotonic clock."""
        with self._changed:
            self._end = end
            self._changed.notify()

    def join(self, end: float) -> None:
        """Wait for the thread's end, but no longer than to this time of the monotonic clock."""
        if thread := self._thread:
            thread.join(max(0, end - time.monotonic()))

    def _run(self) -> None:
        while self._wait():
            with self._app.app_context(), contextlib.suppress(Exception):
                # Whatever goes wrong, the rows are still there for the next run.
                self._deliver(is_stopping=self._is_over)

    def _wait(self) -> bool:
        """Wait for work and return True; or False, where the thread is to end and there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_work or self._end is not None)
            has_work = self._has_work and not self._is_over()
            self._has_work = False
            if not has_work:
                self._thread = None
                _running.discard(self)
            return has_work

    def _is_over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end


_running: set[Drainer] = set()
_is_held_back: ContextVar[bool] = ContextVar("authsite_outboxes_held_back", default=False)
_is_put_off: ContextVar[list[Callable[[], None]] | None] = ContextVar(
    "authsite_outboxes_put_off", default=None
)
