"""The Procfile run as a platform runs it: release, web and worker, in production, behind nginx with TLS.

One story is told from outside, and afterwards the output of all processes is read for what must and what
must not stand in it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from tests import services

pytestmark = [pytest.mark.postgresql, pytest.mark.redis]

EMAIL = "canary-address@example.com"
PASSWORD = "canary password of ada"
NEW_PASSWORD = "canary password number two"
WRONG_PASSWORD = "canary wrong password"
OLD_SECRET = "canary-old-secret-0123456789-abcdefghijklm"
NEW_SECRET = "canary-new-secret-9876543210-nopqrstuvwxyz"
CHROME = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/143.0.0.0 Safari/537.36"
)

README = (services.ROOT / "README.md").read_text()
NGINX = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {block}
}}
"""
CADDY = """
{{
    admin off
    persist_config off
    skip_install_trust
    http_port {caddy_plain_port}
    https_port {caddy_port}
    storage file_system {directory}/caddy
}}
{block}
"""


def example(language: str, mark: str) -> str:
    """Return README's example in this language that holds the mark."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.S)
    [found] = (each for each in blocks if mark in each)
    return found


class Deployment:
    """The three kinds of process and the proxy, and what people outside can do with them."""

    def __init__(
        self, directory: Path, database_url: str, store: services.Valkey, mail_port: int
    ) -> None:
        self.directory = directory
        self.store = store
        self.port, self.tls_port, self.plain_port = (services.free_port() for _ in range(3))
        self.caddy_port, self.caddy_plain_port = services.free_port(), services.free_port()
        self.base_url = f"https://localhost:{self.tls_port}"
        self.environ = {
            **{name: os.environ[name] for name in ("HOME",) if name in os.environ},
            # The commands of the Procfile by their bare names, as on the platform.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "APP_ENV": "production",
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "2",
            "SECRET_KEY": OLD_SECRET,
            "DATABASE_URL": database_url,
            "REDIS_URL": store.url,
            "PUBLIC_BASE_URL": self.base_url,
            "TRUSTED_PROXY_HOPS": "1",
            "EMAIL_VERIFICATION": "off",
            "MAIL_SERVER": services.HOST,
            "MAIL_PORT": str(mail_port),
            "MAIL_DEFAULT_SENDER": "accounts@example.com",
            "SITE_NAME": "Example",
            "FLASK_SKIP_DOTENV": "1",
        }
        self._log = (directory / "output").open("ab")
        self._proxies = [self._run_nginx(), self._run_caddy()]
        self._processes: subprocess.Popen[bytes] | None = None

    def run(self, *command: str) -> None:
        subprocess.run(
            self._honcho("run", *command),
            cwd=services.ROOT,
            env=self.environ,
            stdout=self._log,
            stderr=self._log,
            check=True,
        )

    def start(self) -> None:
        self._processes = subprocess.Popen(
            self._honcho("start", "web", "worker"),
            cwd=services.ROOT,
            env=self.environ,
            stdout=self._log,
            stderr=self._log,
        )
        services.wait_until(self.is_ready, seconds=40, what="the deployment's start")

    def is_ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except requests.RequestException:
            return False

    def stop(self) -> None:
        if self._processes is not None:
            self._processes.send_signal(signal.SIGTERM)
            self._processes.wait(timeout=30)
            self._processes = None

    def close(self) -> None:
        self.stop()
        for proxy in self._proxies:
            proxy.terminate()
            proxy.wait(timeout=10)
        self._log.close()

    def get(self, path: str, **how: Any) -> requests.Response:
        return requests.get(f"{self.base_url}{path}", verify=self.authority, timeout=20, **how)

    def browser(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # else a REQUESTS_CA_BUNDLE of this machine's would win
        session.verify = self.authority
        session.headers["User-Agent"] = CHROME
        return session

    @property
    def authority(self) -> str:
        return str(self.directory / "authority.pem")

    def output(self) -> str:
        return (self.directory / "output").read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        lines = re.findall(r"\{\"time\".*\}$", self.output(), re.M)
        return [each for each in map(json.loads, lines) if "event" in each]

    def _honcho(self, *arguments: str) -> list[str]:
        # No .env of this checkout: the platform's environment alone.
        return [sys.executable, "-m", "honcho", "-e", os.devnull, "--no-colour", *arguments]

    def _run_nginx(self) -> subprocess.Popen[bytes]:
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if nginx is None:
            services.missing("No nginx: apt-get install nginx-light")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        certificate = authority.issue_cert("localhost", services.HOST)
        certificate.private_key_pem.write_to_path(str(self.directory / "key.pem"))
        chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
        (self.directory / "certificate.pem").write_bytes(chain)
        self._write("nginx.conf", NGINX, example("nginx", "server_name accounts.example.com;"))
        return subprocess.Popen(
            [str(nginx), "-c", self.directory / "nginx.conf", "-p", self.directory],
            stderr=subprocess.DEVNULL,
        )

    def _run_caddy(self) -> subprocess.Popen[bytes]:
        self._write(
            "Caddyfile", CADDY, example("caddy", "accounts.example.com {\n    reverse_proxy")
        )
        program = Path(sys.executable).with_name("caddy")
        return subprocess.Popen(
            [program, "run", "--config", self.directory / "Caddyfile", "--adapter", "caddyfile"],
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
            stderr=subprocess.DEVNULL,
        )

    def _write(self, name: str, around: str, block: str) -> None:
        """Put this machine's addresses and files where README has examples; nothing else is changed."""
        letsencrypt = "/etc/letsencrypt/live/accounts.example.com"
        here = {
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.tls_port} ssl;",
            f"{letsencrypt}/fullchain.pem": str(self.directory / "certificate.pem"),
            f"{letsencrypt}/privkey.pem": str(self.directory / "key.pem"),
            "accounts.example.com": "localhost",
        }
        for there, address in here.items():
            block = block.replace(there, address)
        (self.directory / name).write_text(around.format(block=block, **vars(self)))


