"""README's configurations as they stand there, real nginx and real Caddy, before three small products.

Both proxies listen on the same port of different addresses, so that a product has one origin behind either.
Names below localhost are this machine's for browsers (RFC 6761); here they lead to the proxy of the test.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
import urllib3
from playwright.sync_api import expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from authsite import client as product_client
from tests import services
from tests.api.conftest import V1
from tests.factories import NEW_PASSWORD, PASSWORD

pytestmark = pytest.mark.site

README = (services.ROOT / "README.md").read_text()
PAGE = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
XHR = {"Accept": "application/json", "Sec-Fetch-Mode": "cors"}
AWAY = "This site is not available right now. Try again in a moment."
ADDRESSES = {"nginx": "127.0.0.1", "caddy": "127.0.0.2"}
EMAIL = "ada@example.com"

FROM_ENVIRONMENT = """
import os
from accounts_client import Accounts, DjangoMiddleware, starlette_user
ACCOUNT = {"base_url": os.environ["ACCOUNTS_URL"], "origin": os.environ["PRODUCT_ORIGIN"]}
ACCOUNT["key"] = os.environ["ACCOUNTS_KEY"]
"""
DJANGO = """
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import re_path

settings.configure(
    SECRET_KEY="not asked for", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, AUTHSITE=ACCOUNT,
    MIDDLEWARE=["accounts_client.DjangoMiddleware"],
)


def page(request, path):
    if request.authsite_user is None:
        return HttpResponse("Sign in first", status=401)
    return HttpResponse(f"{request.authsite_user.email} reads /{path}")


urlpatterns = [re_path("^(.*)$", page)]
app = get_wsgi_application()
"""
STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute

who = starlette_user(Accounts(**ACCOUNT))


async def page(request):
    user = await who(request)
    return PlainTextResponse(f"{user.email} reads {request.url.path}")


async def seen(request):
    return JSONResponse([[n.decode(), v.decode()] for n, v in request.headers.raw if b"remote" in n])


async def talk(websocket):
    user = await who(websocket)
    await websocket.accept()
    await websocket.send_text(f"{user.email} says {await websocket.receive_text()}")
    await websocket.close()


app = Starlette(routes=[
    Route("/seen", seen), WebSocketRoute("/talk", talk),
    Route("/{path:path}", page, methods=["GET", "POST"]),
])
"""


class Setting(NamedTuple):
    """The account service, and the origins of the products by name."""

    account: services.Site
    origins: dict[str, str]
    port: int
    mailbox: services.Mailbox

    @property
    def url(self) -> str:
        return self.account.environ["PUBLIC_BASE_URL"]

    def ask(self, product: str, path: str = "/", method: str = "GET", **headers: str):
        url = self.origins[product] + path
        return requests.request(method, url, headers=headers, allow_redirects=False, timeout=20)


def example(language: str, beginning: str) -> str:
    return next(
        each
        for each in re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)
        if each.lstrip().startswith(beginning)
    )


@pytest.fixture(scope="module")
def setting(_sqlite_template, tmp_path_factory) -> Iterator[Setting]:
    folder = Path(tempfile.mkdtemp(prefix="proxies"))
    folder.chmod(0o755)
    path = tmp_path_factory.mktemp("proxies") / "authsite.db"
    path.write_bytes(_sqlite_template.read_bytes())
    port = services.free_port()
    product_ports = {name: services.free_port() for name in ("wiki", "notes", "chat")}
    origins = {name: f"http://{name}.localhost:{port}" for name in product_ports}
    started: list[subprocess.Popen] = []
    with services.Mailbox() as mailbox:
        site = services.Site(
            {
                "DATABASE_URL": f"sqlite:///{path}",
                "RATELIMIT_ENABLED": "0",
                "FORWARD_AUTH_ORIGINS": ",".join(origins.values()),
                "TRUSTED_PROXY_HOPS": "1",
                "PRODUCT_URL": f"{origins['notes']}/home",
                "MAIL_SERVER": services.HOST,
                "MAIL_PORT": str(mailbox.port),
            },
            workers=1,
        )
        site.environ["PUBLIC_BASE_URL"] = f"http://accounts.localhost:{site.port}"
        try:
            with site:
                started += run_products(folder, product_ports, origins, site)
                started += [
                    run_nginx(folder, port, product_ports, site),
                    run_caddy(folder, port, product_ports, site),
                ]
                listening = [(port, address) for address in ADDRESSES.values()]
                listening += [(each, services.HOST) for each in product_ports.values()]
                for each in listening:
                    services.wait_until(lambda each=each: services.listens(*each), what=str(each))
                yield Setting(site, origins, port, mailbox)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(timeout=20)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["nginx", "caddy"])
