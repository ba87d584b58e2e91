"""The clean-up of millions of rows while people sign in and refresh.

PostgreSQL: 10,000,000 sessions, 7,000,000 of them dead, the service as the Procfile runs it, 100 refreshes
and 4 sign-ins a second; then activity of 10,000,000 events, half of it too old, deleted by two commands at
once. SQLite: 1,000,000 sessions and one process that writes all the time. Prints batches, the longest
transaction, the time, the p99 of the traffic before and during, and the sizes.
"""

import argparse
import json
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from sqlalchemy import insert, select

from authsite import clock, create_app, database, sessions
from authsite.crypto import tokens
from authsite.database.models import User, UserSession
from tests import services
from tests.bench import drive, rows, sites, traffic

DAYS, KEEP_DAYS = 150, 45  # sessions of 150 days, evenly: what is older than about 45 is dead
MOST_MS = 250
LOGGED = re.compile(
    r"^cleanup\|.*duration: ([0-9.]+) ms +(?:execute|statement).*?: (DELETE FROM \w+|\w+)"
)


def main() -> None:
    options = _options()
    print(sites.machine())
    if options.rows:
        scale = rows.Scale(options.users, options.rows, days=DAYS, keep_days=KEEP_DAYS)
        on_postgresql("user_sessions", scale, [["cleanup-sessions"]], before=options.before)
    if options.events:
        scale = rows.Scale(options.users, options.users, events=options.events)
        at_once = [["cleanup-activity"], ["cleanup-activity"]]
        on_postgresql("account_events", scale, at_once, before=options.before)
    if options.sqlite_rows:
        on_sqlite(options.sqlite_rows)


def on_postgresql(
    table: str, scale: rows.Scale, commands: list[list[str]], *, before: float
) -> None:
    """Run the commands at once while people refresh and sign in, and print what each side noticed."""
    with ExitStack() as stack:
        # Each statement of the clean-up is a transaction: the log knows how long each took.
        server = stack.enter_context(
            services.postgresql_server(
                *("-c", "shared_buffers=1GB", "-c", "max_wal_size=4GB"),
                *("-c", "log_min_duration_statement=0", "-c", "log_line_prefix=%a|"),
                *("-c", "log_parameter_max_length=0", "-c", "autovacuum_naptime=10s"),
            )
        )
        url = stack.enter_context(services.new_database(server.url))
        redis_url = stack.enter_context(services.valkey_server()).url
        took = _timed(lambda: rows.fill(url, scale))
        print(f"{table}: {scale.sessions:,} sessions, {scale.events:,} events, in {took:.0f} s")
        connection = stack.enter_context(psycopg.connect(rows.driverless(url), autocommit=True))
        site = stack.enter_context(sites.ours(url, redis_url, workers=2))
        held = drive.Driver(url, users=min(scale.users, 5000))._lines("refresh")
        sizes, wal, rows_due = _sizes(connection, table), _wal(connection), _rows(url, commands)
        old = _count(connection, table, made_before := datetime.now(UTC))
        with traffic.Traffic([site.url], held, users=scale.users) as people:
            time.sleep(2)
            begun = time.monotonic()
            time.sleep(before)
            started = time.monotonic()
            deleted = _clean_up(url, commands)
            ended = time.monotonic()
            time.sleep(1)
        times = [
            (float(found[1]), found[2])
            for line in (server._directory / "log").read_text(errors="replace").splitlines()
            if (found := LOGGED.match(line))
        ]
        deletes = [took for took, verb in times if verb == f"DELETE FROM {table}"]
        print(
            f"  {rows_due:,} were due; deleted {' + '.join(f'{each:,}' for each in deleted)} in"
            f" {ended - started:.1f} s, {len(deletes)} deletes,"
            f" median {statistics.median(deletes):.0f} ms, longest {max(deletes):.0f} ms"
            f" {'met' if max(deletes) < MOST_MS else 'MISSED'};"
            f" WAL {(_wal(connection) - wal) / 1e6:,.0f} MB, traffic included"
        )
        gone = old - _count(connection, table, made_before)
        print(
            f"  gone: {gone:,}, deleted: {sum(deleted):,} {'met' if gone == sum(deleted) else 'MISSED'}"
        )
        for work in ("refresh", "log_in"):
            for when, since, until in (
                ("before", begun, started),
                ("during", started, ended),
            ):
                asked, failed = people.count(work, since, until)
                print(
                    f"  {work} {when}: {asked} requests, failed: {failed or 'none'},"
                    f" p99 {people.p99(work, since, until):.1f} ms"
                )
        print(f"  size before {sizes}\n  size after  {_sizes(connection, table)}")
        took = _timed(lambda: connection.execute(f"VACUUM {table}"))
        print(f"  after VACUUM ({took:.0f} s) {_sizes(connection, table)}")


