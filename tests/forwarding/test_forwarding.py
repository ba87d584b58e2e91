"""Forward auth, as a proxy and a browser see it: who is let in, and every way in which nobody is."""

import hashlib
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import time_machine

from authsite import accounts, clock, create_app, passwords, products, sessions
from authsite.config import ConfigError
from tests import factories, services
from tests.api.conftest import V1, log_in, session_id
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.pages.conftest import EMAIL, Browser, flash, words

WIKI, SHOP, ACCOUNT = (
    "https://wiki.example.com",
    "https://shop.example.org",
    "http://localhost:5000",
)
ORIGINS = f"{WIKI},{SHOP}"
PAGE = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
XHR = {"Sec-Fetch-Mode": "cors", "Accept": "application/json"}
REMOTE = ("Remote-User", "Remote-Email", "Remote-Session", "Remote-Assertion")


@pytest.fixture
def app(make_app):
    return make_app(FORWARD_AUTH_ORIGINS=ORIGINS, TRUSTED_PROXY_HOPS="1", PUBLIC_BASE_URL=ACCOUNT)


@pytest.fixture
def ada(app) -> Browser:
    browser = Browser(app)
    browser.register()
    return browser


class Visitor:
    """A browser before products: the account's cookies in one client, each product's in its own."""

    def __init__(self, account: Browser) -> None:
        self.account = account
        self.app = account.client.application
        self.products = {origin: self.app.test_client() for origin in (WIKI, SHOP)}

    def on(self, origin: str, path: str, method: str = "GET", **how):
        return self.products[origin].open(
            path, method=method, base_url=origin, environ_overrides=secure(origin), **how
        )

    def enter(self, origin: str, next_path: str = "/") -> str:
        """Go from a product's start to its callback, and return where that leads."""
        started = self.on(origin, "/.authsite/start", query_string={"next": next_path})
        assert started.status_code == 302, started.text
        code = self.hand_off(started.location)
        back = self.on(origin, "/.authsite/callback", query_string={"code": code})
        assert back.status_code == 303, back.text
        return back.location

    def hand_off(self, location: str) -> str:
        answer = self.account.client.get(location.removeprefix(ACCOUNT))
        assert answer.status_code == 303, (answer.status_code, answer.location)
        return parse_qs(urlsplit(answer.location).query)["code"][0]

    def cookie(self, origin: str, name: str = "authsite-app"):
        return self.products[origin].get_cookie(name, domain=urlsplit(origin).hostname)

    def asks(self, origin: str, path: str = "/", *, at: str = "/forward-auth", **headers):
        """Ask as the product's proxy does, with the browser's cookie of that origin."""
        cookie = self.cookie(origin)
        sent = {"Cookie": f"authsite-app={cookie.value}"} if cookie else {}
        return ask(self.app, origin, path, at=at, **sent, **headers)

    def is_let_in(self, origin: str) -> bool:
        return self.asks(origin, **XHR).status_code == 200


def secure(origin: str) -> dict[str, str]:
    return {"wsgi.url_scheme": urlsplit(origin).scheme}


def ask(app, origin, path="/", *, at="/forward-auth", method="GET", **headers):
    scheme, _, host = origin.partition("://")
    forwarded = {
        "X-Forwarded-Proto": scheme,
        "X-Forwarded-Host": host,
        "X-Forwarded-Uri": path,
        "X-Forwarded-For": "203.0.113.7",
    }
    # A client with a jar of its own would send that instead of the header.
    client = app.test_client(use_cookies=False)
    return client.open(at, method=method, headers=forwarded | headers, base_url=ACCOUNT)


@pytest.fixture
def visitor(ada) -> Visitor:
    return Visitor(ada)


# let in


