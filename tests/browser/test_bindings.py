"""Sign-ins bound to a key, in a Chromium that knows them, over https; its keys are made in software.

The service runs in this process, as production has it, so that its clock can be moved. What the time does in
a browser is that the cookie of ten minutes goes from its jar.
"""

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flask import Flask, request
from playwright.sync_api import Browser, Page, Playwright, expect
from werkzeug.serving import make_server

from authsite import clock, create_app, database
from tests import services
from tests.browser.conftest import (
    SIGNED_OUT_ELSEWHERE,
    flash,
    heading,
    launched,
    mail_to,
    new_email,
    register,
    sign_in,
    sign_out,
)
from tests.browser.test_passkeys import Authenticator, add
from tests.factories import PASSWORD

pytestmark = pytest.mark.browser

FEATURES = "DeviceBoundSessions,EnableBoundSessionCredentialsSoftwareKeysForManualTesting"
COOKIE = "__Host-authsite-bound"
REFRESH = "/session/refresh-binding"


class Site(NamedTuple):
    """A running site; `heard` holds the paths of what browsers have sent by themselves, with their status."""

    app: Flask
    url: str
    pin: str
    heard: list[tuple[str, int]]


class Certificate(NamedTuple):
    """A throw-away certificate for localhost, and what Chromium is told of it."""

    files: tuple[str, str]
    pin: str


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder: Path = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pin = base64.b64encode(hashlib.sha256(public).digest()).decode()
    return Certificate((str(folder / "certificate.pem"), str(folder / "key.pem")), pin)


