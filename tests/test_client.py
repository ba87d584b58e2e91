"""The file that a product copies: whose word it takes, and what it does when there is none to be had."""

import base64
import json
import re
import runpy
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import flask
import jwt
import pytest
import requests
import time_machine
from standardwebhooks import Webhook

from authsite import client as product
from authsite.client import Accounts, Unavailable, WebhookInvalid, verify_webhook
from tests import services
from tests.api.conftest import EMAIL, V1, bearer, log_in, register, session_id
from tests.api.test_introspection import NAME, SECRET, entry

BASE, ORIGIN, KEY, OTHER = (
    "https://accounts.example.com",
    "https://wiki.example.com",
    "k" * 64,
    "o" * 64,
)


def assertion(key: str = KEY, algorithm: str = "HS256", **changed) -> str:
    now = int(time.time())
    claims = {
        "iss": BASE,
        "aud": ORIGIN,
        "sub": "u",
        "sid": "s",
        "email": EMAIL,
        "name": "Ada",
        "iat": now,
        "exp": now + 60,
    }
    return jwt.encode(claims | changed, key, algorithm=algorithm)


ACCOUNTS = Accounts(BASE, ORIGIN, KEY)


@pytest.mark.parametrize("name", ["Remote-Assertion", "remote-assertion", "REMOTE-ASSERTION"])
def test_a_signed_assertion_tells_who_it_is(name):
    assert ACCOUNTS.user({name: assertion()}) == ("u", EMAIL, "Ada", "s")


@pytest.mark.parametrize(
    "value",
    [
        assertion(OTHER),
        assertion(aud="https://shop.example.org"),
        assertion(iss="https://evil.example"),
        assertion(exp=int(time.time()) - 60),
        assertion(iat=int(time.time()) + 3600),
        assertion(algorithm="HS512"),
        assertion() + "=",
        assertion()[:-2],
        assertion().rpartition(".")[0] + ".",
        "x",
        "..",
        "é.é.é",
        "a.b.c",
        "x" * 10_000,
        jwt.encode({"sub": "u"}, "", algorithm="none"),
    ],
)
def test_no_other_word_is_taken(value):
    assert ACCOUNTS.user({"Remote-Assertion": value}) is None


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [("http://127.0.0.1:8000", ORIGIN), (BASE, "http://127.0.0.1:8001"), ("http://a.example", "x")],
)
def test_what_is_set_wrong_is_told_once_in_the_log(caplog, base_url, origin):
    """Else every sign-in ends in another 401, and nothing anywhere says why."""
    accounts, value = Accounts(base_url, origin, KEY), assertion(jti="secret")
    for _ in range(3):
        assert accounts.user({"Remote-Assertion": value}) is None
    [told] = caplog.records
    assert (told.name, told.levelname) == ("authsite.client", "WARNING")
    for each in (BASE, ORIGIN, base_url, origin):
        assert repr(each) in told.getMessage()
    for part in (*value.split("."), "secret", EMAIL, "Ada", KEY):
        assert part not in caplog.text

    accounts.user({"Remote-Assertion": assertion(aud="https://another.example")})
    assert len(caplog.records) == 2
    assert "another.example" in caplog.records[1].getMessage()
    for number in range(100):
        accounts.user({"Remote-Assertion": assertion(iss=f"https://{number}.example")})
    assert len(caplog.records) == product.MOST_MISMATCHES


@pytest.mark.parametrize(
    "value",
    [
        assertion(),
        assertion(OTHER, iss="https://evil.example"),
        assertion(exp=int(time.time()) - 60, iss="https://evil.example"),
        assertion(algorithm="HS512", iss="https://evil.example"),
        "x.y.z",
    ],
)
def test_only_a_good_signature_makes_a_line_in_the_log(caplog, value):
    """Else a stranger writes there what he likes."""
    ACCOUNTS.user({"Remote-Assertion": value})
    assert not caplog.records


def test_unsigned_headers_are_never_read():
    forged = {"Remote-User": "u", "Remote-Email": EMAIL, "Remote_User": "u", "Remote-Session": "s"}
    assert ACCOUNTS.user(forged) is None


def test_a_key_may_be_rotated():
    accounts = Accounts(BASE, ORIGIN, [OTHER, KEY])
    assert accounts.user({"Remote-Assertion": assertion()})
    assert accounts.user({"Remote-Assertion": assertion(OTHER)})


def test_an_assertion_is_good_for_its_minute():
    value = assertion()
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=80)):
        assert ACCOUNTS.user({"Remote-Assertion": value}) is None