def _rows(url: str, commands: list[list[str]]) -> int:
    """Return how many rows the command would delete."""
    return _clean_up(url, [[*commands[0], "--dry-run"]])[0]


def _clean_up(url: str, commands: list[list[str]]) -> list[int]:
    """Run the commands side by side and return how many rows each has deleted."""
    environ = {"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY, "PGAPPNAME": "cleanup"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "flask", *command, "--json"],
            cwd=services.ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    answers = [each.communicate()[0] for each in running]
    if any(each.returncode for each in running):
        raise RuntimeError("".join(answers))
    return [json.loads(each)["deleted"] for each in answers]


def _count(connection: psycopg.Connection, table: str, made_before: datetime) -> int:
    """Return how many rows are left of those that there were before the traffic."""
    found = connection.execute(
        f"SELECT count(*) FROM {table} WHERE created_at < %s", (made_before,)
    ).fetchone()
    assert found is not None
    return int(found[0])


def _sizes(connection: psycopg.Connection, table: str) -> str:
    found = connection.execute(
        "SELECT pg_table_size(%(table)s::regclass) / 1e6, pg_indexes_size(%(table)s::regclass) / 1e6,"
        " (SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = %(table)s::regclass)",
        {"table": table},
    ).fetchone()
    assert found is not None
    return f"table {found[0]:,.0f} MB, indexes {found[1]:,.0f} MB, about {found[2]:,} rows"


def _wal(connection: psycopg.Connection) -> int:
    found = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')").fetchone()
    assert found is not None
    return int(found[0])


def _timed(work) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def on_sqlite(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="authsite-bench-") as directory:
        path = Path(directory) / "authsite.db"
        url = f"sqlite:///{path}"
        took = _timed(lambda: _fill_sqlite(url, path, count))
        print(
            f"SQLite: {count:,} rows, loaded in {took:.0f} s, {path.stat().st_size / 1e6:,.0f} MB"
        )
        written = Path(directory) / "written"
        with written.open("w") as file:
            writer = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.cleanup", "--write-to", url],
                cwd=services.ROOT,
                stdout=file,
            )
        try:
            services.wait_until(lambda: written.read_text().count("ok") > 200, seconds=60)
            started = time.time()
            deleted = _clean_up(url, [["cleanup-sessions"]])[0]
            ended = time.time()
        finally:
            writer.terminate()
            writer.wait()
        # Between them stand the events that the verb logs.
        writes = [
            (float(at), float(took) * 1000, word == "ok")
            for at, took, word in (
                line.split()
                for line in written.read_text().splitlines()
                if not line.startswith("{")
            )
        ]
        print(f"  deleted {deleted:,} in {ended - started:.1f} s")
        for when, since, until in (("before", 0.0, started), ("during", started, ended)):
            times = sorted(took for at, took, _ in writes if since <= at < until)
            failed = sum(not is_ok for at, _, is_ok in writes if since <= at < until)
            print(
                f"  rotations {when}: {len(times)}, {failed} failed,"
                f" p99 {times[len(times) * 99 // 100]:.1f} ms, longest {times[-1]:.0f} ms"
            )