def _procfile() -> dict[str, str]:
    lines = (services.ROOT / "Procfile").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


@pytest.fixture(scope="module")
def mailbox_of_the_deployment() -> Iterator[services.Mailbox]:
    with services.Mailbox() as box:
        yield box


@pytest.fixture(scope="module")
def deployment(
    postgresql_server_url: str, mailbox_of_the_deployment: services.Mailbox
) -> Iterator[Deployment]:
    directory = Path(tempfile.mkdtemp(prefix="authsite-deployment-"))
    with (
        services.valkey_server() as store,
        services.new_database(postgresql_server_url) as database_url,
    ):
        running = Deployment(directory, database_url, store, mailbox_of_the_deployment.port)
        try:
            running.run(*_procfile()["release"].split())
            running.start()
            yield running
        finally:
            running.close()
            shutil.rmtree(directory)


def csrf_token(page: requests.Response) -> str:
    return re.findall(r'name="csrf_token" value="([^"]+)"', page.text)[-1]


def fill_in(browser: requests.Session, url: str, **fields: str) -> requests.Response:
    page = browser.get(url, timeout=20)
    return browser.post(
        url, data={"csrf_token": csrf_token(page), **fields}, headers={"Referer": url}, timeout=20
    )


def test_the_whole_story_through_the_proxy(deployment, mailbox_of_the_deployment):
    """DP-06, DP-10, LG-01, LG-03, PG-12, TK-08: told once; the output holds each event and no secret."""
    base, api = deployment.base_url, f"{deployment.base_url}/api/v1"
    http, mailbox = deployment.browser(), mailbox_of_the_deployment

    # A page over http is sent to https, the API is refused: the secret is already out.
    plain = f"http://localhost:{deployment.plain_port}"
    moved = requests.get(f"{plain}/login", allow_redirects=False, timeout=20)
    assert (moved.status_code, moved.headers["Location"]) == (308, f"{base}/login")
    assert requests.get(f"{plain}/api/v1/auth/me", timeout=20).status_code == 403

    registered = fill_in(http, f"{base}/register", first_name="Ada", email=EMAIL, password=PASSWORD)
    assert registered.url == f"{base}/account/devices"
    assert "max-age=63072000" in registered.headers["Strict-Transport-Security"]
    cookie = next(each for each in http.cookies if each.name == "__Host-authsite")
    assert cookie.secure

    # A second device through the API; the list shows the proxy's peer, not what a client claims.
    script = deployment.browser()
    script.headers.update({"User-Agent": "curl/8.5.0", "X-Forwarded-For": "203.0.113.66"})
    credentials = {"email": EMAIL, "password": PASSWORD}
    wrong = script.post(f"{api}/auth/login", json=credentials | {"password": WRONG_PASSWORD})
    assert wrong.status_code == 401
    tokens = script.post(f"{api}/auth/login", json=credentials, timeout=20).json()
    script.headers["Authorization"] = f"Bearer {tokens['access_token']}"
    listed = script.get(f"{api}/sessions/me", timeout=20).json()["sessions"]
    assert {each["device_name"] for each in listed} == {"curl", "Chrome on Linux"}
    assert {each["ip_address"] for each in listed} == {"127.0.0.1"}
    services.wait_until(lambda: len(mailbox.messages) == 1)
    assert mailbox.subjects == ["New sign-in to Example: curl"]

    # Too many cookies of other applications are told in our own words. Behind Caddy all is the same.
    crowded = {"Cookie": f"other={'x' * 12_000}"}
    assert "too many cookies" in deployment.get("/login", headers=crowded).text
    _is_the_same_behind_caddy(deployment)

    # The secret is rotated under everybody's feet: nobody is signed out.
    refreshed = script.post(
        f"{api}/auth/refresh", json={"refresh_token": tokens["refresh_token"]}, timeout=20
    ).json()
    fill_in(http, f"{base}/forgot-password", email=EMAIL)
    services.wait_until(lambda: len(mailbox.messages) == 2)
    link = mailbox.link()
    deployment.stop()
    _is_told_to_be_away(deployment)
    deployment.environ |= {"SECRET_KEY": NEW_SECRET, "SECRET_KEY_FALLBACKS": OLD_SECRET}
    deployment.start()
    assert "Your devices" in http.get(f"{base}/account/devices", timeout=20).text
    assert script.get(f"{api}/auth/me", timeout=20).status_code == 200
    rotated = script.post(
        f"{api}/auth/refresh", json={"refresh_token": refreshed["refresh_token"]}, timeout=20
    )
    assert rotated.status_code == 200

    # The browser ends the script; its next request is refused. A copied token ends a session, too.
    page = http.get(f"{base}/account/devices", timeout=20)
    script_id = next(each["id"] for each in listed if each["device_name"] == "curl")
    revoke = f"{base}/account/devices/{script_id}/revoke"
    http.post(
        revoke, data={"csrf_token": csrf_token(page)}, headers={"Referer": page.url}, timeout=20
    )
    assert script.get(f"{api}/auth/me", timeout=20).status_code == 401
    stolen = script.post(f"{api}/auth/login", json=credentials, timeout=20).json()
    victim = {"refresh_token": stolen["refresh_token"]}
    for _ in range(2):
        newest = script.post(f"{api}/auth/refresh", json=victim, timeout=20).json()
        victim = {"refresh_token": newest["refresh_token"]}
    reused = script.post(
        f"{api}/auth/refresh", json={"refresh_token": stolen["refresh_token"]}, timeout=20
    )
    assert reused.status_code == 401

    # A write without its token, somebody else's session, a lock-out; then the link that was mailed before.
    assert http.post(f"{base}/logout", timeout=20).status_code == 400
    other = {"email": "grace@example.com", "password": PASSWORD, "first_name": "Grace"}
    assert script.post(f"{api}/auth/register", json=other, timeout=20).status_code == 201
    grace = script.post(f"{api}/auth/login", json=other, timeout=20).json()
    bearer = {"Authorization": f"Bearer {grace['access_token']}"}
    assert script.delete(f"{api}/sessions/{script_id}", headers=bearer).status_code == 403
    changed = script.patch(
        f"{api}/users/me/password",
        json={"current_password": PASSWORD, "new_password": NEW_PASSWORD},
        headers=bearer,
        timeout=20,
    )
    assert changed.status_code == 200
    assert script.post(f"{api}/auth/logout", headers=bearer, timeout=20).status_code == 200
    guess = credentials | {"password": WRONG_PASSWORD}
    guessed = Counter(
        from_address(f"127.0.0.{number}", deployment.authority)
        .post(f"{api}/auth/login", json=guess, timeout=20)
        .status_code
        for number in range(10, 22)
    )
    assert guessed[429] >= 2
    reset = fill_in(deployment.browser(), link, password=NEW_PASSWORD)
    assert reset.status_code == 200
    assert "Password changed. Sign in with your new password." in reset.text
    friend = from_address("127.0.0.30", deployment.authority)
    again = friend.post(
        f"{api}/auth/login", json={"email": EMAIL, "password": NEW_PASSWORD}, timeout=20
    ).json()
    bearer = {"Authorization": f"Bearer {again['access_token']}"}
    assert friend.post(f"{api}/auth/logout-all", headers=bearer, timeout=20).status_code == 200

    # Without the store of limits the service goes on; the operator is told. The clean-up runs beside it.
    deployment.store.stop()
    assert friend.get(f"{api}/auth/me", headers=bearer, timeout=20).status_code == 401
    assert deployment.browser().get(f"{base}/login", timeout=20).status_code == 200
    assert friend.post(f"{api}/auth/login", json=guess, timeout=20).status_code == 401
    deployment.run("flask", "--app", "wsgi", "cleanup-sessions")

    deployment.stop()
    _holds_each_event(deployment)
    _holds_no_secret(
        deployment,
        [tokens, refreshed, stolen, grace, again],
        [*(each.value or "" for each in http.cookies), link.split("token=")[1]],
    )


