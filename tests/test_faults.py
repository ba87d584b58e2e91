"""Faults of the real services under a running site: nothing lost, nothing half-written, no 500.

The site is what the Procfile runs, with two workers; PostgreSQL, Valkey and SMTP are the test's own and
are stopped, frozen and brought back. Figures of a run stand in the tests' output (`pytest -rP`).
"""

import os
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from flask_migrate import upgrade
from sqlalchemy import event

from authsite import clock, create_app, database
from tests import factories, services

pytestmark = pytest.mark.site

EMAIL = "ada@example.com"


class Person:
    """A client of a running site that keeps its newest tokens, as an honest one does."""

    def __init__(self, site: services.Site) -> None:
        self.api = f"{site.url}/api/v1"
        self.held: dict[str, Any] = {}

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        return requests.post(f"{self.api}{path}", json=body, timeout=30)

    def register(self, email: str = EMAIL) -> None:
        body = {"email": email, "password": factories.PASSWORD, "first_name": "Ada"}
        assert self.post("/auth/register", body).status_code == 201

    def log_in(self, email: str = EMAIL) -> requests.Response:
        answer = self.post("/auth/login", {"email": email, "password": factories.PASSWORD})
        if answer.status_code == 200:
            self.held = answer.json()
        return answer

    def refresh(self) -> requests.Response:
        answer = self.post("/auth/refresh", {"refresh_token": self.held["refresh_token"]})
        if answer.status_code == 200:
            self.held = answer.json()
        return answer

    def me(self) -> requests.Response:
        bearer = {"Authorization": f"Bearer {self.held['access_token']}"}
        return requests.get(f"{self.api}/auth/me", headers=bearer, timeout=30)


@contextmanager
def load(people: list[Person]) -> Iterator[Counter[Any]]:
    """Let everybody refresh and read in turns, in the background; count the statuses of all answers.

    A connection that the site cuts is counted as "cut".
    """
    counted: Counter[Any] = Counter()
    is_over = threading.Event()

    def work(person: Person) -> None:
        while not is_over.is_set():
            for act in (person.refresh, person.me):
                try:
                    counted[act().status_code] += 1
                except requests.ConnectionError:
                    counted["cut"] += 1

    with ThreadPoolExecutor(len(people)) as pool:
        running = [pool.submit(work, person) for person in people]
        try:
            yield counted
        finally:
            is_over.set()
            for each in running:
                each.result(timeout=60)


def crowd(site: services.Site, count: int = 4) -> list[Person]:
    people = [Person(site) for _ in range(count)]
    people[0].register()
    for person in people:
        assert person.log_in().status_code == 200
    return people


def seconds_until(is_so: Callable[[], bool]) -> float:
    start = time.monotonic()
    services.wait_until(is_so, seconds=30)
    return round(time.monotonic() - start, 2)


@pytest.fixture(scope="module")
def own_postgresql() -> Iterator[services.PostgreSQL]:
    """A server that each test leaves running."""
    with services.postgresql_server() as server:
        yield server


@pytest.fixture
def database_of_its_own(own_postgresql: services.PostgreSQL) -> Iterator[str]:
    with services.new_database(own_postgresql.url) as url:
        app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
        with app.app_context():
            upgrade()
            database.engine().dispose()
        yield url


@pytest.fixture
def site(database_of_its_own: str) -> Iterator[services.Site]:
    environ = {"DATABASE_URL": database_of_its_own, "RATELIMIT_ENABLED": "0"}
    with services.Site(environ) as running:
        yield running


@pytest.mark.postgresql
def test_a_database_stopped_hard_costs_503_and_nobody_a_sign_in(own_postgresql, site):
    """FA-01: 503 with Retry-After in the error shape while it is down, no tokens, then back by itself."""
    people = crowd(site)
    with load(people) as counted:
        services.wait_until(lambda: counted[200] > 40)
        own_postgresql.stop(signal.SIGQUIT)
        services.wait_until(lambda: counted[503] > 8)
        start = time.monotonic()
        refused = people[0].log_in()
        took = time.monotonic() - start
        page = requests.get(f"{site.url}/login", timeout=30)
        ready = requests.get(f"{site.url}/readyz", timeout=30)
        own_postgresql.start()
        recovery = seconds_until(lambda: people[0].me().status_code == 200)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"].isdigit()
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["errors"][0]["code"] == "service_unavailable"
    assert "token" not in refused.text
    assert took < 6
    assert page.status_code == 200  # needs no database
    assert (ready.status_code, ready.text) == (503, "not ready\n")
    print(f"answers: {dict(counted)}; normal again after {recovery} s")
    assert set(counted) <= {200, 503}
    # Whatever was in flight, every client can go on with what it holds.
    for person in people:
        assert person.refresh().status_code == 200
        assert person.me().status_code == 200


