"""The clean-up of millions of rows while people sign in and refresh.

PostgreSQL: 10,000,000 sessions, 7,000,000 of them dead, the service as the Procfile runs it, 100 refreshes
and 4 sign-ins a second; then activity of 10,000,000 events, half of it too old. Each is deleted in two ways,
on copies of one database that take turns, by one command and by two at once: rows are claimed
(`FOR UPDATE SKIP LOCKED`), or a stretch of the key is deleted, as where Citus is installed. SQLite: 1,000,000
sessions and one process that writes all the time. Prints batches, the longest transaction, the time, the log
that was written, the p99 of the traffic before and during, and the sizes.
"""

import argparse
import contextlib
import json
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import psycopg
from flask.cli import FlaskGroup
from sqlalchemy import insert, select

from authsite import clock, create_app, database, sessions
from authsite.crypto import tokens
from authsite.database.models import User, UserSession
from tests import services
from tests.bench import drive, rows, sites, traffic

DAYS, KEEP_DAYS = 150, 45  # sessions of 150 days, evenly: what is older than about 45 is dead
MOST_MS = 250
WAYS = CLAIMS, STRETCHES = "claims", "stretches"
LOGGED = re.compile(
    r"^cleanup\|.*duration: ([0-9.]+) ms +(?:execute|statement).*?: (DELETE FROM \w+|\w+)"
)


def main() -> None:
    options = _options()
    print(sites.machine())
    if options.rows:
        scale = rows.Scale(options.users, options.rows, days=DAYS, keep_days=KEEP_DAYS)
        on_postgresql("user_sessions", scale, "cleanup-sessions", options)
        beside_a_held_row()
    if options.events:
        scale = rows.Scale(options.users, options.users, events=options.events)
        on_postgresql("account_events", scale, "cleanup-activity", options)
    if options.sqlite_rows:
        on_sqlite(options.sqlite_rows)


def on_postgresql(table: str, scale: rows.Scale, command: str, options: argparse.Namespace) -> None:
    """Clean up copies of one database in each way, so many at once, and print what each side noticed."""
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
        took = _timed(lambda: rows.fill(url, scale))
        print(f"{table}: {scale.sessions:,} sessions, {scale.events:,} events, in {took:.0f} s")
        print(
            f"  {_clean_up(url, [[WAYS[0], command, '--dry-run']])[0]['deleted']:,} are due",
            flush=True,
        )
        for turn in range(options.turns):
            for at_once in options.at_once:
                for way in options.ways[:: -1 if turn % 2 else 1]:  # each is the first in turn
                    load = os.getloadavg()[0]
                    print(f" {way}, {at_once} at once, load {load:.1f} beforehand", flush=True)
                    with services.new_database(server.url, template_url=url) as copy:
                        commands = [[way, command]] * at_once
                        _measure(server, copy, table, scale.users, commands, options.before)


def _measure(
    server: services.PostgreSQL,
    url: str,
    table: str,
    users: int,
    commands: list[list[str]],
    before: float,
) -> None:
    """Run the commands at once while people refresh and sign in, and print what each side noticed."""
    log = server._directory / "log"
    with ExitStack() as stack:
        redis_url = stack.enter_context(services.valkey_server()).url
        connection = stack.enter_context(psycopg.connect(rows.driverless(url), autocommit=True))
        connection.execute("CHECKPOINT")  # the copy's own writing is over
        site = stack.enter_context(sites.ours(url, redis_url, workers=2))
        held = drive.Driver(url, users=min(users, 5000))._lines("refresh")
        sizes, wal = _sizes(connection, table), _wal(connection)
        old = _count(connection, table, made_before := datetime.now(UTC))
        with traffic.Traffic([site.url], held, users=users) as people:
            time.sleep(2)
            begun, wal = time.monotonic(), _wal(connection)
            time.sleep(before)
            started, wal_before, logged = time.monotonic(), _wal(connection), log.stat().st_size
            with _Processors(url) as processors:
                answers = _clean_up(url, commands)
            ended, wal_after = time.monotonic(), _wal(connection)
            time.sleep(1)
        deleted = [each["deleted"] for each in answers]
        took = max(each["seconds"] for each in answers)  # without the commands' own start
        wal_of_traffic = (wal_before - wal) / (started - begun) * (ended - started)
        written = wal_after - wal_before - wal_of_traffic
        deletes = _deletes(log, logged, table)
        print(
            f"  deleted {' + '.join(f'{each:,}' for each in deleted)} in {took:.1f} s,"
            f" {sum(deleted) / took:,.0f} a second; {len(deletes)} deletes,"
            f" median {statistics.median(deletes):.0f} ms, longest {max(deletes):.0f} ms"
            f" {'met' if max(deletes) < MOST_MS else 'MISSED'};"
            f" {processors.seconds():.1f} s of CPU in PostgreSQL;"
            f" WAL {(wal_after - wal_before) / 1e6:,.0f} MB, {written / sum(deleted):,.0f} bytes"
            " for each row but for the traffic's"
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
                    f" p50 {people.percentile(50, work, since, until):.1f} ms,"
                    f" p99 {people.percentile(99, work, since, until):.1f} ms"
                )
        print(f"  size before {sizes}\n  size after  {_sizes(connection, table)}")
        took = _timed(lambda: connection.execute(f"VACUUM {table}"))
        print(f"  after VACUUM ({took:.0f} s) {_sizes(connection, table)}", flush=True)


