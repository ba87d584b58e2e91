"""Change a password, ask for a reset link, use it: the pages' side of it."""

import re
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select, update

from authsite import database, passwords, sessions
from authsite.crypto import tokens
from authsite.database.models import OutgoingMail, PasswordReset, SignInFailures
from authsite.passwords import RESET_LIFETIME
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.pages.conftest import (
    EMAIL,
    FIREFOX_ON_LINUX,
    OTHER_EMAIL,
    Browser,
    api_tokens,
    elements,
    flash,
    heading,
    live_sessions,
    mails,
    session_row,
    summary,
    title,
    token_opens,
    user,
    words,
)

SENT = "If an account exists for {}, we have sent a link. It works once and for 60 minutes."


def link(app, email: str = EMAIL) -> str:
    """Return the path and query of the latest link that was mailed to this address."""
    with app.app_context():
        newest = select(PasswordReset.id).where(PasswordReset.user_id == user(app, email).id)
        row = database.row(newest.order_by(PasswordReset.created_at.desc()).limit(1))
        return f"/reset-password?token={tokens.sign('reset', row.id)}"


def ask(browser: Browser, email: str = EMAIL) -> None:
    assert browser.post("/forgot-password", email=email).status_code == 200


def open_link(app, browser: Browser, email: str = EMAIL) -> None:
    ask(browser, email)
    assert browser.get(link(app, email)).status_code == 303


def test_changing_the_password_keeps_this_device_and_ends_the_others(app, ada, open_browser):
    """PW-13, SE-13: pages and API alike."""
    other = open_browser(user_agent=FIREFOX_ON_LINUX)
    other.sign_in()
    held = api_tokens(app)
    answer = ada.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)
    assert (answer.status_code, answer.location) == (303, "/account/devices")
    devices = ada.get("/account/devices")
    assert flash(devices) == "Password changed. Signed out 2 other devices."
    assert "Signed out: the password was changed on Chrome on Windows, just now" in words(devices)
    assert live_sessions(app) == [ada.session_id()]
    assert not other.is_signed_in()
    assert not token_opens(app, held)
    assert mails(app)[-1] == "password_changed"
    assert open_browser().try_sign_in().status_code == 422
    open_browser().sign_in(password=NEW_PASSWORD)


def test_who_is_signed_out_while_the_password_is_looked_at_changes_nothing_and_is_told(
    app, ada, open_browser, monkeypatch
):
    """SE-08: the request was let in before."""
    look = passwords.confirm

    def slowly(account, password, **how):
        seen = look(account, password, **how)
        sessions.end_all(account.id, reason="revoked")
        return seen

    monkeypatch.setattr(passwords, "confirm", slowly)
    answer = ada.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)
    assert (answer.status_code, answer.location) == (303, "/login")
    assert flash(ada.get("/login")) == "This device was signed out. Sign in again to continue."
    monkeypatch.undo()
    other = open_browser()
    other.sign_in()
    assert other.is_signed_in(), "by the password of before"


def test_a_change_speaks_of_no_other_device_where_there_is_none(ada):
    answer = ada.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)

    assert flash(ada.get(answer.location)) == "Password changed."


def test_changing_the_password_makes_the_cookie_of_before_worthless(app, ada, open_browser):
    """PW-13: a stolen copy of this device's own cookie does not survive the change."""
    thief = open_browser()
    thief.client.set_cookie("authsite", ada.cookie().value)
    assert thief.is_signed_in()
    before = ada.cookie_content()
    ada.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)
    after = ada.cookie_content()
    assert before["id"] == after["id"]
    assert before["secret"] != after["secret"]
    assert ada.is_signed_in()
    assert not thief.is_signed_in()


@pytest.mark.parametrize(
    ("current", "new", "field", "sentence"),
    [
        ("", NEW_PASSWORD, "current_password", "Enter your current password"),
        ("not the one", NEW_PASSWORD, "current_password", "Your current password is wrong"),
        (PASSWORD, "", "new_password", "Enter a password"),
        (PASSWORD, "short", "new_password", "Password must be at least 8 characters"),
        (
            PASSWORD,
            PASSWORD,
            "new_password",
            "New password must be different from the current one",
        ),
        (
            PASSWORD,
            EMAIL,
            "new_password",
            "Password must not be your email address or the name of this site",
        ),
    ],
)
def test_a_change_that_is_refused_changes_nothing(app, ada, current, new, field, sentence):
    """PW-11: the one policy, with the account's address as its context."""
    before, held = user(app), api_tokens(app)
    answer = ada.post("/account/password", current_password=current, new_password=new)
    assert answer.status_code == 422
    assert summary(answer) == [(field, sentence)]
    assert title(answer) == "Error: Change your password – authsite"
    assert all(each["value"] == "" for each in elements(answer, "input", type="password"))
    assert user(app) == before
    assert token_opens(app, held)
    assert ada.is_signed_in()


