"""The pages of a change of address: ask, confirm with a session or a password, change it back."""

import re
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select

from authsite import accounts, addresses, database
from authsite.crypto import tokens
from authsite.database.models import EmailChange, UserSession
from tests import services
from tests.api.conftest import change_token
from tests.factories import PASSWORD, turn_on
from tests.pages.conftest import (
    EMAIL,
    OTHER_EMAIL,
    Browser,
    elements,
    flash,
    heading,
    live_sessions,
    mails,
    summary,
    user,
    words,
)
from tests.pages.test_not_me import Robot, deliver, what_matters

NEW = "ada.lovelace@example.com"
HERE = "/account/email"


@pytest.fixture
def ada(browser, app):
    """A browser that is signed in to an account whose address is confirmed."""
    browser.register()
    with app.app_context():
        owner = user(app).id
        addresses.verify(owner, tokens.sign("verify_email", f"{owner}:{EMAIL}"))
    return browser


def ask(browser, email=NEW):
    answer = browser.post(HERE, email=email)
    assert (answer.status_code, answer.location) == (303, HERE)
    return browser.get(HERE)


def open_link(browser, page="/confirm-email", purpose="change_email"):
    """Follow the link of the mail, as a browser does."""
    answer = browser.get(f"{page}?token={change_token(browser.app, purpose)}")
    assert (answer.status_code, answer.location) == (303, page)
    return browser.get(page)


def change(browser, email=NEW):
    ask(browser, email)
    open_link(browser)
    assert browser.post("/confirm-email").location == HERE


def address(app) -> str:
    with app.app_context():
        return what_matters(app)[0][1]


def test_the_link_is_sent_and_the_page_says_what_is_waited_for(app, ada):
    page = ada.get(HERE)
    assert heading(page) == "Your email address"
    assert f"{EMAIL} · Confirmed" in words(page)
    assert "Waiting" not in words(page)
    page = ask(ada)

    assert flash(page) == f"We are sending a link to {NEW}. Nothing changes until you open it."
    assert f"Waiting for you to open the link sent to {NEW} (until " in words(page)
    assert (mails(app), address(app)) == (["change_email"], EMAIL)
    assert elements(ada.get("/account"), "a", href=HERE)


def test_one_button_changes_the_address_of_who_is_signed_in(app, ada):
    ask(ada)
    page = open_link(ada)
    assert heading(page) == "Confirm your new email address"
    assert f"Your email address changes from {EMAIL} to {NEW}." in words(page)
    assert not elements(page, "input", type="password")
    assert address(app) == EMAIL
    answer = ada.post("/confirm-email")

    assert (answer.status_code, answer.location, address(app)) == (303, HERE, NEW)
    page = ada.get(HERE)
    assert flash(page) == f"Your email address is now {NEW}."
    assert f"{NEW} · Confirmed" in words(page)
    again = ada.get("/confirm-email")
    assert (again.status_code, heading(again)) == (410, "This link no longer works")


def test_elsewhere_the_password_changes_the_address_and_signs_in(app, ada, open_browser):
    ask(ada)
    browser = open_browser()
    page = open_link(browser)
    assert f"Is {NEW} to be the address of your account?" in words(page)
    assert EMAIL not in page.text  # whoever reads the new mailbox may be a stranger
    wrong = browser.post("/confirm-email", password="not this one")
    assert (wrong.status_code, address(app)) == (422, EMAIL)
    assert summary(wrong) == [("password", "Your password is wrong")]
    answer = browser.post("/confirm-email", password=PASSWORD)

    assert (answer.status_code, address(app)) == (303, NEW)
    assert flash(browser.get(answer.location)) == f"Your email address is now {NEW}."
    assert browser.is_signed_in()
    assert ada.is_signed_in()


def test_where_nobody_signs_in_unconfirmed_the_new_mailbox_is_proof_enough(
    app, browser, open_browser
):
    """A mistyped address must not lock its owner out: he may correct it where he is still signed in."""
    browser.register("adda@example.com")
    app.config["EMAIL_VERIFICATION"] = "required"
    ask(browser)
    browser.sign_out()
    open_link(browser)
    answer = browser.post("/confirm-email", password=PASSWORD)

    assert (answer.status_code, address(app)) == (303, NEW)
    assert browser.is_signed_in()


