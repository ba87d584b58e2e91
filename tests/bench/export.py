"""A copy of one's data that is large, and what it costs everybody else.

Some accounts have 10,000 sessions and 50,000 events each. One after another takes its copy, with the service
as the Procfile runs it (two workers), while 20 other people ask who they are, at a pace of their own. Prints
what a copy took, when its first byte came, how much more memory the workers ever held than before, and the
others' times without copies and beside them, in turns: what else the machine does troubles both alike. Then
the same with some who fetch theirs at once and slowly, as a telephone does: each must get the whole of it,
and it must not wait in the workers' memory.

Whatever else the machine does, it also tells what a copy takes of the workers' CPU. Another process than asks
for the others fetches the copies, and they are looked at afterwards: else this program's own waits would be
taken for the service's.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import socket
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg

from authsite import create_app
from authsite.crypto import tokens
from tests import services
from tests.bench import drive, rows, sites
from tests.bench.traffic import Readers

USERS = 2_000
MOST_MEGABYTES = 20
MOST_SECONDS = 1.0
MOST_TIMES = 2
PIECE = 65_536


class Copy(NamedTuple):
    """Where a copy lies, how large it is, and the seconds until its first and its last byte."""

    path: Path
    megabytes: float
    first: float
    last: float


def main() -> None:
    options = _options()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {sites.machine()}")
    with ExitStack() as stack:
        postgresql = stack.enter_context(services.postgresql_server("-c", "shared_buffers=1GB"))
        redis_url = stack.enter_context(services.valkey_server()).url
        url = stack.enter_context(services.new_database(postgresql.url))
        rows.fill(url, rows.Scale(USERS, 5 * USERS))
        held = _access_tokens(url, _large_accounts(url, options))
        slow, last, held = held[: options.slow], held[options.slow], held[options.slow + 1 :]
        site = stack.enter_context(sites.ours(url, redis_url, workers=2))
        driver = drive.Driver(url, users=USERS)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        take = partial(_take, site.url, folder)
        elsewhere = stack.enter_context(
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        )
        # What is read once for all, and the memory for that.
        elsewhere.submit(take, held.pop()).result()
        before = _start_measuring(site)
        alone, beside, copies = [], [], []
        with Readers(site.url, driver._lines("me")) as people:
            for token in held:
                people.samples = alone
                time.sleep(options.seconds)
                people.samples = beside
                copies.append(elsewhere.submit(take, token).result())
        for what, samples in (("alone", alone), ("beside copies", beside)):
            people.samples = samples
            print(f"/auth/me {what:15s} {people.report()}")
        _tell(copies, before, _most(site), options)
        times = _p99(beside) / _p99(alone)
        print(f"the others' p99: x {times:.2f} {_verdict(times < MOST_TIMES)}")
        worked = _worked(site)
        _see_whole(elsewhere.submit(take, last).result(), options)
        print(f"one copy alone: {_worked(site) - worked:.2f} s of the workers' CPU")
        before = _start_measuring(site)
        with ThreadPoolExecutor(len(slow)) as pool:
            copies = list(pool.map(lambda token: take(token, options.rate), slow))
        print(f"at {options.rate:.0f} kB a second each:")
        _tell(copies, before, _most(site), options)


def _tell(
    copies: list[Copy], before: list[float], most: list[float], options: argparse.Namespace
) -> None:
    for each in copies:
        _see_whole(each, options)
    first, more = (
        max(each.first for each in copies),
        max(b - a for a, b in zip(before, most, strict=True)),
    )
    print(
        f"{len(copies)} copies of {copies[0].megabytes:.1f} MB, {median(each.last for each in copies):.1f} s"
        f" in the median; first byte after {first * 1000:.0f} ms at most {_verdict(first < MOST_SECONDS)}"
    )
    print(
        f"workers' memory: {_list(before)} MB before, {_list(most)} at most: {more:+.1f}"
        f" {_verdict(more < MOST_MEGABYTES)}"
    )


def _verdict(is_so: bool) -> str:
    return "met" if is_so else "MISSED"


def _list(values: list[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in values)


def _large_accounts(url: str, options: argparse.Namespace) -> list[Any]:
    """Give some users many rows, and return for each the user's id and one of his live sessions."""
    with psycopg.connect(rows.driverless(url), autocommit=True) as connection:
        connection.execute(rows.FUNCTIONS)
        found = connection.execute(LIVE, {"count": options.copies + options.slow + 2}).fetchall()
        for number, (user_id, _) in enumerate(found):
            values = {"user": user_id, "place": 1_000_000 * (number + 1)}
            connection.execute(MANY_SESSIONS, values | {"count": options.sessions})
            connection.execute(MANY_EVENTS, values | {"count": options.events})
        connection.execute("VACUUM ANALYZE")
    return found


