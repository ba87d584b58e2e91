"""What the pages must hold against forged requests, stolen cookies, hostile input and faults."""

import io
import itertools
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask, session
from itsdangerous import URLSafeTimedSerializer

from authsite import create_app, database, errors
from authsite.database.models import PasswordReset, User, UserSession
from authsite.extensions import limiter
from authsite.pages import answers
from authsite.web import forms
from tests import factories, services
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.pages.conftest import (
    CHROME_ON_WINDOWS,
    EMAIL,
    OTHER_EMAIL,
    Browser,
    api_tokens,
    count,
    elements,
    flash,
    heading,
    live_sessions,
    mails,
    summary,
    title,
    user,
    words,
)

EXPIRED = "Your form expired. Try again."
REGISTRATION = {"first_name": "Grace", "email": OTHER_EMAIL, "password": PASSWORD}
CREDENTIALS = {"email": EMAIL, "password": PASSWORD}

# Every form that a page can send, and what it would send.
FORMS = {
    "/register": REGISTRATION,
    "/login": CREDENTIALS,
    "/forgot-password": {"email": EMAIL},
    "/reset-password": {"password": NEW_PASSWORD},
    "/account": {"first_name": "Eve"},
    "/account/password": {"current_password": PASSWORD, "new_password": NEW_PASSWORD},
    "/account/devices/{other}/rename": {"name": "Eve's"},
    "/account/devices/{other}/revoke": {},
    "/account/devices/revoke-others": {},
    "/account/delete": {"current_password": PASSWORD},
    "/logout": {},
}
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), camera=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.fixture
def victim(app: Flask, ada: Browser) -> Browser:
    """A browser signed in to an account that also uses the API."""
    api_tokens(app)
    return ada


def state(app: Flask):
    """Return all that a forged request could have changed."""
    with app.app_context():
        rows = database.rows(UserSession.__table__.select().order_by(UserSession.id))
        columns = ("id", "ended_at", "given_name", "cookie_digest", "refresh_jti")
        return (
            [tuple(getattr(row, name) for name in columns) for row in rows],
            user(app),
            count(app, User),
            count(app, PasswordReset),
            mails(app),
        )


def filled_in(app: Flask, browser: Browser, path: str) -> str:
    """Return the path with the API client's session in it."""
    (other,) = set(live_sessions(app)) - {browser.session_id()}
    return path.format(other=other)


@pytest.mark.parametrize("path", FORMS)
def test_a_form_without_this_browsers_token_is_400_and_has_no_effect(
    app, victim, open_browser, path
):
    """PG-01, PG-02: the forms of strangers included (login CSRF)."""
    victim.sign_out()
    of_before = victim.csrf_token("/login")
    victim.sign_in()
    of_another = open_browser().csrf_token("/login")
    path, fields, before = filled_in(app, victim, path), FORMS[path], state(app)
    for token in (None, "", "x", of_before, of_another):
        answer = victim.send(path, fields | ({} if token is None else {"csrf_token": token}))
        if path in {"/login", "/register"}:  # for who is signed in already they lead on
            assert (answer.status_code, answer.location) == (303, "/account/devices")
        else:
            assert answer.status_code == 400
            assert "expired" in words(answer)
    assert state(app) == before
    assert victim.is_signed_in()


@pytest.mark.parametrize("path", ["/register", "/login", "/account", "/account/password"])
def test_a_token_in_the_query_is_none(app, victim, path):
    """PG-01: a link must not be able to carry it."""
    token, before = victim.csrf_token("/account"), state(app)
    answer = victim.send(f"{path}?csrf_token={token}", FORMS[path])
    assert answer.status_code == (303 if path in {"/login", "/register"} else 400)
    assert state(app) == before


@pytest.mark.parametrize(
    ("path", "kept", "cleared"),
    [
        ("/login", {"email": EMAIL}, {"password": PASSWORD}),
        ("/register", {"email": OTHER_EMAIL, "first_name": "Grace"}, {"password": PASSWORD}),
        ("/forgot-password", {"email": EMAIL}, {}),
    ],
)
def test_a_form_that_expired_is_shown_again_as_it_was_typed(browser, path, kept, cleared):
    """Trap 16: nobody types a form twice because it lay open over lunch."""
    browser.get(path)
    answer = browser.send(path, kept | cleared | {"csrf_token": "expired", "remember": "y"})
    assert answer.status_code == 400
    assert summary(answer) == [(None, EXPIRED)]
    assert title(answer).startswith("Error: ")
    for name, value in kept.items():
        assert elements(answer, "input", id=name)[0]["value"] == value
    for name, value in cleared.items():
        assert elements(answer, "input", id=name)[0]["value"] == ""
        assert value not in answer.text
    # The form that is shown works.
    token = elements(answer, "input", name="csrf_token")[0]["value"]
    assert browser.send(path, kept | cleared | {"csrf_token": token}).status_code != 400