def _is_the_same_behind_caddy(deployment: Deployment) -> None:
    root = deployment.directory / "caddy/pki/authorities/local/root.crt"
    services.wait_until(root.exists, what="Caddy's certificate")
    base = f"https://localhost:{deployment.caddy_port}"
    joan = requests.Session()
    joan.trust_env, joan.verify = False, str(root)
    services.wait_until(lambda: services.listens(deployment.caddy_port), what="Caddy's port")
    page = joan.get(f"{base}/login", timeout=20)
    assert (page.status_code, "max-age" in page.headers["Strict-Transport-Security"]) == (200, True)
    plain = f"http://localhost:{deployment.caddy_plain_port}/login"
    assert requests.get(plain, allow_redirects=False, timeout=20).status_code == 308

    joan.headers["X-Forwarded-For"] = "203.0.113.66"
    person = {"email": "joan@example.com", "password": PASSWORD, "first_name": "Joan"}
    assert joan.post(f"{base}/api/v1/auth/register", json=person, timeout=20).status_code == 201
    tokens = joan.post(f"{base}/api/v1/auth/login", json=person, timeout=20).json()
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    listed = joan.get(f"{base}/api/v1/sessions/me", headers=bearer, timeout=20).json()
    assert [each["ip_address"] for each in listed["sessions"]] == ["127.0.0.1"]


