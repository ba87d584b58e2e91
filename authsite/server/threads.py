"""The threads that answer requests: a few at work, and more only for those that wait.

Python runs one thread at a time. Sixteen that are ready take turns at every read and write, and were
measured to answer 8 % fewer requests than four; but four that wait for their turn to hash a password, for
a locked row or for a slow client leave nobody to answer the rest. So few start at a time, and one that
waits no longer counts.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

# Seconds after which a task is taken to be waiting, not working: a request works for a few milliseconds.
PATIENCE = 0.02

_local = threading.local()


def step_aside() -> None:
    """Let another task start in place of the caller's, which is about to wait; elsewhere, do nothing."""
    pool: ElasticThreads | None = getattr(_local, "pool", None)
    if pool is not None:
        pool.discount()


class ElasticThreads(Executor):
    """An executor that starts tasks in order, `at_once` of them at a time, in `most` threads at most.

    A task stops counting when it steps aside or has run for PATIENCE. While tasks are queued, one idle
    thread keeps watch for that; when none are, those beyond `at_once` and one end.
    """

    def __init__(self, at_once: int, most: int) -> None:
        self._at_once = at_once
        self._most = most
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._begun: dict[int, float] = {}  # by thread; tasks that count
        self._threads = self._idle = 0
        self._is_watched = self._is_shut_down = False
        self._ended_at = time.monotonic()  # a task, the latest
        self._changed = threading.Condition(threading.Lock())

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call and return its future; raise RuntimeError after a shutdown."""
        future: Future[Any] = Future()
        with self._changed:
            if self._is_shut_down:
                raise RuntimeError("no task is taken after a shutdown")
            self._tasks.append((future, lambda: fn(*args, **kwargs)))
            self._wake()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; the threads end with what is queued. Waiting for them is not offered."""
        with self._changed:
            self._is_shut_down = True
            while cancel_futures and self._tasks:
                self._tasks.popleft()[0].cancel()
            self._changed.notify_all()

    def is_stuck(self, seconds: float) -> bool:
        """Return whether tasks are queued, every thread has one, and for so long none has ended."""
        with self._changed:
            is_full = bool(self._tasks) and self._threads >= self._most and not self._idle
            return is_full and time.monotonic() - self._ended_at > seconds

    def discount(self) -> None:
        """Count the calling thread's task no longer."""
        with self._changed:
            if self._begun.pop(threading.get_ident(), None) is not None:
                self._wake()

    def _wake(self) -> None:
        """Have a thread look at the queue: to start a task, or to keep watch over those that are at work."""
        if not self._tasks or (self._is_watched and not self._may_start()):
            return
        if self._idle:
            self._changed.notify()
        else:
            self._add_thread()

    def _may_start(self) -> bool:
        if len(self._begun) < self._at_once:
            return True
        since = time.monotonic() - PATIENCE
        return sum(begun > since for begun in self._begun.values()) < self._at_once

    def _add_thread(self) -> None:
        if self._threads < self._most:
            self._threads += 1
            # Not to be waited for at the end of the process: its server knows when to give up.
            threading.Thread(target=self._work, name="request", daemon=True).start()

    def _work(self) -> None:
        _local.pool = self
        while (task := self._next()) is not None:
            future, call = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # whoever asked for the result gets it
                future.set_exception(error)
            else:
                future.set_result(result)
            del task, future, call

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Wait for a task that may start and return it; None ends the thread."""
        own = threading.get_ident()
        with self._changed:
            self._begun.pop(own, None)
            self._ended_at = time.monotonic()
            while not (self._tasks and self._may_start()):
                if self._is_superfluous():
                    self._threads -= 1
                    self._changed.notify()  # after a shutdown, so that all come to know of it
                    return None
                self._wait()
            self._begun[own] = time.monotonic()
            task = self._tasks.popleft()
            self._wake()  # this one keeps watch no longer
            return task

    def _is_superfluous(self) -> bool:
        if not self._tasks and self._is_shut_down:
            return True
        return self._idle > self._at_once and (self._is_watched or not self._tasks)

    def _wait(self) -> None:
        """Wait for a change; one thread also for the tasks at work to lose the others' patience."""
        keeps_watch = bool(self._tasks) and not self._is_watched
        self._is_watched |= keeps_watch
        self._idle += 1
        self._changed.wait(PATIENCE if keeps_watch else None)
        self._idle -= 1
        self._is_watched &= not keeps_watch