@pytest.mark.parametrize(
    ("path", "fields"), [("/account", {"first_name": "Augusta"}), ("/account/password", {})]
)
def test_a_form_of_the_account_that_expired_is_shown_again(victim, path, fields):
    answer = victim.send(path, fields)
    assert answer.status_code == 400
    assert summary(answer) == [(None, EXPIRED)]
    for name, value in fields.items():
        assert elements(answer, "input", id=name)[0]["value"] == value
    assert elements(answer, "form", action="/logout")


@pytest.mark.parametrize("path", ["/logout", "/account/devices/{other}/revoke"])
def test_a_button_that_expired_leads_back(app, victim, path):
    answer = victim.send(filled_in(app, victim, path))
    assert answer.status_code == 400
    assert heading(answer) == "Your form expired"
    assert elements(answer, "a", class_="button", href="/")


def test_a_login_page_left_open_still_works_after_a_day(ada, later):
    """Trap 16."""
    ada.sign_out()
    token = ada.csrf_token("/login")
    later(timedelta(days=1))
    assert ada.send("/login", CREDENTIALS | {"csrf_token": token}).status_code == 303


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:8080"},
    {"Origin": "https://localhost"},
    {"Sec-Fetch-Site": "same-site", "Origin": "https://other.localhost"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
]


@pytest.mark.parametrize("path", FORMS)
def test_a_write_that_another_site_sends_is_refused_even_with_the_token(app, victim, path):
    """PG-03: a leaked token alone is not enough."""
    fields = {"csrf_token": victim.csrf_token("/account"), **FORMS[path]}
    path, before = filled_in(app, victim, path), state(app)
    for headers in FOREIGN:
        answer = victim.send(path, fields, headers=headers)
        assert answer.status_code == 403, headers
        assert heading(answer) == "This request was refused"
    assert state(app) == before
    assert victim.is_signed_in()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost:5000"},  # PUBLIC_BASE_URL, whatever the proxy calls us
    ],
)
def test_a_write_from_a_page_of_ours_is_taken(app, victim, headers):
    """PG-03."""
    fields = {"csrf_token": victim.csrf_token("/account"), "first_name": "Augusta"}
    assert victim.send("/account", fields, headers=headers).status_code == 303
    assert user(app).first_name == "Augusta"