def test_a_password_manager_knows_whose_password_is_changed(app, ada):
    """PW-12: a username field that only managers see, and the right autocomplete."""
    page = ada.get("/account/password")
    (username,) = elements(page, "input", autocomplete="username")
    assert username["value"] == EMAIL
    assert username["class"] == "visually-hidden"
    completions = [each["autocomplete"] for each in elements(page, "input", type="password")]
    assert completions == ["current-password", "new-password"]
    assert len(elements(page, "button", type="button")) == 2
    open_link(app, ada)
    reset = ada.get("/reset-password")
    assert elements(reset, "input", autocomplete="username")[0]["value"] == EMAIL
    assert elements(reset, "input", type="password")[0]["autocomplete"] == "new-password"


def test_wrong_current_passwords_count_with_failed_logins(app, ada, open_browser):
    """LT-09: four here, six at the login; then not even the right one is evaluated, on either page."""
    for _ in range(4):
        ada.post("/account/password", current_password="guess", new_password=NEW_PASSWORD)
    for _ in range(6):
        open_browser(address="198.51.100.7").try_sign_in(password="guess")
    refused = ada.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)
    assert refused.status_code == 429
    assert heading(refused) == "Too many attempts"
    assert "Try again in 15 minutes." in words(refused)
    assert 0 < int(refused.headers["Retry-After"]) <= 900
    assert open_browser(address="198.51.100.8").try_sign_in().status_code == 429
    assert ada.is_signed_in()  # LT-13


@pytest.mark.parametrize("email", [EMAIL, OTHER_EMAIL])
def test_asking_for_a_link_answers_the_same_whether_or_not_there_is_an_account(
    app, ada, open_browser, email
):
    """RS-04."""
    stranger = open_browser()
    answer = stranger.post("/forgot-password", email=email)
    assert answer.status_code == 200
    assert heading(answer) == "Check your email"
    assert SENT.format(email) in words(answer)
    assert mails(app) == (["password_reset"] if email == EMAIL else [])


def test_the_link_can_be_sent_again_from_the_page_that_says_it_was_sent(app, ada):
    ada.sign_out()
    sent = ada.post("/forgot-password", email=EMAIL)
    (resend,) = elements(sent, "form", action="/forgot-password")
    assert resend["method"] == "post"
    (email,) = elements(sent, "input", name="email")
    ask(ada, email["value"])
    assert mails(app) == ["password_reset", "password_reset"]


@pytest.mark.parametrize(
    ("email", "sentence"),
    [
        ("", "Enter your email address"),
        (
            "ada@example.com\r\nBcc: eve@example.com",
            "Enter an email address in the correct format, like name@example.com",
        ),
        (
            "ada@example.com,eve@example.com",
            "Enter an email address in the correct format, like name@example.com",
        ),
    ],
)
def test_what_is_no_address_gets_no_link(app, ada, email, sentence):
    """RS-06."""
    answer = ada.post("/forgot-password", email=email)
    assert answer.status_code == 422
    assert summary(answer) == [("email", sentence)]
    assert mails(app) == []


def test_opening_the_link_takes_the_token_out_of_the_url_and_uses_nothing_up(app, ada):
    """RS-08: mail scanners open links; the address bar and the Referer must not hold the token."""
    ada.sign_out()
    ask(ada)
    before, path = user(app), link(app)
    for _ in range(3):
        answer = ada.get(path)
        assert (answer.status_code, answer.location) == (303, "/reset-password")
        assert answer.headers["Cache-Control"] == "no-store"
    page = ada.get("/reset-password")
    assert page.status_code == 200
    assert heading(page) == "Choose a new password"
    assert EMAIL in words(page)
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "same-origin"
    assert urlsplit(path).query.removeprefix("token=") not in page.text
    sources = [each["src"] for each in elements(page, "script")]
    sources += [each["href"] for each in elements(page, "link")]
    assert sources
    assert all(each.startswith("/static/") for each in sources)
    assert user(app) == before