def test_with_two_step_sign_in_mailbox_and_password_change_nothing(app, ada, open_browser):
    """The second step comes first: in a session that has shown it the same link changes the address."""
    ask(ada)
    with app.app_context():
        turn_on(accounts.find_by_email(EMAIL))
    browser = open_browser()
    open_link(browser)
    answer = browser.post("/confirm-email", password=PASSWORD)

    assert (answer.location, address(app)) == ("/login", EMAIL)
    assert not browser.is_signed_in()
    assert "Sign in first, then open the link in our email again." in words(browser.get("/login"))
    open_link(ada)
    ada.post("/confirm-email")
    assert address(app) == NEW


def test_the_button_alone_changes_nothing_elsewhere(app, ada, open_browser):
    """LIFE §0.2"""
    ask(ada)
    robot = open_browser()
    open_link(robot)
    assert robot.post("/confirm-email").status_code == 422

    assert address(app) == EMAIL
    assert not robot.is_signed_in()


def test_signed_in_to_another_account_the_page_says_so_and_changes_nothing(app, ada, open_browser):
    ask(ada)
    grace = open_browser()
    grace.register(OTHER_EMAIL)
    page = open_link(grace)
    assert heading(page) == "You are signed in to another account"
    assert EMAIL not in page.text
    token = grace.csrf_token("/account")
    assert grace.send("/confirm-email", {"csrf_token": token}).status_code == 200

    assert address(app) == EMAIL
    assert user(app, OTHER_EMAIL)


@pytest.mark.parametrize("page", ["/confirm-email", "/undo-email"])
@pytest.mark.parametrize("token", ["x", "", "x" * 5000])
def test_a_link_that_does_not_work_says_so(ada, page, token):
    ada.get(f"{page}?token={token}")
    answer = ada.get(page)

    assert (answer.status_code, heading(answer)) == (410, "This link no longer works")
    assert ada.post(page, page="/account", email=EMAIL).status_code == 410


@pytest.mark.parametrize("page", ["/confirm-email", "/undo-email"])
def test_without_cookies_the_page_says_why(app, page):
    answer = app.test_client(use_cookies=False).get(page)

    assert (answer.status_code, heading(answer)) == (400, "Your browser sent no cookie")


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("", "Enter your email address"),
        ("nonsense", "Enter an email address in the correct format, like name@example.com"),
        (EMAIL, "This is already your email address"),
    ],
)
def test_what_is_no_new_address_stays_in_the_form_with_the_reason(app, ada, typed, sentence):
    page = ada.post(HERE, email=typed)

    assert (page.status_code, summary(page)) == (422, [("email", sentence)])
    assert elements(page, "input", name="email", value=typed)
    assert mails(app) == []


def test_who_is_not_fresh_confirms_it_in_the_form(app, ada, later):
    """LIFE §5: a field, never a detour; what was typed stays."""
    later(timedelta(minutes=11))
    missing = ada.post(HERE, email=NEW)
    assert missing.status_code == 422
    assert summary(missing) == [("current_password", "Enter your password to confirm it is you")]
    assert elements(missing, "input", name="email", value=NEW)
    wrong = ada.post(HERE, email=NEW, current_password="not this one")
    assert summary(wrong) == [("current_password", "Your current password is wrong")]
    assert mails(app) == []

    assert ada.post(HERE, email=NEW, current_password=PASSWORD).location == HERE
    assert mails(app) == ["change_email"]
    assert not elements(ada.get(HERE), "input", name="current_password")


def test_of_more_than_three_in_an_hour_the_page_says_that_none_was_sent(app, ada):
    for number in range(3):
        ask(ada, f"new{number}@example.com")
    page = ada.post(HERE, email=NEW)

    sentence = "Too many links were asked for in the last hour. Try again later"
    assert (page.status_code, summary(page)) == (422, [("email", sentence)])
    assert "Waiting for you to open the link sent to new2@example.com" in words(page)
    assert len(mails(app)) == 3


def test_a_change_is_cancelled_by_one_button(app, ada):
    ask(ada)
    answer = ada.post("/account/email/cancel", page=HERE)
    page = ada.get(answer.location)

    assert flash(page) == f"Change cancelled. Your email address stays {EMAIL}."
    assert "Waiting" not in words(page)
    assert open_link(ada).status_code == 410