def test_a_link_from_another_site_may_open_a_page(ada):
    answer = ada.get("/account", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200


def test_signing_in_leaves_nothing_of_the_cookie_of_before(app, open_browser):
    """SE-10: a cookie planted beforehand, with a token that its planter knows, is worth nothing after."""
    attacker, victim = open_browser(), open_browser()
    token = attacker.csrf_token("/register")
    attacker.get("/reset-password?token=planted")
    planted = attacker.cookie().value
    victim.client.set_cookie("authsite", planted)
    victim.register()
    content = victim.cookie_content()
    assert set(content) == {"id", "user", "secret", "_permanent", "_flashes"}
    assert victim.send("/account", {"csrf_token": token, "first_name": "Eve"}).status_code == 400
    assert not attacker.is_signed_in()
    assert user(app).first_name == "Ada"


def test_signing_in_again_makes_the_forms_of_before_worthless(app, ada):
    """PG-01: the token changes at every sign-in."""
    token = ada.csrf_token("/account")
    ada.sign_out()
    ada.sign_in()
    assert ada.send("/account", {"csrf_token": token, "first_name": "Eve"}).status_code == 400


def test_a_cookie_with_a_wrong_secret_opens_nothing(app, ada, open_browser):
    """SE-02: who knows the id of a session, and even the signing key, lacks its secret."""
    with app.test_request_context():
        session.update(id=str(ada.session_id()), secret="guessed")
        serializer = app.session_interface.get_signing_serializer(app)
        forged = serializer.dumps(dict(session))
    thief = open_browser()
    thief.client.set_cookie("authsite", forged)
    assert not thief.is_signed_in()
    assert ada.is_signed_in()


@pytest.mark.parametrize("value", ["", "x", "e30.aaaa.bbbb", "\x00", "a" * 5000, "..", "é"])
def test_a_broken_cookie_is_no_session_and_no_fault(app, browser, value):
    browser.client.environ_base["HTTP_COOKIE"] = f"authsite={value}".encode().decode("latin-1")
    assert browser.get("/account").status_code == 302
    assert browser.get("/login").status_code == 200


def test_a_cookie_under_a_retired_key_goes_on_while_the_key_is_listed(make_app):
    """TK-08: with the key gone from the list, so is the sign-in."""
    old, new = services.SECRET_KEY, "another-secret-of-at-least-32-bytes-0123456789"
    before = Browser(make_app(SECRET_KEY=old))
    before.register()
    cookie = before.cookie().value
    for fallbacks, is_signed_in in [(old, True), ("", False)]:
        after = Browser(make_app(SECRET_KEY=new, SECRET_KEY_FALLBACKS=fallbacks))
        after.client.set_cookie("authsite", cookie)
        assert after.is_signed_in() is is_signed_in


def test_the_database_holds_no_cookie_secret(app, ada):
    """SE-02: a copy of the table signs nobody in."""
    secret = ada.cookie_content()["secret"]
    with app.app_context():
        row = database.row(UserSession.__table__.select())
        assert row.cookie_digest == factories.digest(secret)
    assert secret not in repr(row)


def test_the_cookie_holds_no_name_and_no_address_and_fits(app, victim):
    """PG-12: anybody who has it can read it; ids tell nothing of a person."""
    victim.get("/reset-password?token=" + "x" * 5000)
    victim.post(f"/account/devices/{victim.session_id()}/rename", name="W" * 64)
    text = repr(victim.cookie_content())
    for private in (EMAIL, "Ada"):
        assert private not in text
    assert len(victim.cookie().value) < 3000


PRODUCTION = {
    "APP_ENV": "production",
    "SECRET_KEY": "fX9-production-like-0123456789abcdefghijklmnopq",
    "PUBLIC_BASE_URL": "https://accounts.example.com",
    "MAIL_SERVER": "127.0.0.1",
}


@pytest.fixture
def production(empty_postgresql_url):
    """A browser before the service as it runs in production."""
    app = create_app({"DATABASE_URL": empty_postgresql_url, **PRODUCTION})
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    limiter.reset()
    yield Browser(app, base_url=PRODUCTION["PUBLIC_BASE_URL"])
    with app.app_context():
        database.engine().dispose()


@pytest.mark.postgresql
def test_in_production_both_cookies_are_host_bound_secure_and_closed_to_scripts(production):
    """PG-12."""
    token = production.csrf_token("/register")
    answer = production.send("/register", REGISTRATION | {"csrf_token": token})
    set_cookies = {each.split("=")[0]: each for each in answer.headers.getlist("Set-Cookie")}
    assert set(set_cookies) == {"__Host-authsite", "__Host-authsite-device"}
    for text in set_cookies.values():
        attributes = {each.strip().split("=")[0] for each in text.split(";")[1:]}
        assert {"Secure", "HttpOnly", "Path", "SameSite"} <= attributes
        assert "Domain" not in attributes
        assert "SameSite=Lax" in text
        assert "Path=/;" in text + ";"
        assert len(text) < 4096
    device = production.client.get_cookie("__Host-authsite-device", "accounts.example.com")
    assert 365 * 86400 <= device.max_age <= 2 * 365 * 86400
    assert production.is_signed_in()


@pytest.mark.postgresql
def test_in_production_every_page_is_https_for_good(production):
    """DP-05, DP-06."""
    assert "max-age=63072000" in production.get("/login").headers["Strict-Transport-Security"]
    plain = production.client.get("/login?next=/account", base_url="http://accounts.example.com")
    assert (plain.status_code, plain.location) == (
        308,
        "https://accounts.example.com/login?next=/account",
    )


@pytest.mark.postgresql
def test_in_production_another_host_is_refused_with_a_page(production):
    """DP-04, PG-16."""
    answer = production.client.get("/login", base_url="https://evil.example")
    assert answer.status_code == 400
    assert "evil.example" not in answer.text


@pytest.mark.postgresql
def test_in_production_only_the_public_origin_may_write(production):
    """PG-03."""
    fields = REGISTRATION | {"csrf_token": production.csrf_token("/register")}
    foreign = {"Origin": "https://accounts.example.com.evil.example"}
    assert production.send("/register", fields, headers=foreign).status_code == 403
    own = {"Origin": "https://accounts.example.com"}
    assert production.send("/register", fields, headers=own).status_code == 303


PAGES = [
    "/login",
    "/register",
    "/forgot-password",
    "/reset-password",
    "/account",
    "/account/devices",
    "/account/password",
    "/account/devices/revoke-others",
    "/account/devices/{other}/rename",
    "/nowhere",
    "/logout",
]


@pytest.mark.parametrize("path", PAGES)
def test_no_page_is_kept_and_every_page_has_the_security_headers(app, victim, path):
    """PG-07, PG-09, PG-11: each header once, on errors and redirects as well."""
    answer = victim.get(filled_in(app, victim, path))
    assert answer.headers["Cache-Control"] == "no-store"
    if answer.status_code not in {404, 405}:
        assert "Cookie" in answer.headers["Vary"]
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers.getlist(name) == [value]


@pytest.mark.parametrize("path", PAGES)
def test_no_page_holds_a_script_a_style_or_an_event_handler(app, victim, open_browser, path):
    """PG-09: nothing that the policy would have to allow."""
    path = filled_in(app, victim, path)
    for browser in (victim, open_browser()):
        answer = browser.get(path)
        assert not elements(answer, "style")
        assert all(each.get("src") for each in elements(answer, "script"))
        tags = re.findall(r"<[a-z][^>]*>", answer.text)
        assert not any(re.search(r"\s(?:on\w+|style)=|javascript:", tag) for tag in tags)


@pytest.mark.parametrize("path", [path for path in PAGES if path not in {"/logout"}])
def test_every_page_is_built_alike(app, victim, open_browser, path):
    """One h1, a language, a skip link, a main that it reaches, labelled fields, a title of its own."""
    path = filled_in(app, victim, path)
    for browser in (victim, open_browser()):
        answer = browser.get(path)
        if answer.status_code == 302:
            continue
        assert elements(answer, "html", lang="en")
        assert title(answer) == f"{heading(answer)} – authsite" or "Rename" in heading(answer)
        assert elements(answer, "a", class_="skip-link", href="#main")
        assert elements(answer, "main", id="main", tabindex="-1")
        labelled = {each["for"] for each in elements(answer, "label")}
        for field in elements(answer, "input"):
            assert field["type"] == "hidden" or field.get("aria-hidden") or field["id"] in labelled
        levels = [int(each) for each in re.findall(r"<h([1-6])", answer.text)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        ids = re.findall(r'\sid="([^"]+)"', answer.text)
        assert len(ids) == len(set(ids))


def test_reading_pages_changes_nothing(app, victim):
    """PG-04: GET and HEAD, of pages and of the addresses that only take a POST."""
    before = state(app)
    for path in [*PAGES, *FORMS]:
        address = filled_in(app, victim, path)
        victim.get(address)
        victim.client.head(address)
    assert state(app) == before
    assert victim.is_signed_in()


@pytest.mark.parametrize("path", FORMS)
def test_a_redirect_after_a_post_never_repeats_the_post(app, victim, path):
    """PG-06."""
    path, fields = filled_in(app, victim, path), FORMS[path]
    answer = victim.post(path, page="/account", **fields)
    assert answer.status_code in {200, 302, 303, 410}


@pytest.fixture
def failing(make_app: Callable[..., Flask]) -> Browser:
    """A browser before a service with pages that fail in the middle."""
    app = make_app(is_of_its_own=True)

    def fail() -> str:
        raise RuntimeError(f"secret of {PASSWORD}")

    def give_up() -> str:
        raise errors.SessionNotFound

    app.add_url_rule("/fails", view_func=fail)
    app.add_url_rule("/gives-up", view_func=give_up)
    return Browser(app)


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/<script>alert(1)</script>?q=<b>", 404, "Page not found"),
        ("GET", "/gives-up", 404, "Page not found"),
        ("DELETE", "/login", 405, "There is no page at this address"),
        ("TRACE", "/login", 405, "There is no page at this address"),
        ("GET", "/fails", 500, "There is a problem with the service"),
    ],
)
def test_an_error_is_a_page_without_stack_or_echo(failing, method, path, status, said):
    """PG-16."""
    answer = failing.client.open(path, method=method)
    assert answer.status_code == status
    assert answer.mimetype == "text/html"
    if method != "TRACE":
        assert heading(answer) == said
    for leaked in ("alert(1)", "Traceback", PASSWORD, "RuntimeError", "werkzeug"):
        assert leaked not in answer.text
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value


