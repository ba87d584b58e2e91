"""Passwords become argon2id hashes here, a bounded number at a time.

Parameters: OWASP Password Storage, m = 19 MiB, t = 2, p = 1 (ASVS 5.0 appendix C). Hashes that werkzeug
made for another Flask application still verify, and are renewed at the next sign-in.
"""

import contextlib
import os
import secrets
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from werkzeug.security import check_password_hash

from ..errors import ServiceBusy
from ..server import threads

T = TypeVar("T")
HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)

# Each hash takes 19 MiB and a core: more at once only starves the cheap requests and the memory.
AT_ONCE = 2
# What a hash leaves to others of a core that both want: nine tenths (setpriority(2)). Measured with the
# authenticated read while people sign in: half as much again, its p99 a third less, as many sign-ins.
NICENESS = 10

# Half of the threads that a process has (server/worker.py); at 40 hashes a second, a wait of a second.
MOST_WAITING = 32

_slots = threading.BoundedSemaphore(AT_ONCE)
_waiting = threading.BoundedSemaphore(MOST_WAITING)
_held = threading.local()


@contextlib.contextmanager
def slot() -> Iterator[None]:
    """Hold one of this process's places for hashing; a thread that holds one may enter again.

    Raise ServiceBusy where MOST_WAITING wait for one already: each waits in a thread, and somebody has to
    answer the others.
    """
    if getattr(_held, "is_held", False):
        yield
        return
    threads.step_aside()
    if not _slots.acquire(blocking=False):
        _wait_for_slot()
    _held.is_held = True
    try:
        yield
    finally:
        _held.is_held = False
        _slots.release()


def _wait_for_slot() -> None:
    if not _waiting.acquire(blocking=False):
        raise ServiceBusy
    try:
        _slots.acquire()
    finally:
        _waiting.release()


def hash_password(password: str) -> str:
    """Return the argon2id hash (PHC string, at most 255 characters) of the NFC-normalised password."""
    with slot():
        return _nicely(HASHER.hash, normalise(password))


def hash_of_nobody() -> str:
    """Return the hash of a password that nobody has; guessing at it takes the time that any other takes."""
    return hash_password(secrets.token_urlsafe(32))


def is_correct(password: str, password_hash: str | None) -> bool:
    """Return whether the password has this hash; None costs the same time and is never right."""
    with slot():
        try:
            if password_hash is None:
                _nicely(HASHER.verify, _dummy_hash(HASHER), normalise(password))
                return False
            if password_hash.startswith(("scrypt:", "pbkdf2:")):
                return _nicely(check_password_hash, password_hash, password)
            return _nicely(HASHER.verify, password_hash, normalise(password))
        except (VerificationError, ValueError):
            # Wrong, or the hash is damaged, or the password holds half a surrogate pair: it has no bytes.
            return False


def is_outdated(password_hash: str) -> bool:
    """Return whether the hash has other parameters than those of today."""
    try:
        return HASHER.check_needs_rehash(password_hash)
    except InvalidHashError:
        return True


def normalise(password: str) -> str:
    """Return the password as it is hashed: however a keyboard composes its characters, the same bytes.

    NIST SP 800-63B-4 §3.1.1.2, form NFC.
    """
    return unicodedata.normalize("NFC", password)


def _nicely(hash_or_verify: Callable[..., T], *texts: str) -> T:
    """Return what the function answers, called in a thread that leaves the processor to others."""
    return _nice_threads(os.getpid()).submit(hash_or_verify, *texts).result()


@lru_cache(maxsize=1)
def _nice_threads(_pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, "hash", initializer=_be_nice)


def _be_nice() -> None:
    if sys.platform == "linux":  # where threads have priorities of their own
        own = os.getpriority(os.PRIO_PROCESS, 0)
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, 0, min(own + NICENESS, 19))


@lru_cache(maxsize=4)
def _dummy_hash(hasher: PasswordHasher) -> str:
    """Return a hash of nobody's password, with the parameters of real ones: equal work, equal time."""
    return hasher.hash("nobody has this password")
