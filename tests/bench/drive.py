"""Load by wrk: the tokens it sends, one run of it, and what it counted."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from authsite import clock, create_app
from authsite.crypto import tokens
from tests import services
from tests.bench import rows

SCRIPT = Path(__file__).with_name("drive.lua")


class Result(NamedTuple):
    """What one run of wrk saw; times are milliseconds, `broken` counts connections that failed."""

    requests: int
    seconds: float
    p50: float
    p99: float
    refused: int
    broken: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def need_wrk() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")


class Driver:
    """Drives any server over this database; each run starts with tokens made a moment ago."""

    def __init__(self, database_url: str, *, users: int = 10_000) -> None:
        self._dsn = rows.driverless(database_url)
        self._users = users
        self._runs = 0
        self._app = create_app({"DATABASE_URL": database_url, "SECRET_KEY": services.SECRET_KEY})

    def run(self, url: str, workload: str, *, seconds: float, connections: int) -> Result:
        with self.running(url, workload, seconds=seconds, connections=connections) as process:
            output, errors = process.communicate(timeout=seconds + 60)
        line = next((each for each in output.splitlines() if each.startswith("RESULT ")), None)
        if line is None:
            raise RuntimeError(f"wrk failed:\n{output}{errors}")
        return Result(**json.loads(line.removeprefix("RESULT ")))

    @contextmanager
    def running(
        self, url: str, workload: str, *, seconds: float, connections: int
    ) -> Iterator[subprocess.Popen[str]]:
        """Start wrk and yield its process; it is over with the block at the latest."""
        with tempfile.NamedTemporaryFile("w", suffix=".lines") as file:
            file.write("\n".join(self._lines(workload)))
            file.flush()
            process = subprocess.Popen(
                [
                    *("wrk", "--threads", "1", "--connections", str(connections)),
                    *("--duration", f"{seconds:.0f}s", "--timeout", "10s", "--script", SCRIPT),
                    *(url, "--", workload, file.name),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _lines(self, workload: str) -> list[str]:
        if workload in {"login", "page"}:
            return [f"user{number}@example.com" for number in range(self._users)]
        now = clock.now()
        # Another one of each user's sessions in each run: a server may still be at the last one's requests.
        turn, self._runs = self._runs % 5, self._runs + 1
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            live = connection.execute(
                LIVE, {"now": now, "users": self._users, "turn": turn}
            ).fetchall()
            # Used in the last minute, and since its last rotation: to note that, once each, is not measured.
            ids = [session_id for session_id, *_ in live]
            connection.execute(USE, {"now": now, "ids": ids})
        with self._app.app_context():
            return [self._token(workload, now, *each) for each in live]

    def _token(
        self, workload: str, now: Any, session_id: Any, user_id: Any, jti: str, until: Any
    ) -> str:
        names = {"user_id": user_id, "session_id": session_id, "issued_at": now}
        if workload == "refresh":
            return tokens.refresh_token(**names, jti=jti, expires_at=until)
        return tokens.access_token(**names)


# One session of each user that outlives the run: its first, second, ... by turns.
LIVE = """
SELECT id, user_id, refresh_jti, expires_at FROM (
    SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY id) - 1 AS place,
        count(*) OVER (PARTITION BY user_id) AS places
    FROM user_sessions
    WHERE ended_at IS NULL AND expires_at > %(now)s + interval '1 hour' AND refresh_jti IS NOT NULL
) live
WHERE place = %(turn)s %% places LIMIT %(users)s
"""
USE = """
UPDATE user_sessions SET last_used_at = %(now)s, unused_rotation_at = NULL WHERE id = ANY(%(ids)s)
"""