def test_a_fault_of_ours_gives_the_reference_that_stands_in_the_log(failing):
    """PG-16, LG-03."""
    answer = failing.get("/fails")
    assert f"Reference: {answer.headers['X-Request-Id']}" in words(answer)
    assert "Nothing you entered was saved." in words(answer)


@pytest.mark.parametrize("path", ["/login", "/register", "/account"])
def test_a_body_that_is_too_large_is_413(app, ada, path):
    """AP-06, PG-16."""
    token = ada.csrf_token("/account")
    answer = ada.send(path, {"csrf_token": token, "first_name": "x" * 70_000})
    assert answer.status_code == 413
    assert heading(answer) == "That request is too large"


def test_without_the_database_a_page_is_503_and_says_when_to_come_back(make_app):
    """FA-01, PG-16: and the login page, which needs none, still opens."""
    url = f"postgresql://postgres@127.0.0.1:{services.free_port()}/gone"
    browser = Browser(make_app(DATABASE_URL=url))
    answer = browser.try_sign_in()
    assert answer.status_code == 503
    assert heading(answer) == "The service is unavailable"
    assert answer.headers["Retry-After"] == "5"
    assert "postgres" not in answer.text


def test_an_expired_form_without_the_database_is_503_too(make_app, app, ada):
    """FA-01: showing a form again reads the session; that may fail like anything else."""
    url = f"postgresql://postgres@127.0.0.1:{services.free_port()}/gone"
    browser = Browser(make_app(DATABASE_URL=url))
    browser.client.set_cookie("authsite", ada.cookie().value)
    assert browser.send("/account", {"first_name": "Eve"}).status_code == 503


