"""The threads that answer requests: one finds and answers them, and another takes over where it is held up.

Python runs one thread at a time, and threads that are ready take turns at every read and write: with four at
work an authenticated read took a fifth more of the processor's time than with one, for nothing. So the thread
that leads waits for requests and answers them itself, one after another, and wakes nobody: the pattern
Leader/Followers (Schmidt et al., 2000). But a turn to hash a password, a locked row or a slow client would
leave nobody to answer the rest: whoever steps aside, or takes longer than TURN, leads no longer and finishes
what it does. Where the database is on another machine each request waits, and several are begun at once.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

# Seconds after which another thread leads, since most requests are answered by then; and between two looks.
TURN = 0.005
LOOK = 0.002
# Seconds that the quickest answers of the database take where it is on another machine.
FAR = 0.0004
# Seconds after which a task is taken to be waiting, not working, and counts no longer.
PATIENCE = 0.02
NOBODY = 0

_local = threading.local()


def step_aside() -> None:
    """Let another thread lead in place of the caller, who is about to wait; elsewhere, do nothing."""
    pool: LeaderFollowers | None = getattr(_local, "pool", None)
    if pool is not None:
        pool.discount()


def waited(seconds: float) -> None:
    """Tell how long the database took for an answer."""
    pool: LeaderFollowers | None = getattr(_local, "pool", None)
    if pool is not None:
        pool.note_wait(seconds)


class LeaderFollowers:
    """At most `most` threads, which do what the leading one of them finds, `at_once` tasks at a time.

    `find` waits for a moment and submits what there is to do; only the leader calls it. `ring` is called when
    a task begins and nobody watches: then `watch` is to be called, and again after the time that it returns.
    """

    def __init__(
        self, find: Callable[[], None], ring: Callable[[], None], at_once: int, most: int
    ) -> None:
        self._find, self._ring = find, ring
        self._at_once, self._most = at_once, most
        self._tasks: deque[Callable[[], None]] = deque()
        self._begun: dict[int, float] = {}  # by thread; tasks that count
        self._leader = NOBODY
        self._threads = self._idle = 0
        self._is_watched = self._is_shut_down = False
        self._failure: BaseException | None = None
        self._turned_at = self._ended_at = (
            time.monotonic()
        )  # the latest look for tasks; the latest task
        self._quickest = 0.0001  # answer of the database; grows until one is quicker
        self._changed = threading.Condition(threading.Lock())

    def start(self) -> None:
        """Have a first thread lead."""
        with self._changed:
            self._call_in()

    def submit(self, task: Callable[[], None]) -> None:
        """Queue a task, which must not fail; from within `find`."""
        self._tasks.append(task)

    def has_tasks(self) -> bool:
        return bool(self._tasks)

    def is_led_by_caller(self) -> bool:
        return self._leader == threading.get_ident()

    def shutdown(self, wait: bool = False) -> None:
        """Look for no more tasks; the threads end with what is queued. Waiting for them is not offered."""
        # Not locked: called by a signal's handler too, which may have interrupted whoever holds it.
        self._is_shut_down = True

    def is_stuck(self, seconds: float) -> bool:
        """Return whether nobody has looked for tasks for so long, and none has ended."""
        with self._changed:
            since = time.monotonic() - seconds
            is_answering = self._leader in self._begun
            return not is_answering and self._turned_at < since and self._ended_at < since

    def watch(self) -> float | None:
        """Have another thread lead where the leader is held up; return the seconds until the next look.

        None: none is needed before `ring`. Raise what `find` has raised.
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            begun = self._begun.get(self._leader)
            if begun is not None and time.monotonic() - begun > TURN and self._may_start():
                self._call_in()
            # In this order: a task that begins meanwhile either is seen here, or sees that it has to ring.
            self._is_watched = False
            self._is_watched = bool(self._begun)
            return LOOK if self._is_watched else None

    def discount(self) -> None:
        """Count the calling thread's task no longer, and have another lead in its place."""
        own = threading.get_ident()
        with self._changed:
            if self._begun.pop(own, None) is not None and self._leader == own:
                self._call_in()

    def note_wait(self, seconds: float) -> None:
        """Note how long the database took; it is near if any of the last answers was quick."""
        self._quickest = min(seconds, self._quickest * 1.01)

    def _may_start(self) -> bool:
        if len(self._begun) < self._at_once:
            return True
        since = time.monotonic() - PATIENCE
        return sum(begun > since for begun in tuple(self._begun.values())) < self._at_once

    def _call_in(self) -> None:
        """Have whoever is idle lead; where all are at work, the first that ends its task."""
        self._leader = NOBODY
        if self._idle:
            self._changed.notify()
        elif self._threads < self._most:
            # Not to be waited for at the end of the process: its server knows when to give up.
            thread = threading.Thread(target=self._work, name="request", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system allows no more: then as where all are at work
                if not self._threads:
                    raise
            else:
                self._threads += 1

    def _work(self) -> None:
        _local.pool = self
        own = threading.get_ident()
        while self._comes_to_lead(own):
            try:
                self._lead(own)
            except BaseException as failure:
                self._failure = failure
                self._ring()
                return

    def _comes_to_lead(self, own: int) -> bool:
        """Wait until nobody else leads; False ends the thread."""
        with self._changed:
            while self._leader != NOBODY:
                if self._idle >= self._at_once:
                    self._threads -= 1
                    return False
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            if self._is_shut_down and not self._tasks:
                self._threads -= 1
                self._changed.notify()  # and so on, until all have ended
                return False
            self._leader = own
            return True

    def _lead(self, own: int) -> None:
        while self._leader == own:
            if self._tasks:
                self._do(self._tasks.popleft(), own)
            elif self._is_shut_down:
                with self._changed:
                    self._leader = NOBODY
            else:
                self._turned_at = time.monotonic()
                self._find()

    def _do(self, task: Callable[[], None], own: int) -> None:
        self._begun[own] = time.monotonic()
        if not self._is_watched:
            self._is_watched = True
            self._ring()
        if self._quickest > FAR and len(self._begun) < self._at_once:
            with self._changed:
                self._call_in()
        try:
            task()
        finally:
            with self._changed:
                self._begun.pop(own, None)
                self._ended_at = time.monotonic()
