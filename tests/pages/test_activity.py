"""Activity on a page: a sentence for each act, by day, failures in a row folded."""

import re
from datetime import timedelta

from authsite import accounts, activity, clock
from authsite.database.models import EVENT_KINDS
from authsite.pages.activity import SENTENCES
from tests.pages.conftest import EMAIL, OTHER_EMAIL, elements, heading, words


def record(app, kind, **facts):
    with app.app_context():
        owner = accounts.find_by_email(EMAIL)
        activity.record(kind, owner.id, **facts)


def test_every_kind_has_its_sentence():
    assert set(SENTENCES) == set(EVENT_KINDS)


def test_it_tells_what_happened_where_from_and_marks_this_device(ada):
    page = ada.get("/account/activity")
    assert heading(page) == "What happened in your account"
    text = words(page)
    assert "Signed in Chrome on Windows This device · 127.0.0.1" in text
    assert "Account created Chrome on Windows · 127.0.0.1" in text
    assert "We keep this for 90 days." in text
    assert text.count("This device") == 1


def test_failures_in_a_row_are_one_line(ada, open_browser):
    stranger = open_browser(address="203.0.113.9")
    for _ in range(3):
        stranger.try_sign_in(password="wrong one")
    text = words(ada.get("/account/activity"))
    assert "3 failed sign-ins, the last Chrome on Windows · 203.0.113.9" in text
    assert "Failed sign-in " not in text


def test_wrong_codes_in_a_row_are_one_line_too(app, ada, time_machine):
    begin = clock.now()
    for seconds, kind in enumerate(("second_step_failed", "second_step_failed", "sign_in_failed")):
        time_machine.move_to(begin + timedelta(seconds=seconds + 1))
        record(app, kind)
    text = words(ada.get("/account/activity"))
    assert "2 wrong codes for the second step, the last" in text
    assert "Failed sign-in By" in text


def test_each_day_has_its_heading(app, browser, time_machine):
    """Of another year with the year; the time alone stands in each line below it."""
    time_machine.move_to("2030-12-31T23:00:00Z", tick=False)
    browser.register()
    time_machine.move_to("2031-01-01T01:00:00Z", tick=False)
    record(app, "details_changed")
    page = browser.get("/account/activity")
    assert len(re.findall("<h2>", page.text)) == 2
    text = words(page)
    assert "1 January in UTC Details changed By the operator · 01:00 UTC" in text
    assert "31 December 2030 in UTC" in text
    assert "Account created Chrome on Windows · 127.0.0.1 · 23:00 UTC" in text


def test_what_was_mailed_is_said_to_have_been(app, ada):
    for kind in ("data_exported", "two_step_on", "recovery_code_used", "details_changed"):
        record(app, kind)
    text = words(ada.get("/account/activity"))

    for sentence in ("Data downloaded", "Two-step sign-in turned on", "Recovery code used"):
        assert re.search(rf"{sentence} By the operator · [^·]* · We emailed you about this", text)
    assert not re.search(r"Details changed By the operator · [^·]* · We emailed", text)


def test_where_nothing_is_left_only_the_days_that_are_kept_are_spoken_of(app, ada):
    with app.app_context():
        list(activity.delete_old(clock.now() + timedelta(days=1), batch_size=100))

    assert "Nothing in these 90 days." in words(ada.get("/account/activity"))


def test_older_leads_on_until_there_is_no_more(app, ada):
    for _ in range(55):
        record(app, "details_changed")
    (link,) = [
        each
        for each in elements(ada.get("/account/activity"), "a")
        if "before=" in (each["href"] or "")
    ]
    older = ada.get(link["href"])
    assert len(elements(older, "li", class_="row")) == 7
    assert not [each for each in elements(older, "a") if "before=" in (each["href"] or "")]


def test_a_name_is_shown_as_text_and_a_bad_position_is_the_beginning(app, ada):
    record(app, "device_signed_out", target="<b>x</b>{0}")
    page = ada.get("/account/activity?before=%00x")
    assert page.status_code == 200
    assert "Signed out &lt;b&gt;x&lt;/b&gt;{0}" in page.text


def test_nobody_who_is_not_signed_in_sees_it(browser):
    assert browser.get("/account/activity").location.endswith("/login?next=/account/activity")


def test_of_a_browser_that_is_signed_in_to_another_account_that_ones_session_is_not_told(
    app, ada, open_browser
):
    """Its id and the name that its owner gave to it are nobody else's."""
    grace = open_browser(address="203.0.113.9")
    grace.register(OTHER_EMAIL)
    page = f"/account/devices/{grace.session_id()}/rename"
    assert grace.post(page, name="Grace's hiding place").status_code == 303
    assert grace.post("/forgot-password", email=EMAIL).status_code == 200
    assert grace.post("/login", page="/account", email=EMAIL, password="wrong").status_code == 422
    text = words(ada.get("/account/activity"))
    assert "Password reset asked for Chrome on Windows · 203.0.113.9" in text
    assert "Failed sign-in Chrome on Windows · 203.0.113.9" in text
    assert "hiding place" not in text
    with app.app_context():
        owner = accounts.find_by_email(EMAIL)
        rows, _ = activity.feed(owner.id, limit=100)
    assert grace.session_id() not in {row.session_id for row in rows}
