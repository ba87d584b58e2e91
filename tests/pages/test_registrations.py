"""Registering on the pages where addresses are confirmed first."""

import re

import pytest

from authsite.database.models import Registration, User
from tests import factories
from tests.api.conftest import email_token, registration_token
from tests.factories import PASSWORD
from tests.pages.conftest import (
    EMAIL,
    OTHER_EMAIL,
    count,
    flash,
    heading,
    mails,
    summary,
    words,
)


@pytest.fixture
def app(make_app):
    return make_app(EMAIL_VERIFICATION="required")


def claim(browser, email=EMAIL, password=PASSWORD):
    return browser.post("/register", first_name="Ada", email=email, password=password)


def open_link(browser):
    answer = browser.get(f"/register/confirm?token={registration_token(browser.app)}")
    assert (answer.status_code, answer.location) == (303, "/register/confirm")
    return browser.get("/register/confirm")


def test_the_browser_that_registered_needs_only_the_button(app, open_browser):
    browser = open_browser()
    sent = claim(browser)
    assert (sent.status_code, heading(sent)) == (200, "Check your email")
    assert f"We have sent a link to {EMAIL}. Open it within 24 hours" in words(sent)
    assert (count(app, User), mails(app)) == (0, ["registration"])
    page = open_link(browser)
    assert heading(page) == "Finish creating your account"
    assert 'type="password"' not in page.text
    assert count(app, User) == 0
    answer = browser.post("/register/confirm")

    assert answer.status_code == 303
    assert (
        flash(browser.get(answer.location)) == "Account created. You are signed in on this device."
    )
    assert browser.is_signed_in()
    assert (count(app, User), count(app, Registration)) == (1, 0)


def test_another_browser_asks_for_the_password_that_was_chosen(app, open_browser):
    """LIFE §0.2: and a robot that presses the button has none."""
    claim(open_browser())
    other = open_browser()
    page = open_link(other)
    assert "Enter the password that you chose when you registered." in words(page)
    for password, message in (("", "Enter your password"), ("not it", "Your password is wrong")):
        refused = other.post("/register/confirm", password=password)
        assert (refused.status_code, summary(refused)) == (422, [("password", message)])
    assert count(app, User) == 0
    assert other.post("/register/confirm", password=PASSWORD).status_code == 303

    assert other.is_signed_in()


def test_the_page_is_the_same_whether_or_not_the_address_has_an_account(app, open_browser):
    """LT-01: but for the address itself."""
    with app.app_context():
        factories.account(is_verified=True)
    pages = []
    for email in (EMAIL, OTHER_EMAIL):
        answer = claim(open_browser(), email)
        cookies = [
            re.sub("=[^;]+", "=", each, count=1) for each in answer.headers.getlist("Set-Cookie")
        ]
        pages.append((answer.status_code, answer.text.replace(email, "it"), cookies))

    assert pages[0] == pages[1]
    assert mails(app) == ["registration"] * 2


def test_a_link_that_does_not_work_says_what_to_do(open_browser):
    browser = open_browser()
    browser.get("/register/confirm?token=x")
    page = browser.get("/register/confirm")

    assert (page.status_code, heading(page)) == (410, "This link no longer works")
    assert "Create an account" in words(page)


def test_an_address_taken_meanwhile_leads_to_the_sign_in(app, open_browser):
    browser = open_browser()
    claim(browser)
    open_link(browser)
    with app.app_context():
        factories.account(is_verified=True)
    answer = browser.post("/register/confirm")

    assert (answer.status_code, answer.location) == (303, "/login")
    said = "You already have an account with this email address."
    assert flash(browser.get("/login")) == said
    assert not browser.is_signed_in()


def test_the_sign_in_says_what_to_do_and_refuses_the_unverified(app, open_browser):
    with app.app_context():
        factories.account()
    browser = open_browser()
    assert "Just registered? Open the link in our email first." in words(browser.get("/login"))
    answer = browser.try_sign_in()

    said = "Confirm your email address to sign in. We have sent you a link."
    assert summary(answer) == [("email", said)]
    assert mails(app) == ["verify_email"] * 2
    assert not browser.is_signed_in()


def test_the_link_in_that_mail_and_the_password_let_in(app, open_browser):
    with app.app_context():
        factories.account()
    browser = open_browser()
    browser.get(f"/verify-email?token={email_token(app, EMAIL)}")

    assert browser.post("/verify-email", password=PASSWORD).status_code == 303
    assert browser.is_signed_in()
