"""README's configurations and product as they stand there: real nginx and real Caddy before them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import requests

from authsite import client as product_client
from tests import services
from tests.api.conftest import EMAIL, V1
from tests.factories import PASSWORD

pytestmark = pytest.mark.site

README = (services.ROOT / "README.md").read_text()
PAGE = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
XHR = {"Accept": "application/json", "Sec-Fetch-Mode": "cors"}


class Setting(NamedTuple):
    """The account service and one product behind each proxy, by the proxy's name."""

    account: services.Site
    products: dict[str, str]
    product: subprocess.Popen

    def ask(self, proxy: str, path: str = "/", method: str = "GET", **headers: str):
        url = self.products[proxy] + path
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
    ports = {name: services.free_port() for name in ("nginx", "caddy", "product")}
    products = {name: f"http://127.0.0.1:{ports[name]}" for name in ("nginx", "caddy")}
    site = services.Site(
        {
            "DATABASE_URL": f"sqlite:///{path}",
            "RATELIMIT_ENABLED": "0",
            "FORWARD_AUTH_ORIGINS": ",".join(products.values()),
            "TRUSTED_PROXY_HOPS": "1",
        },
        workers=1,
    )
    # Another host than the products', whose ports alone cookies would not tell apart.
    site.environ["PUBLIC_BASE_URL"] = f"http://localhost:{site.port}"
    started: list[subprocess.Popen] = []
    try:
        with site:
            body = {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"}
            assert requests.post(f"{site.url}{V1}/auth/register", json=body, timeout=20).ok
            product = run_product(folder, ports["product"], site, products)
            started += [
                product,
                run_nginx(folder, ports["nginx"], ports["product"], site),
                run_caddy(folder, ports["caddy"], ports["product"], site),
            ]
            for port in ports.values():
                services.wait_until(lambda port=port: services.listens(port), what=f"port {port}")
            yield Setting(site, products, product)
    finally:
        for process in started:
            process.terminate()
            process.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def addressed(text: str, port: int, product_port: int, site: services.Site) -> str:
    """Put this machine's addresses where README has examples; nothing else is changed."""
    return (
        text.replace("127.0.0.1:8000", f"127.0.0.1:{site.port}")
        .replace("127.0.0.1:8001", f"127.0.0.1:{product_port}")
        .replace("accounts.example.com", f"localhost:{site.port}")
        .replace("http://wiki.example.com", f"http://127.0.0.1:{port}")
        .replace("listen 80;", f"listen 127.0.0.1:{port};")
        .replace("wiki.example.com", "127.0.0.1")
    )


def run_nginx(folder: Path, port: int, product_port: int, site: services.Site):
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        services.missing("No nginx: install nginx-light")
    block = addressed(
        example("nginx", "server {\n    listen 80;\n    server_name wiki"), port, product_port, site
    )
    config = folder / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {places}\n{block}\n}}\n"
    )
    return subprocess.Popen([program, "-c", str(config), "-e", f"{folder}/error.log"])