@pytest.mark.parametrize("at", ["/forward-auth", "/auth-request"])
def test_who_is_signed_in_is_told_in_every_header(app, visitor, at):
    assert visitor.enter(WIKI, "/deep/page?q=a%20b&c") == f"{WIKI}/deep/page?q=a%20b&c"
    answer = visitor.asks(WIKI, at=at)
    assert (answer.status_code, answer.data) == (200, b"")
    with app.app_context():
        account = accounts.find_by_email(EMAIL)
        key = products.assertion_key(WIKI)
    assert answer.headers["Remote-User"] == str(account.id)
    assert answer.headers["Remote-Email"] == EMAIL
    assert answer.headers["Remote-Session"] == str(visitor.account.session_id())
    said = jwt.decode(answer.headers["Remote-Assertion"], key, ["HS256"], audience=WIKI)
    assert (said["iss"], said["sub"], said["sid"]) == (
        ACCOUNT,
        str(account.id),
        str(visitor.account.session_id()),
    )
    assert (said["email"], said["name"]) == (EMAIL, "Ada")
    assert said["exp"] - said["iat"] == 60
    assert all(answer.headers[name].isascii() for name in REMOTE)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Vary"] == "Cookie, Authorization"
    assert "Set-Cookie" not in answer.headers


def test_each_product_has_a_key_of_its_own(app, visitor):
    visitor.enter(WIKI)
    assertion = visitor.asks(WIKI).headers["Remote-Assertion"]
    with app.app_context():
        other = products.assertion_key(SHOP)
        assert other != products.assertion_key(WIKI)
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(assertion, other, ["HS256"], audience=WIKI)


def test_a_bearer_token_is_a_credential_for_every_product(app, ada):
    held = log_in(app.test_client())
    answer = ask(app, SHOP, Authorization=f"Bearer {held['access_token']}", **XHR)
    assert (answer.status_code, answer.headers["Remote-Session"]) == (200, session_id(held))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_any_method_is_answered_without_a_csrf_token(app, visitor, method):
    visitor.enter(WIKI)
    cookie = {"Cookie": f"authsite-app={visitor.cookie(WIKI).value}"}
    for at in ("/forward-auth", "/auth-request"):
        assert ask(app, WIKI, at=at, method=method, **cookie, **XHR).status_code == 200


def test_a_websocket_counts_as_its_page(visitor):
    visitor.enter(WIKI)
    upgrade = {"X-Forwarded-Proto": "wss", "Connection": "Upgrade", "Upgrade": "websocket"}
    for at in ("/forward-auth", "/auth-request"):
        assert visitor.asks(WIKI, at=at, **XHR, **upgrade).status_code == 200
    visitor.account.sign_out()
    assert visitor.asks(WIKI, **XHR, **upgrade).status_code == 401


def test_an_answer_is_one_read_no_limit_and_no_line(app, visitor, sent_statements, caplog):
    visitor.enter(WIKI)
    caplog.clear()
    with sent_statements() as sent:
        for _ in range(70):
            assert visitor.is_let_in(WIKI)
    assert len(sent) == 70
    assert all(each.startswith("SELECT") for each in sent)
    assert caplog.records == []


def test_use_is_noted_once_a_minute(app, visitor, sent_statements):
    visitor.enter(WIKI)
    with (
        time_machine.travel(clock.now() + timedelta(minutes=2), tick=False),
        sent_statements() as sent,
    ):
        assert visitor.is_let_in(WIKI)
        assert visitor.is_let_in(WIKI)
    assert [each.split()[0] for each in sent] == ["SELECT", "UPDATE", "SELECT"]


# shut out at the next request


def by_page(visitor):
    visitor.account.sign_out()


def by_command(visitor):
    with visitor.app.app_context():
        sessions.end_all(accounts.find_by_email(EMAIL).id, reason="revoked")


def by_api(visitor):
    client = visitor.app.test_client()
    held = log_in(client)
    answer = client.delete(
        f"{V1}/sessions/{visitor.account.session_id()}",
        headers={"Authorization": f"Bearer {held['access_token']}"},
    )
    assert answer.status_code == 200


def by_reset(visitor):
    with visitor.app.app_context():
        passwords.set_by_operator(EMAIL, NEW_PASSWORD)


def by_deactivation(visitor):
    with visitor.app.app_context():
        accounts.deactivate(EMAIL)


def by_change_of_password(visitor):
    visitor.account.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)


