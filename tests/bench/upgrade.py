"""A release with traffic: from the first schema to the newest, and down again, while people go on.

The database holds 100,000 users and a million sessions as the first schema knew them. Beside the migrations
run the statements of the code that served it: a read, a rotation, a sign-in. Afterwards the service as it is
now takes the tokens from before. Prints how long each way took, the longest that a statement waited, what
failed, and what was lost.
"""

import argparse
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from authsite import create_app
from authsite.crypto import tokens
from tests import services
from tests.bench import rows, sites
from tests.bench.traffic import Client

READ = """
SELECT u.id, u.email, s.last_used_at FROM user_sessions s JOIN users u ON u.id = s.user_id
WHERE s.id = %(id)s AND s.ended_at IS NULL AND s.expires_at > now()
"""
ROTATE = """
UPDATE user_sessions
SET previous_jti = refresh_jti, refresh_jti = %(jti)s, rotated_at = now(), last_used_at = now()
WHERE id = %(id)s AND ended_at IS NULL
"""
SIGN_IN = """
INSERT INTO user_sessions (id, user_id, entrance, refresh_jti, device_name, device_type, created_at,
    last_used_at, expires_at, absolute_expires_at)
VALUES (%(new)s, %(user_id)s, 'api', %(jti)s, 'curl', 'cli', now(), now(),
    now() + interval '7 days', now() + interval '30 days')
"""
LIVE = """
SELECT id, user_id FROM user_sessions
WHERE ended_at IS NULL AND expires_at > now() + interval '1 hour' LIMIT 5000
"""
COUNTED = ("users", "user_sessions")


def main() -> None:
    options = _options()
    print(sites.machine())
    with ExitStack() as stack:
        server = stack.enter_context(services.postgresql_server("-c", "shared_buffers=1GB"))
        redis_url = stack.enter_context(services.valkey_server()).url
        url = stack.enter_context(services.new_database(server.url))
        rows.fill(url, rows.Scale(options.users, options.sessions), revision=options.since)
        connection = stack.enter_context(psycopg.connect(rows.driverless(url), autocommit=True))
        held = connection.execute(LIVE).fetchall()
        before = _counts(connection)
        print(f"{before} at {options.since}")
        with People(rows.driverless(url), held) as people:
            time.sleep(3)
            people.tell("before")
            _flask(url, "db", "upgrade")
            people.tell("on the way up")
            time.sleep(2)
        after = _counts(connection)
        lost = {
            name: before[name] + people.signed_in.get(name, 0) - after[name] for name in COUNTED
        }
        print(f"  lost: {lost}")
        _use_tokens(url, redis_url, connection, [row for row in held if row not in people.rotated])
        with People(rows.driverless(url), held) as people:
            time.sleep(3)
            people.tell("before")
            _flask(url, "db", "downgrade", options.since)
            people.tell("on the way down")
        lost = {
            name: after[name] + people.signed_in.get(name, 0) - found
            for name, found in _counts(connection).items()
        }
        print(f"  lost: {lost}")


class People:
    """Threads that send what the code of the first schema sends, and note how long each took."""

    def __init__(self, dsn: str, held: list[Any]) -> None:
        self._dsn = dsn
        self._held = held
        self._over = threading.Event()
        self._told = time.monotonic()
        self._samples: list[tuple[float, float, str]] = []
        self.signed_in: dict[str, int] = {"user_sessions": 0}
        self.rotated: set[Any] = set()
        self._threads = [
            threading.Thread(target=self._repeat, args=each)
            for each in ((READ, 50), (READ, 50), (ROTATE, 50), (SIGN_IN, 5))
        ]

    def __enter__(self) -> "People":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def tell(self, when: str) -> None:
        """Print what happened since the last time."""
        since, self._told = self._told, time.monotonic()
        found = [each for each in self._samples if each[0] >= since]
        failed = sorted({each[2] for each in found} - {"ok"})
        longest = max(each[1] for each in found)
        print(
            f"  {when}: {self._told - since:.1f} s, {len(found):,} statements,"
            f" the longest {longest * 1000:,.0f} ms, failed: {failed or 'none'}",
            flush=True,
        )

    def _repeat(self, statement: str, per_second: float) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '9s'")
            while not self._over.wait(1 / per_second):
                row = random.choice(self._held)
                values = {
                    "id": row[0],
                    "user_id": row[1],
                    "jti": tokens.new_jti(),
                    "new": uuid.uuid4(),
                }
                begun, outcome = time.monotonic(), "ok"
                try:
                    connection.execute(statement, values)
                except psycopg.Error as error:
                    outcome = type(error).__name__
                if outcome == "ok" and statement is SIGN_IN:
                    self.signed_in["user_sessions"] += 1
                if statement is ROTATE:
                    self.rotated.add(row)
                self._samples.append((begun, time.monotonic() - begun, outcome))


def _use_tokens(url: str, redis_url: str, connection: psycopg.Connection, held: list[Any]) -> None:
    """Have the service of today read and rotate sessions of before."""
    chosen = random.sample(held, min(500, len(held)))
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
    refused = 0
    with sites.ours(url, redis_url, workers=2) as site, app.app_context():
        client, now = Client(), datetime.now(UTC)
        for session_id, user_id in chosen:
            jti = connection.execute(
                "SELECT refresh_jti FROM user_sessions WHERE id = %s", (session_id,)
            ).fetchone()
            assert jti is not None
            named = {"user_id": user_id, "session_id": session_id, "issued_at": now}
            access = tokens.access_token(**named)
            refresh = tokens.refresh_token(**named, jti=jti[0], expires_at=now + timedelta(days=1))
            read = client.ask("GET", site.url, "/api/v1/auth/me", token=access)[0]
            rotated = client.post(site.url, "/api/v1/auth/refresh", {"refresh_token": refresh})[0]
            refused += (read, rotated) != (200, 200)
        client.close()
    print(
        f"  {len(chosen)} sessions of before, read and rotated by the service of today: {refused} refused"
    )


def _counts(connection: psycopg.Connection) -> dict[str, int]:
    found = {}
    for name in COUNTED:
        row = connection.execute(f"SELECT count(*) FROM {name}").fetchone()
        assert row is not None
        found[name] = int(row[0])
    return found


def _flask(url: str, *command: str) -> None:
    environ = {"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY, "PATH": os.environ["PATH"]}
    subprocess.run(
        [sys.executable, "-m", "flask", *command],
        cwd=services.ROOT,
        env=environ,
        check=True,
        capture_output=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.upgrade", description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--since", default="0001", help="the schema to begin with")
    return parser.parse_args()


if __name__ == "__main__":
    main()