def run_caddy(folder: Path, port: int, product_port: int, site: services.Site):
    program = Path(sys.executable).with_name("caddy")
    block = addressed(example("caddy", "http://wiki"), port, product_port, site)
    config = folder / "Caddyfile"
    config.write_text("{\n admin off\n auto_https off\n persist_config off\n}\n" + block)
    return subprocess.Popen(
        [program, "run", "--config", str(config), "--adapter", "caddyfile"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        stderr=subprocess.DEVNULL,
    )


def run_product(folder: Path, port: int, site: services.Site, products: dict[str, str]):
    """README's product; it knows both origins, as one behind a proxy knows its own."""
    shutil.copyfile(product_client.__file__, folder / "accounts_client.py")
    source = example("python", "import os")
    (folder / "product.py").write_text(
        source + f"\nkeys = os.environ['KEYS'].split()\norigins = {list(products.values())!r}\n"
        "both = [Accounts(os.environ['ACCOUNTS_URL'], o, k) for o, k in zip(origins, keys)]\n"
        "accounts.user = lambda h: next(filter(None, (a.user(h) for a in both)), None)\n"
    )
    environ = {"PATH": os.environ["PATH"], **site.environ, "PYTHONPATH": str(folder)}
    keys = [
        subprocess.run(
            [sys.executable, "-m", "flask", "forward-auth-key", origin],
            cwd=services.ROOT,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for origin in products.values()
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "product", "run", "--port", str(port)],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "ACCOUNTS_URL": site.environ["PUBLIC_BASE_URL"],
            "PRODUCT_ORIGIN": products["nginx"],
            "ACCOUNTS_KEY": keys[0],
            "KEYS": " ".join(keys),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


BOTH = pytest.mark.parametrize("proxy", ["nginx", "caddy"])


def bearer(setting: Setting) -> dict[str, str]:
    body = {"email": EMAIL, "password": PASSWORD}
    held = requests.post(f"{setting.account.url}{V1}/auth/login", json=body, timeout=20).json()
    return {"Authorization": f"Bearer {held['access_token']}"}


@BOTH
def test_a_product_knows_who_is_signed_in_until_the_session_ends(setting, proxy):
    held = bearer(setting)
    answer = setting.ask(proxy, "/a/page", **XHR, **held)
    assert (answer.status_code, answer.text) == (200, f"{EMAIL} reads /a/page")
    posted = setting.ask(proxy, "/form", "POST", **XHR, **held)
    assert posted.text == f"{EMAIL} reads /form"
    requests.post(f"{setting.account.url}{V1}/auth/logout", headers=held, timeout=20)
    assert setting.ask(proxy, "/a/page", **XHR, **held).status_code == 401


@BOTH
def test_only_pages_are_led_to_sign_in(setting, proxy):
    page = setting.ask(proxy, "/deep?q=1&r=2", **PAGE)
    assert page.status_code == 302
    assert page.headers["Location"] == (
        f"{setting.products[proxy]}/.authsite/start?next=/deep%3Fq%3D1%26r%3D2"
    )
    for method, headers in (("GET", XHR), ("POST", PAGE), ("POST", XHR)):
        answer = setting.ask(proxy, "/deep", method, **headers)
        assert answer.status_code == 401, (method, headers)
        assert "Location" not in answer.headers


@BOTH
def test_forged_headers_reach_no_product(setting, proxy):
    forged = {
        "Remote-User": "x",
        "Remote_User": "x",
        "Remote-Email": "eve@example.com",
        "Remote-Assertion": "a.b.c",
        "Remote_Assertion": "a.b.c",
        "Remote-Session": "x",
    }
    assert setting.ask(proxy, "/", **XHR, **forged).status_code == 401
    answer = setting.ask(proxy, "/", **XHR, **forged, **bearer(setting))
    assert answer.text == f"{EMAIL} reads /"


@BOTH
def test_a_browser_signs_in_from_a_deep_link_and_lands_exactly_there(setting, proxy):
    product = setting.products[proxy]
    there, here = requests.Session(), requests.Session()
    begun = there.get(f"{product}/deep?q=a%20b", headers=PAGE, allow_redirects=False, timeout=20)
    started = there.get(begun.headers["Location"], allow_redirects=False, timeout=20)
    handoff = urlsplit(started.headers["Location"])
    assert handoff.netloc == f"localhost:{setting.account.port}"
    login = here.get(f"{setting.account.url}{handoff.path}?{handoff.query}", timeout=20)
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', login.text)
    assert token, login.text[:500]
    fields = {"email": EMAIL, "password": PASSWORD, "csrf_token": token[1]}
    signed_in = here.post(login.url, data=fields, allow_redirects=False, timeout=20)
    assert signed_in.status_code == 303, signed_in.text[:500]
    handed = here.get(
        setting.account.url + signed_in.headers["Location"], allow_redirects=False, timeout=20
    )
    back = there.get(handed.headers["Location"], allow_redirects=False, timeout=20)
    assert back.headers["Location"] == f"{product}/deep?q=a%20b"
    landed = there.get(back.headers["Location"], headers=PAGE, timeout=20)
    assert landed.text == f"{EMAIL} reads /deep"
    out = there.post(
        f"{product}/.authsite/sign-out",
        headers={"Origin": product},
        allow_redirects=False,
        timeout=20,
    )
    assert out.status_code == 303
    again = there.get(f"{product}/deep", headers=PAGE, allow_redirects=False, timeout=20)
    assert again.status_code == 302


@BOTH
def test_nothing_of_the_account_but_the_hand_off_is_on_a_products_host(setting, proxy):
    answer = setting.ask(proxy, "/.authsite/nothing", **PAGE)
    assert answer.status_code == 404