def test_a_reset_ends_every_session_and_signs_nobody_in(app, ada, open_browser):
    """RS-10, SE-13."""
    held = api_tokens(app)
    somewhere = open_browser(user_agent=FIREFOX_ON_LINUX)
    open_link(app, somewhere)
    answer = somewhere.post("/reset-password", password=NEW_PASSWORD)
    assert (answer.status_code, answer.location) == (303, "/login")
    login = somewhere.get("/login")
    assert flash(login) == "Password changed. Sign in with your new password."
    assert live_sessions(app) == []
    assert not somewhere.is_signed_in()
    assert not ada.is_signed_in()
    assert not token_opens(app, held)
    assert open_browser().try_sign_in().status_code == 422
    somewhere.sign_in(password=NEW_PASSWORD)


def test_a_reset_in_a_browser_that_is_signed_in_signs_it_out_too(app, ada):
    open_link(app, ada)
    ada.post("/reset-password", password=NEW_PASSWORD)
    assert set(ada.cookie_content()) == {"_flashes"}
    assert flash(ada.get("/login")) == "Password changed. Sign in with your new password."
    assert not ada.is_signed_in()


def test_a_reset_in_a_browser_of_another_account_ends_that_session_too(app, ada, open_browser):
    """RS-16: its cookie goes, and nobody could use or see that session again."""
    grace = open_browser()
    grace.register("grace@example.com")
    theirs = grace.session_id()
    ask(grace)
    open_link(app, grace)
    answer = grace.post("/reset-password", password=NEW_PASSWORD)
    assert answer.headers["Location"] == "/login"
    assert session_row(app, theirs).end_reason == "logged_out"
    assert live_sessions(app) == []


def test_a_reset_opens_an_account_that_wrong_passwords_have_locked(app, ada, open_browser):
    """LT-13, RS-10."""
    for _ in range(10):
        open_browser(address="198.51.100.7").try_sign_in(password="guess")
    assert open_browser().try_sign_in().status_code == 429
    open_link(app, ada)
    ada.post("/reset-password", password=NEW_PASSWORD)
    open_browser().sign_in(password=NEW_PASSWORD)


def test_who_only_a_reset_can_help_is_told_so_and_not_to_wait(app, ada, open_browser):
    """LT-05: waiting helps after ten wrong passwords, after a hundred it does not."""
    for _ in range(10):
        open_browser(address="198.51.100.7").try_sign_in(password="guess")
    assert "Try again in 15 minutes." in open_browser().try_sign_in().text
    with app.app_context():
        database.run(update(SignInFailures).values(consecutive=100))
    refused = open_browser().try_sign_in()
    assert refused.status_code == 429
    assert '<a href="/forgot-password">Reset your password</a> to sign in again.' in refused.text
    assert "minute" not in refused.text
    assert "remember" not in refused.text


def _used(app, browser: Browser, _later) -> str:
    path = link(app)
    browser.get(path)
    browser.post("/reset-password", password="yet another secret phrase")
    return path


def _expired(app, _browser, later) -> str:
    path = link(app)
    later(timedelta(minutes=61))
    return path


def _superseded(app, browser: Browser, _later) -> str:
    path = link(app)
    ask(browser)
    return path


def _unknown(app, _browser, _later) -> str:
    with app.app_context():
        return f"/reset-password?token={tokens.sign('reset', 'no such request')}"


def _of_another_purpose(app, _browser, _later) -> str:
    with app.app_context():
        return f"/reset-password?token={tokens.sign('other', 'x')}"


def _too_long(_app, _browser, _later) -> str:
    return "/reset-password?token=" + "x" * 20_000


def _garbage(_app, _browser, _later) -> str:
    return "/reset-password?token=%00%ff%0d%0a"


def _empty(_app, _browser, _later) -> str:
    return "/reset-password?token="


def _none(_app, _browser, _later) -> str:
    return "/reset-password"


