"""Hashing: which hashes are made, which still verify, and how many at a time."""

import functools
import os
import subprocess
import sys
import threading

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type
from werkzeug.security import generate_password_hash

from authsite.crypto import hashing
from tests import services

PASSWORD = "three random words"
NICELY = hashing._nicely  # read while the tests are collected, before what is cheap takes its place
NFC, NFD = "caf\u00e9 on the corner", "cafe\u0301 on the corner"


@pytest.fixture(autouse=True)
def _in_threads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_nicely", NICELY)


@pytest.fixture
def real_hasher(monkeypatch: pytest.MonkeyPatch) -> PasswordHasher:
    """The hasher of production: tests otherwise run with a cheap one."""
    hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
    monkeypatch.setattr(hashing, "HASHER", hasher)
    return hasher


@pytest.mark.site
def test_production_hashes_meet_the_owasp_minimum():
    """PW-09: argon2id, at least 19 MiB, two passes, one lane."""
    # Asked of a fresh interpreter, where no test has made hashing cheap.
    program = (
        "from authsite.crypto import hashing; print(hashing.hash_password('three random words'))"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=services.ROOT, capture_output=True, text=True, check=True)
    parameters = extract_parameters(ran.stdout.strip())

    assert parameters.type is Type.ID
    assert parameters.memory_cost >= 19 * 1024
    assert parameters.time_cost >= 2
    assert parameters.parallelism == 1


def test_equal_passwords_have_different_hashes_that_fit_their_column():
    """PW-09."""
    first, second = hashing.hash_password(PASSWORD), hashing.hash_password(PASSWORD)

    assert first != second
    assert max(len(first), len(second)) <= 255


@pytest.mark.parametrize(
    "other",
    [
        PASSWORD.upper(),
        f" {PASSWORD}",
        f"{PASSWORD} ",
        PASSWORD[:-1],
        f"{PASSWORD}\x00",
        f"{PASSWORD}\x00rest",
        "",
    ],
)
def test_only_the_exact_password_is_correct(other):
    """PW-06: neither trimmed, nor folded, nor cut; NUL ends nothing."""
    password_hash = hashing.hash_password(PASSWORD)

    assert hashing.is_correct(PASSWORD, password_hash)
    assert not hashing.is_correct(other, password_hash)


@pytest.mark.parametrize("at", [55, 72, 127])
def test_every_character_of_a_long_password_counts(at):
    """PW-02, PW-06: bcrypt would stop at 72 bytes."""
    password = "ab" * 64
    changed = f"{password[:at]}X{password[at + 1 :]}"

    assert not hashing.is_correct(changed, hashing.hash_password(password))


@pytest.mark.parametrize(("chosen", "typed"), [(NFC, NFD), (NFD, NFC)])
def test_the_same_characters_composed_otherwise_are_the_same_password(chosen, typed):
    """PW-07."""
    assert hashing.is_correct(typed, hashing.hash_password(chosen))


def test_nobody_has_a_right_password():
    """LT-01: an unknown account is verified against a hash that nothing matches."""
    assert not hashing.is_correct("nobody has this password", None)
    assert not hashing.is_correct(PASSWORD, None)


def test_the_dummy_hash_costs_what_a_real_one_costs(real_hasher):
    """LT-02: its parameters are those of the hasher in use, whichever that is."""
    dummy = hashing._dummy_hash(real_hasher)

    assert extract_parameters(dummy) == extract_parameters(hashing.hash_password(PASSWORD))


@pytest.mark.parametrize("method", ["scrypt:32768:8:1", "pbkdf2:sha256:1000"])
def test_hashes_of_another_flask_application_verify_and_are_outdated(method):
    """PW-09: they are replaced at the next sign-in."""
    password_hash = generate_password_hash(PASSWORD, method=method)

    assert hashing.is_correct(PASSWORD, password_hash)
    assert not hashing.is_correct(PASSWORD.upper(), password_hash)
    assert hashing.is_outdated(password_hash)


def test_hashes_of_weaker_parameters_are_outdated(real_hasher):
    """PW-10."""
    weaker = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)

    assert hashing.is_correct(PASSWORD, weaker)
    assert hashing.is_outdated(weaker)
    assert not hashing.is_outdated(hashing.hash_password(PASSWORD))


@pytest.mark.parametrize(
    "damaged", ["", "!", "$argon2id$", "plain words", "scrypt:", "scrypt:x:y:z$salt$hash"]
)
def test_a_damaged_hash_matches_no_password(damaged):
    assert not hashing.is_correct(PASSWORD, damaged)
    assert not hashing.is_correct("", damaged)


@pytest.mark.parametrize("password", ["\ud800", "ab\udfff"])
def test_a_lone_surrogate_is_a_wrong_password(password):
    """PW-08: it has no bytes, so it can be nobody's."""
    assert not hashing.is_correct(password, hashing.hash_password(PASSWORD))
    assert not hashing.is_correct(password, None)


def test_at_most_two_hashes_are_made_at_once():
    """PW-14: the rest of a login storm waits, and memory and cheap requests are spared."""
    inside, most, lock, open_gate = [], [], threading.Lock(), threading.Event()

    def hash_one() -> None:
        with hashing.slot():
            with lock:
                inside.append(threading.current_thread())
                most.append(len(inside))
            open_gate.wait(10)
            with lock:
                inside.remove(threading.current_thread())

    threads = [threading.Thread(target=hash_one) for _ in range(10)]
    for thread in threads:
        thread.start()
    services.wait_until(lambda: len(inside) == 2)
    open_gate.set()
    for thread in threads:
        thread.join()

    assert len(most) == 10
    assert max(most) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_a_hash_leaves_the_processor_to_cheap_requests():
    """PW-14."""
    niceness = functools.partial(os.getpriority, os.PRIO_PROCESS, 0)  # of the thread that asks
    before = niceness()

    assert hashing._nicely(niceness) == min(before + hashing.NICENESS, 19)
    assert niceness() == before


@pytest.mark.site
def test_after_a_fork_the_child_hashes_with_threads_of_its_own():
    program = """if True:
        import os, signal
        from authsite.crypto import hashing
        hashed = hashing.hash_password("three random words")
        child = os.fork()
        signal.alarm(20)
        is_correct = hashing.is_correct("three random words", hashed)
        if not child:
            os._exit(not is_correct)
        assert os.waitpid(child, 0)[1] == 0
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=services.ROOT, timeout=60)
    assert done.returncode == 0


def test_a_thread_that_holds_a_place_enters_again_without_waiting():
    """Two threads that each waited for a second place would wait for ever."""
    entered = []

    def enter_twice() -> None:
        with hashing.slot(), hashing.slot():
            entered.append(hashing.hash_password(PASSWORD))

    threads = [threading.Thread(target=enter_twice) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(entered) == 4


def test_a_failure_inside_gives_the_place_back():
    """PW-14: else two faults would end hashing in this process."""
    for _ in range(5):
        with pytest.raises(RuntimeError), hashing.slot():
            raise RuntimeError

    assert hashing.is_correct(PASSWORD, hashing.hash_password(PASSWORD))