@pytest.fixture(scope="module")
def site(
    postgresql_url: str,
    _empty_postgresql: Callable[[], None],
    mailbox: services.Mailbox,
    certificate: Certificate,
) -> Iterator[Site]:
    port = services.free_port()
    url = f"https://localhost:{port}"
    app = create_app(
        {
            "APP_ENV": "production",
            "SECRET_KEY": services.SECRET_KEY,
            "DATABASE_URL": postgresql_url,
            "PUBLIC_BASE_URL": url,
            "MAIL_SERVER": services.HOST,
            "MAIL_PORT": str(mailbox.port),
            "EMAIL_VERIFICATION": "off",
            "DEVICE_BOUND_SESSIONS": "1",
        }
    )
    heard: list[tuple[str, int]] = []

    @app.after_request
    def note(response: Any) -> Any:
        if request.path.startswith("/session/"):
            heard.append((request.path, response.status_code))
        return response

    server = make_server("localhost", port, app, threaded=True, ssl_context=certificate.files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Site(app, url, certificate.pin, heard)
    server.shutdown()
    thread.join()
    server.server_close()
    with app.app_context():
        database.engine().dispose()
    _empty_postgresql()


@pytest.fixture(scope="module")
def chromium(playwright: Playwright, site: Site) -> Iterator[Browser]:
    # The headless shell has no keys.
    known = (f"--enable-features={FEATURES}", f"--ignore-certificate-errors-spki-list={site.pin}")
    with launched(playwright, "chromium", arguments=known) as browser:
        yield browser


def bound(page: Page, site: Site) -> str:
    """Wait until the browser has bound its session, and return the cookie that it got for it."""

    def value() -> str:
        return "".join(each["value"] for each in page.context.cookies() if each["name"] == COOKIE)

    services.wait_until(value, what="the binding")
    return value()


def later() -> time_machine.travel:
    """Let the time of a cookie pass, its leeway too; the clock goes on from there."""
    return time_machine.travel(clock.now() + timedelta(minutes=11, seconds=1))


def expire(page: Page) -> None:
    """Do what the time does in a browser."""
    page.context.clear_cookies(name=COOKIE)


def test_a_browser_binds_its_session_and_proves_its_key_and_a_copy_of_its_cookies_is_worthless(
    site, open_page, mailbox
):
    email, page = new_email(), open_page()
    register(page, email)
    bound(page, site)
    page.reload()
    expect(page.get_by_text("Bound to this computer")).to_be_visible()
    thief = open_page()
    thief.context.add_cookies(page.context.cookies())
    thief.goto("/account")
    expect(heading(thief)).to_have_text("Your details")  # within the ten minutes

    with later():
        expire(page)
        site.heard.clear()
        page.get_by_role("link", name="Activity").click()
        expect(heading(page)).to_have_text("What happened in your account")
        assert site.heard == [(REFRESH, 403), (REFRESH, 200)]
        for path in ("/account", "/account/devices", "/account/security"):
            thief.goto(path)
            expect(heading(thief)).to_have_text("Confirm it is you")
            assert email not in thief.content()
        thief.get_by_role("button", name="Sign out of this browser").click()
        expect(flash(thief)).to_have_text("You have signed out.")
        page.reload()
        expect(page.get_by_text("was used without its key, and opened nothing")).to_be_visible()
        subject = mailbox.messages[mail_to(mailbox, email)]["Subject"]
        assert subject == "Was your sign-in to authsite copied?"


def test_a_link_on_another_site_leads_on(site, open_page):
    """Chromium keeps the session's cookie back from the refresh then, and navigates with both."""
    page = open_page()
    register(page, new_email())
    bound(page, site)
    with later():
        expire(page)
        page.goto("about:blank")
        page.set_content(f'<a href="{site.url}/account">My account</a>')
        site.heard.clear()
        page.get_by_role("link").click()
        expect(heading(page)).to_have_text("Your details")
        assert site.heard == [(REFRESH, 403), (REFRESH, 200)]


def test_a_browser_that_was_moved_is_asked_once_and_is_bound_anew(site, open_page):
    page = open_page()
    register(page, new_email())
    bound(page, site)
    moved = open_page()
    moved.context.add_cookies(page.context.cookies())
    with later():
        moved.goto("/account/security")
        first = bound(moved, site)
        moved.get_by_role("textbox", name="Enter your password to confirm it is you").fill(PASSWORD)
        moved.get_by_role("button", name="Continue").click()
        expect(heading(moved)).to_have_text("Security")
        services.wait_until(lambda: bound(moved, site) != first, what="the new binding")
        expire(moved)
        moved.get_by_role("link", name="Devices").click()
        expect(moved.get_by_text("Bound to this computer")).to_be_visible()
        page.get_by_role("link", name="Activity").click()
        expect(flash(page)).to_have_text(SIGNED_OUT_ELSEWHERE)


def test_a_browser_that_was_moved_may_be_confirmed_by_a_passkey(site, open_page):
    page = open_page()
    register(page, new_email())
    bound(page, site)
    authenticator = Authenticator(page)
    add(page)
    [passkey] = authenticator.passkeys()
    moved = open_page()
    moved.context.add_cookies(page.context.cookies())
    Authenticator(moved).holds(passkey)
    with later():
        moved.goto("/account/security")
        expect(heading(moved)).to_have_text("Confirm it is you")
        first = bound(moved, site)
        moved.get_by_role("button", name="Use a passkey").click()
        expect(heading(moved)).to_have_text("Security")
        services.wait_until(lambda: bound(moved, site) != first, what="the new binding")


def test_who_signs_in_next_in_the_same_browser_is_not_troubled(site, open_page):
    """The key of the session before is forgotten at the first refusal, and the new session has its own."""
    page, email = open_page(), new_email()
    register(page, email)
    before = bound(page, site)
    sign_out(page)
    expire(page)
    site.heard.clear()
    page.goto("/login")
    assert site.heard == [(REFRESH, 403)]
    sign_in(page, email)
    assert bound(page, site) != before
    expire(page)
    site.heard.clear()
    page.get_by_role("link", name="Activity").click()
    expect(heading(page)).to_have_text("What happened in your account")
    assert site.heard == [(REFRESH, 403), (REFRESH, 200)]
