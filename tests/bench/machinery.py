"""What we have of our own beside the library that could do it: limits, tokens, the worker and its threads.

The first two by CPU of the caller, the best of many rounds; the worker by requests a second and by what one
who reads waits for while others sign in without end, in rounds that take turns.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from statistics import median

import jwt
from limits import RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from authsite import clock, create_app
from authsite.crypto import tokens
from authsite.database import uuid7
from tests import services
from tests.bench import drive, rows, sites

PER_MINUTE = RateLimitItemPerMinute(60)
STRATEGIES = (FixedWindowRateLimiter, SlidingWindowCounterRateLimiter, MovingWindowRateLimiter)
WORKERS = {
    "ours": [],
    "gunicorn's, 4 threads": ["-k", "gthread", "--threads", "4"],
    "gunicorn's, 64 threads": ["-k", "gthread", "--threads", "64"],
}
SIGNING_IN = 40
USERS = 2_000
ROUNDS, TIMES = 15, 300


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.machinery", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=4, help="of each round")
    options = parser.parse_args()
    drive.need_wrk()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {sites.machine()}")
    with ExitStack() as stack:
        postgresql = stack.enter_context(services.postgresql_server("-c", "fsync=off"))
        redis_url = stack.enter_context(services.valkey_server()).url
        url = stack.enter_context(services.new_database(postgresql.url))
        rows.fill(url, rows.Scale(users=USERS, sessions=20_000))
        _limits(url, redis_url)
        _tokens(url)
        _workers(url, redis_url, options)


def _microseconds(call: Callable[[], object]) -> float:
    """Return the CPU that a call takes in this thread: the best of rounds, which others disturb least."""
    best = float("inf")
    for _ in range(ROUNDS):
        began_at = time.thread_time()
        for _ in range(TIMES):
            call()
        best = min(best, (time.thread_time() - began_at) / TIMES)
    return best * 1_000_000


def _limits(url: str, redis_url: str) -> None:
    app = create_app(sites.production(url, redis_url) | {"SECRET_KEY": services.SECRET_KEY})
    store, numbers = app.extensions["limit_store"], count()
    print("A limit, a client of two thousand at a time, µs of CPU and commands to the store:")
    storage = storage_from_string(redis_url)
    client = storage.get_connection()

    def line(name: str, hit: Callable[[], object]) -> None:
        hit()
        before = client.info("stats")["total_commands_processed"]
        spent = _microseconds(hit)
        # One of them is the question itself.
        asked = client.info("stats")["total_commands_processed"] - before - 1
        print(f"  {name:42} {spent:6.0f} {asked / (ROUNDS * TIMES):5.1f}")

    line("ours", lambda: store.hit(f"bench:{next(numbers) % USERS}", 60))
    for strategy in STRATEGIES:
        line(f"limits' {strategy.__name__}", partial(_hit, strategy(storage), numbers))


def _hit(limiter: RateLimiter, numbers: Iterator[int]) -> None:
    key = type(limiter).__name__, f"{next(numbers) % USERS}"
    limiter.hit(PER_MINUTE, *key)
    limiter.get_window_stats(PER_MINUTE, *key)  # what the field RateLimit tells a client


def _tokens(url: str) -> None:
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
    now = clock.now()
    with app.app_context():
        access = tokens.access_token(user_id=uuid7(now), session_id=uuid7(now), issued_at=now)
        key = tokens.derived_key(services.SECRET_KEY, tokens.ACCESS.audience)

        def by_library() -> object:
            return jwt.decode(
                access,
                key,
                algorithms=["HS256"],
                audience=tokens.ACCESS.audience,
                issuer=tokens.ISSUER,
                leeway=timedelta(seconds=tokens.LEEWAY_SECONDS),
                options={"require": ["iss", "sub", "sid", "jti", "iat", "exp", "aud"]},
            )

        assert by_library()
        print("An access token read, µs of CPU:")
        print(f"  {'ours':32} {_microseconds(lambda: tokens.read(access, tokens.ACCESS)):6.0f}")
        print(f"  {'PyJWT':32} {_microseconds(by_library):6.0f}")


def _workers(url: str, redis_url: str, options: argparse.Namespace) -> None:
    """Compare the worker classes over the same application and the same configuration otherwise."""
    driver = drive.Driver(url, users=USERS)
    with ExitStack() as stack:
        contenders = {}
        for name, more in WORKERS.items():
            site = sites.Server(
                [*sites.command("gunicorn", 2)[:-1], *more, "wsgi:app"],
                sites.production(url, redis_url),
                workers=2,
            )
            contenders[name] = stack.enter_context(site)
        found: dict[str, list[tuple[drive.Result, drive.Result]]] = {
            name: [] for name in contenders
        }
        for turn in range(options.rounds + 1):
            for name, site in contenders.items():
                seconds = options.seconds if turn else 1
                alone = driver.run(site.url, "me", seconds=seconds, connections=16)
                signing_in = driver.running(
                    site.url, "login", seconds=seconds + 2, connections=SIGNING_IN
                )
                with signing_in:
                    beside = driver.run(site.url, "me", seconds=seconds, connections=8)
                if turn:
                    found[name].append((alone, beside))
    print(f"The worker: /auth/me a second; its p50 and p99 in ms beside {SIGNING_IN} who sign in:")
    for name, results in found.items():
        alone, beside = zip(*results, strict=True)
        print(
            f"  {name:32} {median(each.rate for each in alone):6.0f}"
            f" {median(each.p50 for each in beside):8.1f} {median(each.p99 for each in beside):8.1f}"
        )


if __name__ == "__main__":
    main()
