"""Delete your account on a page, by the password, and keep it after all, by the address that was mailed."""

from datetime import timedelta

import pytest

from authsite import database, deletions
from authsite.crypto import tokens
from authsite.database.models import AccountEvent, User
from tests import factories
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.pages.conftest import (
    EMAIL,
    OTHER_EMAIL,
    Browser,
    count,
    elements,
    flash,
    heading,
    live_sessions,
    mails,
    summary,
    user,
    words,
)

DAY = "3 December 2030"
SCHEDULED = f"Your account will be deleted on {DAY}. To keep it, open the link in our email."


@pytest.fixture
def dated(time_machine, browser):
    """A browser signed in to ada@example.com on a day that is known."""
    time_machine.move_to("2030-11-26T18:04:00Z", tick=False)
    browser.register()
    return browser


def delete(browser, **fields):
    return browser.post("/account/delete", **{"current_password": PASSWORD} | fields)


def token(app, email=EMAIL):
    row = user(app, email)
    with app.app_context():
        return tokens.sign("keep_account", f"{row.id}:{row.delete_after.isoformat()}")


def open_link(app, browser, email=EMAIL):
    answer = browser.get(f"/keep-account?token={token(app, email)}")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/keep-account")
    return browser.get("/keep-account")


def keep(browser, *, email=EMAIL, choice="keep"):
    return browser.post("/keep-account", email=email, choice=choice)


def test_the_profile_leads_there_and_the_page_says_what_happens_and_when(dated):
    assert elements(dated.get("/account"), "a", href="/account/delete")
    page = dated.get("/account/delete")
    assert heading(page) == "Delete your account"
    assert (
        f"Every device will be signed out at once. Everything will be deleted on {DAY}."
        " Until then the link in our email brings it back."
    ) in words(page)
    assert elements(page, "a", href="/account/export")


def test_with_the_password_the_account_is_closed_and_this_browser_signed_out(app, dated):
    answer = delete(dated)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert flash(dated.get("/login")) == SCHEDULED
    assert not dated.is_signed_in()
    assert not live_sessions(app)
    assert mails(app) == ["deletion_scheduled"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "Enter your password to confirm it is you"),
        ("not her password", "Your current password is wrong"),
    ],
)
def test_without_the_right_password_nothing_happens_however_fresh_the_sign_in(
    app, dated, typed, said
):
    """LIFE 5: always asked for."""
    answer = delete(dated, current_password=typed)
    assert (answer.status_code, summary(answer)) == (422, [("current_password", said)])
    assert user(app).delete_after is None
    assert dated.is_signed_in()
    assert mails(app) == []


def test_opening_the_page_deletes_nothing(app, dated):
    """Rule 1: GET never acts."""
    before = count(app, AccountEvent)
    assert dated.get("/account/delete").status_code == 200
    assert (count(app, AccountEvent), user(app).delete_after) == (before, None)


def test_where_two_step_sign_in_is_on_a_code_is_asked_for_as_well_unless_it_was_lately(
    app, dated, later
):
    with app.app_context():
        account = deletions.accounts.find_by_email(EMAIL)
        phone, _codes = factories.turn_on(account)
    later(timedelta(minutes=11))
    assert elements(dated.get("/account/delete"), "input", name="current_code")
    answer = delete(dated)
    assert [name for name, _ in summary(answer)] == ["current_code"]
    assert user(app).delete_after is None
    with app.app_context():
        code = phone.code()
    assert delete(dated, current_code=code).status_code == 303
    assert user(app).delete_after is not None


def test_signing_in_meanwhile_says_the_day_after_the_right_password_only(app, dated, open_browser):
    delete(dated)
    other = open_browser()
    answer = other.try_sign_in()
    said = f"This account will be deleted on {DAY}. To keep it, open the link in our email"
    assert (answer.status_code, summary(answer)) == (422, [("email", said)])
    wrong = other.try_sign_in(password="not her password")
    assert summary(wrong) == [
        ("email", "Email or password is wrong. Check both and try again"),
    ]


def test_the_link_that_keeps_it_is_mailed_again_after_the_right_password_only(
    app, dated, open_browser, later
):
    """AP-22: three times an hour, and no more once the account can be kept no longer."""
    delete(dated)
    other = open_browser()
    other.try_sign_in(password="not her password")
    assert mails(app) == ["deletion_scheduled"]
    for _ in range(4):
        other.try_sign_in()
    assert mails(app) == ["deletion_scheduled"] * 4
    later(timedelta(days=7))
    other.try_sign_in()
    assert mails(app) == ["deletion_scheduled"] * 4


