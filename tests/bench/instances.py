"""Several machines, all of them on loopback: what processes share lives in PostgreSQL and Redis.

    people -> nginx -> two instances -> pgbouncer (transaction mode) -> PostgreSQL -> its replica
                                     -> Valkey      a worker that sends mail

Shows that a session made on one instance ends on the other at the next request, that limits hold across
both, that an instance killed under load loses nothing, and how long it takes until the service is back when
the primary is killed and the replica promoted. With synchronous replication no session that has been ended
is alive again; `--asynchronous` shows what a replica that is a second behind costs. Needs nginx and
pgbouncer.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg

from tests import services
from tests.bench import drive, rows, sites
from tests.bench.traffic import Client, Traffic

USERS = 2_000
DATABASE = "authsite"


class Replica(services.PostgreSQL):
    """A streaming copy of a primary, until it is promoted."""

    def __init__(self, directory: Path, primary: services.PostgreSQL) -> None:
        self._primary = primary
        super().__init__(directory, "-c", "hot_standby=on", "-c", "fsync=on")

    def _prepare(self) -> None:
        self._data.mkdir(mode=0o700)
        if "user" in services._unprivileged():
            shutil.chown(self._data, "nobody")
        subprocess.run(
            [
                *(self._binaries / "pg_basebackup", "-d", self._primary.url, "-D", self._data),
                *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            **services._unprivileged(),
        )

    def cut_off(self) -> None:
        """Hear no more of the primary, as behind a broken line."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote(wait => true)")


class Program:
    """A program of Debian's with its configuration file, in a directory of its own."""

    def __init__(self, name: str, command: list[str], configuration: str) -> None:
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        if found is None:
            raise SystemExit(f"{name} is missing: apt-get install {name}")
        self.port = services.free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"authsite-{name}-"))
        self.directory.chmod(0o755)
        if "user" in services._unprivileged():
            shutil.chown(self.directory, "nobody")
        self._name = name
        self._command = [found, *command]
        self._template = configuration
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, **values: object) -> None:
        text = self._template.format(port=self.port, directory=self.directory, **values)
        (self.directory / "conf").write_text(text)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [each.format(directory=self.directory) for each in self._command],
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / "log").open("wb"),
            **services._unprivileged(),
        )
        services.wait_until(self._listens, what=f"{self._name}'s start")

    def reload(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        if self._process is not None:
            services._end(self._process, signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self.directory / "log").read_text())
        with services.socket.socket() as probe:
            return probe.connect_ex((services.HOST, self.port)) == 0


PGBOUNCER = """
[databases]
{database} = host=127.0.0.1 port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 200
ignore_startup_parameters = options, extra_float_digits
server_connect_timeout = 2
server_login_retry = 1
query_wait_timeout = 5
"""

# A request that has not reached an instance goes to the other one; one that may have is not repeated.
NGINX = """
daemon off;
pid {directory}/pid;
error_log stderr;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream instances {{
        server 127.0.0.1:{first} max_fails=1 fail_timeout=5s;
        server 127.0.0.1:{second} max_fails=1 fail_timeout=5s;
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://instances;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host 127.0.0.1;
            # Only here, where one machine plays all its clients, is their word taken for their address.
            proxy_set_header X-Forwarded-For $http_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto https;
            proxy_connect_timeout 1s;
        }}
    }}
}}
"""