@pytest.mark.parametrize(
    ("path", "page", "fields", "twin", "most"),
    [
        ("/login", None, CREDENTIALS | {"password": "x"}, "/api/v1/auth/login", 10),
        ("/register", None, {"email": "x"}, "/api/v1/auth/register", 5),
        (
            "/forgot-password",
            None,
            {"email": "nobody@example.com"},
            "/api/v1/auth/password-reset/request",
            3,
        ),
        (
            "/reset-password",
            "/login",
            {"password": NEW_PASSWORD},
            "/api/v1/auth/password-reset/confirm",
            5,
        ),
    ],
)
def test_what_the_page_uses_up_is_used_up_in_the_api_and_the_other_way_round(
    app, browser, path, page, fields, twin, most
):
    """LT-09, LT-12: one limit per client for both; the page says when to come back."""
    token = browser.csrf_token(page or path)
    api = app.test_client()
    for turn in range(most):
        if turn % 2:
            assert api.post(twin, json={"email": "x"}).status_code != 429
        else:
            assert browser.send(path, fields | {"csrf_token": token}).status_code != 429
    answer = browser.send(path, fields | {"csrf_token": token})
    assert answer.status_code == 429
    assert heading(answer) == "Too many attempts"
    seconds = int(answer.headers["Retry-After"])
    assert 1 <= seconds <= 60
    wait = {1: "1 second", 60: "1 minute"}.get(seconds, f"{seconds} seconds")
    assert f"Nothing was changed. Try again in {wait}." in words(answer)
    assert api.post(twin, json={"email": "x"}).status_code == 429
    # Looking at the form costs nothing and is not refused.
    assert browser.get(page or path).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "most"),
    [
        ("/account/password", {"current_password": "", "new_password": ""}, 5),
        ("/account/devices/1/revoke", {}, 60),
        ("/account/devices/revoke-others", {}, 10),
        ("/account/devices/1/rename", {"name": ""}, 60),
        ("/account", {"first_name": ""}, 30),
    ],
)
def test_a_signed_in_person_is_limited_wherever_he_is(app, ada, open_browser, path, fields, most):
    """LT-09: by the user, not by the address; the session stays."""
    elsewhere = open_browser(address="198.51.100.77")
    elsewhere.sign_in()
    tokens = [(each, each.csrf_token("/account")) for each in (ada, elsewhere)]
    if path.endswith("others"):
        tokens = [(ada, ada.csrf_token("/account"))]
    for turn in range(most):
        browser, token = tokens[turn % len(tokens)]
        assert browser.send(path, fields | {"csrf_token": token}).status_code != 429
    for browser, token in tokens:
        assert browser.send(path, fields | {"csrf_token": token}).status_code == 429
    assert ada.is_signed_in()


