"""The threads of a worker: one leads and answers, and nobody is kept waiting by those that wait."""

import queue
import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from authsite.crypto import hashing
from authsite.server import threads
from authsite.server.threads import LeaderFollowers
from tests import services

SECONDS = 20  # after which a test has failed


class Site:
    """What a worker is to its threads: where tasks come from, and who watches over the leader."""

    def __init__(self, at_once: int, most: int = 16) -> None:
        self.came: queue.SimpleQueue = queue.SimpleQueue()
        self.bell = threading.Event()
        self.has_ended = False
        self.failure: BaseException | None = None
        self.threads = LeaderFollowers(self._find, self.bell.set, at_once, most)
        self.threads.start()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def _find(self) -> None:
        try:
            task = self.came.get(timeout=0 if self.threads.has_tasks() else 0.05)
        except queue.Empty:
            return
        self.threads.submit(task)

    def _watch(self) -> None:
        try:
            while not self.has_ended:
                self.bell.wait(self.threads.watch() or 0.05)
                self.bell.clear()
        except ArithmeticError as failure:
            self.failure = failure

    def submit(self, call, *arguments) -> Future:
        future: Future = Future()
        self.came.put(lambda: _settle(future, call, arguments))
        return future

    def end(self) -> None:
        self.has_ended = True
        self.bell.set()
        self._watcher.join()
        self.threads.shutdown()


def _settle(future, call, arguments):
    try:
        future.set_result(call(*arguments))
    except Exception as error:  # whoever asked for the result gets it
        future.set_exception(error)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(threads, "TURN", 0.002)
    monkeypatch.setattr(threads, "PATIENCE", 0.01)


@pytest.fixture
def patient(monkeypatch):
    """Nothing but its own word makes a task count no longer, or another thread lead."""
    monkeypatch.setattr(threads, "TURN", 3600)
    monkeypatch.setattr(threads, "PATIENCE", 3600)


@pytest.fixture
def make_site():
    made = []

    def make(at_once, most=16):
        made.append(Site(at_once, most))
        return made[-1]

    yield make
    for each in made:
        each.end()


def results(futures):
    return [each.result(SECONDS) for each in futures]


def test_tasks_are_done_in_the_order_in_which_they_came_by_the_thread_that_finds_them(
    make_site, patient
):
    """PW-14: nobody is woken for a task that does not wait."""
    site, done = make_site(4), []

    def work(number):
        done.append(number)
        return threading.get_ident()

    assert len(set(results([site.submit(work, number) for number in range(100)]))) == 1
    assert done == list(range(100))


def test_whoever_takes_longer_than_its_turn_leads_no_longer(make_site, impatient):
    """PW-14: a slow client or a locked row does not say that it will be waited for."""
    site, came = make_site(1), threading.Event()

    waiting = [site.submit(came.wait, SECONDS) for _ in range(5)]
    site.submit(came.set)
    assert all(results(waiting))


def test_only_so_many_are_at_work_at_once(make_site, impatient, monkeypatch):
    """Until their patience is over, those that have lost the lead count."""
    monkeypatch.setattr(threads, "PATIENCE", 3600)
    site, lock, may_end = make_site(3), threading.Lock(), threading.Semaphore(0)
    started, at_work, most = [], [0], [0]

    def work(number):
        with lock:
            started.append(number)
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        assert may_end.acquire(timeout=SECONDS)
        with lock:
            at_work[0] -= 1

    tasks = [site.submit(work, number) for number in range(12)]
    for ended in range(12):
        # Whoever is at work stays so until told: one too many would be seen.
        services.wait_until(lambda ended=ended: len(started) >= min(12, 3 + ended), seconds=SECONDS)
        may_end.release()
    results(tasks)
    assert started == list(range(12))
    assert most[0] == 3


def test_one_that_steps_aside_lets_the_next_start(make_site, patient):
    site, came = make_site(1), threading.Event()

    def wait():
        threads.step_aside()
        return came.wait(SECONDS)

    waiting = [site.submit(wait) for _ in range(5)]
    site.submit(came.set)
    assert all(results(waiting))


def test_tasks_begin_together_where_the_database_is_far_and_only_there(make_site, patient):
    """Each waits for it longer than it works; beside a near one they would only take turns."""
    site, together = make_site(4), threading.Barrier(4)

    def ask_one_that_is(seconds):
        for _ in range(500):
            threads.waited(seconds)
        return threading.get_ident()

    def ask_together():
        threads.waited(0.001)
        return together.wait(SECONDS) >= 0

    assert len(set(results([site.submit(ask_one_that_is, 0.0001) for _ in range(20)]))) == 1
    site.submit(ask_one_that_is, 0.001).result(SECONDS)
    assert all(results([site.submit(ask_together) for _ in range(4)]))

    came = threading.Event()
    site.submit(threads.waited, 0.0001).result(SECONDS)
    # Of 500 slow answers one quick one shows that it is near.
    first = site.submit(came.wait, 0.2)
    second = site.submit(came.set)
    assert first.result(SECONDS) is False, "the second waited for it"
    second.result(SECONDS)


def test_there_are_never_more_threads_than_allowed(make_site, impatient):
    site, came, seen = make_site(1, most=4), threading.Event(), set()

    def wait():
        seen.add(threading.get_ident())
        return came.wait(SECONDS)

    waiting = [site.submit(wait) for _ in range(12)]
    services.wait_until(lambda: len(seen) == 4, seconds=SECONDS)
    came.set()
    assert all(results(waiting))
    assert len(seen) == 4