def test_the_link_leaves_the_address_bar_and_does_nothing_by_itself(app, dated, open_browser):
    """LIFE 0.1: a scanner opens it, and a person comes later."""
    delete(dated)
    scanner = open_browser()
    page = open_link(app, scanner)
    assert heading(page) == "Keep your account"
    assert EMAIL not in page.text
    scanner.send("/keep-account", {"csrf_token": scanner.csrf_token("/keep-account")})
    keep(scanner, email="")
    keep(scanner, email="scanner@example.com")
    assert user(app).delete_after is not None
    open_link(app, dated)
    assert keep(dated).status_code == 303
    assert user(app).delete_after is None


def test_kept_it_is_as_it_was_and_nobody_is_signed_in(app, dated, open_browser):
    delete(dated)
    other = open_browser()
    open_link(app, other)
    answer = keep(other, email=" ADA@example.com")
    assert answer.headers["Location"] == "/login"
    assert flash(other.get("/login")) == "Your account is kept. Sign in to go on."
    assert not live_sessions(app)
    other.sign_in()
    assert other.is_signed_in()
    assert "Deletion of the account cancelled" in words(other.get("/account/activity"))


def test_it_was_not_me_ends_the_password_and_mails_a_reset(app, dated, open_browser):
    delete(dated)
    other = open_browser()
    open_link(app, other)
    keep(other, choice="keep_and_reset")
    assert user(app).is_active
    assert other.try_sign_in().status_code == 422
    assert sorted(mails(app)) == ["deletion_scheduled", "password_reset"]


@pytest.mark.parametrize("choice", ["", "delete"])
def test_no_other_choice_does_anything(app, dated, choice):
    delete(dated)
    open_link(app, dated)
    answer = keep(dated, choice=choice)
    assert (answer.status_code, summary(answer)) == (422, [("choice", "Choose what to do")])
    assert user(app).delete_after is not None


def test_another_address_keeps_nothing_and_is_not_told_which(app, dated):
    delete(dated)
    open_link(app, dated)
    answer = keep(dated, email=OTHER_EMAIL)
    said = "Type the email address that our email went to"
    assert (answer.status_code, summary(answer)) == (422, [("email", said)])
    assert EMAIL not in answer.text
    assert user(app).delete_after is not None


def test_a_link_that_was_used_or_never_was_is_gone(app, dated, open_browser):
    delete(dated)
    open_link(app, dated)
    used = token(app)
    keep(dated)
    for browser, link in ((dated, used), (open_browser(), "nonsense")):
        assert browser.get(f"/keep-account?token={link}").status_code == 303
        page = browser.get("/keep-account")
        assert (page.status_code, heading(page)) == (410, "This link no longer works")


def test_who_is_signed_in_to_another_account_stays_so(app, dated, open_browser):
    """Another person's cookie adds nothing and loses nothing."""
    delete(dated)
    grace = open_browser()
    grace.register(OTHER_EMAIL, first_name="Grace")
    open_link(app, grace)
    assert keep(grace).headers["Location"] == "/account/devices"
    assert grace.is_signed_in()
    assert user(app).is_active


def test_without_days_to_wait_the_page_says_so_and_all_is_gone(make_app):
    app = make_app(ACCOUNT_DELETION_DAYS="0")
    ada = Browser(app)
    ada.register(password=NEW_PASSWORD)
    assert "everything is deleted at once. Nobody can bring it back." in words(
        ada.get("/account/delete")
    )
    assert delete(ada, current_password=NEW_PASSWORD).status_code == 303
    assert flash(ada.get("/login")) == "Your account is deleted."
    assert count(app, User) == 0


def test_who_was_signed_out_meanwhile_is_told_so(app, dated):
    fields = {"csrf_token": dated.csrf_token("/account/delete"), "current_password": PASSWORD}
    with app.app_context():
        account = deletions.accounts.find_by_email(EMAIL)
        deletions.sessions.end_all(account.id, reason="revoked")
        assert database.rows(AccountEvent.__table__.select())
    assert dated.send("/account/delete", fields).headers["Location"].startswith("/login")
    assert user(app).delete_after is None