@pytest.fixture(scope="module")
def real_service(_sqlite_template, tmp_path_factory):
    """The account service, and the client that introspects there."""
    path = tmp_path_factory.mktemp("client") / "authsite.db"
    path.write_bytes(_sqlite_template.read_bytes())
    environ = {
        "DATABASE_URL": f"sqlite:///{path}",
        "RATELIMIT_ENABLED": "0",
        "SERVICE_CLIENTS": ",".join([entry(NAME, SECRET), entry("wiki", SECRET)]),
    }
    with services.Site(environ, workers=1) as site:
        yield site


@pytest.mark.site
def test_a_bearer_token_is_asked_about_at_the_service(real_service):
    accounts = Accounts(real_service.url, ORIGIN, KEY, service=(NAME, SECRET))
    body = {"email": EMAIL, "password": "three random words", "first_name": "Ada"}
    requests.post(f"{real_service.url}{V1}/auth/register", json=body, timeout=10)
    held = requests.post(f"{real_service.url}{V1}/auth/login", json=body, timeout=10).json()
    headers = {"Authorization": f"Bearer {held['access_token']}"}
    user = accounts.user(headers)
    assert (user.session_id, user.email, user.name) == (session_id(held), None, None)
    assert accounts.user({"Authorization": "Bearer x"}) is None
    assert accounts.user({"Authorization": "Basic x"}) is None
    assert accounts.user({}) is None
    requests.post(f"{real_service.url}{V1}/auth/logout", headers=headers, timeout=10)
    assert accounts.user(headers) is None
    with pytest.raises(Unavailable):
        Accounts(real_service.url, ORIGIN, KEY, service=(NAME, "wrong")).user(headers)


@pytest.mark.site
@pytest.mark.parametrize("secret", [SECRET, None])
def test_readmes_product_takes_a_bearer_that_came_past_the_proxy(
    real_service, tmp_path, monkeypatch, secret
):
    """With the pair of `flask service-client`; without it nobody can say whose it is."""
    shutil.copyfile(product.__file__, tmp_path / "accounts_client.py")
    monkeypatch.syspath_prepend(tmp_path)
    for name, value in (
        ("ACCOUNTS_URL", real_service.url),
        ("PRODUCT_ORIGIN", ORIGIN),
        ("ACCOUNTS_KEY", KEY),
        *([("ACCOUNTS_SECRET", secret)] if secret else []),
    ):
        monkeypatch.setenv(name, value)
    readme = (services.ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    [example] = (each for each in blocks if "from accounts_client" in each)
    (tmp_path / "wiki.py").write_text(example)
    wiki = runpy.run_path(str(tmp_path / "wiki.py"))
    body = {"email": f"{secret}@example.com", "password": "three random words", "first_name": "A"}
    requests.post(f"{real_service.url}{V1}/auth/register", json=body, timeout=10)
    held = requests.post(f"{real_service.url}{V1}/auth/login", json=body, timeout=10).json()
    answer = wiki["app"].test_client().get("/page", headers=bearer(held))
    expected = (200, "None reads /page") if secret else (401, "Sign in first")
    assert (answer.status_code, answer.text) == expected


class Answering(BaseHTTPRequestHandler):
    """A service that answers as it is told; it counts."""

    status, body, asked = 200, b"{}", 0

    def do_POST(self):
        type(self).asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_args):
        """Say nothing."""