def proxy(request, setting, monkeypatch) -> str:
    """The proxy to which the products' names lead."""
    lead_to(request.param, setting, monkeypatch)
    return request.param


def lead_to(proxy: str, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    connect_to = urllib3.util.connection.create_connection

    def create_connection(address, *arguments, **how):
        host, port = address
        ours = ADDRESSES[proxy] if port == setting.port else services.HOST
        return connect_to((ours if host.endswith(".localhost") else host, port), *arguments, **how)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", create_connection)


def addressed(text: str, name: str, port: int, product_port: int, site: services.Site) -> str:
    """Put this machine's addresses where README has examples, without TLS; nothing else is changed."""
    plain = re.sub(r"^ *ssl_certificate.*\n", "", text, flags=re.M)
    return (
        plain.replace("127.0.0.1:8000", f"127.0.0.1:{site.port}")
        .replace("127.0.0.1:8001", f"127.0.0.1:{product_port}")
        .replace("accounts.example.com", f"accounts.localhost:{site.port}")
        .replace("wiki.example.com {", f"http://{name}.localhost:{port} {{")
        .replace("listen 443 ssl;", f"listen {ADDRESSES['nginx']}:{port};")
        .replace("wiki.example.com", f"{name}.localhost")
    )


def run_nginx(folder: Path, port: int, product_ports: dict[str, int], site: services.Site):
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        services.missing("No nginx: install nginx-light")
    once, server = example("nginx", "map $http_upgrade").split("\n\n", 1)
    blocks = "\n".join(
        addressed(server, name, port, product_port, site)
        for name, product_port in product_ports.items()
    )
    config = folder / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {places}\n{once}\n{blocks}\n}}\n"
    )
    return subprocess.Popen([program, "-c", str(config), "-e", f"{folder}/error.log"])


