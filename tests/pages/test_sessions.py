"""The devices page, signing devices out, and what a browser's session is from its cookie's side."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from authsite import accounts, clock, database, passwords, sessions
from authsite.database.models import OutgoingMail, UserSession
from tests import factories
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.pages.conftest import (
    EMAIL,
    FIREFOX_ON_LINUX,
    OTHER_EMAIL,
    SAFARI_ON_IPHONE,
    api_tokens,
    bearer,
    elements,
    flash,
    heading,
    is_notice,
    live_sessions,
    mails,
    session_row,
    summary,
    token_opens,
    user,
    words,
)

ALREADY = "That device is already signed out."
SIGNED_OUT_WERKZEUG = "Signed out Werkzeug. If you did not recognise it, change your password now."
ONLY_ONE = "You are not signed in anywhere else."


def names(answer) -> list[str]:
    """Return the devices of the list in its order."""
    found = re.findall(r"<h2>(.*?)</h2>", answer.text)
    return [re.sub("<.*", "", each).strip() for each in found if "everywhere" not in each]


def add_sessions(app, count=1, **columns):
    with app.app_context():
        return factories.session_rows(user(app), count, **columns)


def path_of(session, act="revoke") -> str:
    return f"/account/devices/{session}/{act}"


def test_this_device_comes_first_and_then_the_last_active(app, ada):
    for name, hours in [("Old", 9), ("Newest", 1), ("Newer", 3)]:
        used = clock.now() - timedelta(hours=hours)
        add_sessions(app, age=timedelta(days=1), device_name=name, last_used_at=used)
    with app.app_context():
        database.run(
            update(UserSession)
            .where(UserSession.id == ada.session_id())
            .values(last_used_at=clock.now() - timedelta(hours=5))
        )
    page = ada.get("/account/devices")
    assert names(page)[:4] == ["Chrome on Windows", "Newest", "Newer", "Old"]
    assert "You are signed in on 4 devices." in words(page)
    assert page.text.count("This device</span>") == 1


def test_a_device_is_described_as_its_owner_would_know_it(app, ada, later):
    """PR-05: to its owner, with the address and user agent behind the disclosure."""
    later(timedelta(0))
    now = clock.now()
    (row,) = add_sessions(
        app,
        age=timedelta(days=2),
        device_name="Safari on iPhone",
        browser="Safari",
        os="iOS",
        device_type="mobile",
        device_id="phone-1",
        ip_address="203.0.113.7",
        location_country="United Kingdom",
        user_agent=SAFARI_ON_IPHONE,
        last_used_at=now - timedelta(hours=3),
    )
    text = words(ada.get("/account/devices"))
    assert "Last active 3 hours ago · United Kingdom (approximate)" in text
    signed_in, until = row["created_at"], row["expires_at"]
    assert f"Signed in {signed_in.day} {signed_in:%B %Y, %H:%M} UTC" in text
    assert f"Stays signed in until {until.day} {until:%B}, longer if used" in text
    for fact in (
        "203.0.113.7",
        "Phone",
        "Safari",
        "iOS",
        "An app or script",
        "phone-1",
        SAFARI_ON_IPHONE,
    ):
        assert fact in text.partition("Last active")[2]
    page = ada.get("/account/devices").text
    assert f'<time datetime="{now - timedelta(hours=3):%Y-%m-%dT%H:%M:%SZ}">3 hours ago' in page


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(minutes=4), "Active now · 203.0.113.7"),
        (timedelta(minutes=6), "Last active 6 minutes ago · 203.0.113.7"),
        (timedelta(hours=1, minutes=59), "Last active 1 hour ago · 203.0.113.7"),
        (timedelta(days=29), "Last active 29 days ago · 203.0.113.7"),
    ],
)
def test_the_last_use_is_told_in_words(app, ada, later, ago, text):
    later(timedelta(0))
    add_sessions(app, last_used_at=clock.now() - ago, ip_address="203.0.113.7")
    assert text in words(ada.get("/account/devices"))


def test_a_name_that_somebody_chose_never_hides_what_the_device_is(app, ada, open_browser):
    """Whoever holds a stolen session can call it anything; what it is stands under the name."""
    thief = open_browser(user_agent=SAFARI_ON_IPHONE)
    thief.sign_in()
    thief.post(path_of(thief.session_id(), "rename"), name="Chrome on Windows (This device)")
    described = "Chrome on Windows (This device) Safari on iPhone"
    assert described in words(ada.get("/account/devices"))
    assert described in words(ada.get("/account/devices/revoke-others"))
    ada.post(path_of(thief.session_id()), page="/account/devices")
    page = ada.get("/account/devices")
    assert flash(page).startswith("Signed out Chrome on Windows (This device) (Safari on iPhone).")
    assert described in words(page).partition("Signed out recently")[2]


def seen_rows(answer) -> list[str]:
    """Return what the eye finds of each device, before anything is unfolded or heard."""
    rows = re.findall(r'<li class="row.*?</li>', answer.text, re.DOTALL)
    unseen = r'<details>.*?</details>|<span class="visually-hidden">.*?</span>|<[^>]*>'
    return [" ".join(re.sub(unseen, " ", row, flags=re.DOTALL).split()) for row in rows]


LONDON = {"location_city": "London", "location_country": "United Kingdom"}
EARLY = datetime(2026, 3, 1, 9, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("facts", "tells"),
    [
        ([{}, {"location_city": "Paris", "location_country": "France"}], []),
        (
            [{}, {"created_at": EARLY + timedelta(days=2)}],
            ["Signed in 1 March 2026, 09:15 UTC", "Signed in 3 March 2026, 09:15 UTC"],
        ),
        (
            [{}, {"created_at": EARLY + timedelta(seconds=9), "ip_address": "198.51.100.9"}],
            ["Address: 203.0.113.7", "Address: 198.51.100.9"],
        ),
        ([{}, {}, {}], ["Sign-in 1 of 3", "Sign-in 2 of 3", "Sign-in 3 of 3"]),
    ],
)
def test_two_devices_of_one_name_are_told_apart_at_a_glance(app, ada, facts, tells):
    """By place, then by when they signed in, then by what else differs; the button says it too."""
    common = {"created_at": EARLY, "ip_address": "203.0.113.7", "last_used_at": EARLY} | LONDON
    for own in facts:
        add_sessions(app, device_name="curl", **common | own)
    devices, confirm = ada.get("/account/devices"), ada.get("/account/devices/revoke-others")
    for page in (devices, confirm):
        rows = [row for row in seen_rows(page) if row.startswith("curl")]
        assert len(set(rows)) == len(facts)
        assert sorted(tell for tell in tells for row in rows if tell in row) == sorted(tells)
    buttons = re.findall(r"<button[^>]*>Sign out<span[^>]*>(.*?)</span>", devices.text)
    assert len(set(buttons)) == len(facts)
    assert "Signed in" not in seen_rows(devices)[0], "no other is called like this one"
    ada.post("/account/devices/revoke-others")
    rows = [row for row in seen_rows(ada.get("/account/devices")) if row.startswith("curl")]
    assert len(set(rows)) == len(facts)


def test_what_signed_a_device_out_is_told_by_what_it_is(app, ada, open_browser):
    phone = open_browser(user_agent=SAFARI_ON_IPHONE)
    phone.sign_in()
    phone.post(path_of(phone.session_id(), "rename"), name="The support team")
    phone.post("/account/devices/revoke-others")
    page = words(phone.get("/account/devices"))
    assert "Signed out from Safari on iPhone, just now" in page
    assert "from The support team" not in page


def test_a_script_that_names_itself_is_told_by_its_agent_too(app, ada):
    add_sessions(app, device_name="nightly", browser=None, user_agent="AcmeBackup/2.1")
    assert "nightly AcmeBackup" in words(ada.get("/account/devices"))


def test_one_signs_out_this_device_in_the_header_and_no_row_is_red(app, ada):
    add_sessions(app, device_name="curl", browser="curl")
    page = ada.get("/account/devices")
    assert words(page).index("Sign out everywhere else") < words(page).index("This device")
    assert f"{ada.session_id()}/revoke" not in page.text
    assert len(elements(page, "form", action="/logout")) == 1
    assert not [each for each in elements(page, "button") if "danger" in each.get("class", "")]


def test_a_session_at_its_last_day_is_not_said_to_last_longer(app, ada, later):
    later(timedelta(0))
    end = clock.now() + timedelta(days=3)
    add_sessions(app, device_name="curl", expires_at=end, absolute_expires_at=end)
    text = words(ada.get("/account/devices"))
    assert f"until {end.day} {end:%B} Type" in text


def test_the_header_says_whose_account_it_is_and_where_one_stands(ada):
    page = ada.get(path_of(ada.session_id(), "rename"))
    assert EMAIL in words(page).partition("Skip to main content")[2].partition("Rename")[0]
    (part,) = [each for each in elements(page, "a") if "aria-current" in each]
    assert (part["href"], part["aria-current"]) == ("/account/devices", "true")


def test_with_only_this_device_there_is_nothing_to_sign_out(ada):
    page = ada.get("/account/devices")
    assert ONLY_ONE in words(page)
    assert "everywhere else" not in words(page)
    assert "Signed out recently" not in words(page)


def test_a_hundred_devices_take_one_query_for_the_list(app, ada, sent_statements):
    """SE-19, LD-05: one read for the session, one for the list, one for what has ended."""
    add_sessions(app, 99, age=timedelta(hours=1))
    add_sessions(app, 200, age=timedelta(days=3), ended=timedelta(days=1))
    with sent_statements() as sent:
        page = ada.get("/account/devices")
    assert len(elements(page, "li", class_="row device")) == 100
    assert "You are signed in on 100 devices." in words(page)
    assert len(sent) == 3


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/account/password", 1),
        ("/account", 1),
        ("/", 1),
        ("/static/app.css", 0),
        ("/healthz", 0),
        ("/robots.txt", 0),
        ("/.well-known/change-password", 0),
        ("/nowhere", 1),  # its page has the navigation
    ],
)
def test_a_request_reads_its_session_once_and_only_where_it_needs_it(
    ada, sent_statements, path, most
):
    with sent_statements() as sent:
        ada.get(path).close()
    assert len(sent) == most


def test_the_api_and_the_pages_show_the_same_devices(app, ada):
    """SE-21."""
    held = api_tokens(app)
    listed = app.test_client().get("/api/v1/sessions/me", headers=bearer(held)).get_json()
    assert [each["device_name"] for each in listed["sessions"]] == ["Werkzeug", "Chrome on Windows"]
    assert sorted(names(ada.get("/account/devices"))) == ["Chrome on Windows", "Werkzeug"]


def test_signing_an_api_client_out_on_the_page_ends_its_tokens_at_once(app, ada):
    """SE-02, SE-21."""
    held = api_tokens(app)
    (session,) = set(live_sessions(app)) - {ada.session_id()}
    answer = ada.post(path_of(session), page="/account/devices")
    assert (answer.status_code, answer.location) == (303, "/account/devices")
    page = ada.get("/account/devices")
    assert flash(page) == SIGNED_OUT_WERKZEUG
    assert "Signed out from Chrome on Windows, just now" in words(page)
    assert not token_opens(app, held)
    refreshed = app.test_client().post(
        "/api/v1/auth/refresh", json={"refresh_token": held["refresh_token"]}
    )
    assert refreshed.status_code == 401
    assert ada.is_signed_in()


def test_the_api_ends_a_browser_at_once_and_the_browser_is_told(app, ada):
    """SE-02, SE-21: the next request asks to sign in again, and says why only once."""
    headers = bearer(api_tokens(app))
    app.test_client().delete(f"/api/v1/sessions/{ada.session_id()}", headers=headers)
    answer = ada.get("/account/devices")
    assert (answer.status_code, answer.location) == (302, "/login?next=/account/devices")
    login = ada.get(answer.location)
    assert flash(login) == "This device was signed out. Sign in again to continue."
    assert is_notice(login)
    assert "Sign in to continue" not in words(login)
    assert flash(ada.get("/login")) is None
    assert "secret" not in ada.cookie_content()


def test_a_form_sent_from_a_device_that_was_signed_out_does_nothing(app, ada):
    """SE-02."""
    token = ada.csrf_token("/account")
    with app.app_context():
        sessions.end_all(user(app).id, reason="revoked")
    answer = ada.send("/account", {"csrf_token": token, "first_name": "Eve"})
    assert (answer.status_code, answer.location) == (302, "/login?next=/account")
    assert user(app).first_name == "Ada"


@pytest.mark.parametrize("act", ["revoke", "rename"])
@pytest.mark.parametrize("kind", ["unknown", "foreign", "ended", "malformed", "quoted", "braced"])
def test_a_device_that_is_not_ones_own_or_not_signed_in_gets_one_neutral_answer(
    app, ada, open_browser, kind, act
):
    """SE-17, AP-14: which of them it was does not show, and nothing happens."""
    grace = open_browser()
    grace.register(OTHER_EMAIL)
    (ended,) = add_sessions(app, age=timedelta(days=1), ended=timedelta(hours=1))
    device = {
        "unknown": "01a214d0-0a14-7a82-b9ec-9e64ba990d5e",
        "foreign": grace.session_id(),
        "ended": ended["id"],
        "malformed": "1",
        "quoted": "' or 1=1--",
        "braced": f"{{{grace.session_id()}}}",
    }[kind]
    answer = ada.post(path_of(device, act), page="/account/devices", name="Mine")
    assert (answer.status_code, answer.location) == (303, "/account/devices")
    devices = ada.get("/account/devices")
    assert (flash(devices), is_notice(devices)) == (ALREADY, True)
    assert ada.get(path_of(device, "rename")).status_code == 303
    assert grace.is_signed_in()
    assert session_row(app, grace.session_id()).given_name is None
    assert session_row(app, ended["id"]).end_reason == "revoked"


def test_signing_a_device_out_twice_is_harmless(app, ada):
    """SE-17."""
    api_tokens(app)
    (session,) = set(live_sessions(app)) - {ada.session_id()}
    for word in (SIGNED_OUT_WERKZEUG, ALREADY):
        assert ada.post(path_of(session), page="/account/devices").status_code == 303
        assert flash(ada.get("/account/devices")) == word


def test_signing_this_device_out_in_the_list_is_signing_out(app, ada):
    """SE-17."""
    answer = ada.post(path_of(ada.session_id()), page="/account/devices")
    assert (answer.status_code, answer.location) == (303, "/login")
    assert "Clear-Site-Data" not in answer.headers
    assert flash(ada.get("/login")) == "You have signed out."
    assert live_sessions(app) == []


def test_a_device_gets_a_name_and_loses_it_again(app, ada):
    path = path_of(ada.session_id(), "rename")
    form = ada.get(path)
    assert heading(form) == "Rename Chrome on Windows"
    assert elements(form, "input", id="name")[0]["value"] == "Chrome on Windows"
    assert ada.post(path, name="  Kitchen \u202e laptop ").status_code == 303
    page = ada.get("/account/devices")
    assert flash(page) == "The name is now Kitchen laptop (Chrome on Windows)."
    assert names(page)[0] == "Kitchen laptop"
    ada.post(path, name="")
    assert names(ada.get("/account/devices"))[0] == "Chrome on Windows"


def test_a_name_that_is_too_long_is_refused(app, ada):
    answer = ada.post(path_of(ada.session_id(), "rename"), name="x" * 65)
    assert answer.status_code == 422
    assert summary(answer) == [("name", "Name must be 64 characters or fewer")]
    assert session_row(app, ada.session_id()).given_name is None


def test_signing_out_everywhere_else_asks_first_and_names_the_devices(app, ada, open_browser):
    phone = open_browser(user_agent=SAFARI_ON_IPHONE)
    phone.sign_in()
    held = api_tokens(app)
    page = ada.get("/account/devices/revoke-others")
    assert heading(page) == "Sign out 2 other devices?"
    assert "Safari on iPhone" in words(page)
    assert "Werkzeug" in words(page)
    assert "Chrome on Windows" not in words(page)
    assert words(page).index("Sign out 2 devices") < words(page).index("Safari on iPhone")
    assert len(live_sessions(app)) == 3
    answer = ada.post("/account/devices/revoke-others")
    assert (answer.status_code, answer.location) == (303, "/account/devices")
    devices = ada.get("/account/devices")
    assert flash(devices) == (
        "Signed out 2 other devices. If you did not recognise one of them, change your password now."
    )
    assert live_sessions(app) == [ada.session_id()]
    assert not phone.is_signed_in()
    assert not token_opens(app, held)


def test_the_owner_is_mailed_when_a_device_signs_out_all_others(app, ada, open_browser):
    """Also by what the device is: the name that a thief gave it is in no mail."""
    thief = open_browser(user_agent=SAFARI_ON_IPHONE)
    thief.sign_in()
    thief.post(path_of(thief.session_id(), "rename"), name="The support team")
    before = len(mails(app))
    thief.post("/account/devices/revoke-others")
    assert mails(app)[before:] == ["signed_out"]
    with app.app_context():
        facts = database.rows(select(OutgoingMail.facts).where(OutgoingMail.name == "signed_out"))
    assert (facts[0].facts["device_name"], facts[0].facts["count"]) == ("Safari on iPhone", 1)
    assert facts[0].facts["session_id"] == str(thief.session_id())
    thief.post("/account/devices/revoke-others", page="/account/devices")
    assert len(mails(app)) == before + 1  # nothing more was signed out


def test_with_one_other_device_the_words_are_in_the_singular(app, ada):
    api_tokens(app)
    page = ada.get("/account/devices/revoke-others")
    assert heading(page) == "Sign out 1 other device?"
    assert "Sign out 1 device" in words(page)
    ada.post("/account/devices/revoke-others")
    assert flash(ada.get("/account/devices")) == (
        "Signed out 1 other device. If you did not recognise it, change your password now."
    )


def test_without_other_devices_there_is_nothing_to_confirm(ada):
    assert words(ada.get("/account/devices")).count(ONLY_ONE) == 1
    assert ada.get("/account/devices/revoke-others").location == "/account/devices"
    told = ada.get("/account/devices")
    assert (flash(told), words(told).count(ONLY_ONE)) == (ONLY_ONE, 1)
    ada.post("/account/devices/revoke-others", page="/account/devices")
    told = ada.get("/account/devices")
    assert (flash(told), words(told).count(ONLY_ONE)) == (ONLY_ONE, 1)


def test_signing_out_everywhere_else_leaves_other_people_alone(app, ada, open_browser):
    grace = open_browser()
    grace.register(OTHER_EMAIL)
    api_tokens(app)
    ada.post("/account/devices/revoke-others")
    assert grace.is_signed_in()


@pytest.mark.parametrize(
    ("reason", "ended_from", "text"),
    [
        ("logged_out", None, "Signed out, 2 days ago"),
        ("logged_out", "curl", "Signed out from curl, 2 days ago"),
        ("revoked", "Chrome on Windows", "Signed out from Chrome on Windows, 2 days ago"),
        (
            "password_changed",
            "Chrome on Windows",
            "Signed out: the password was changed on Chrome on Windows, 2 days ago",
        ),
        ("password_reset", None, "Signed out: the password was reset, 2 days ago"),
        ("reuse_detected", None, "Signed out for safety: its sign-in was copied, 2 days ago"),
        ("deactivated", None, "Signed out: the account was deactivated, 2 days ago"),
        ("replaced", None, "Replaced: the same device signed in again, 2 days ago"),
        ("evicted", None, "Signed out to make room for a newer device, 2 days ago"),
    ],
)
def test_the_owner_sees_for_thirty_days_what_was_signed_out_and_why(
    app, ada, reason, ended_from, text
):
    add_sessions(
        app,
        age=timedelta(days=5),
        ended=timedelta(days=2),
        device_name="OkHttp app",
        end_reason=reason,
        ended_from=ended_from,
    )
    add_sessions(app, age=timedelta(days=40), ended=timedelta(days=31), device_name="Long gone")
    page = words(ada.get("/account/devices"))
    assert f"OkHttp app {text}" in page
    assert "Long gone" not in page


def test_signing_out_ends_the_session_and_makes_its_cookie_worthless(app, ada, open_browser):
    """SE-11, PG-08: a copy of the cookie opens nothing, and no cached page comes back."""
    copied, session_id = ada.cookie().value, ada.session_id()
    answer = ada.sign_out()
    assert (answer.status_code, answer.location) == (303, "/login")
    assert "Clear-Site-Data" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"
    assert flash(ada.get("/login")) == "You have signed out."
    assert session_row(app, session_id).end_reason == "logged_out"
    assert ada.cookie().value != copied
    assert not ada.is_signed_in()
    thief = open_browser()
    thief.client.set_cookie("authsite", copied)
    assert not thief.is_signed_in()


def test_signing_out_by_a_link_does_nothing(app, ada):
    """PG-04."""
    answer = ada.get("/logout")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "OPTIONS, POST"
    assert ada.is_signed_in()


def test_signing_out_when_already_signed_out_says_so_all_the_same(app, ada):
    token = ada.csrf_token("/account")
    with app.app_context():
        sessions.end_all(user(app).id, reason="revoked")
    assert ada.send("/logout", {"csrf_token": token}).status_code == 303
    assert flash(ada.get("/login")) == "You have signed out."


def test_pages_never_take_a_bearer_token_and_the_api_never_a_cookie(app, ada, open_browser):
    """SE-22."""
    held = api_tokens(app)
    assert open_browser().get("/account", headers=bearer(held)).status_code == 302
    assert ada.get("/api/v1/auth/me").status_code == 401
    assert ada.get("/api/v1/auth/me", headers=bearer(held)).status_code == 200


def test_a_browser_that_comes_back_takes_over_from_its_older_session(app, ada):
    """SE-10: a new row and id; the name that its owner gave it stays."""
    first = ada.session_id()
    ada.post(path_of(first, "rename"), name="Kitchen laptop")
    device_id = session_row(app, first).device_id
    ada.client.delete_cookie("authsite")  # as at the end of the browser session
    ada.sign_in()
    second = ada.session_id()
    assert second != first
    assert session_row(app, first).end_reason == "replaced"
    row = session_row(app, second)
    assert (row.device_id, row.given_name) == (device_id, "Kitchen laptop")
    assert live_sessions(app) == [second]
    assert mails(app) == []


def test_a_browser_that_was_not_seen_before_is_told_to_the_owner(app, ada, open_browser):
    """LT-16: known again by its cookie, also after an update or under another address."""
    phone = open_browser(user_agent=SAFARI_ON_IPHONE)
    phone.sign_in()
    assert mails(app) == ["new_device"]
    phone.sign_out()
    cookie = phone.cookie("authsite-device").value
    updated = open_browser(user_agent=FIREFOX_ON_LINUX, address="198.51.100.9")
    updated.client.set_cookie("authsite-device", cookie)
    updated.sign_in()
    assert mails(app) == ["new_device"]


@pytest.mark.parametrize("planted", ["", "x", "a" * 500, "<script>", "../../etc/passwd"])
def test_a_device_cookie_that_is_not_ours_is_replaced(app, browser, planted):
    browser.client.set_cookie("authsite-device", planted)
    browser.register()
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", session_row(app, browser.session_id()).device_id)
    assert browser.cookie("authsite-device").value != planted


def test_a_device_cookie_opens_nothing(ada, open_browser):
    stranger = open_browser()
    stranger.client.set_cookie("authsite-device", ada.cookie("authsite-device").value)
    assert not stranger.is_signed_in()
    assert stranger.try_sign_in(password="guess").status_code == 422


@pytest.mark.parametrize("header", ["phone-1", "x" * 300, "\x01"])
def test_a_browser_is_not_known_by_a_header(app, browser, header):
    browser.client.environ_base["HTTP_X_DEVICE_ID"] = header
    browser.register()
    assert session_row(app, browser.session_id()).device_id != header


def test_another_persons_sign_in_in_the_same_browser_ends_the_session_before(app, ada):
    """SE-10: its cookie is gone, so nobody could use or end it."""
    first, token = ada.session_id(), ada.csrf_token("/account")
    with app.app_context():
        factories.account(OTHER_EMAIL)
    fields = {"csrf_token": token, "email": OTHER_EMAIL, "password": PASSWORD}
    assert ada.send("/login", fields).status_code == 303
    assert ada.session_id() != first
    assert session_row(app, first).end_reason == "replaced"
    assert OTHER_EMAIL in words(ada.get("/account"))


def test_a_browser_that_was_not_asked_to_keep_it_forgets_after_twelve_idle_hours(app, ada, later):
    """PG-13: a cookie for this browser session only."""
    assert (ada.cookie().max_age, ada.cookie().expires) == (None, None)
    for _ in range(3):
        later(timedelta(hours=11))
        assert ada.is_signed_in()
    assert ada.cookie().max_age is None
    later(timedelta(hours=12, seconds=1))
    assert not ada.is_signed_in()


def test_a_browser_that_was_asked_to_keep_it_stays_signed_in_and_its_cookie_ends_with_the_session(
    app, ada, later
):
    """PG-13, SE-09: each use moves both ends together, but not beyond thirty days."""
    ada.sign_out()
    later(timedelta(0))
    ada.sign_in(remember="y")
    assert ada.cookie().max_age == timedelta(days=7).total_seconds()
    for _ in range(4):
        later(timedelta(days=6))
        assert ada.is_signed_in()
        remaining = session_row(app, ada.session_id()).expires_at - clock.now()
        assert ada.cookie().max_age == int(remaining.total_seconds())
    assert ada.cookie().max_age == timedelta(days=6).total_seconds()
    later(timedelta(days=6, seconds=1))
    assert not ada.is_signed_in()


def test_a_request_within_the_minute_writes_nothing(ada, sent_statements, later):
    """SE-20."""
    later(timedelta(minutes=2))
    with sent_statements() as sent:
        ada.get("/account/password")
        ada.get("/account/password")
    assert sum(each.startswith("UPDATE") for each in sent) == 1
    assert len(sent) == 3


def test_a_deactivated_account_is_signed_out_at_once(app, ada):
    """SE-14."""
    with app.app_context():
        accounts.deactivate(EMAIL)
    assert not ada.is_signed_in()


def test_a_password_reset_through_the_api_signs_browsers_out(app, ada):
    """SE-13."""
    with app.app_context():
        passwords.set_by_operator(EMAIL, NEW_PASSWORD)
    assert not ada.is_signed_in()


def test_logging_out_everywhere_through_the_api_takes_browsers_along(app, ada):
    """SE-12."""
    held = api_tokens(app)
    answer = app.test_client().post("/api/v1/auth/logout-all", headers=bearer(held))
    assert "2 sessions" in answer.get_json()["message"]
    assert not ada.is_signed_in()
