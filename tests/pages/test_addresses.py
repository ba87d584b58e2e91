"""The pages of addresses: the link, with a session or a password."""

import pytest

from authsite import accounts
from tests.api.conftest import email_token
from tests.factories import PASSWORD
from tests.pages.conftest import EMAIL, OTHER_EMAIL, flash, heading, mails, summary, user, words


@pytest.fixture
def app(make_app):
    return make_app(EMAIL_VERIFICATION="optional")


def open_link(browser, email=EMAIL):
    """Follow the link of the mail, as a browser does."""
    answer = browser.get(f"/verify-email?token={email_token(browser.app, email)}")
    assert (answer.status_code, answer.location) == (303, "/verify-email")
    return browser.get("/verify-email")


def is_verified(app, email=EMAIL) -> bool:
    return user(app, email).email_verified_at is not None


def test_one_button_confirms_the_address_of_who_is_signed_in(app, ada):
    page = open_link(ada)
    assert heading(page) == "Confirm your email address"
    assert f"Is {EMAIL} yours?" in words(page)
    assert 'type="password"' not in page.text
    assert not is_verified(app)
    answer = ada.post("/verify-email")

    assert (answer.status_code, is_verified(app)) == (303, True)
    assert flash(ada.get(answer.location)) == "Email address confirmed."
    assert ada.get("/verify-email").status_code == 410


def test_opening_the_link_confirms_nothing(app, ada):
    """RS-08: HEAD, GET, and again, with and without a session."""
    token = email_token(app, EMAIL)
    for client in (ada.client, app.test_client()):
        for method in ("HEAD", "GET", "GET"):
            client.open(f"/verify-email?token={token}", method=method, follow_redirects=True)

    assert not is_verified(app)


def test_elsewhere_the_password_confirms_and_signs_in(app, ada, open_browser):
    browser = open_browser()
    page = open_link(browser)
    assert "You sign in with it." in words(page)
    wrong = browser.post("/verify-email", password="not this one")
    assert (wrong.status_code, is_verified(app)) == (422, False)
    assert summary(wrong) == [("password", "Your password is wrong")]
    answer = browser.post("/verify-email", password=PASSWORD)

    assert answer.status_code == 303
    assert is_verified(app)
    assert browser.is_signed_in()


def test_the_button_alone_confirms_nothing_elsewhere(app, ada, open_browser):
    """LIFE §0.2: a scanner has the link, presses every button, and has neither cookie nor password."""
    robot = open_browser()
    open_link(robot)
    assert robot.post("/verify-email").status_code == 422

    assert not is_verified(app)
    assert not robot.is_signed_in()


def test_guesses_at_the_link_are_counted_with_the_failed_sign_ins(make_app, open_browser):
    """LT-09"""
    app = make_app(EMAIL_VERIFICATION="optional", RATELIMIT_ENABLED="0")
    browser = open_browser()
    browser.app, browser.client = app, app.test_client()
    with app.app_context():
        accounts.register(email=EMAIL, password=PASSWORD, first_name="Ada")
    open_link(browser)
    for _ in range(10):
        assert browser.post("/verify-email", password="not this one").status_code == 422

    assert browser.post("/verify-email", password=PASSWORD).status_code == 429
    assert not is_verified(app)


def test_signed_in_to_another_account_the_page_says_so_and_changes_nothing(app, ada, open_browser):
    grace = open_browser()
    grace.register(OTHER_EMAIL)
    page = open_link(grace)
    assert heading(page) == "You are signed in to another account"
    assert f"You are signed in as {OTHER_EMAIL}" in words(page)
    token = grace.csrf_token("/account")
    assert grace.send("/verify-email", {"csrf_token": token}).status_code == 200

    assert not is_verified(app)
    assert not is_verified(app, OTHER_EMAIL)


@pytest.mark.parametrize("token", ["x", "", "x" * 5000])
def test_a_link_that_does_not_work_says_what_to_do(ada, token):
    ada.get(f"/verify-email?token={token}")
    page = ada.get("/verify-email")

    assert (page.status_code, heading(page)) == (410, "This link no longer works")
    assert "Send a new link" in page.text


def test_without_cookies_the_page_says_why(app):
    answer = app.test_client(use_cookies=False).get("/verify-email")

    assert (answer.status_code, heading(answer)) == (400, "Your browser sent no cookie")


def test_every_page_asks_to_confirm_the_address_until_it_is_confirmed(app, ada):
    for path in ("/account/devices", "/account", "/account/password"):
        assert "Confirm your email address" in words(ada.get(path))
    assert "Not confirmed" in words(ada.get("/account"))
    open_link(ada)
    ada.post("/verify-email")

    for path in ("/account/devices", "/account", "/account/password"):
        assert "Confirm your email address" not in words(ada.get(path))
    assert "· Confirmed" in words(ada.get("/account"))


def test_the_link_is_sent_again_three_times_an_hour(app, ada):
    assert mails(app) == ["verify_email"]
    told = (
        f"open the link in our email to {EMAIL}. Not there, or older than 24 hours? Send a new link"
    )
    assert told in words(ada.get("/account/devices"))
    said = []
    for _ in range(3):
        answer = ada.post("/account/email/resend", page="/account/devices")
        said.append(flash(ada.get(answer.location)))
    assert mails(app) == ["verify_email"] * 3
    assert said == [f"We are sending a link to {EMAIL}. It works for 24 hours."] * 2 + [
        f"No more links go to {EMAIL} for now. Open the last one, or try again in an hour."
    ]
    assert ada.post("/account/email/resend", page="/account/devices").status_code == 429


def test_where_nobody_has_to_confirm_no_link_is_promised(app, ada):
    before = mails(app)
    app.config["EMAIL_VERIFICATION"] = (
        "off"  # as after a change of the setting: the form is still open
    )
    answer = ada.post("/account/email/resend", page="/account/profile")

    assert flash(ada.get(answer.location)).endswith("No link is sent.")
    assert mails(app) == before


def test_a_confirmed_address_gets_no_link(app, ada):
    open_link(ada)
    ada.post("/verify-email")
    answer = ada.post("/account/email/resend", page="/account/devices")

    assert flash(ada.get(answer.location)) == "Your email address is confirmed."
    assert mails(app) == ["verify_email"]


def test_where_nothing_is_confirmed_nothing_is_asked(make_app, open_browser):
    browser = open_browser()
    browser.app = make_app(EMAIL_VERIFICATION="off")
    browser.client = browser.app.test_client()
    browser.register()

    assert "onfirm" not in words(browser.get("/account"))
    assert mails(browser.app) == []
