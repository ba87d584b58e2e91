"""A bursty front: what `/auth/me` of 20 people takes while the rest of the world misbehaves.

    quiet                nothing else
    idle                 2,000 connections that have asked once, opened anew when they are closed
    sign-ins             500 sign-ins in a minute, from 500 addresses
    slow database        each statement takes 50 ms longer, through a proxy
    worker killed        the older of two worker processes is killed each second, with SIGKILL

Each lasts `--seconds`; the service runs as the Procfile starts it, with two workers. Prints how many reads,
their p50 and p99, those whose connection broke, those that failed by status (0: it broke again when the read
was asked once more, -1: nothing came within 10 s), and the workers' memory afterwards. A worker that is
killed may cost the reads that wait at that moment a second try, no more.
"""

import argparse
import collections
import contextlib
import functools
import os
import random
import resource
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url

from tests import services
from tests.bench import drive, rows, sites
from tests.bench.traffic import Client, Readers

USERS = 2_000
IDLE = 2_000
SIGN_INS_A_MINUTE = 500
DELAY = 0.05


def main() -> None:
    options = _options()
    BESIDE["worker killed"] = functools.partial(_worker_killed, every=options.kill_every)
    print(sites.machine())
    _allow_many_sockets()
    with ExitStack() as stack:
        postgresql = stack.enter_context(services.postgresql_server("-c", "fsync=off"))
        redis_url = stack.enter_context(services.valkey_server()).url
        url = stack.enter_context(services.new_database(postgresql.url))
        rows.fill(url, rows.Scale(USERS, 10 * USERS))
        proxy = stack.enter_context(SlowProxy(make_url(url).port or 5432))
        through = make_url(url).set(host=services.HOST, port=proxy.port)
        database_url = through.render_as_string(hide_password=False)
        site = stack.enter_context(sites.ours(database_url, redis_url, workers=2))
        driver = drive.Driver(url, users=USERS)
        for name, beside in BESIDE.items():
            if name in options.only:
                tokens = driver._lines("me")
                people = Readers(site.url, tokens)
                with beside(site, proxy, people):
                    time.sleep(1)
                    with people:
                        time.sleep(options.seconds)
                memory = ", ".join(f"{each:.0f}" for each in site.megabytes())
                print(f"{name:16} {people.report()}  {memory} MB", flush=True)
                time.sleep(3)


@contextmanager
def _nothing(_site: sites.Server, _proxy: "SlowProxy", _people: Readers) -> Iterator[None]:
    yield


@contextmanager
def _idle(site: sites.Server, _proxy: "SlowProxy", _people: Readers) -> Iterator[None]:
    """Hold connections that have asked once, and open those again that the service lets go."""
    address = (services.HOST, urlsplit(site.url).port)
    is_over, poller = threading.Event(), selectors.DefaultSelector()

    def connect() -> None:
        client = socket.create_connection(address, timeout=10)
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        poller.register(client, selectors.EVENT_READ)

    def hold() -> None:
        while not is_over.is_set():
            for key, _ in poller.select(0.1):
                client = key.fileobj
                assert isinstance(client, socket.socket)
                with contextlib.suppress(OSError):
                    if client.recv(4096):
                        continue
                poller.unregister(client)
                client.close()
                with contextlib.suppress(OSError):
                    connect()

    for _ in range(IDLE):
        connect()
    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        for key in list(poller.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]


@contextmanager
def _sign_ins(site: sites.Server, _proxy: "SlowProxy", _people: Readers) -> Iterator[None]:
    is_over = threading.Event()
    statuses: collections.Counter[int] = collections.Counter()

    def sign_in() -> None:
        client, pace, due = Client(), 16 * 60 / SIGN_INS_A_MINUTE, time.monotonic()
        while not is_over.wait(max(0.0, due - time.monotonic())):
            due += random.expovariate(1 / pace)
            email = f"user{random.randrange(USERS)}@example.com"
            body = {"email": email, "password": rows.PASSWORD}
            statuses[client.post(site.url, "/api/v1/auth/login", body)[0]] += 1
        client.close()

    with _in_background([sign_in] * 16, is_over):
        yield
    print(f"{'':16} sign-ins by status: {dict(statuses)}")


@contextmanager
def _slow_database(_site: sites.Server, proxy: "SlowProxy", _people: Readers) -> Iterator[None]:
    proxy.delay = DELAY
    try:
        yield
    finally:
        proxy.delay = 0.0


@contextmanager
def _worker_killed(
    site: sites.Server, _proxy: "SlowProxy", people: Readers, *, every: float
) -> Iterator[None]:
    is_over, killed = threading.Event(), collections.Counter[str]()

    def kill() -> None:
        while not is_over.wait(every):
            if pids := site.worker_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(min(pids), signal.SIGKILL)
                    killed["workers"] += 1
                    killed["reads"] += len(people.asking)

    with _in_background([kill], is_over):
        yield
    print(
        f"{'':16} killed: {killed['workers']} workers, while {killed['reads']} reads waited in all"
    )
    services.wait_until(lambda: len(site.worker_pids()) == 2, seconds=30)
    time.sleep(3)


@contextmanager
def _in_background(works: list[Callable[[], None]], is_over: threading.Event) -> Iterator[None]:
    threads = [threading.Thread(target=each) for each in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


BESIDE = {
    "quiet": _nothing,
    "idle": _idle,
    "sign-ins": _sign_ins,
    "slow database": _slow_database,
    "worker killed": functools.partial(_worker_killed, every=1.0),
}


class SlowProxy:
    """Stands before PostgreSQL and holds back what clients send for `delay` seconds."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.delay = 0.0
        self._listener = socket.create_server((services.HOST, 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> "SlowProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((services.HOST, self._target))
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for pair, is_slow in (((client, server), True), ((server, client), False)):
                    threading.Thread(
                        target=self._pass_on, args=(*pair, is_slow), daemon=True
                    ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_slow and self.delay:
                    time.sleep(self.delay)
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _allow_many_sockets() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16_384), most))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.burst", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="of each")
    parser.add_argument("--kill-every", type=float, default=1.0, help="seconds")
    parser.add_argument("--only", nargs="+", choices=BESIDE, default=list(BESIDE))
    return parser.parse_args()


if __name__ == "__main__":
    main()