def _access_tokens(url: str, accounts: list[Any]) -> list[str]:
    """Return a token for each that says that the password was typed just now."""
    app, now = (
        create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY}),
        datetime.now(UTC),
    )
    with app.app_context():
        return [
            tokens.access_token(
                user_id=user_id,
                session_id=session_id,
                issued_at=now,
                authenticated_at=now,
            )
            for user_id, session_id in accounts
        ]


def _take(url: str, folder: str, token: str, rate: float | None = None) -> Copy:
    """Take one copy, at so many kB a second if that is said, and lay it in the folder."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    if rate:
        connection.sock = _small_socket(urlsplit(url).port or 80)
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-Proto": "https"}
    begun = time.monotonic()
    connection.request("GET", "/api/v1/users/me/export", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(answer.read(1))
        first = time.monotonic() - begun
        while more := answer.read(PIECE):
            file.write(more)
            if rate:
                time.sleep(max(0.0, begun + file.tell() / 1000 / rate - time.monotonic()))
    last = time.monotonic() - begun
    connection.close()
    return Copy(Path(name), Path(name).stat().st_size / 1e6, first, last)


def _see_whole(copy: Copy, options: argparse.Namespace) -> None:
    found = json.loads(copy.path.read_bytes())
    for name, least in (("sessions", options.sessions), ("activity", options.events)):
        assert len(found[name]) == found["counts"][name] >= least, found["counts"]


def _small_socket(port: int) -> socket.socket:
    """Return a connection whose buffer is that of a telephone, not as large as loopback allows."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
    connection.connect((services.HOST, port))
    return connection


def _start_measuring(site: sites.Server) -> list[float]:
    """Return what each worker holds in megabytes, and have the kernel note its most from now on."""
    for pid in site.worker_pids():
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _most(site)


def _most(site: sites.Server) -> list[float]:
    """Return the most that each worker has held since then, in megabytes."""
    return [
        int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
        for pid in site.worker_pids()
    ]


def _p99(samples: list[tuple[float, int]]) -> float:
    return sorted(samples)[len(samples) * 99 // 100][0]


def _worked(site: sites.Server) -> float:
    """Return the seconds of CPU that the workers have needed."""
    ticks = 0
    for pid in site.worker_pids():
        of_process = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(of_process[11]) + int(of_process[12])
    return ticks / os.sysconf("SC_CLK_TCK")


LIVE = """
SELECT DISTINCT ON (user_id) user_id, id FROM user_sessions
WHERE ended_at IS NULL AND expires_at > now() + interval '1 hour' AND refresh_jti IS NOT NULL
ORDER BY user_id, id LIMIT %(count)s
"""
MANY_SESSIONS = """
INSERT INTO user_sessions (id, user_id, entrance, refresh_jti, device_name, browser, os, device_type,
    ip_address, user_agent, created_at, last_used_at, rotated_at, expires_at, absolute_expires_at, ended_at,
    end_reason)
SELECT pg_temp.id_at(t, %(place)s + n), %(user)s, 'api', left(md5('jti' || n), 22), 'Chrome on Windows',
    'Chrome', 'Windows', 'desktop', '203.0.113.' || n %% 256,
    'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 '
        || 'Safari/537.36', t, t, t, t + interval '7 days', t + interval '30 days', t + interval '1 hour',
    'logged_out'
FROM generate_series(1, %(count)s) n, LATERAL (SELECT now() - n * interval '3 minutes') moment (t)
"""
MANY_EVENTS = """
INSERT INTO account_events (id, user_id, kind, created_at, session_id, device_name, ip_address)
SELECT pg_temp.id_at(t, %(place)s + n), %(user)s, 'signed_in', t, pg_temp.id_at(t, n), 'Chrome on Windows',
    '203.0.113.' || n %% 256
FROM generate_series(1, %(count)s) n, LATERAL (SELECT now() - n * interval '2 minutes') moment (t)
"""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.export", description=__doc__)
    parser.add_argument(
        "--sessions", type=int, default=10_000, help="of each account that is copied"
    )
    parser.add_argument("--events", type=int, default=50_000, help="of each account that is copied")
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument(
        "--slow", type=int, default=4, help="copies that are fetched slowly, at once"
    )
    parser.add_argument("--rate", type=float, default=500, help="of those, kB a second")
    parser.add_argument(
        "--seconds", type=float, default=5, help="of reading without copies, before each"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