@pytest.mark.parametrize(
    "bad_link",
    [
        _used,
        _expired,
        _superseded,
        _unknown,
        _of_another_purpose,
        _too_long,
        _garbage,
        _empty,
        _none,
    ],
)
def test_a_link_that_does_not_work_says_so_and_offers_a_new_one(app, ada, later, bad_link):
    """RS-02, RS-09, RS-11: 410 for every cause, read or posted, and the password stays."""
    ada.sign_out()
    ask(ada)
    path = bad_link(app, ada, later)
    before = user(app).password_hash
    opened = ada.get(path)
    assert opened.status_code in {303, 410}
    page = ada.get("/reset-password")
    assert page.status_code == 410
    assert heading(page) == "This link no longer works"
    assert "This one has been used or has expired, or a newer link or password" in words(page)
    assert elements(page, "a", href="/forgot-password")
    ada.get(path)
    posted = ada.post("/reset-password", page="/login", password=NEW_PASSWORD)
    assert posted.status_code == 410
    assert user(app).password_hash == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "."),
        ("", ","),
        ("(", ")"),
        ("", ")."),
        ("<", ">"),
        ("%20", "%20"),
        ("", "%0D%0A"),
        ("%E2%80%9C", "%E2%80%9D"),
        ("", "%C2%A0"),
    ],
)
def test_punctuation_at_a_reset_link_is_no_part_of_it(app, ada, before, after):
    """RS-02: on the page and in the API alike."""
    ask(ada)
    path, token = link(app).split("token=")
    assert re.fullmatch(r"[\w.-]+", token)
    ada.get(f"{path}token={before}{token}{after}")
    assert heading(ada.get("/reset-password")) == "Choose a new password"
    body = {"token": f" {token}{after}", "new_password": NEW_PASSWORD}
    answer = ada.client.post("/api/v1/auth/password-reset/confirm", json=body)
    assert answer.status_code == 200, answer.text


def test_what_a_token_could_hold_makes_it_another(app, ada):
    """RS-02: nothing is cut but what no token ends with."""
    ask(ada)
    _, token = link(app).split("token=")
    with app.app_context():
        for altered in (f"{token}x", f"{token}-", f"{token}_", f"x{token}", token[:-1], token[1:]):
            assert tokens.unsign("reset", altered, max_age=RESET_LIFETIME) is None
        assert tokens.unsign("reset", token, max_age=RESET_LIFETIME)


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        ("", "Enter a password"),
        ("short", "Password must be at least 8 characters"),
        (EMAIL, "Password must not be your email address or the name of this site"),
    ],
)
def test_a_refused_new_password_leaves_the_link_good(app, ada, password, sentence):
    """PW-11."""
    open_link(app, ada)
    answer = ada.post("/reset-password", password=password)
    assert answer.status_code == 422
    assert summary(answer) == [("password", sentence)]
    assert ada.is_signed_in()
    assert ada.post("/reset-password", password=NEW_PASSWORD).status_code == 303


def test_a_form_that_expired_keeps_the_link(app, ada):
    open_link(app, ada)
    expired = ada.send("/reset-password", {"password": NEW_PASSWORD})
    assert expired.status_code == 400
    assert summary(expired) == [(None, "Your form expired. Try again.")]
    assert ada.post("/reset-password", password=NEW_PASSWORD).status_code == 303


def test_the_link_of_one_account_changes_no_other(app, ada, open_browser):
    """RS-03: also where another account is signed in in that browser."""
    grace = open_browser()
    grace.register(OTHER_EMAIL, password="what grace chose first")
    open_link(app, grace, EMAIL)
    grace.post("/reset-password", password=NEW_PASSWORD)
    open_browser().sign_in(OTHER_EMAIL, "what grace chose first")
    open_browser().sign_in(EMAIL, NEW_PASSWORD)


def test_a_changed_password_makes_an_open_link_worthless(app, ada):
    """RS-03."""
    ask(ada)
    ada.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)
    ada.get(link(app))
    assert ada.get("/reset-password").status_code == 410


def test_the_mail_of_a_reset_tells_which_browser_asked(app, ada):
    ask(ada)
    with app.app_context():
        facts = database.row(select(OutgoingMail.facts))[0]
    assert (facts["device_name"], facts["ip_address"]) == ("Chrome on Windows", "127.0.0.1")


def test_the_session_that_changed_its_password_lasts_as_long_as_before(app, ada, open_browser):
    """PG-13: kept signed in before, kept signed in after."""
    kept = open_browser()
    kept.sign_in(remember="y")
    kept.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)
    row = session_row(app, kept.session_id())
    assert kept.cookie().max_age is not None
    assert row.is_remembered