@pytest.mark.postgresql
def test_connections_that_the_database_ends_are_replaced_unseen(own_postgresql, site):
    """FA-01: after its backends were terminated, the next request of each worker works."""
    people = crowd(site, 2)
    for _ in range(3):
        for person in people:
            assert person.refresh().status_code == 200
        with psycopg.connect(own_postgresql.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        for person in people * 4:
            assert person.me().status_code == 200


@pytest.mark.postgresql
def test_a_frozen_database_holds_no_request_for_longer_than_15_seconds(own_postgresql, site):
    """FA-02, DP-08: the request ends by itself, what needs no database goes on, and so does all later."""
    person = crowd(site, 1)[0]
    frozen = own_postgresql.pids()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            start = time.monotonic()
            waiting = pool.submit(person.me)
            while not waiting.done():
                assert requests.get(f"{site.url}/healthz", timeout=2).status_code == 200
            took = time.monotonic() - start
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert waiting.result().status_code == 503
    assert took < 15
    assert person.me().status_code == 200
    assert person.refresh().status_code == 200


@pytest.mark.postgresql
@pytest.mark.redis
def test_losing_the_store_of_limits_means_neither_500_nor_no_limit(database_of_its_own):
    """FA-03: stopped, each worker counts its share; frozen, half a second once; back, all is as before."""
    with (
        services.valkey_server() as store,
        services.Site({"DATABASE_URL": database_of_its_own, "REDIS_URL": store.url}) as site,
    ):

        def attempts(count: int = 24) -> Counter[int]:
            wrong = {"email": "nobody@example.com", "password": "wrong"}
            return Counter(
                requests.post(f"{site.url}/api/v1/auth/login", json=wrong, timeout=30).status_code
                for _ in range(count)
            )

        # 10 in a minute for all workers together.
        assert attempts() == {401: 10, 429: 14}
        store.stop(signal.SIGKILL)
        alone = attempts()
        # Two workers, five each; the account's own count in the database stands at ten, too.
        assert set(alone) <= {401, 429}
        assert alone[401] <= 10
        assert requests.get(f"{site.url}/readyz", timeout=10).status_code == 503
        store.start()
        services.wait_until(
            lambda: requests.get(f"{site.url}/readyz", timeout=10).status_code == 200
        )
        assert store.process is not None
        os.kill(store.process.pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            frozen = attempts(12)
            took = time.monotonic() - start
        finally:
            os.kill(store.process.pid, signal.SIGCONT)
        assert set(frozen) <= {401, 429}
        assert took < 12


class Stalling:
    """An SMTP server that accepts the connection and then says nothing."""

    def __enter__(self) -> "Stalling":
        self.listener = socket.create_server((services.HOST, 0))
        self.port = self.listener.getsockname()[1]
        return self

    def __exit__(self, *_exception: object) -> None:
        self.listener.close()


class ClosingInMidMessage:
    """A handler that hangs up after DATA the first `times`, and delivers from then on."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.delivered: list[bytes] = []

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802
        if self.left:
            self.left -= 1
            server.transport.abort()
            return "451 gone"
        self.delivered.append(envelope.content)
        return "250 OK"


@pytest.mark.parametrize("fault", ["refused", "stalled"])
def test_a_reset_is_answered_at_once_whatever_the_mail_server_does(sqlite_url, fault):
    """FA-04, RS-04: the same bytes in under a second, and the mail waits in the outbox."""
    with Stalling() as stalling:
        port = stalling.port if fault == "stalled" else services.free_port()
        environ = {"DATABASE_URL": sqlite_url, "RATELIMIT_ENABLED": "0"}
        environ |= {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(port)}
        with services.Site(environ, workers=1) as site:
            person = Person(site)
            person.register()
            answers = []
            for email in (EMAIL, "nobody@example.com"):
                start = time.monotonic()
                answers.append(person.post("/auth/password-reset/request", {"email": email}))
                assert time.monotonic() - start < 1
            assert [answer.status_code for answer in answers] == [200, 200]
            assert answers[0].content == answers[1].content
            stalling.listener.close()  # it hangs up, so that the site need not wait for it when it stops
        with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
            waiting = connection.execute("SELECT name FROM outgoing_mails").fetchall()
        connection.close()
        assert waiting == [("password_reset",)]


def test_a_mail_server_that_hangs_up_in_mid_message_gets_the_mail_again(make_app, time_machine):
    """FA-04: what was not acknowledged is sent again after the back-off, and once it is taken never more."""
    from aiosmtpd.controller import Controller

    from authsite import passwords
    from authsite.mail import outbox

    handler = ClosingInMidMessage(times=2)
    controller = Controller(handler, hostname=services.HOST, port=services.free_port())
    controller.start()
    try:
        app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(controller.port))
        time_machine.move_to(clock.now(), tick=False)
        with app.app_context():
            owner = factories.account()
            passwords.request_reset(owner.email, device_name="curl", ip_address=None)
            assert outbox.deliver() == (0, 1)
            assert outbox.deliver() == (0, 0)  # not due yet
            for back_off, outcome in zip(outbox.BACK_OFF, [(0, 1), (1, 0)], strict=False):
                time_machine.shift(back_off)
                assert outbox.deliver() == outcome
            assert outbox.depth() == 0
    finally:
        controller.stop()
    assert len(handler.delivered) == 1


@pytest.mark.postgresql
def test_a_stopping_site_finishes_what_it_has_begun(database_of_its_own):
    """DP-08: SIGTERM with requests in flight loses none of them, and the site ends with status 0."""
    environ = {"DATABASE_URL": database_of_its_own, "RATELIMIT_ENABLED": "0"}
    with services.Site(environ) as site:
        person = Person(site)
        person.register()
        with psycopg.connect(database_of_its_own) as blocker:
            # The sign-in waits for this lock: it is in flight while the site is told to stop.
            blocker.execute("SELECT 1 FROM users FOR UPDATE")
            with ThreadPoolExecutor(1) as pool:
                in_flight = pool.submit(person.log_in)
                services.wait_until(lambda: _waits_for_a_lock(database_of_its_own))
                assert site.process is not None
                site.process.send_signal(signal.SIGTERM)
                services.wait_until(lambda: "Handling signal: term" in site.output())
                blocker.rollback()
                answer = in_flight.result(timeout=30)
        assert answer.status_code == 200
        assert site.process.wait(timeout=25) == 0


def test_a_site_told_to_stop_while_it_starts_stops_at_once(sqlite_url):
    """DP-08: no worker misses the signal while it is loading."""
    site = services.Site({"DATABASE_URL": sqlite_url}, workers=2)
    with ExitStack() as ended:
        ended.push(site)
        site.launch()
        services.wait_until(lambda: sum(map(_imports_the_application, site.worker_pids())) == 2)
        assert site.process is not None
        site.process.send_signal(signal.SIGTERM)
        assert site.process.wait(timeout=15) == 0


def _imports_the_application(pid: int) -> bool:
    """Return whether a process has got as far as SQLAlchemy, which is among the first things imported."""
    try:
        return "sqlalchemy" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended
        return False


def _waits_for_a_lock(url: str) -> bool:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ).fetchone()
    return bool(found and found[0])


def test_a_locked_sqlite_database_is_waited_for_but_not_for_ever(sqlite_url):
    """FA-08: reading goes on, three seconds only delay, five are a 503, and all is well afterwards."""
    environ = {"DATABASE_URL": sqlite_url, "RATELIMIT_ENABLED": "0"}
    with services.Site(environ) as site:
        early, late = crowd(site, 2)
        with _locked(sqlite_url) as release, ThreadPoolExecutor(2) as pool:
            early_answer = pool.submit(early.refresh)
            time.sleep(2)  # the fault itself: how long the lock is held
            late_answer = pool.submit(late.refresh)
            assert early.me().status_code == 200
            refused = early_answer.result(timeout=10)
            assert not late_answer.done()
            release()
            assert late_answer.result(timeout=10).status_code == 200
        assert refused.status_code == 503
        assert refused.json()["errors"][0]["code"] == "service_unavailable"
        for person in (early, late):
            assert person.refresh().status_code == 200


@contextmanager
def _locked(url: str) -> Iterator[Callable[[], None]]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield lambda: connection.execute("ROLLBACK") and None
    finally:
        connection.close()


def test_a_full_disk_under_sqlite_is_a_503_and_leaves_nothing_half_written(sqlite_url):
    """FA-08: SQLITE_FULL, no corruption, and recovery without a restart."""
    app = create_app({"DATABASE_URL": sqlite_url, "SECRET_KEY": services.SECRET_KEY})
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    client = app.test_client()
    body = {"email": EMAIL, "password": factories.PASSWORD, "first_name": "Ada"}
    assert client.post("/api/v1/auth/register", json=body).status_code == 201
    with app.app_context():
        engine = database.engine()
        full = _limit_pages(engine)
        statuses: Counter[int] = Counter()
        for _ in range(60):
            answer = client.post(
                "/api/v1/auth/login",
                json={"email": EMAIL, "password": factories.PASSWORD},
                headers={"User-Agent": "x" * 512},
                environ_base={"REMOTE_ADDR": f"192.0.2.{len(list(statuses.elements()))}"},
            )
            statuses[answer.status_code] += 1
            if answer.status_code == 503:
                break
        assert statuses[503] == 1
        assert set(statuses) == {200, 503}
        event.remove(engine, "checkout", full)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            count = connection.exec_driver_sql("SELECT count(*) FROM user_sessions").scalar()
        assert count == statuses[200]
        again = client.post(
            "/api/v1/auth/login",
            json={"email": EMAIL, "password": factories.PASSWORD},
            environ_base={"REMOTE_ADDR": "192.0.2.200"},
        )
        assert again.status_code == 200
        engine.dispose()


def _limit_pages(engine: Any) -> Callable[..., None]:
    """Let the database grow by no page beyond those that it has now."""
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def limit(connection: Any, *_more: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(engine, "checkout", limit)
    return limit
