"""The threads of a worker: few at work, and nobody kept waiting by those that wait."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from authsite.crypto import hashing
from authsite.server import threads
from authsite.server.threads import ElasticThreads
from tests import services

SECONDS = 20  # after which a test has failed


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(threads, "PATIENCE", 0.01)


@pytest.fixture
def patient(monkeypatch):
    """Nothing but its own word makes a task count no longer."""
    monkeypatch.setattr(threads, "PATIENCE", 3600)


@pytest.fixture
def make_threads():
    made = []

    def make(at_once, most=16):
        made.append(ElasticThreads(at_once, most))
        return made[-1]

    yield make
    for each in made:
        each.shutdown(wait=False, cancel_futures=True)


def results(futures):
    return [each.result(SECONDS) for each in futures]


def test_tasks_answer_or_fail_as_their_calls_did(make_threads):
    pool = make_threads(2)
    failing = pool.submit(lambda: 1 // 0)

    assert pool.submit(divmod, 7, 2).result(SECONDS) == (3, 1)
    assert pool.submit(dict, a=1).result(SECONDS) == {"a": 1}
    assert isinstance(failing.exception(SECONDS), ZeroDivisionError)
    assert pool.submit(lambda: 2).result(SECONDS) == 2


def test_tasks_start_in_the_order_in_which_they_came(make_threads, patient):
    pool, started = make_threads(1), []

    results([pool.submit(started.append, number) for number in range(100)])
    assert started == list(range(100))


def test_only_so_many_are_at_work_at_once(make_threads, patient):
    pool, lock, may_end = make_threads(3), threading.Lock(), threading.Semaphore(0)
    started, at_work, most = [], [0], [0]

    def work(number):
        with lock:
            started.append(number)
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        assert may_end.acquire(timeout=SECONDS)
        with lock:
            at_work[0] -= 1

    tasks = [pool.submit(work, number) for number in range(12)]
    for ended in range(12):
        # Whoever is at work stays so until told: one too many would be seen.
        services.wait_until(lambda ended=ended: len(started) >= min(12, 3 + ended), seconds=SECONDS)
        may_end.release()
    results(tasks)
    assert most[0] == 3


def test_one_that_steps_aside_lets_the_next_start(make_threads, patient):
    pool, came = make_threads(1), threading.Event()

    def wait():
        threads.step_aside()
        return came.wait(SECONDS)

    waiting = [pool.submit(wait) for _ in range(5)]
    pool.submit(came.set)
    assert all(results(waiting))


def test_one_that_takes_long_lets_the_next_start(make_threads, impatient):
    """PW-14: a slow client or a locked row does not say that it will be waited for."""
    pool, came = make_threads(1), threading.Event()

    waiting = [pool.submit(came.wait, SECONDS) for _ in range(5)]
    pool.submit(came.set)
    assert all(results(waiting))


def test_there_are_never_more_threads_than_allowed(make_threads, impatient):
    pool, came, seen = make_threads(1, most=4), threading.Event(), set()

    def wait():
        seen.add(threading.get_ident())
        return came.wait(SECONDS)

    waiting = [pool.submit(wait) for _ in range(12)]
    services.wait_until(lambda: len(seen) == 4, seconds=SECONDS)
    came.set()
    assert all(results(waiting))
    assert len(seen) == 4


def test_threads_that_a_crowd_has_needed_end_with_it(make_threads, impatient):
    pool, came = make_threads(1), threading.Event()
    waiting = [pool.submit(came.wait, SECONDS) for _ in range(15)]
    services.wait_until(lambda: pool._threads >= 15, seconds=SECONDS)
    came.set()

    assert all(results(waiting))
    services.wait_until(lambda: pool._threads <= 3, seconds=SECONDS)
    assert pool.submit(lambda: "still there").result(SECONDS) == "still there"


def test_no_task_is_forgotten_whatever_waits_for_whatever(make_threads, impatient):
    """PW-14."""
    pool, locks = make_threads(2, most=32), [threading.Lock() for _ in range(3)]

    def work(number):
        if number % 3:
            threads.step_aside()
        with locks[number % len(locks)]:
            return number

    def ask(seed):
        numbers = random.Random(seed).choices(range(100), k=300)
        return results([pool.submit(work, number) for number in numbers]) == numbers

    with ThreadPoolExecutor(8) as askers:
        assert all(askers.map(ask, range(8)))


def test_a_task_cancelled_in_the_queue_is_not_run(make_threads, patient):
    pool, came, ran = make_threads(1), threading.Event(), []
    first = pool.submit(came.wait, SECONDS)
    second, third = pool.submit(ran.append, 2), pool.submit(ran.append, 3)

    assert second.cancel()
    came.set()
    results([first, third])
    assert ran == [3]


def test_after_a_shutdown_what_is_queued_is_done_and_nothing_new_is_taken(make_threads, patient):
    """DP-08."""
    pool, came = make_threads(1), threading.Event()
    taken = [pool.submit(came.wait, SECONDS) for _ in range(3)]
    pool.shutdown(wait=False)

    with pytest.raises(RuntimeError):
        pool.submit(came.set)
    came.set()
    assert all(results(taken))
    services.wait_until(lambda: pool._threads == 0, seconds=SECONDS)


def test_who_waits_to_hash_holds_nobody_up(make_threads, patient):
    """PW-14: of any number of sign-ins, only those with a place to hash are at work."""
    pool, came, hashing_now = make_threads(3), threading.Event(), []

    def hash_until_told():
        with hashing.slot():
            hashing_now.append(True)
            return came.wait(SECONDS)

    waiting = [pool.submit(hash_until_told) for _ in range(10)]
    assert pool.submit(lambda: "a cheap page").result(SECONDS) == "a cheap page"
    assert len(hashing_now) <= 2
    came.set()
    assert all(results(waiting))


def test_elsewhere_stepping_aside_does_nothing():
    threads.step_aside()
