"""The well-known addresses and the static files."""

from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest

from tests.pages.conftest import Browser, elements, user

MISSING = "/.well-known/resource-that-should-not-exist-whose-status-code-should-not-be-200"


def test_password_managers_find_the_page_to_change_a_password(browser):
    """PW-16."""
    answer = browser.get("/.well-known/change-password")
    assert (answer.status_code, answer.location) == (302, "/account/password")
    assert browser.get(MISSING).status_code == 404


@pytest.mark.parametrize(
    ("sender", "address"),
    [
        ("security@example.com", "security@example.com"),
        ("Accounts <hello@example.com>", "hello@example.com"),
    ],
)
def test_researchers_find_whom_to_write_to(make_app, sender, address):
    """PG-17 (RFC 9116)."""
    answer = Browser(make_app(MAIL_DEFAULT_SENDER=sender)).get("/.well-known/security.txt")
    assert answer.content_type == "text/plain; charset=utf-8"
    fields = [line.split(": ", 1) for line in answer.text.splitlines()]
    assert ["Contact", f"mailto:{address}"] in fields
    (expires,) = [datetime.fromisoformat(value) for name, value in fields if name == "Expires"]
    now = datetime.now(UTC)
    assert now < expires < now + timedelta(days=365)


@pytest.mark.parametrize("sender", ["", "no-reply@example.com", "Ada's <NoReply@example.com>"])
def test_nobody_is_sent_to_an_address_that_is_not_read(make_app, sender):
    """PG-17: without a contact there is no such file; the site makes its sender's name up itself."""
    app = make_app(MAIL_DEFAULT_SENDER=sender)
    assert app.config["MAIL_DEFAULT_SENDER"]
    answer = Browser(app).get("/.well-known/security.txt")

    assert answer.status_code == 404
    assert "mailto:" not in answer.text


def test_robots_are_kept_out(browser):
    answer = browser.get("/robots.txt")
    assert answer.text == "User-agent: *\nDisallow: /\n"


def test_a_static_file_is_kept_for_good_under_the_address_that_pages_use(browser):
    page = browser.get("/login")
    addresses = [each["src"] for each in elements(page, "script")]
    addresses += [each["href"] for each in elements(page, "link")]
    assert len(addresses) == 3
    for address in addresses:
        with browser.get(address) as answer:
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "Set-Cookie" not in answer.headers
            assert "Vary" not in answer.headers


@pytest.mark.parametrize(
    "address", ["/static/app.css", "/static/app.css?v=0123456789ab", "/static/app.js?v="]
)
def test_a_static_file_under_another_address_is_kept_for_an_hour(browser, address):
    with browser.get(address) as answer:
        assert answer.headers["Cache-Control"] == "public, max-age=3600"


def test_the_icon_is_where_old_browsers_look_for_it(browser):
    with browser.get("/favicon.ico") as answer:
        assert answer.status_code == 200
        assert answer.mimetype in {"image/x-icon", "image/vnd.microsoft.icon"}


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static",
        "/.git/config",
        "/.env",
        "/instance/authsite.db",
        "/authsite.db",
        "/wsgi.py",
        "/static/..%2f..%2fwsgi.py",
        "/static/../__init__.py",
        "/static/%2e%2e/config.py",
        "/static//etc/passwd",
        "/templates/layout.html",
    ],
)
def test_nothing_but_the_static_files_is_served(browser, path):
    """PG-18."""
    answer = browser.client.get(path, follow_redirects=True)
    assert answer.status_code == 404
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/login/", "/login"),
        ("/login/?next=/account", "/login?next=/account"),
        ("/account/devices/", "/account/devices"),
        ("/reset-password/?token=x.y", "/reset-password?token=x.y"),
        ("/account/devices/a%0D%0Ab/rename/", "/account/devices/a%0D%0Ab/rename"),
        ("/.well-known/change-password/", "/.well-known/change-password"),
    ],
)
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_a_slash_too_many_leads_to_the_page(browser, path, page, host):
    """PG-07: to a path of ours and never to the host that the request named."""
    answer = browser.client.get(path, headers={"Host": host})
    assert (answer.status_code, answer.location) == (308, page)


@pytest.mark.parametrize(
    "path",
    ["//evil.example/", "/\\evil.example/", "/%2F%2Fevil.example/", "/login//", "/no-such-page/",
     "/api/v1/auth/me/", "/logout/"],
)  # fmt: skip
def test_a_slash_at_what_is_no_page_leads_nowhere(browser, path):
    answer = browser.client.get("/", environ_overrides={"PATH_INFO": unquote(path)})
    assert answer.status_code in {404, 405}
    assert answer.location is None


def test_a_form_that_is_sent_to_a_page_with_a_slash_arrives(app, ada):
    token = ada.csrf_token("/account")
    answer = ada.send(
        "/account/", {"csrf_token": token, "first_name": "Augusta"}, follow_redirects=True
    )
    assert answer.status_code == 200
    assert user(app).first_name == "Augusta"