@pytest.fixture
def answering():
    kind = type("Answering", (Answering,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    kind.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield kind
    server.shutdown()
    server.server_close()


TOKEN = {"Authorization": "Bearer some-token"}


@pytest.mark.parametrize("status", [302, 307, 400, 401, 403, 429, 500, 503])
def test_a_service_that_cannot_say_is_unavailable_and_never_anonymous(answering, status):
    answering.status = status
    with pytest.raises(Unavailable):
        Accounts(answering.url, ORIGIN, KEY, service=("a", "b")).user(TOKEN)
    assert answering.asked == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null"])
def test_an_answer_that_is_none_is_unavailable(answering, body):
    answering.body = body
    with pytest.raises(Unavailable):
        Accounts(answering.url, ORIGIN, KEY, service=("a", "b")).user(TOKEN)


def test_a_service_that_is_down_is_unavailable():
    with pytest.raises(Unavailable):
        Accounts("http://127.0.0.1:1", ORIGIN, KEY, service=("a", "b")).user(TOKEN)


def test_only_who_is_active_is_remembered_and_only_where_asked_for(answering):
    answering.body = json.dumps(
        {"active": True, "sub": "u", "sid": "s", "exp": time.time() + 60}
    ).encode()
    plain = Accounts(answering.url, ORIGIN, KEY, service=("a", "b"))
    assert plain.user(TOKEN) == plain.user(TOKEN) == ("u", None, None, "s")
    assert answering.asked == 2
    cached = Accounts(answering.url, ORIGIN, KEY, service=("a", "b"), cache_seconds=5)
    assert cached.user(TOKEN) == cached.user(TOKEN)
    assert answering.asked == 3
    assert cached.user({"Authorization": "Bearer another"})
    assert answering.asked == 4
    answering.body = b'{"active": false}'
    fresh = Accounts(answering.url, ORIGIN, KEY, service=("a", "b"), cache_seconds=5)
    assert fresh.user(TOKEN) is None
    assert fresh.user(TOKEN) is None
    assert answering.asked == 6
    with pytest.raises(ValueError, match="cache_seconds"):
        Accounts(answering.url, ORIGIN, KEY, cache_seconds=60)


def test_a_flask_view_is_called_for_who_is_signed_in_only(answering):
    app = flask.Flask("wiki")
    accounts = Accounts(answering.url, ORIGIN, KEY, service=("a", "b"))
    accounts._base_url = BASE  # what assertions say; the address is asked below

    @app.get("/")
    @product.flask_login_required(accounts)
    def index():
        return f"Hello {flask.g.user.name}"

    client = app.test_client()
    answer = client.get("/", headers={"Remote-Assertion": assertion()})
    assert (answer.status_code, answer.text) == (200, "Hello Ada")
    assert client.get("/", headers={"Remote-User": "u"}).status_code == 401
    accounts._base_url, answering.status = answering.url, 500
    down = client.get("/", headers=TOKEN)
    assert (down.status_code, down.headers["Retry-After"]) == (503, "5")


@pytest.mark.site
def test_the_file_runs_where_nothing_is_installed(tmp_path):
    """One file, the standard library: copied, without the package and its libraries."""
    shutil.copyfile(product.__file__, tmp_path / "accounts_client.py")
    program = "import accounts_client as a; u = a.Accounts('b', 'o', 'k').user({}); print(u)"
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {program}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ran.stdout, ran.stderr) == ("None\n", "")


WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
NEXT_SECRET = "whsec_" + base64.b64encode(b"n" * 32).decode()


def signed(body: str, secret: str = WEBHOOK_SECRET, ago: timedelta = timedelta(0)):
    at = datetime.now(UTC) - ago
    return {
        "Webhook-Id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", at, body),
    }


def test_a_webhook_of_ours_is_read_whichever_secret_signed_it():
    body = '{"type": "session.ended"}'
    for secret in (WEBHOOK_SECRET, NEXT_SECRET):
        headers = signed(body, secret)
        found = verify_webhook(body.encode(), headers, [NEXT_SECRET, WEBHOOK_SECRET])
        assert found == {"type": "session.ended"}


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": ""},
        {"webhook-timestamp": "x"},
        {"webhook-timestamp": "9" * 30},
        {"Webhook-Id": "msg_2"},
    ],
)
def test_no_other_webhook_is_read(changed):
    with pytest.raises(WebhookInvalid):
        verify_webhook(b"{}", signed("{}") | changed, WEBHOOK_SECRET)


def test_an_old_webhook_and_one_of_other_words_are_refused():
    with pytest.raises(WebhookInvalid):
        verify_webhook(b"{}", signed("{}", ago=timedelta(minutes=6)), WEBHOOK_SECRET)
    with pytest.raises(WebhookInvalid):
        verify_webhook(b"{} ", signed("{}"), WEBHOOK_SECRET)
    with pytest.raises(WebhookInvalid):
        verify_webhook(b"{}", signed("{}"), NEXT_SECRET)


def test_what_the_service_tells_a_proxy_is_what_the_client_reads(make_app):
    """The two halves of one contract."""
    origin = "https://wiki.example.com"
    app = make_app(
        FORWARD_AUTH_ORIGINS=origin, TRUSTED_PROXY_HOPS="1", PUBLIC_BASE_URL="http://127.0.0.1:5000"
    )
    client = app.test_client()
    person = register(client)
    held = log_in(client)
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "wiki.example.com"}
    answer = client.get("/forward-auth", headers=forwarded | bearer(held))
    key = app.test_cli_runner().invoke(args=["forward-auth-key", origin]).output.strip()
    user = Accounts("http://127.0.0.1:5000", origin, key).user(answer.headers)
    assert user == (person["id"], EMAIL, "Ada", session_id(held))
