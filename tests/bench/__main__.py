"""The floor and ours side by side: the same PostgreSQL, Valkey, workers and threads, rounds that take turns.

Prints the median of each side and the ratio for
    W1 GET /auth/me   W2 POST /auth/refresh, chained   W3 POST /auth/login
    W4 GET /sessions/me, five sessions   W5 GET /login   what products ask with each request of theirs,
    and W1's p99 while people sign in.
Limits are on and never refuse: 10,000 users take turns, and each request comes from another address.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple

from tests import services
from tests.bench import drive, rows, sites


class Workload(NamedTuple):
    title: str
    budget: float  # of the floor: at least this share of its rate, or at most so many times its p99
    connections: int = 16
    is_latency: bool = False


WORKLOADS = {
    "me": Workload("W1 GET /auth/me", 0.60),
    "refresh": Workload("W2 POST /auth/refresh, chained", 0.65),
    "login": Workload("W3 POST /auth/login", 0.90, connections=4),
    "list": Workload("W4 GET /sessions/me, 5 sessions", 0.55),
    "page": Workload("W5 GET /login page", 0.70),
    "forward": Workload("GET /forward-auth, with a bearer", 0.85),
    "introspect": Workload("POST /auth/introspect", 0.85),
    "storm": Workload("W1 while people sign in, p99 in ms", 1.5, 8, is_latency=True),
}
SIGNING_IN = 4  # connections that sign in, one after another, during "storm"


def main() -> None:
    options = _options()
    drive.need_wrk()
    servers = ["gunicorn", "granian"] if options.server == "both" else [options.server]
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {sites.machine()}")
    print(
        f"{options.workers} workers, {options.users:,} users, {options.sessions:,} sessions,"
        f" {options.rounds} rounds of {options.seconds} s, fsync {'on' if options.fsync else 'off'}"
    )
    with ExitStack() as stack:
        fsync = ("-c", f"fsync={'on' if options.fsync else 'off'}")
        postgresql = stack.enter_context(
            services.postgresql_server(*fsync, "-c", "shared_buffers=512MB")
        )
        redis_url = stack.enter_context(services.valkey_server()).url
        database_url = stack.enter_context(services.new_database(postgresql.url))
        rows.fill(database_url, rows.Scale(users=options.users, sessions=options.sessions))
        contenders = {
            "floor": sites.floor(rows.driverless(database_url), workers=options.workers)
        } | {
            server: sites.ours(database_url, redis_url, workers=options.workers, server=server)
            for server in servers
        }
        for site in contenders.values():
            stack.enter_context(site)
        driver = drive.Driver(database_url, users=options.users)
        for name in options.only:
            _compare(name, contenders, driver, options)
        for name, site in contenders.items():
            print(f"{name}: {', '.join(f'{each:.0f}' for each in site.megabytes())} MB a worker")


def _compare(
    name: str,
    contenders: dict[str, sites.Server],
    driver: drive.Driver,
    options: argparse.Namespace,
) -> None:
    """Let the contenders take turns at one workload and print a line for each of ours."""
    workload = WORKLOADS[name]
    results: dict[str, list[drive.Result]] = {each: [] for each in contenders}
    for turn in range(options.rounds + 1):
        for contender, site in contenders.items():
            # The first turn only warms up: caches, prepared statements, connections.
            seconds = options.seconds if turn else min(2, options.seconds)
            result = _round(name, workload, site.url, driver, seconds)
            if turn:
                results[contender].append(result)
    measure: Callable[[drive.Result], float] = (
        (lambda each: each.p99) if workload.is_latency else (lambda each: each.rate)
    )
    floor = median(map(measure, results.pop("floor")))
    for contender, of_rounds in results.items():
        own = median(map(measure, of_rounds))
        ratio = own / floor
        is_met = ratio <= workload.budget if workload.is_latency else ratio >= workload.budget
        refused, broken = (
            sum(values) for values in zip(*(each[4:] for each in of_rounds), strict=True)
        )
        print(
            f"{workload.title:36} {contender:9} floor {floor:8.1f}  ours {own:8.1f}"
            f"  ratio {ratio:5.2f}  budget {'<=' if workload.is_latency else '>='} {workload.budget:.2f}"
            f" {'met' if is_met else 'MISSED':6}"
            f"  p99 {median(each.p99 for each in of_rounds):6.1f} ms"
            f"  refused {refused}  broken {broken}",
            flush=True,
        )


def _round(
    name: str, workload: Workload, url: str, driver: drive.Driver, seconds: float
) -> drive.Result:
    connections = workload.connections
    if name != "storm":
        return driver.run(url, name, seconds=seconds, connections=connections)
    with driver.running(url, "login", seconds=seconds + 2, connections=SIGNING_IN):
        return driver.run(url, "me", seconds=seconds, connections=connections)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each round")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--server", choices=["gunicorn", "granian", "both"], default="gunicorn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--fsync", action="store_true", help="wait for the disk, as in production")
    return parser.parse_args()


if __name__ == "__main__":
    main()
