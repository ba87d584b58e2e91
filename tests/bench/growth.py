"""The hot paths at a thousand, a hundred thousand and ten million sessions: their time must not grow.

Each session comes with ten events of activity: a hundred million beside the ten.

The three databases stand side by side and take turns. Measured are the verbs, without Flask and without the
password's hash, which would hide growth behind work that is the same at every size; a request takes longer
and so grows less. Prints medians, the pages that each statement touches, and what PostgreSQL would do.
"""

import argparse
import contextlib
import logging
import random
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any
from unittest import mock

import psycopg
from flask import Flask
from sqlalchemy import text

from authsite import accounts, activity, clock, create_app, database, sessions
from tests import services
from tests.bench import rows, sites

SIZES = (1_000, 100_000, 10_000_000)
MOST = 1.3
OLD_ROWS = 10_000
MOST_MS_OF_A_LONG_LIST = 50


def main() -> None:
    options = _options()
    print(sites.machine())
    with ExitStack() as stack:
        server = stack.enter_context(
            services.postgresql_server("-c", "shared_buffers=2GB", "-c", "max_wal_size=4GB")
        )
        apps = {}
        for size in options.sizes:
            url = stack.enter_context(services.new_database(server.url))
            begun = time.monotonic()
            events = size * options.events
            rows.fill(url, rows.Scale(_users(size), size, days=30, keep_days=45, events=events))
            print(f"{size:>12,} sessions loaded in {time.monotonic() - begun:.0f} s", flush=True)
            apps[size] = stack.enter_context(_application(url))
        _compare(apps, options.calls)
        largest = options.sizes[-1]
        with apps[largest].app_context():
            picked = _pick(1, largest)[0]
        _show_plans(apps[largest], picked)
        _show_user_of_many_rows(apps[largest], picked)