class _Processors:
    """The seconds of CPU that PostgreSQL takes for the clean-up, whatever else the machine has to do."""

    def __init__(self, url: str) -> None:
        self._dsn, self._over = rows.driverless(url), threading.Event()
        self._taken: dict[int, int] = {}
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()

    def seconds(self) -> float:
        return sum(self._taken.values()) / os.sysconf("SC_CLK_TCK")

    def _look(self) -> None:
        """Ask again and again, for a process is gone with its command."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._over.wait(0.1):
                for (pid,) in connection.execute(SERVING):
                    with contextlib.suppress(OSError):
                        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                        self._taken[pid] = int(fields[11]) + int(fields[12])


SERVING = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cleanup'"


def _deletes(log: Path, since: int, table: str) -> list[float]:
    """Return how many milliseconds each DELETE of a clean-up took that was logged after so many bytes."""
    with log.open("rb") as file:
        file.seek(since)
        lines = file.read().decode(errors="replace").splitlines()
    found = (LOGGED.match(line) for line in lines)
    return [float(each[1]) for each in found if each and each[2] == f"DELETE FROM {table}"]


def beside_a_held_row() -> None:
    """Clean up in each way while another holds the oldest row, and print what comes of it."""
    with services.postgresql_server() as server, services.new_database(server.url) as url:
        rows.fill(url, rows.Scale(100, 10_000, days=DAYS, keep_days=KEEP_DAYS))
        with psycopg.connect(rows.driverless(url)) as other:
            other.execute("SELECT FROM user_sessions ORDER BY id LIMIT 1 FOR UPDATE")
            for way in (STRETCHES, CLAIMS):  # first the one that leaves all to the other
                begun = time.monotonic()
                try:
                    deleted = _clean_up(url, [[way, "cleanup-sessions"]])[0]["deleted"]
                    told = f"deleted {deleted:,}"
                except RuntimeError as failure:
                    told = f"failed ({str(failure).splitlines()[-1]})"
                took = time.monotonic() - begun
                print(f" {way}, while another holds a row: {told}, in {took:.1f} s, start included")


def _clean_up(url: str, commands: list[list[str]]) -> list[dict[str, Any]]:
    """Run the commands side by side and return what each has told."""
    environ = {"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY, "PGAPPNAME": "cleanup"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.cleanup", "--run", *command, "--json"],
            cwd=services.ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    told = [each.communicate() for each in running]
    if any(each.returncode for each in running):
        raise RuntimeError("".join(errors for _, errors in told))
    return [json.loads(answer) for answer, _ in told]


def run(way: str, command: list[str]) -> None:
    """Do what `flask` does with this command, in this way of deleting."""
    if way == STRETCHES:
        database.has_citus = lambda: True
    FlaskGroup(create_app=create_app).main(command)


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
                stderr=subprocess.DEVNULL,  # each rotation is an event
            )
        try:
            services.wait_until(lambda: written.read_text().count("ok") > 200, seconds=60)
            started = time.time()
            deleted = _clean_up(url, [[CLAIMS, "cleanup-sessions"]])[0]["deleted"]
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
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2], help="commands")
    parser.add_argument("--turns", type=int, default=1, help="of each way")
    parser.add_argument("--write-to", help=argparse.SUPPRESS)
    parser.add_argument("--run", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    if url := _options().write_to:
        write_to(url)
    elif command := _options().run:
        run(command[0], command[1:])
    else:
        main()