@pytest.mark.parametrize(
    "end", [by_page, by_command, by_api, by_reset, by_deactivation, by_change_of_password]
)
def test_a_device_that_is_signed_out_is_out_of_every_product_at_its_next_request(visitor, end):
    """SE-02"""
    for origin in (WIKI, SHOP):
        visitor.enter(origin)
        assert visitor.is_let_in(origin)
    end(visitor)
    for origin in (WIKI, SHOP):
        assert not visitor.is_let_in(origin)
        answer = visitor.asks(origin, "/a?b=c", **PAGE)
        assert answer.location == f"{origin}/.authsite/start?next=/a%3Fb%3Dc"


def test_after_a_change_of_password_a_silent_hand_off_lets_in_again(visitor):
    visitor.enter(WIKI)
    by_change_of_password(visitor)
    assert visitor.enter(WIKI, "/x") == f"{WIKI}/x"
    assert visitor.is_let_in(WIKI)


def test_signing_out_on_a_product_signs_out_of_all(visitor, app):
    for origin in (WIKI, SHOP):
        visitor.enter(origin)
    answer = visitor.on(WIKI, "/.authsite/sign-out", "POST", headers={"Origin": WIKI})
    assert answer.status_code == 303
    assert not visitor.is_let_in(SHOP)
    login = visitor.account.get(answer.location.removeprefix(ACCOUNT))
    assert flash(login) == "You have signed out."
    assert not visitor.account.is_signed_in()


def test_a_product_that_has_signed_nobody_out_does_not_say_so(visitor):
    visitor.enter(WIKI)
    other = Browser(visitor.app)
    other.sign_in()
    gone = f"/account/devices/{visitor.account.session_id()}/revoke"
    assert other.post(gone, page="/account").status_code == 303
    answer = visitor.on(WIKI, "/.authsite/sign-out", "POST", headers={"Origin": WIKI})
    login = visitor.account.get(answer.location.removeprefix(ACCOUNT))
    assert flash(login) == "This device was signed out. Sign in again to continue."


@pytest.mark.parametrize("origin", [None, SHOP, "null", "https://evil.example", ACCOUNT])
def test_no_other_page_signs_anybody_out(visitor, origin):
    visitor.enter(WIKI)
    headers = {} if origin is None else {"Origin": origin}
    answer = visitor.on(WIKI, "/.authsite/sign-out", "POST", headers=headers)
    assert answer.status_code == 403
    assert visitor.is_let_in(WIKI)


# nobody


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_navigation_is_led_to_sign_in(app, ada, method):
    answer = ask(app, WIKI, "/a?b=c&d", **PAGE, **{"X-Forwarded-Method": method})
    assert (answer.status_code, answer.data) == (302, b"")
    assert answer.location == f"{WIKI}/.authsite/start?next=/a%3Fb%3Dc%26d"
    without_metadata = ask(app, WIKI, "/", Accept="text/html,*/*")
    assert without_metadata.status_code == 302


@pytest.mark.parametrize(
    "headers",
    [
        XHR,
        {**PAGE, "X-Forwarded-Method": "POST"},
        {"Accept": "*/*"},
        {"Accept": "text/html", "Sec-Fetch-Mode": "cors"},
        {"Accept": "text/html", "Sec-Fetch-Mode": "websocket"},
    ],
    ids=str,
)
def test_what_is_no_navigation_gets_401_without_a_redirect(app, ada, headers):
    answer = ask(app, WIKI, "/", **headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "Location" not in answer.headers
    assert not set(REMOTE) & set(answer.headers.keys())


def test_nginx_is_never_redirected_and_gets_the_address_in_a_header(app, ada):
    answer = ask(app, WIKI, "/a?b=c", at="/auth-request", **PAGE)
    assert answer.status_code == 401
    assert answer.headers["X-Authsite-Login"] == f"{WIKI}/.authsite/start?next=/a%3Fb%3Dc"
    original = app.test_client().get(
        "/auth-request", headers={"X-Original-URL": f"{WIKI}/a?b=c", "X-Forwarded-For": "1.1.1.1"}
    )
    assert original.headers["X-Authsite-Login"] == f"{WIKI}/.authsite/start?next=/a%3Fb%3Dc"


def test_a_clients_own_original_url_means_nothing_to_forward_auth(app, ada):
    """Caddy passes it on."""
    headers = {"X-Original-URL": f"{WIKI}/", "X-Forwarded-For": "1.1.1.1"}
    assert app.test_client().get("/forward-auth", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://wiki.example.com",
        "https://wiki.example.com:8443",
        "https://wiki.example.com.evil.example",
        "https://evil.example,wiki.example.com",
        "https://wiki.example.com,evil.example",
        "https://wiki.example.com/",
        "https://a@wiki.example.com",
        "https://",
        "javascript://wiki.example.com",
    ],
)
@pytest.mark.parametrize("at", ["/forward-auth", "/auth-request"])
def test_an_origin_that_is_not_listed_is_refused_whoever_asks(app, visitor, origin, at):
    visitor.enter(WIKI)
    cookie = {"Cookie": f"authsite-app={visitor.cookie(WIKI).value}"}
    answer = ask(app, origin, at=at, **cookie, **PAGE)
    assert answer.status_code == 403
    assert not set(REMOTE) & set(answer.headers.keys())