@pytest.mark.parametrize("act", ["revoke", "rename"])
def test_the_page_of_a_limit_leads_back_to_what_was_being_done(ada, act):
    token = ada.csrf_token("/account")
    path = f"/account/devices/1/{act}"
    for _ in range(60):
        assert ada.send(path, {"csrf_token": token, "name": ""}).status_code == 303
    answer = ada.send(path, {"csrf_token": token, "name": ""})
    assert answer.status_code == 429
    assert "Back to your devices" in words(answer)
    assert "Go to the first page" not in words(answer)


def test_ten_wrong_passwords_from_anywhere_close_the_login_page_too(app, ada, open_browser, later):
    """LT-04, LT-09: by page and API, from many addresses; then not even the right one, for a while."""
    later(timedelta(0))
    for turn in range(10):
        if turn % 2:
            open_browser(address=f"198.51.100.{turn}").try_sign_in(password="guess")
        else:
            app.test_client().post(
                "/api/v1/auth/login",
                json={"email": EMAIL.upper(), "password": "guess"},
                environ_base={"REMOTE_ADDR": f"198.51.100.{turn}"},
            )
    owner = open_browser(address="203.0.113.1")
    answer = owner.try_sign_in()
    assert answer.status_code == 429
    assert "Try again in 15 minutes." in words(answer)
    assert ada.is_signed_in()
    assert answer.headers["Retry-After"] == "900"
    later(timedelta(minutes=15))
    owner.sign_in()


def test_a_stranger_who_closes_an_account_does_not_close_it_to_its_owners_browser(
    app, ada, open_browser
):
    """LT-04: known by its device cookie, and still after it has signed out."""
    ada.sign_out()
    for turn in range(10):
        open_browser(address=f"198.51.100.{turn}").try_sign_in(password="guess")
    assert open_browser(address="203.0.113.1").try_sign_in().status_code == 429
    ada.sign_in()
    assert ada.is_signed_in()


def test_a_flash_is_shown_once_and_never_beside_errors(ada):
    ada.sign_out()
    failed = ada.send("/login", {"csrf_token": ada.csrf_token("/register"), "email": "x"})
    assert failed.status_code == 422
    assert flash(failed) is None


def test_the_csrf_token_is_signed_for_this_purpose_only(app, ada):
    """TK-05: a session's cookie is no CSRF token."""
    cookie = ada.cookie().value
    assert ada.send("/account", {"csrf_token": cookie, "first_name": "Eve"}).status_code == 400
    serializer = URLSafeTimedSerializer("guessed", salt="wtf-csrf-token")
    forged = serializer.dumps("0" * 40)
    assert ada.send("/account", {"csrf_token": forged, "first_name": "Eve"}).status_code == 400


def test_a_browser_that_keeps_its_referer_to_itself_can_sign_in(app):
    """PG-03: the Origin and the token decide, not the Referer."""
    browser = Browser(app, user_agent=CHROME_ON_WINDOWS, base_url="https://localhost")
    browser.register()
    assert browser.is_signed_in()


def test_a_file_where_text_belongs_breaks_no_form(app, ada):
    """AP-23, PG-16: every form, every field."""
    names = {name for form in vars(forms).values() for name in _fields(form)}
    paths = [
        rule.rule
        for rule in app.url_map.iter_rules()
        if "POST" in rule.methods and not rule.arguments and not rule.rule.startswith("/api/")
    ]
    assert len(names) > 15
    assert len(paths) > 25
    for path in paths:
        limiter.storage.reset()
        files = {name: (io.BytesIO(b"x"), "x") for name in names}
        token = {"csrf_token": ada.csrf_token("/account")} if ada.is_signed_in() else {}
        answer = ada.client.post(path, data=files | token, content_type="multipart/form-data")
        assert answer.status_code < 500, path


def _fields(form) -> list[str]:
    if not (isinstance(form, type) and issubclass(form, forms.Form)):
        return []
    return [name for name in dir(form) if hasattr(getattr(form, name), "field_class")]


def test_planted_links_cannot_fill_the_cookie(app, open_browser):
    """PG-19: a proxy takes 4 KB of an answer's head; of links that were opened the last two are kept."""
    browser = open_browser()
    tokens = {path: f"{number}{'x-' * 300}" for number, path in enumerate(LINKS)}
    for path, token in tokens.items():
        browser.get(path, query_string={"token": token})
    head = browser.get("/login").headers

    assert sum(len(name) + len(value) + 4 for name, value in head.items()) < 3500
    held = [name for name in browser.cookie_content() if name in answers.LINKS]
    assert held == ["verify_email", "keep_account"]


LINKS = (
    *("/confirm-email", "/undo-email", "/not-me", "/reset-password", "/verify-email"),
    "/keep-account",
)
