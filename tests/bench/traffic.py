"""Traffic at a set pace, as people make it: refreshes of many sessions in turn, and sign-ins.

wrk asks as fast as it is answered, so that anything else on the machine shows as latency of the queue; this
asks at its own pace, and what it measures is what a client would wait.
"""

import collections
import http.client
import json
import random
import select
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from tests.bench import rows

CUT_OFF, NO_ANSWER = 0, -1  # as statuses: the connection broke; nothing came within PATIENCE
PATIENCE = 10


class Sample(NamedTuple):
    at: float
    work: str
    seconds: float
    status: int  # or CUT_OFF, NO_ANSWER


class Traffic:
    """Threads that refresh and sign in against the addresses in turn, until stopped."""

    def __init__(
        self,
        urls: Sequence[str],
        refresh_tokens: Sequence[str],
        *,
        refreshes: float = 100,
        logins: float = 4,
        users: int = 10_000,
    ) -> None:
        self.samples: list[Sample] = []
        self.tokens = collections.deque(refresh_tokens)
        self._urls = urls
        self._users = users
        self._over = threading.Event()
        threads = max(2, round(refreshes / 25))
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._refresh, refreshes / threads))
            for _ in range(threads)
        ] + [threading.Thread(target=self._repeat, args=(self._log_in, logins))]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def percentile(self, percent: int, work: str, since: float, until: float) -> float:
        """Return this percentile in milliseconds of what began between two moments."""
        times = sorted(
            each.seconds for each in self.samples if each.work == work and since <= each.at < until
        )
        return times[len(times) * percent // 100] * 1000 if times else float("nan")

    def count(self, work: str, since: float, until: float) -> tuple[int, dict[int, int]]:
        """Return how many there were between two moments, and of those that failed, each status."""
        found = [each for each in self.samples if each.work == work and since <= each.at < until]
        failed = collections.Counter(each.status for each in found if each.status != 200)
        return len(found), dict(failed)

    def _repeat(self, work, per_second: float) -> None:
        client, due = Client(), time.monotonic() + random.random() / per_second
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / per_second, time.monotonic() - 1)  # one second late at most
            at = time.monotonic()
            status = work(client)
            self.samples.append(Sample(at, work.__name__[1:], time.monotonic() - at, status))
        client.close()

    def _refresh(self, client: "Client") -> int:
        token = self.tokens.popleft()
        status, answer = client.post(
            random.choice(self._urls), "/api/v1/auth/refresh", {"refresh_token": token}
        )
        # Without an answer the same token is asked again, as a client would.
        self.tokens.append(answer["refresh_token"] if status == 200 else token)
        return status

    def _log_in(self, client: "Client") -> int:
        email = f"user{random.randrange(self._users)}@example.com"
        return client.post(
            random.choice(self._urls),
            "/api/v1/auth/login",
            {"email": email, "password": rows.PASSWORD},
        )[0]


class Readers:
    """People who ask who they are, each at a pace of his own, until stopped."""

    def __init__(
        self, url: str, access_tokens: Sequence[str], *, people: int = 20, per_second: float = 100
    ) -> None:
        self.samples: list[tuple[float, int]] = []  # seconds and status
        self.cut_off = 0  # reads whose connection broke; each was asked once more
        self.asking: set[int] = set()  # the threads that wait for an answer
        self._url = url
        self._tokens = access_tokens
        self._pace = people / per_second
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._repeat) for _ in range(people)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def p99(self) -> float:
        """Return the 99th percentile in milliseconds."""
        return self._times()[len(self.samples) * 99 // 100]

    def report(self) -> str:
        """Return how many reads there were, their times, those cut off, and those that failed by status."""
        times = self._times()
        failed = dict(collections.Counter(status for _, status in self.samples if status != 200))
        return (
            f"{len(times):6,} reads, p50 {times[len(times) // 2]:6.1f} ms,"
            f" p99 {times[len(times) * 99 // 100]:7.1f} ms, longest {times[-1]:7.1f} ms,"
            f" cut off {self.cut_off}, failed {failed or 'none'}"
        )

    def _times(self) -> list[float]:
        return sorted(took * 1000 for took, _ in list(self.samples))

    def _repeat(self) -> None:
        client, due = Client(), time.monotonic() + random.random() * self._pace
        while not self._over.wait(max(0.0, due - time.monotonic())):
            begun = time.monotonic()
            token = random.choice(self._tokens)
            self.asking.add(threading.get_ident())
            status, _ = client.ask("GET", self._url, "/api/v1/auth/me", token=token)
            if status == CUT_OFF:  # as browsers and proxies do for a read (RFC 9110 §9.2.2)
                self.cut_off += 1
                status, _ = client.ask("GET", self._url, "/api/v1/auth/me", token=token)
            self.asking.discard(threading.get_ident())
            self.samples.append((time.monotonic() - begun, status))
            due = max(due + self._pace, time.monotonic() - 1)
        client.close()


class Client:
    """One client's connections, which it keeps for about fifty requests."""

    def __init__(self) -> None:
        self._kept: dict[str, http.client.HTTPConnection] = {}

    def post(self, url: str, path: str, body: dict[str, str]) -> tuple[int, dict]:
        return self.ask("POST", url, path, body=json.dumps(body))

    def ask(
        self, method: str, url: str, path: str, *, body: str | None = None, token: str | None = None
    ) -> tuple[int, dict]:
        """Return the status and the JSON; NO_ANSWER or CUT_OFF where there is none."""
        headers = {
            "User-Agent": rows.USER_AGENT,
            "Content-Type": "application/json",
            "X-Forwarded-For": f"10.{random.randrange(256)}.{random.randrange(256)}.1",
            "X-Forwarded-Proto": "https",
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection = self._kept.pop(url, None)
        if connection is None or _is_closed(connection):
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = json.loads(answer.read() or b"{}")
        except TimeoutError:
            connection.close()
            return NO_ANSWER, {}
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            return CUT_OFF, {}
        if random.random() < 0.02:
            connection.close()
        else:
            self._kept[url] = connection
        return answer.status, content

    def close(self) -> None:
        for connection in self._kept.values():
            connection.close()


def _is_closed(connection: http.client.HTTPConnection) -> bool:
    """Return whether the server has closed a connection that is kept, which every client looks at first."""
    if connection.sock is None:
        return True
    look = select.poll()
    look.register(connection.sock, select.POLLIN)
    return bool(look.poll(0))