def test_a_products_cookie_opens_no_other_product_and_nothing_of_the_account(app, visitor):
    visitor.enter(WIKI)
    value = visitor.cookie(WIKI).value
    for at in ("/forward-auth", "/auth-request"):
        answer = ask(app, SHOP, at=at, Cookie=f"authsite-app={value}", **XHR)
        assert answer.status_code == 401
    client = app.test_client()
    for name in ("authsite-app", "authsite"):
        client.set_cookie(name, value)
    assert client.get("/account/devices").status_code == 302
    bearer = {"Authorization": f"Bearer {value}"}
    assert client.get(f"{V1}/auth/me", headers=bearer).status_code == 401


def test_the_accounts_cookie_opens_no_product(app, visitor):
    """Only under the account's own origin, and only where that is listed."""
    value = visitor.account.cookie().value
    for name in ("authsite", "authsite-app"):
        assert ask(app, WIKI, Cookie=f"{name}={value}", **XHR).status_code == 401


def test_a_product_under_the_accounts_own_origin_goes_by_the_accounts_cookie(make_app):
    app = make_app(FORWARD_AUTH_ORIGINS=ACCOUNT, TRUSTED_PROXY_HOPS="1", PUBLIC_BASE_URL=ACCOUNT)
    browser = Browser(app)
    browser.register()
    cookie = {"Cookie": f"authsite={browser.cookie().value}"}
    answer = ask(app, ACCOUNT, **cookie, **XHR)
    assert (answer.status_code, answer.headers["Remote-Email"]) == (200, EMAIL)
    assert browser.get("/account/devices").status_code == 200
    browser.sign_out()
    assert ask(app, ACCOUNT, **cookie, **XHR).status_code == 401


JUNK = ["x", "a.b.c", "." * 5000, "é", "%00", '"', "eyJ", "0" * 300]


@pytest.mark.parametrize("value", JUNK)
def test_junk_for_a_cookie_is_refused_before_any_statement(app, ada, sent_statements, value):
    with sent_statements() as sent:
        answer = ask(app, WIKI, Cookie=f"authsite-app={value}", **XHR)
    assert (answer.status_code, sent) == (401, [])


@pytest.mark.parametrize("token", JUNK)
def test_a_bad_bearer_token_is_told_from_none(app, visitor, token):
    visitor.enter(WIKI)
    cookie = {"Cookie": f"authsite-app={visitor.cookie(WIKI).value}"}
    answer = ask(app, WIKI, Authorization=f"Bearer {token}", **cookie, **XHR)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_bad_credentials_are_counted_and_good_ones_never(app, visitor):
    visitor.enter(WIKI)
    for _ in range(60):
        assert ask(app, WIKI, Authorization="Bearer x", **XHR).status_code == 401
    assert ask(app, WIKI, Authorization="Bearer x", **XHR).status_code == 429
    # nginx makes an error of 429.
    assert ask(app, WIKI, at="/auth-request", Authorization="Bearer x").status_code == 401
    assert visitor.is_let_in(WIKI)
    assert ask(app, WIKI, **XHR).status_code == 401