class Estate:
    """All of it, started in order and ended in the reverse."""

    def __init__(self, stack: ExitStack, *, is_synchronous: bool) -> None:
        self.primary = stack.enter_context(services.postgresql_server("-c", "fsync=on"))
        with psycopg.connect(self.primary.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        self.database_url = self.primary.url.removesuffix("/postgres") + f"/{DATABASE}"
        rows.fill(self.database_url, rows.Scale(USERS, USERS * 10))
        directory = Path(tempfile.mkdtemp(prefix="authsite-replica-"))
        directory.chmod(0o755)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self.replica = Replica(directory, self.primary)
        self.replica.start()
        stack.callback(self.replica.stop)
        if is_synchronous:
            with psycopg.connect(self.primary.url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                connection.execute("SELECT pg_reload_conf()")
        self.pooler = Program("pgbouncer", ["{directory}/conf"], PGBOUNCER)
        stack.callback(self.pooler.stop)
        self.pooler.configure(database=DATABASE, server_port=self.primary.port)
        self.pooler.start()
        self.redis_url = stack.enter_context(services.valkey_server()).url
        self.mailbox = stack.enter_context(services.Mailbox())
        pooled = f"postgresql://postgres@{services.HOST}:{self.pooler.port}/{DATABASE}"
        self.environ = sites.production(pooled, self.redis_url)
        self.environ["MAIL_PORT"] = str(self.mailbox.port)
        self.instances = [self._instance(stack) for _ in range(2)]
        self.front = Program("nginx", ["-c", "{directory}/conf"], NGINX)
        stack.callback(self.front.stop)
        self.front.configure(first=self.instances[0].port, second=self.instances[1].port)
        self.front.start()
        self.url = f"http://{services.HOST}:{self.front.port}"
        self._start_worker(stack)

    def fail_over(self) -> None:
        """Promote the replica and send everybody to it: what a cluster manager does."""
        self.replica.promote()
        self.pooler.configure(database=DATABASE, server_port=self.replica.port)
        self.pooler.reload()

    def _instance(self, stack: ExitStack) -> sites.Server:
        instance = sites.Server(sites.command("gunicorn", 2), self.environ, workers=2)
        return stack.enter_context(instance)

    def _start_worker(self, stack: ExitStack) -> None:
        worker = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "wsgi", "worker"],
            cwd=services.ROOT,
            env=self.instances[0].environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(services._end, worker, signal.SIGTERM)


def main() -> None:
    options = _options()
    print(sites.machine())
    with ExitStack() as stack:
        begun = time.monotonic()
        estate = Estate(stack, is_synchronous=not options.asynchronous)
        print(f"started in {time.monotonic() - begun:.0f} s", flush=True)
        show_that_a_session_ends_everywhere(estate)
        show_that_limits_hold_across_instances(estate)
        show_that_mail_leaves_once(estate)
        show_that_a_killed_instance_loses_nothing(estate, options.seconds)
        show_how_the_primary_fails_over(
            estate, options.seconds, lag=1 if options.asynchronous else 0
        )


def show_that_a_session_ends_everywhere(estate: Estate) -> None:
    client, (first, second) = Client(), [each.url for each in estate.instances]
    late = 0
    for number in range(20):
        held = _log_in(client, first, number)
        access = {"token": held["access_token"]}
        assert client.ask("GET", second, "/api/v1/auth/me", **access)[0] == 200
        assert client.ask("POST", first, "/api/v1/auth/logout", body="{}", **access)[0] == 200
        late += client.ask("GET", second, "/api/v1/auth/me", **access)[0] != 401
    _say(late == 0, f"20 sessions made and ended on one instance; {late} lived on on the other")


def show_that_limits_hold_across_instances(estate: Estate) -> None:
    client, urls = Client(), [each.url for each in estate.instances]
    held = _log_in(client, urls[0], 30)
    statuses = [
        client.ask("GET", urls[n % 2], "/api/v1/auth/me", token=held["access_token"])[0]
        for n in range(70)
    ]
    passed = statuses.count(200)
    _say(
        passed == 60 and statuses.count(429) == 10,
        f"70 requests in turn to two instances of two workers, 60 a minute allowed: {passed} passed",
    )


def show_that_mail_leaves_once(estate: Estate) -> None:
    client = Client()
    for number in range(40, 50):
        body = f'{{"email": "user{number}@example.com"}}'
        path = "/api/v1/auth/password-reset/request"
        assert client.ask("POST", estate.url, path, body=body)[0] == 200
    services.wait_until(lambda: len(estate.mailbox.messages) >= 10, seconds=30, what="the mail")
    time.sleep(3)  # a second copy would come now
    sent = len(estate.mailbox.messages)
    _say(sent == 10, f"10 reset mails by two instances and a worker: {sent} arrived")


def show_that_a_killed_instance_loses_nothing(estate: Estate, seconds: float) -> None:
    held = drive.Driver(estate.database_url, users=500)._lines("refresh")
    with Traffic([estate.url], held, refreshes=50, logins=2, users=USERS) as people:
        time.sleep(seconds)
        begun = time.monotonic()
        victim = estate.instances[0]
        assert victim.process is not None
        os.killpg(victim.process.pid, signal.SIGKILL)
        victim.process.wait()
        time.sleep(seconds)
        ended = time.monotonic()
    asked, statuses = people.count("refresh", begun, ended)
    failed = sum(statuses.values())
    lost = _lost(estate, list(people.tokens))
    _say(
        lost == 0,
        f"an instance killed under load: {asked} refreshes after it, {failed} had to be sent again,"
        f" {lost} of {len(people.tokens)} sessions lost",
    )
    victim.start()


def show_how_the_primary_fails_over(estate: Estate, seconds: float, *, lag: float) -> None:
    driver = drive.Driver(estate.database_url, users=USERS)
    held = driver._lines("refresh")[:500]
    leaving = driver._lines("me")[500:]
    with (
        Traffic([estate.url], held, refreshes=50, logins=1, users=USERS) as people,
        Leavers(estate.url, leaving) as leavers,
    ):
        time.sleep(seconds)
        if lag:
            estate.replica.cut_off()
            time.sleep(lag)
        killed = time.monotonic()
        estate.primary.stop(signal.SIGKILL)
        estate.fail_over()
        promoted = time.monotonic()
        time.sleep(seconds + 10)
        ended = time.monotonic()
    back = min(
        (
            each.at + each.seconds
            for each in people.samples
            if each.work == "refresh" and each.status == 200 and each.at > promoted
        ),
        default=float("inf"),
    )
    asked, statuses = people.count("refresh", killed, ended)
    alive = _alive_again(estate, leavers.ended)
    lost = _lost(estate, list(people.tokens))
    print(
        f"the primary killed: promoted after {promoted - killed:.1f} s, first refresh after"
        f" {back - killed:.1f} s, {sum(statuses.values())} of {asked} refreshes failed meanwhile {statuses}"
    )
    _say(alive == 0, f"{len(leavers.ended)} sessions ended before and after, {alive} alive again")
    _say(lost == 0, f"{lost} of {len(people.tokens)} refresh tokens lost")


class Leavers:
    """People who sign out one after another; what was answered 200 must hold for ever."""

    def __init__(self, url: str, access_tokens: list[str]) -> None:
        self.ended: list[str] = []
        self._url = url
        self._tokens = access_tokens
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        client = Client()
        while self._tokens and not self._over.wait(0.02):
            token = self._tokens.pop()
            status, _ = client.ask("POST", self._url, "/api/v1/auth/logout", body="{}", token=token)
            if status == 200:
                self.ended.append(token)

    def __enter__(self) -> "Leavers":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()


def _lost(estate: Estate, refresh_tokens: list[str]) -> int:
    """Return how many sessions cannot be refreshed with the last token that their client holds."""
    client = Client()
    return sum(
        client.post(estate.url, "/api/v1/auth/refresh", {"refresh_token": token})[0] != 200
        for token in refresh_tokens
    )


def _alive_again(estate: Estate, access_tokens: list[str]) -> int:
    client = Client()
    return sum(
        client.ask("GET", estate.url, "/api/v1/auth/me", token=token)[0] != 401
        for token in access_tokens
    )


def _log_in(client: Client, url: str, number: int) -> dict:
    status, held = client.post(
        url,
        "/api/v1/auth/login",
        {"email": f"user{number}@example.com", "password": rows.PASSWORD},
    )
    assert status == 200, (status, held)
    return held


def _say(is_so: bool, text: str) -> None:
    print(f"{'holds ' if is_so else 'BROKEN'} {text}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.instances", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of load before and after a fault")
    parser.add_argument("--asynchronous", action="store_true", help="do not wait for the replica")
    return parser.parse_args()


if __name__ == "__main__":
    main()