def write_to(url: str) -> None:
    """Rotate one session a hundred times a second, and print when, how long and how it went."""
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
    with app.app_context():
        account = database.row(select(User.id, User.password_changed_at))
        assert account is not None
        held = _session(account.id)
        while True:
            at, begun, word = time.time(), time.monotonic(), "ok"
            try:
                held = sessions.rotate(held.session_id, held.user_id, str(held.jti))
            except Exception as error:
                word = type(error).__name__
            print(at, time.monotonic() - begun, word, flush=True)
            time.sleep(0.01)


def _session(user_id) -> sessions.Grant:
    now = clock.now()
    grant = sessions.Grant(
        database.uuid7(now), user_id, now, now + timedelta(days=7), tokens.new_jti(), None
    )
    values = {
        "id": grant.session_id,
        "user_id": user_id,
        "entrance": "api",
        "refresh_jti": grant.jti,
        "device_name": "curl",
        "device_type": "cli",
        "created_at": now,
        "last_used_at": now,
        "expires_at": grant.expires_at,
        "absolute_expires_at": now + timedelta(days=30),
    }
    database.run(insert(UserSession), values)
    return grant


def _fill_sqlite(url: str, path: Path, count: int) -> None:
    rows.migrate(url)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(SQLITE_USER)
        connection.execute(SQLITE_SESSIONS, {"count": count, "days": DAYS, "keep_days": KEEP_DAYS})
        connection.execute("ANALYZE")
    connection.close()


SQLITE_USER = """
INSERT INTO users (id, email, first_name, password_hash, password_changed_at, created_at, updated_at)
VALUES ('0190000000007000800000000000000a', 'ada@example.com', 'Ada', 'none',
        '2024-06-10 00:00:00.000000', '2024-06-10 00:00:00.000000', '2024-06-10 00:00:00.000000')
"""
SQLITE_SESSIONS = """
INSERT INTO user_sessions (id, user_id, entrance, refresh_jti, device_name, device_type, created_at,
    last_used_at, expires_at, absolute_expires_at, ended_at, end_reason)
WITH RECURSIVE numbers (number) AS (
    SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < :count - 1
), aged AS (
    SELECT number, :days * (1.0 - number * 1.0 / :count) AS age FROM numbers
), dated AS (
    SELECT number, age, age + (number * 7919 % 1000) * 0.014 - 7 > :keep_days AS is_dead,
        julianday('now') - age AS day FROM aged
)
SELECT printf('%012x7', cast((day - 2440587.5) * 86400000 AS integer))
        || substr(hex(randomblob(2)), 1, 3) || '8' || substr(hex(randomblob(8)), 1, 15),
    '0190000000007000800000000000000a', 'api', hex(randomblob(11)), 'curl', 'cli',
    strftime('%Y-%m-%d %H:%M:%f000', day), strftime('%Y-%m-%d %H:%M:%f000', day),
    strftime('%Y-%m-%d %H:%M:%f000', day + 7), strftime('%Y-%m-%d %H:%M:%f000', day + 30),
    CASE WHEN NOT is_dead AND age > 7 THEN strftime('%Y-%m-%d %H:%M:%f000', 'now', '-5 days') END,
    CASE WHEN NOT is_dead AND age > 7 THEN 'logged_out' END
FROM dated
"""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.cleanup", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="in PostgreSQL; 0: none")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--before", type=float, default=15, help="seconds of traffic beforehand")
    parser.add_argument("--events", type=int, default=10_000_000, help="of activity; 0: none")
    parser.add_argument("--sqlite-rows", type=int, default=1_000_000, help="0: none")
    parser.add_argument("--write-to", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    if url := _options().write_to:
        write_to(url)
    else:
        main()