def _users(size: int) -> int:
    return max(100, size // 10)


@contextmanager
def _application(url: str):
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    logging.disable(logging.INFO)  # each sign-in and rotation would print a line
    with app.app_context():
        yield app
        database.engine().dispose()


def _compare(apps: dict[int, Flask], calls: int) -> None:
    """Time each verb on sessions picked at random, one size after another, and print the medians."""
    times: dict[str, dict[int, list[float]]] = {name: {s: [] for s in apps} for name in VERBS}
    for turn in range(6):
        for size, app in apps.items():
            with app.app_context():
                picked = _pick(calls // 5, size)
                for name, verb in VERBS.items():
                    took = [_microseconds(verb, each) for each in picked]
                    if turn:  # the first turn warms up
                        times[name][size] += took
    for name, of_sizes in times.items():
        medians = {size: median(took) for size, took in of_sizes.items()}
        growth = max(medians.values()) / medians[min(medians)]
        print(
            f"{name:8} "
            + "  ".join(f"{size:>10,}: {took:6.0f} us" for size, took in medians.items())
            + f"  x {growth:.2f} {'met' if growth <= MOST else 'MISSED'}"
        )


def _microseconds(verb: Callable[[Any], object], picked: Any) -> float:
    begun = time.perf_counter()
    verb(picked)
    return (time.perf_counter() - begun) * 1e6


def _pick(count: int, size: int) -> list[Any]:
    """Return live sessions, each the oldest of a user picked at random."""
    picked = []
    for _ in range(count):
        email = f"user{random.randrange(_users(size))}@example.com"
        found = database.row(_PICK, {"email": email, "now": clock.now()})
        if found is not None:
            picked.append(found)
    return picked


def _log_in(picked: Any) -> None:
    """Do what a sign-in does but for the hash, from a device that was seen before."""
    holder = accounts._holder(picked.email)
    found = database.row(
        accounts._BY_ID_WITH_FAILURES, {"user_id": holder.id, "counter": b"nobody"}
    )
    assert found is not None
    sessions.start(
        accounts._account(found),
        password_changed_at=found.password_changed_at,
        client=sessions.Client("203.0.113.7", rows.USER_AGENT, f"app of {picked.email}"),
        entrance="api",
    )


VERBS: dict[str, Callable[[Any], object]] = {
    "me": lambda picked: sessions.resume_api(picked.id, picked.user_id),
    "list": lambda picked: sessions.resume_api_with_all(picked.id, picked.user_id),
    "refresh": lambda picked: sessions.rotate(picked.id, picked.user_id, picked.refresh_jti),
    "login": _log_in,
    "activity": lambda picked: activity.feed(picked.user_id, limit=50),
}

_PICK = text(
    "SELECT s.id, s.user_id, s.refresh_jti, u.email FROM users u"
    " JOIN user_sessions s ON s.user_id = u.id"
    " WHERE u.email = :email AND s.ended_at IS NULL AND s.expires_at > :now ORDER BY s.id LIMIT 1"
)


def _show_plans(app: Flask, picked: Any) -> None:
    """Print how the largest database answers each hot statement, as the service sends it."""
    for name, verb in VERBS.items():
        for statement, values in _sent_by(lambda verb=verb: verb(picked)):
            with psycopg.connect(_dsn(app)) as connection:
                lines = [
                    line
                    for (line,) in connection.execute(
                        f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {statement}", values
                    ).fetchall()
                ]
                connection.rollback()
            print(f"\n{name}: {' '.join(statement.split())[:110]}")
            answered = lines[: lines.index("Planning:")] if "Planning:" in lines else lines
            print("\n".join(f"    {line}" for line in answered if _tells(line)))
            if any("Seq Scan" in line for line in lines):
                print("    MISSED: a sequential scan")


def _tells(line: str) -> bool:
    return any(word in line for word in ("Scan", "Update", "Insert", "Buffers"))


def _sent_by(work: Callable[[], object]) -> list[tuple[str, Any]]:
    """Return the statements that the work sends, with their values, as the driver gets them."""
    sent: list[tuple[str, Any]] = []
    execute = psycopg.Cursor.execute

    def note(cursor: Any, statement: Any, values: Any = None, **options: Any) -> Any:
        sent.append((statement.decode() if isinstance(statement, bytes) else statement, values))
        return execute(cursor, statement, values, **options)

    with (
        mock.patch.object(psycopg.Cursor, "execute", note),
        contextlib.suppress(_Undo),
        database.transaction(),
    ):
        work()
        raise _Undo
    return sent


class _Undo(Exception):
    """Takes back what was only done to be looked at."""


def _show_user_of_many_rows(app: Flask, picked: Any) -> None:
    """Give one user 10,000 rows that ended or expired, and time what reads that user's rows."""
    with app.app_context():
        with psycopg.connect(_dsn(app), autocommit=True) as connection:
            connection.execute(rows.FUNCTIONS)
            for ended in ("now() - interval '8 days'", "NULL"):
                connection.execute(
                    MANY.format(ended=ended), {"user": picked.user_id, "count": OLD_ROWS // 2}
                )
            connection.execute("ANALYZE user_sessions")
        print()
        for name, verb in (VERBS | RECENT).items():
            if name == "refresh":
                continue
            took = median(_microseconds(verb, picked) for _ in range(15)) / 1000
            verdict = "met" if took < MOST_MS_OF_A_LONG_LIST else "MISSED"
            print(f"a user with {OLD_ROWS:,} old rows, {name}: {took:.1f} ms {verdict}")


RECENT = {"ended": lambda picked: sessions.recently_ended_for(picked.user_id)}
MANY = """
INSERT INTO user_sessions (id, user_id, entrance, refresh_jti, device_name, browser, device_type,
    created_at, last_used_at, expires_at, absolute_expires_at, ended_at, end_reason)
SELECT pg_temp.id_at(t, replace(gen_random_uuid()::text, '-', '')), %(user)s, 'api',
    md5(n::text), 'curl', 'curl', 'cli', t, t, t + interval '7 days', t + interval '30 days',
    {ended}, CASE WHEN {ended} IS NOT NULL THEN 'logged_out' END
FROM generate_series(1, %(count)s) n, LATERAL (SELECT now() - interval '9 days' - n * interval '2 min') m (t)
"""


def _dsn(app: Flask) -> str:
    return rows.driverless(app.config["SQLALCHEMY_DATABASE_URI"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--calls", type=int, default=300, help="of each verb at each size")
    parser.add_argument("--events", type=int, default=10, help="of activity, for each session")
    return parser.parse_args()


if __name__ == "__main__":
    main()