def _is_told_to_be_away(deployment: Deployment) -> None:
    """DP-06: while nothing answers behind them, both proxies say so in words of README's."""
    root = str(deployment.directory / "caddy/pki/authorities/local/root.crt")
    behind_caddy = f"https://localhost:{deployment.caddy_port}"
    for base, authority in ((deployment.base_url, deployment.authority), (behind_caddy, root)):
        for path in ("/login", "/api/v1/auth/me"):
            away = requests.get(f"{base}{path}", verify=authority, timeout=20)
            assert (away.status_code, away.headers["Retry-After"]) == (503, "5")
            assert away.text == "This site is not available right now. Try again in a moment."


def from_address(address: str, authority: str) -> requests.Session:
    """Return a client at another address of loopback, which the proxy reports as it is."""

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, source_address=(address, 0), **options)

    session = requests.Session()
    session.trust_env = False
    session.verify = authority
    session.mount("https://", Adapter())
    return session


def _holds_each_event(deployment: Deployment) -> None:
    found = Counter((each["event"], each["outcome"]) for each in deployment.events())
    expected = {
        ("register", "success"),
        ("login", "success"),
        ("login", "failure"),
        ("refresh", "success"),
        ("refresh_reuse", "refused"),
        ("session_ended", "success"),
        ("sessions_ended", "success"),
        ("reset_request", "success"),
        ("reset_confirm", "success"),
        ("password_change", "success"),
        ("csrf", "refused"),
        ("forbidden", "refused"),
        ("lockout", "refused"),
        ("limiter_fallback", "error"),
        ("cleanup", "success"),
        ("mail", "success"),
        ("request", "success"),
    }
    assert expected <= set(found)
    assert found["refresh_reuse", "refused"] == 1
    for each in deployment.events():
        assert each["time"].endswith("+00:00")
        if each["event"] not in {"mail", "cleanup"}:
            assert each.keys() >= {"request_id", "ip", "user_agent", "outcome"}


def _holds_no_secret(deployment: Deployment, held: list[dict[str, Any]], others: list[str]) -> None:
    said = deployment.output()
    secrets = [PASSWORD, NEW_PASSWORD, WRONG_PASSWORD, OLD_SECRET, NEW_SECRET, EMAIL, *others]
    secrets += [each[name] for each in held for name in ("access_token", "refresh_token")]
    for secret in secrets:
        assert secret not in said, f"{secret[:24]}... stands in the output"
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("kind", "mark"),
    [("web", "ExecStart=/srv/authsite/.venv/bin/gunicorn"), ("worker", "wsgi worker")],
)
def test_the_units_are_good_and_run_what_the_procfile_runs(tmp_path, kind, mark):
    """DP-06: README's own, read by systemd; the story above runs the Procfile's commands."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        services.missing("No systemd-analyze: apt-get install systemd")
    text = example("ini", mark)
    assert f"ExecStart=/srv/authsite/.venv/bin/{_procfile()[kind]}\n" in text
    if kind == "web":
        assert "ExecStartPre=/srv/authsite/.venv/bin/flask --app wsgi check-config\n" in text
        assert f"ExecStartPre=/srv/authsite/.venv/bin/{_procfile()['release']}\n" in text

    # The programs have to be there; nothing else of this machine is looked at.
    unit = tmp_path / f"authsite-{kind}.service"
    unit.write_text(text.replace("/srv/authsite/.venv/bin", str(Path(sys.executable).parent)))
    read = subprocess.run(
        [str(analyze), "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (read.returncode, read.stdout, read.stderr) == (0, "", "")
    unit.write_text(unit.read_text().replace("KillMode=", "KilMode=").replace("User=", "Usr="))
    bad = subprocess.run(
        [str(analyze), "verify", unit], capture_output=True, text=True, check=False
    )
    assert "Unknown key" in bad.stderr, "it looks at what is written"