# the hand-off


def test_who_is_not_signed_in_signs_in_first_and_lands_where_they_wanted(app, visitor):
    visitor.account.sign_out()
    started = visitor.on(WIKI, "/.authsite/start", query_string={"next": "/deep?q=1"})
    to_login = visitor.account.client.get(started.location.removeprefix(ACCOUNT))
    assert to_login.status_code == 302
    assert to_login.location.startswith("/login?next=")
    token = visitor.account.csrf_token(to_login.location)
    fields = {"email": EMAIL, "password": PASSWORD, "csrf_token": token}
    signed_in = visitor.account.client.post(to_login.location, data=fields)
    assert signed_in.status_code == 303
    code = visitor.hand_off(signed_in.location)
    back = visitor.on(WIKI, "/.authsite/callback", query_string={"code": code})
    assert back.location == f"{WIKI}/deep?q=1"
    assert visitor.is_let_in(WIKI)


@pytest.mark.parametrize("remember", ["", "y"])
def test_a_products_cookie_lasts_as_the_accounts_does(app, ada, remember):
    ada.sign_out()
    fields = {"remember": remember} if remember else {}
    ada.sign_in(**fields)
    visitor = Visitor(ada)
    visitor.enter(WIKI)
    cookie = visitor.cookie(WIKI)
    assert (cookie.max_age is not None) == bool(remember)
    assert cookie.http_only
    assert cookie.same_site == "Lax"
    assert cookie.path == "/"
    assert visitor.cookie(WIKI, "authsite-nonce") is None


def test_in_production_the_cookies_are_of_that_host_alone(app, ada):
    app.config["SESSION_COOKIE_SECURE"] = True
    client = app.test_client()
    answer = client.get("/.authsite/start", base_url=WIKI, environ_overrides=secure(WIKI))
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-authsite-nonce=")
    for attribute in ("Secure", "HttpOnly", "Path=/", "SameSite=Lax"):
        assert attribute in cookie
    assert "Domain" not in cookie


def test_tabs_that_start_together_all_arrive(visitor):
    started = [visitor.on(WIKI, "/.authsite/start", query_string={"next": f"/{n}"}) for n in "ab"]
    codes = [visitor.hand_off(each.location) for each in started]
    landed = [
        visitor.on(WIKI, "/.authsite/callback", query_string={"code": code}).location
        for code in codes
    ]
    # The first drops the nonce; the second has the cookie by then, and is led on.
    assert landed == [f"{WIKI}/a", f"{WIKI}/"]


def test_a_stolen_code_is_worthless_in_another_browser(visitor, app):
    started = visitor.on(WIKI, "/.authsite/start")
    code = visitor.hand_off(started.location)
    thief = app.test_client()
    for nonce in (None, "x" * 43):
        if nonce:
            thief.set_cookie("authsite-nonce", nonce, domain="wiki.example.com")
        answer = thief.get(
            "/.authsite/callback",
            query_string={"code": code},
            base_url=WIKI,
            environ_overrides=secure(WIKI),
        )
        assert answer.status_code == 400
        assert thief.get_cookie("authsite-app", domain="wiki.example.com") is None


def test_a_code_is_of_one_origin_and_for_a_minute(visitor):
    started = visitor.on(WIKI, "/.authsite/start")
    code = visitor.hand_off(started.location)
    nonce = visitor.cookie(WIKI, "authsite-nonce").value
    visitor.products[SHOP].set_cookie("authsite-nonce", nonce, domain="shop.example.org")
    assert visitor.on(SHOP, "/.authsite/callback", query_string={"code": code}).status_code == 400
    with time_machine.travel(clock.now() + timedelta(seconds=62)):
        late = visitor.on(WIKI, "/.authsite/callback", query_string={"code": code})
    assert late.status_code == 400
    assert visitor.cookie(WIKI) is None


