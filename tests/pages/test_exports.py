"""Download your data, on a page: the file for who has just shown who they are."""

import json
from datetime import timedelta

from authsite.database.models import AccountEvent
from tests.factories import PASSWORD
from tests.pages.conftest import EMAIL, count, elements, heading, mails, summary, words

OLD = timedelta(minutes=10, seconds=1)
LABEL = "Enter your password to confirm it is you"


def asks(answer):
    return len(elements(answer, "input", name="current_password")) == 1


def test_right_after_signing_in_a_button_is_enough(app, ada):
    page = ada.get("/account/export")
    assert heading(page) == "Download your data"
    assert not asks(page)
    answer = ada.post("/account/export")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    found = json.loads(answer.data)
    assert found["account"]["email"] == EMAIL
    assert found["counts"]["sessions"] == 1
    assert mails(app) == ["data_exported"]


def test_later_the_form_asks_for_the_password_and_the_browser_stays_signed_in(app, ada, later):
    later(OLD)
    assert asks(ada.get("/account/export"))
    answer = ada.post("/account/export", current_password=PASSWORD)
    assert json.loads(answer.data)["account"]["email"] == EMAIL
    assert ada.is_signed_in()
    assert not asks(ada.get("/account/export"))


def test_without_the_right_password_nothing_leaves_and_nobody_is_told(app, ada, later):
    later(OLD)
    before = count(app, AccountEvent)
    for typed, said in (("", LABEL), ("wrong", "Your current password is wrong")):
        answer = ada.post("/account/export", current_password=typed)
        assert (answer.status_code, summary(answer)) == (422, [("current_password", said)])
        assert "attachment" not in answer.headers.get("Content-Disposition", "")
    assert mails(app) == []
    # The wrong one is told of, as a failure.
    assert count(app, AccountEvent) == before + 1


def test_opening_the_page_takes_nothing(app, ada):
    """Rule 1: GET never acts."""
    before = count(app, AccountEvent)
    assert ada.get("/account/export").status_code == 200
    assert (count(app, AccountEvent), mails(app)) == (before, [])


def test_the_profile_leads_there(ada):
    page = ada.get("/account")
    assert "Download your data" in words(page)
    assert elements(page, "a", href="/account/export")


def test_who_is_signed_out_is_led_to_the_login(browser):
    assert browser.get("/account/export").headers["Location"] == "/login?next=/account/export"