def test_where_the_system_allows_no_more_threads_those_that_there_are_go_on(
    make_site, impatient, monkeypatch
):
    """FA-12: as on a platform that counts them; the worker ended, with all that it had begun."""
    site, came, refused = make_site(1), threading.Event(), threading.Event()

    def refuse(_thread):
        refused.set()
        raise RuntimeError("can't start new thread")

    services.wait_until(lambda: site.threads._leader != threads.NOBODY, seconds=SECONDS)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        waiting = site.submit(came.wait, SECONDS)
        assert refused.wait(SECONDS)
        came.set()
        assert waiting.result(SECONDS)
        # And one that steps aside, which is no fault of its own.
        assert site.submit(threads.step_aside).result(SECONDS) is None
    came.clear()
    waiting = site.submit(came.wait, SECONDS)
    site.submit(came.set)
    assert waiting.result(SECONDS)


def test_threads_that_a_crowd_has_needed_end_with_it(make_site, impatient):
    site, came = make_site(1), threading.Event()
    waiting = [site.submit(came.wait, SECONDS) for _ in range(15)]
    services.wait_until(lambda: site.threads._threads >= 15, seconds=SECONDS)
    came.set()

    assert all(results(waiting))
    services.wait_until(lambda: site.threads._threads <= 3, seconds=SECONDS)
    assert site.submit(lambda: "still there").result(SECONDS) == "still there"


def test_no_task_is_forgotten_whatever_waits_for_whatever(make_site, impatient):
    """PW-14."""
    site, locks = make_site(2, most=32), [threading.Lock() for _ in range(3)]

    def work(number):
        if number % 3:
            threads.step_aside()
        with locks[number % len(locks)]:
            threads.waited(0.001 if number % 2 else 0.00001)
            return number

    def ask(seed):
        numbers = random.Random(seed).choices(range(100), k=300)
        return results([site.submit(work, number) for number in numbers]) == numbers

    with ThreadPoolExecutor(8) as askers:
        assert all(askers.map(ask, range(8)))


def test_a_task_that_begins_when_nobody_watches_is_watched(make_site, impatient):
    """However long nothing was to be done, and just when the watcher went to sleep."""
    site = make_site(1)
    for _ in range(200):
        came = threading.Event()
        waiting = site.submit(came.wait, SECONDS)
        site.submit(came.set)
        assert waiting.result(SECONDS)


def test_what_looking_for_tasks_raises_is_told(make_site, monkeypatch):
    """FA-12: a worker that finds no requests any more ends, and is replaced."""
    site = make_site(1)
    monkeypatch.setattr(site.threads, "_find", lambda: 1 // 0)
    services.wait_until(lambda: site.failure, seconds=SECONDS)
    assert isinstance(site.failure, ZeroDivisionError)


def test_after_a_shutdown_what_is_queued_is_done_and_nothing_new_is_looked_for(make_site, patient):
    """DP-08."""
    site, came = make_site(1), threading.Event()
    first = site.submit(came.wait, SECONDS)
    services.wait_until(lambda: site.threads._begun, seconds=SECONDS)
    queued = [Future() for _ in range(3)]
    for future in queued:
        site.threads.submit(lambda future=future: future.set_result(True))
    site.threads.shutdown()
    unfound = site.submit(came.set)
    came.set()

    assert first.result(SECONDS)
    assert all(results(queued))
    services.wait_until(lambda: site.threads._threads == 0, seconds=SECONDS)
    assert not unfound.done()


def test_every_thread_stuck_is_a_stuck_worker(make_site, impatient):
    """FA-12: such a one no longer tells the main process that all is well, and is replaced."""
    site, came = make_site(2, most=4), threading.Event()
    waiting = [site.submit(came.wait, SECONDS) for _ in range(4)]
    services.wait_until(lambda: site.threads._leader == threads.NOBODY, seconds=SECONDS)
    assert site.threads.is_stuck(0)
    assert not site.threads.is_stuck(60)
    came.set()
    assert all(results(waiting))
    services.wait_until(lambda: site.threads._leader != threads.NOBODY, seconds=SECONDS)
    assert not site.threads.is_stuck(60)


def test_a_leader_that_never_comes_back_from_its_look_is_a_stuck_worker(make_site, impatient):
    """FA-12."""
    site, came = make_site(2, most=4), threading.Event()
    site.threads._find = lambda: came.wait(SECONDS)
    services.wait_until(lambda: site.threads.is_stuck(0.2), seconds=SECONDS)
    came.set()


def test_who_hashes_and_who_waits_to_hash_holds_nobody_up(make_site, patient):
    """PW-14: of any number of sign-ins, only those with a place to hash are at work."""
    site, came, hashing_now = make_site(3), threading.Event(), []

    def hash_until_told():
        with hashing.slot():
            hashing_now.append(True)
            return came.wait(SECONDS)

    waiting = [site.submit(hash_until_told) for _ in range(10)]
    assert site.submit(lambda: "a cheap page").result(SECONDS) == "a cheap page"
    assert len(hashing_now) <= 2
    came.set()
    assert all(results(waiting))


def test_elsewhere_stepping_aside_and_waiting_do_nothing():
    threads.step_aside()
    threads.waited(1)