def test_a_refused_callback_loads_nothing_leads_back_by_hand_and_tells_no_referrer(visitor):
    answer = visitor.on(WIKI, "/.authsite/callback", query_string={"code": "<script>"})
    assert answer.status_code == 400
    assert f'href="{WIKI}/.authsite/start?next=/"' in answer.text
    for loaded in ("<script", "<link", "<img", "src="):
        assert loaded not in answer.text
    assert answer.headers.getlist("Referrer-Policy") == ["no-referrer"]


@pytest.mark.parametrize(
    "query",
    [
        {"origin": "https://evil.example", "challenge": "0" * 64},
        {"origin": f"{WIKI}.evil.example", "challenge": "0" * 64},
        {"origin": WIKI, "challenge": "0" * 63},
        {"origin": WIKI, "challenge": "G" * 64},
        {"origin": WIKI},
        {},
    ],
    ids=str,
)
def test_no_code_is_made_for_an_origin_that_is_not_listed_nor_without_a_challenge(ada, query):
    answer = ada.client.get("/handoff", query_string=query)
    assert answer.status_code == 400
    assert "Location" not in answer.headers


BAD_PATHS = [
    "//evil.example",
    "/\\evil.example",
    "https://evil.example",
    "evil",
    "/\x00",
    "/a\r\nb",
    "\\\\evil.example",
    "/\t/evil.example",
    "",
    "/" + "a" * 5000,
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_bad_next_leads_to_the_products_first_page(visitor, path):
    """PG-05"""
    assert visitor.enter(WIKI, path) == f"{WIKI}/"


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_bad_path_from_a_proxy_leads_to_the_first_page(app, ada, path):
    """PG-05"""
    if "\r" in path or "\x00" in path:
        return  # no header can hold it
    answer = ask(app, WIKI, path, **PAGE)
    assert answer.location == f"{WIKI}/.authsite/start?next=/"


def test_the_sign_in_page_leads_to_a_listed_product_and_to_no_other(app, ada):
    """PG-05"""
    ada.sign_out()
    for target, leads_to in (
        (f"{WIKI}/a?b=c", f"{WIKI}/a?b=c"),
        ("https://evil.example/", "/account/devices"),
        (f"{WIKI}.evil.example/", "/account/devices"),
        (f"{WIKI}@evil.example/", "/account/devices"),
        (f"https://a@{WIKI.removeprefix('https://')}/", "/account/devices"),
        ("//wiki.example.com/", "/account/devices"),
    ):
        token = ada.csrf_token("/login")
        answer = ada.client.post(
            "/login",
            query_string={"next": target},
            data={"email": EMAIL, "password": PASSWORD, "csrf_token": token},
        )
        assert answer.location == leads_to, target
        ada.sign_out()


# hosts and settings


def test_on_a_products_host_only_the_hand_off_answers(app, ada):
    client = app.test_client()
    for path in ("/login", "/", "/account/devices", "/api/v1/openapi.json", "/static/app.css"):
        assert client.get(path, base_url=WIKI).status_code == 404, path
    assert client.get("/.authsite/start", base_url=WIKI).status_code == 302


@pytest.mark.parametrize("path", ["/.authsite/start", "/.authsite/callback"])
def test_on_the_accounts_host_there_is_no_hand_off_of_a_product(app, ada, path):
    assert ada.client.get(path).status_code == 404


PATHS = [
    ("GET", "/forward-auth"),
    ("GET", "/auth-request"),
    ("GET", "/.authsite/start"),
    ("GET", "/handoff"),
    ("GET", "/.authsite/callback"),
    ("POST", "/.authsite/sign-out"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_without_products_none_of_it_is_there(make_app, method, path):
    assert make_app().test_client().open(path, method=method).status_code == 404


def test_forms_may_lead_to_the_listed_products_and_to_nothing_else(app, ada):
    """PG-09: Chromium holds the redirects after a form's POST to it."""
    policy = ada.get("/login").headers["Content-Security-Policy"]
    assert f"form-action 'self' {WIKI} {SHOP};" in policy


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"FORWARD_AUTH_ORIGINS": WIKI}, "TRUSTED_PROXY_HOPS"),
        ({"FORWARD_AUTH_ORIGINS": "wiki.example.com", "TRUSTED_PROXY_HOPS": "1"}, "exact origins"),
        ({"FORWARD_AUTH_ORIGINS": f"{WIKI}/", "TRUSTED_PROXY_HOPS": "1"}, "exact origins"),
        ({"FORWARD_AUTH_ORIGINS": "*", "TRUSTED_PROXY_HOPS": "1"}, "exact origins"),
        (
            {
                "FORWARD_AUTH_ORIGINS": "http://wiki.example.com",
                "TRUSTED_PROXY_HOPS": "1",
                "APP_ENV": "production",
            },
            "https:// origins",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(environ, said):
    with pytest.raises(ConfigError, match=said):
        create_app(
            {
                "SECRET_KEY": services.SECRET_KEY,
                "DATABASE_URL": services.UNUSED_DATABASE_URL,
                **environ,
            }
        )


def test_the_key_is_one_line_that_verifies_what_the_product_is_told(app, visitor):
    visitor.enter(WIKI)
    assertion = visitor.asks(WIKI).headers["Remote-Assertion"]
    shown = app.test_cli_runner().invoke(args=["forward-auth-key", WIKI])
    assert shown.exit_code == 0
    (line,) = shown.output.splitlines()
    assert jwt.decode(assertion, line.encode(), ["HS256"], audience=WIKI)["email"] == EMAIL
    other = app.test_cli_runner().invoke(args=["forward-auth-key", "https://evil.example"])
    assert other.exit_code == 1
    listed = ", ".join(sorted(app.config["FORWARD_AUTH_ORIGINS"]))
    assert other.stderr.endswith(f"does not list this origin. It lists {listed}.\n")
    assert WIKI in listed


def test_after_a_rotation_of_the_secret_cookies_go_on_and_only_the_new_key_signs(app, visitor):
    """TK-08"""
    visitor.enter(WIKI)
    app.config.update(SECRET_KEY="n" * 40, SECRET_KEY_FALLBACKS=[services.SECRET_KEY])
    answer = visitor.asks(WIKI, **XHR)
    assert answer.status_code == 200
    with app.app_context():
        key = products.assertion_key(WIKI)
    assert jwt.decode(answer.headers["Remote-Assertion"], key, ["HS256"], audience=WIKI)
    app.config["SECRET_KEY_FALLBACKS"] = []
    assert not visitor.is_let_in(WIKI)


def test_a_database_that_is_gone_lets_nobody_in(app, visitor):
    visitor.enter(WIKI)
    with app.app_context():
        from authsite import database

        database.run(database.Base.metadata.tables["user_sessions"].delete())
    assert not visitor.is_let_in(WIKI)


def test_the_challenge_is_the_digest_of_the_nonce(visitor):
    started = visitor.on(WIKI, "/.authsite/start")
    nonce = visitor.cookie(WIKI, "authsite-nonce").value
    query = parse_qs(urlsplit(started.location).query)
    assert query["challenge"] == [hashlib.sha256(nonce.encode()).hexdigest()]


def test_the_devices_page_says_with_which_products_a_browser_was_used(app, visitor):
    """Each once, in the order of its first use; another device of the same account with none."""
    other = Browser(app)
    other.sign_in()
    assert "Used with" not in words(other.get("/account/devices"))
    for origin in (WIKI, SHOP, WIKI):
        visitor.enter(origin)
    shown = words(other.get("/account/devices"))

    hosts = ", ".join(urlsplit(origin).netloc for origin in (WIKI, SHOP))
    assert shown.count("Used with") == 1
    assert f"Used with {hosts} " in shown


def test_a_product_is_noted_once_and_for_its_own_users_session_alone(app):
    with app.app_context():
        ada, grace = factories.account(), factories.account("grace@example.com")
        held = factories.grant(ada, entrance="page")
        for origin in ("https://a.example.com", "https://a.example", "https://a.example"):
            sessions.note_product(ada.id, held.session_id, origin)
        sessions.note_product(grace.id, held.session_id, "https://b.example")
        [row] = sessions.active_for(ada.id)

    assert row.products == "https://a.example.com https://a.example"