def run_caddy(folder: Path, port: int, product_ports: dict[str, int], site: services.Site):
    program = Path(sys.executable).with_name("caddy")
    block = example("caddy", "wiki")
    blocks = "\n".join(
        addressed(block, name, port, product_port, site)
        for name, product_port in product_ports.items()
    )
    options = f"admin off\n auto_https off\n persist_config off\n default_bind {ADDRESSES['caddy']}"
    config = folder / "Caddyfile"
    config.write_text(f"{{\n {options}\n}}\n{blocks}")
    return subprocess.Popen(
        [program, "run", "--config", str(config), "--adapter", "caddyfile"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        stderr=subprocess.DEVNULL,
    )


def run_products(
    folder: Path, ports: dict[str, int], origins: dict[str, str], site: services.Site
) -> list[subprocess.Popen]:
    """README's product in Flask, and the like in Django and Starlette."""
    shutil.copyfile(product_client.__file__, folder / "accounts_client.py")
    (folder / "wiki.py").write_text(example("python", "import os\n\nfrom accounts_client"))
    (folder / "notes.py").write_text(FROM_ENVIRONMENT + DJANGO)
    (folder / "chat.py").write_text(FROM_ENVIRONMENT + STARLETTE)
    python = [sys.executable, "-m"]
    at = {name: f"{services.HOST}:{port}" for name, port in ports.items()}
    commands = {
        "wiki": [*python, "gunicorn", "--bind", at["wiki"], "wiki:app"],
        "notes": [*python, "gunicorn", "--bind", at["notes"], "notes:app"],
        "chat": [*python, "uvicorn", "--port", str(ports["chat"]), "chat:app"],
    }
    keys = {name: run_command(site, "forward-auth-key", origin) for name, origin in origins.items()}
    return [
        subprocess.Popen(
            command,
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "ACCOUNTS_URL": site.environ["PUBLIC_BASE_URL"],
                "PRODUCT_ORIGIN": origins[name],
                "ACCOUNTS_KEY": keys[name],
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, command in commands.items()
    ]


def run_command(site: services.Site, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=services.ROOT,
        env=site.environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


PRODUCTS = pytest.mark.parametrize("product", ["wiki", "notes", "chat"])


def api(setting: Setting, method: str, path: str, held=None, **body: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {held['access_token']}"} if held else {}
    answer = requests.request(
        method, f"{setting.account.url}{V1}{path}", json=body, headers=headers, timeout=20
    )
    assert answer.ok, answer.text
    return answer


def new_person(setting: Setting) -> str:
    email = f"person{os.urandom(4).hex()}@example.com"
    api(setting, "POST", "/auth/register", email=email, password=PASSWORD, first_name="Ada")
    return email


def log_in(setting: Setting, email: str) -> dict[str, str]:
    return api(setting, "POST", "/auth/login", email=email, password=PASSWORD).json()


@pytest.fixture
def bearer(setting, proxy) -> dict[str, str]:
    held = log_in(setting, new_person(setting))
    return {"Authorization": f"Bearer {held['access_token']}"}


def signed_in(
    setting: Setting, email: str, begin_at: str
) -> tuple[requests.Session, requests.Response]:
    """Return a browser that began at an address and signed in on its way, and where it arrived."""
    browser = requests.Session()
    login = browser.get(begin_at, headers=PAGE, timeout=20)
    assert urlsplit(login.url)[1:3] == (urlsplit(setting.url).netloc, "/login")
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', login.text)
    assert token, login.text[:500]
    fields = {"email": email, "password": PASSWORD, "csrf_token": token[1]}
    return browser, browser.post(login.url, data=fields, headers=PAGE, timeout=20)


@PRODUCTS
def test_a_browser_signs_in_from_a_deep_link_and_lands_exactly_there(setting, proxy, product):
    email = new_person(setting)
    link = f"{setting.origins[product]}/deep?q=a%20b&r=%2Fx"
    browser, landed = signed_in(setting, email, link)

    assert (landed.url, landed.text) == (link, f"{email} reads /deep")
    posted = browser.post(f"{setting.origins[product]}/form", headers=XHR, timeout=20)
    assert posted.text == f"{email} reads /form"
    out = browser.post(
        f"{setting.origins[product]}/.authsite/sign-out",
        headers={"Origin": setting.origins[product]},
        allow_redirects=False,
        timeout=20,
    )
    assert out.status_code == 303
    again = browser.get(link, headers=PAGE, allow_redirects=False, timeout=20)
    assert again.status_code == 302


def by_page(setting: Setting, email: str, session_id: str) -> None:
    other, _ = signed_in(setting, email, f"{setting.url}/account/devices")
    page = other.get(f"{setting.url}/account/devices", timeout=20).text
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    path = f"/account/devices/{session_id}/revoke"
    assert path in page
    ended = other.post(setting.url + path, data={"csrf_token": token[1]}, timeout=20)
    assert ended.ok


def by_api(setting: Setting, email: str, session_id: str) -> None:
    api(setting, "DELETE", f"/sessions/{session_id}", log_in(setting, email))


def by_command(setting: Setting, email: str, session_id: str) -> None:
    run_command(setting.account, "revoke-session", session_id)


def by_reset(setting: Setting, email: str, session_id: str) -> None:
    api(setting, "POST", "/auth/password-reset/request", email=email)
    mails = setting.mailbox.recipients
    services.wait_until(
        lambda: mails and mails[-1] == [email] and "eset" in setting.mailbox.subjects[-1]
    )
    token = setting.mailbox.token(f"{setting.url}/reset-password")
    api(setting, "POST", "/auth/password-reset/confirm", token=token, new_password=NEW_PASSWORD)


@pytest.mark.parametrize("end", [by_page, by_api, by_command, by_reset])
def test_a_device_that_was_ended_is_out_of_every_product_at_its_next_request(
    setting, monkeypatch, end
):
    """Behind both proxies, whichever way it ended."""
    lead_to("nginx", setting, monkeypatch)
    email = new_person(setting)
    links = [f"{origin}/page" for origin in setting.origins.values()]
    browser, _ = signed_in(setting, email, links[0])
    for link in links:  # the account's cookie is enough for the others
        assert browser.get(link, headers=PAGE, timeout=20).text == f"{email} reads /page"
    [session] = api(setting, "GET", "/sessions/me", log_in(setting, email)).json()["sessions"][1:]
    asked = [(proxy, link) for proxy in ADDRESSES for link in links]

    def statuses() -> list[int]:
        found = []
        for proxy, link in asked:
            with monkeypatch.context() as patch:
                lead_to(proxy, setting, patch)
                with requests.Session() as fresh:
                    fresh.cookies.update(browser.cookies)
                    found.append(fresh.get(link, headers=XHR, timeout=20).status_code)
        return found

    assert statuses() == [200] * 6
    end(setting, email, session["id"])
    assert statuses() == [401] * 6


@PRODUCTS
def test_only_pages_are_led_to_sign_in(setting, proxy, product):
    page = setting.ask(product, "/deep?q=1&r=2", **PAGE)
    assert page.status_code == 302
    assert page.headers["Location"] == (
        f"{setting.origins[product]}/.authsite/start?next=/deep%3Fq%3D1%26r%3D2"
    )
    for method, headers in (("GET", XHR), ("POST", PAGE), ("POST", XHR)):
        answer = setting.ask(product, "/deep", method, **headers)
        assert answer.status_code == 401, (method, headers)
        assert "Location" not in answer.headers


def test_forged_headers_reach_no_product(setting, proxy, bearer):
    """What a client says of itself is gone, in every spelling: the account service's word is there."""
    names = ("User", "Email", "Session", "Assertion")
    forged = {f"Remote-{name}": "forged" for name in names}
    forged |= {f"Remote_{name}": "forged" for name in names} | {"REMOTE-USER": "forged"}
    for product in setting.origins:
        assert setting.ask(product, "/", **XHR, **forged).status_code == 401
        answer = setting.ask(product, "/", **XHR, **forged, **bearer)
        assert re.fullmatch("person.*@example.com reads /", answer.text)
    seen = setting.ask("chat", "/seen", **XHR, **forged, **bearer).json()
    assert sorted(name for name, _ in seen) == sorted(f"remote-{name.lower()}" for name in names)
    assert "forged" not in [value for _, value in seen]


def test_a_web_socket_is_let_in_and_refused(setting, proxy, bearer):
    """Caddy asks with the upgrade still on the request, nginx without."""
    for headers in (bearer, {}, {"Authorization": "Bearer x", "Remote-User": "forged"}):
        raw = socket.create_connection((ADDRESSES[proxy], setting.port), timeout=20)
        how = {"sock": raw, "additional_headers": headers, "proxy": None}
        url = setting.origins["chat"].replace("http", "ws") + "/talk"
        if headers is bearer:
            with connect(url, **how) as channel:
                channel.send("hello")
                assert re.fullmatch("person.*@example.com says hello", channel.recv(timeout=20))
        else:
            with pytest.raises(InvalidStatus) as refused, connect(url, **how):
                pass
            assert refused.value.response.status_code == 401


def test_nobody_is_let_in_while_the_account_service_is_away(setting, monkeypatch):
    """Neither as somebody nor as nobody, and both are told; who was signed in goes on when it is back."""
    token = log_in(setting, new_person(setting))["access_token"]
    held = {"Authorization": f"Bearer {token}"}
    setting.account.stop()
    try:
        for proxy in ADDRESSES:
            with monkeypatch.context() as patch:
                lead_to(proxy, setting, patch)
                for product in setting.origins:
                    for how in (held | XHR, XHR, PAGE):
                        for path in ("/page", "/.authsite/start"):
                            answer = setting.ask(product, path, **how)
                            assert (answer.status_code, answer.text) == (503, AWAY), proxy
                            assert answer.headers["Content-Type"].startswith("text/plain")
    finally:
        setting.account.start()
    lead_to("nginx", setting, monkeypatch)
    assert setting.ask("wiki", "/page", **XHR, **held).status_code == 200


def test_nothing_of_the_account_but_the_hand_off_is_on_a_products_host(setting, proxy):
    assert setting.ask("wiki", "/.authsite/nothing", **PAGE).status_code == 404


@pytest.mark.browser
@pytest.mark.parametrize(("begin_at", "lands_at"), [("wiki", "/deep?q=a%20b"), (None, "/home")])
def test_chromium_lets_the_sign_in_form_lead_to_a_product(setting, chromium, begin_at, lands_at):
    """PG-09: `form-action` governs the redirects after the form too: by a hand-off, and to PRODUCT_URL."""
    origin = setting.origins[begin_at or "notes"]
    email, said = new_person(setting), []
    context = chromium.new_context()
    context.set_default_timeout(15_000)
    context.on("console", lambda message: said.append(message.text))
    try:
        page = context.new_page()
        page.goto(origin + lands_at if begin_at else f"{setting.url}/login")
        page.get_by_label("Email address").fill(email)
        page.get_by_role("textbox", name="Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(origin + lands_at)
        expect(page.locator("body")).to_have_text(f"{email} reads {lands_at.partition('?')[0]}")
    finally:
        context.close()
    assert [text for text in said if "Content Security Policy" in text] == []