def test_an_address_that_is_taken_meanwhile_is_said_to_be(app, ada, open_browser):
    ask(ada, OTHER_EMAIL)
    open_browser().register(OTHER_EMAIL)
    open_link(ada)
    answer = ada.post("/confirm-email")

    assert flash(ada.get(answer.location)) == (
        "That email address belongs to another account. Yours is unchanged."
    )
    assert address(app) == EMAIL


# Back again


def test_the_old_address_typed_changes_it_back_and_ends_everything(app, ada, open_browser):
    change(ada)
    owner = open_browser()
    page = open_link(owner, "/undo-email", "undo_email")
    assert heading(page) == "Your email address was changed"
    assert "It was changed to a•••@example.com." in words(page)
    assert NEW not in page.text
    assert EMAIL not in page.text  # it is to be typed
    answer = owner.post("/undo-email", email=EMAIL.upper())

    assert (answer.status_code, answer.location, address(app)) == (303, "/login", EMAIL)
    assert flash(owner.get("/login")) == (
        "Your address is changed back and every device is signed out."
        " Open the link that we have just sent you to choose a new password."
    )
    assert live_sessions(app) == []
    assert not ada.is_signed_in()
    assert mails(app)[-1] == "password_reset"
    again = open_link(owner, "/undo-email", "undo_email")
    assert again.status_code == 410


@pytest.mark.parametrize("typed", ["", NEW, "x@example.com"])
def test_another_address_typed_changes_nothing_back(app, ada, open_browser, typed):
    """LIFE §0.3"""
    change(ada)
    owner = open_browser()
    open_link(owner, "/undo-email", "undo_email")
    page = owner.post("/undo-email", email=typed)

    assert page.status_code == 422
    assert [name for name, _ in summary(page)] == ["email"]
    assert (address(app), ada.is_signed_in()) == (NEW, True)


def test_undoing_in_a_browser_of_another_account_leaves_that_signed_in(app, ada, open_browser):
    """LIFE §8.3: another person's cookie adds nothing and loses nothing."""
    change(ada)
    grace = open_browser()
    grace.register(OTHER_EMAIL)
    open_link(grace, "/undo-email", "undo_email")
    grace.post("/undo-email", email=EMAIL)

    assert address(app) == EMAIL
    assert grace.is_signed_in()


def test_undoing_in_a_browser_of_the_account_signs_it_out_with_the_right_word(app, ada):
    change(ada)
    open_link(ada, "/undo-email", "undo_email")
    ada.post("/undo-email", email=EMAIL)

    assert flash(ada.get("/login")).startswith("Your address is changed back")


def test_guesses_at_the_address_are_limited(ada, open_browser):
    change(ada)
    robot = open_browser(address="198.51.100.9")
    open_link(robot, "/undo-email", "undo_email")
    for number in range(5):
        assert robot.post("/undo-email", email=f"x{number}@example.com").status_code == 422

    assert robot.post("/undo-email", email=EMAIL).status_code == 429


# A robot


def test_a_robot_that_presses_every_button_of_both_mailboxes_changes_nothing(app, ada, mailbox):
    """LIFE §0: with real mails, opened twice; the change still waits, and can still be undone."""
    app.config.update(MAIL_SERVER=services.HOST, MAIL_PORT=mailbox.port)
    change(ada)
    ask(ada, "ada.byron@example.com")
    deliver(app, mailbox)
    links = [
        link
        for number in range(len(mailbox.messages))
        for link in re.findall(r"https?://\S+", mailbox.text(number))
    ]
    assert {urlsplit(link).path for link in links} >= {"/undo-email", "/confirm-email"}
    before, robot = what_matters(app), Robot(app)
    for link in links * 2:
        robot.visit(link)

    assert {"/undo-email", "/confirm-email"} <= set(robot.pressed)
    assert what_matters(app) == before
    assert ada.is_signed_in()
    with app.app_context():
        ends = database.rows(select(UserSession.end_reason))
        over = database.rows(select(EmailChange.ended_at))
    assert ({each[0] for each in ends}, {each[0] for each in over}) == ({None}, {None})
    answer = ada.get(f"/confirm-email?token={mailbox.token('/confirm-email', -1)}")
    assert ada.post("/confirm-email").location == HERE
    assert answer.status_code == 303
    (undo,) = {link for link in links if "/undo-email?" in link}
    owner = Browser(app)
    owner.get(undo[undo.index("/undo-email") :])
    assert owner.post("/undo-email", email=EMAIL).status_code == 303
    assert address(app) == EMAIL
