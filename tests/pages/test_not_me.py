"""The page behind \"this wasn't me\", and a robot that opens all links of a day and presses all buttons."""

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select

from authsite import database
from authsite.crypto import tokens
from authsite.database.models import User, UserSession
from authsite.mail import emails, outbox
from tests import services
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.pages.conftest import (
    CHROME_ON_WINDOWS,
    EMAIL,
    FIREFOX_ON_LINUX,
    OTHER_EMAIL,
    SAFARI_ON_IPHONE,
    Browser,
    flash,
    heading,
    live_sessions,
    summary,
    user,
    words,
)


@pytest.fixture
def app(make_app, mailbox):
    return make_app(
        EMAIL_VERIFICATION="optional",
        RATELIMIT_ENABLED="0",
        MAIL_SERVER=services.HOST,
        MAIL_PORT=str(mailbox.port),
    )


@pytest.fixture
def thief(app, ada):
    """Somebody who knows the password, on a browser of his own."""
    browser = Browser(app, user_agent=FIREFOX_ON_LINUX, address="203.0.113.7")
    browser.sign_in()
    return browser


def deliver(app, mailbox):
    with app.app_context():
        outbox.deliver()
    return mailbox


def open_link(browser, mailbox, index=-1):
    answer = browser.get(f"/not-me?token={mailbox.token('/not-me', index)}")
    assert (answer.status_code, answer.location) == (303, "/not-me")
    return browser.get("/not-me")


def test_the_mail_of_a_new_device_leads_to_a_button_that_signs_it_out(app, ada, thief, mailbox):
    page = open_link(Browser(app), deliver(app, mailbox))
    assert heading(page) == "Was this you?"
    assert "Firefox on Linux signed in on" in words(page)
    assert "from 203.0.113.7" in words(page)
    assert EMAIL not in page.text
    assert thief.is_signed_in()
    reader = Browser(app)
    open_link(reader, mailbox)
    assert reader.post("/not-me").status_code == 303

    page = reader.get("/not-me")
    assert heading(page) == "That device is signed out"
    assert "We have sent a link to choose a new one to a•••@example.com." in words(page)
    assert not thief.is_signed_in()
    assert ada.is_signed_in()
    assert not reader.is_signed_in()
    again = reader.post("/not-me")
    assert flash(reader.get(again.location)) == "That device is already signed out."


def test_of_a_device_that_has_signed_out_meanwhile_no_button_says_to_sign_it_out(
    app, ada, thief, mailbox
):
    """LIFE §8.3: a thief who signs himself out first is locked out all the same."""
    reader = Browser(app)
    page = open_link(reader, deliver(app, mailbox))
    assert "It has been signed out already." not in words(page)
    assert "No, sign that device out" in words(page)
    thief.sign_out()
    page = reader.get("/not-me")
    assert "It has been signed out already." in words(page)
    assert "No, it was not me" in words(page)
    assert "sign that device out" not in words(page)
    reader.post("/not-me")

    assert heading(reader.get("/not-me")) == "That device is signed out"
    assert thief.try_sign_in().status_code == 429


def test_who_is_signed_in_to_another_account_keeps_it(app, ada, thief, mailbox, open_browser):
    """LIFE §8.3: another person's cookie adds nothing and loses nothing."""
    grace = open_browser()
    grace.register(OTHER_EMAIL)
    index = next(
        number
        for number, message in enumerate(deliver(app, mailbox).messages)
        if "/not-me?" in mailbox.text(number)
    )
    open_link(grace, mailbox, index)
    grace.post("/not-me")
    grace.send("/not-me", {"csrf_token": grace.csrf_token("/not-me"), "email": EMAIL})

    assert grace.is_signed_in()
    assert not thief.is_signed_in()
    assert not ada.is_signed_in()


def test_pressed_on_the_very_device_it_signs_that_out(app, ada, thief, mailbox):
    open_link(thief, deliver(app, mailbox))
    assert thief.post("/not-me").status_code == 303

    assert heading(thief.get("/not-me")) == "That device is signed out"
    assert not thief.is_signed_in()
    assert ada.is_signed_in()


def test_the_mail_of_a_changed_password_asks_for_the_address(app, ada, mailbox):
    ada.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)
    reader = Browser(app)
    page = open_link(reader, deliver(app, mailbox))
    assert "The password of your account was changed." in words(page)
    for typed, message in (
        ("", "Enter your email address"),
        (OTHER_EMAIL, "Type the email address that our email went to"),
    ):
        refused = reader.post("/not-me", email=typed)
        assert (refused.status_code, summary(refused)) == (422, [("email", message)])
    assert ada.is_signed_in()
    answer = reader.post("/not-me", email="Ada@example.com")

    assert (answer.status_code, answer.location) == (303, "/login")
    assert "Every device is signed out" in flash(reader.get("/login"))
    assert not ada.is_signed_in()
    assert reader.try_sign_in(password=NEW_PASSWORD).status_code == 422
    assert "Reset your authsite password" in deliver(app, mailbox).subjects
    number = mailbox.subjects.index("Your authsite password was changed")
    assert open_link(reader, mailbox, number).status_code == 410


def test_without_the_csrf_token_nothing_is_done(app, ada, thief, mailbox):
    reader = Browser(app)
    open_link(reader, deliver(app, mailbox))
    reader.send("/not-me")

    assert thief.is_signed_in()


# A robot


class _Forms(HTMLParser):
    """The forms of a page: where each leads and the fields that it has, with their values."""

    def __init__(self, html):
        super().__init__()
        self.forms = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "form":
            self.forms.append((found.get("method", "get"), found.get("action"), {}))
        elif tag == "input" and self.forms and found.get("name"):
            self.forms[-1][2][found["name"]] = found.get("value") or ""


class Robot:
    """Opens links as a mail scanner does: HEAD, GET, then every form, with cookies and CSRF tokens."""

    def __init__(self, app):
        self.client = app.test_client()
        self.pressed = []

    def visit(self, link):
        parts = urlsplit(link)
        target = f"{parts.path}?{parts.query}"
        self.client.head(target, follow_redirects=True)
        page = self.client.get(target, follow_redirects=True)
        for method, action, fields in _Forms(page.text).forms:
            if method == "post":
                path = action or page.request.path
                self.pressed.append(path)
                self.client.post(path, data=fields, follow_redirects=True)


def what_matters(app):
    with app.app_context():
        columns = (User.id, User.email, User.email_verified_at, User.password_hash)
        return [tuple(row) for row in database.rows(select(*columns).order_by(User.id))]


def test_a_robot_that_presses_every_button_of_a_days_mails_changes_nothing_that_matters(
    app, ada, mailbox
):
    """LIFE §0: with real mails; it costs one device that was new, which is signed out, and no more."""
    phone = Browser(app, user_agent=SAFARI_ON_IPHONE)
    phone.sign_in()  # a new device
    ada.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)
    laptop = Browser(app, user_agent=FIREFOX_ON_LINUX)
    laptop.sign_in(password=NEW_PASSWORD)  # another one
    Browser(app).post("/forgot-password", email=EMAIL)
    deliver(app, mailbox)
    before = what_matters(app)
    links = [
        link
        for number in range(len(mailbox.messages))
        for link in re.findall(r"https?://\S+", mailbox.text(number))
    ]
    pages = {urlsplit(link).path for link in links}
    assert pages >= {"/verify-email", "/not-me", "/reset-password", "/forgot-password"}
    robot = Robot(app)
    for link in reversed(links):  # a reset that a report causes ends the link of the one before
        robot.visit(link)

    assert {"/verify-email", "/not-me", "/reset-password"} <= set(robot.pressed)
    assert what_matters(app) == before
    assert user(app).email_verified_at is None
    assert ada.is_signed_in()
    with app.app_context():
        reported = {
            tokens.unsign(
                "not_me", mailbox.token("/not-me", number), max_age=emails.NOT_ME_LIFETIME
            )
            for number in range(len(mailbox.messages))
            if "/not-me?" in mailbox.text(number)
        }
        of_new_devices = {each.split(":")[2] for each in reported if each.startswith("session:")}
        rows = database.rows(select(UserSession.id).where(UserSession.end_reason == "not_me"))
    assert {str(row.id) for row in rows} <= of_new_devices
    assert ada.session_id() in live_sessions(app)
    owner = Browser(app, user_agent=CHROME_ON_WINDOWS)
    owner.client.set_cookie("authsite-device", ada.cookie("authsite-device").value)
    owner.sign_in(password=NEW_PASSWORD)
    assert owner.is_signed_in()
