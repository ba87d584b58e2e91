"""The second step on pages: asked for after the password, whichever page it was given on."""

import base64
import re
from datetime import timedelta
from urllib.parse import quote

import pytest
import segno
from sqlalchemy import update

from authsite import accounts, clock, database, sessions
from authsite.crypto import tokens
from authsite.database.models import TrustedBrowser, User
from tests.factories import NEW_PASSWORD, PASSWORD, Phone, turn_on
from tests.pages.conftest import (
    EMAIL,
    OTHER_EMAIL,
    Browser,
    count,
    elements,
    flash,
    heading,
    live_sessions,
    session_row,
    summary,
    words,
)

SECOND_STEP = "/login/second-step"
WRONG = "That code is wrong or has been used. Wait for the next one"


@pytest.fixture
def two_step(app):
    """The phone and recovery codes of Ada, who is signed in nowhere."""
    with app.app_context():
        account = accounts.register(email=EMAIL, password=PASSWORD, first_name="Ada").account
        held = turn_on(account)
        sessions.end_all(account.id, reason="revoked")
        return held


def show_code(browser, code, at=SECOND_STEP, **fields):
    return browser.post(at, code=code, **fields)


def test_the_password_leads_to_the_code_and_makes_no_session(app, browser, two_step):
    answer = browser.try_sign_in()
    assert (answer.status_code, answer.location) == (303, SECOND_STEP)
    assert live_sessions(app) == []
    assert not browser.is_signed_in()
    assert browser.cookie("authsite-device") is None
    assert browser.cookie_content().keys() == {"csrf_token", "second_step"}


def test_the_page_asks_for_six_digits_as_phones_fill_them_in(browser, two_step):
    browser.try_sign_in()
    page = browser.get(SECOND_STEP)
    assert heading(page) == "Enter your code"
    assert "The 6 digits that your authenticator app shows for authsite" in words(page)
    assert elements(page, "input", name="code", inputmode="numeric", autocomplete="one-time-code")
    (trust,) = elements(page, "input", name="trust", type="checkbox")
    assert "checked" not in trust
    assert "Do not ask on this browser for 30 days" in words(page)
    assert elements(page, "a", href=f"{SECOND_STEP}?with=recovery")


def test_the_code_signs_in_and_the_session_has_two_steps(app, browser, two_step):
    browser.try_sign_in()
    answer = show_code(browser, two_step[0].code())
    assert (answer.status_code, answer.location) == (303, "/account/devices")
    row = session_row(app, browser.session_id())
    assert row.signed_in_with == "password+app"
    assert row.authenticated_at is not None
    assert browser.cookie("authsite-trust") is None
    assert "second_step" not in browser.cookie_content()


def test_a_recovery_code_signs_in_too(app, browser, two_step):
    browser.try_sign_in()
    page = browser.get(f"{SECOND_STEP}?with=recovery")
    assert heading(page) == "Enter a recovery code"
    assert elements(page, "a", href=SECOND_STEP)
    answer = show_code(browser, two_step[1][0], f"{SECOND_STEP}?with=recovery")
    assert answer.status_code == 303
    assert session_row(app, browser.session_id()).signed_in_with == "password+recovery"


@pytest.mark.parametrize("is_remembered", [True, False])
def test_where_one_was_going_and_staying_signed_in_survive_the_step(
    app, browser, two_step, is_remembered
):
    target = "/account/password?a=1&b=2"
    fields = {"remember": "y"} if is_remembered else {}
    first = browser.post(f"/login?next={quote(target)}", email=EMAIL, password=PASSWORD, **fields)
    assert first.location.startswith(f"{SECOND_STEP}?next=/account/password")
    page = browser.get(first.location)
    (other_way,) = [
        each["href"] for each in elements(page, "a") if "with=recovery" in str(each["href"])
    ]
    answer = show_code(browser, two_step[1][0], str(other_way).replace("&amp;", "&"))
    assert answer.location == target
    assert session_row(app, browser.session_id()).is_remembered == is_remembered
    assert (browser.cookie().max_age is not None) == is_remembered


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example/", "/\\evil.example"])
def test_it_leads_to_no_other_site(browser, two_step, target):
    first = browser.post(f"/login?next={quote(target)}", email=EMAIL, password=PASSWORD)
    assert "evil" not in first.location
    answer = show_code(browser, two_step[0].code(), f"{SECOND_STEP}?next={quote(target)}")
    assert answer.location == "/account/devices"


@pytest.mark.parametrize(
    ("at", "code", "said"),
    [
        (SECOND_STEP, "", "Enter the code"),
        (SECOND_STEP, "000000", WRONG),
        (f"{SECOND_STEP}?with=recovery", "k7qd2x", "That recovery code is wrong or has been used"),
        (SECOND_STEP, "1" * 129, "Code must be 128 characters or fewer"),
    ],
)
def test_a_wrong_code_is_said_and_signs_nobody_in(app, browser, two_step, at, code, said):
    browser.try_sign_in()
    answer = show_code(browser, code, at)
    assert answer.status_code == 422
    assert summary(answer) == [("code", said)]
    assert live_sessions(app) == []
    assert show_code(browser, two_step[0].code()).status_code == 303


def test_without_a_pending_sign_in_it_leads_to_the_sign_in(browser):
    answer = browser.get(f"{SECOND_STEP}?next=/account/password")
    assert answer.location == "/login?next=/account/password"
    assert flash(browser.get("/login")) is None


def test_after_ten_minutes_it_says_so_and_leads_to_the_sign_in(app, browser, two_step, later):
    browser.try_sign_in()
    token = browser.csrf_token(SECOND_STEP)
    later(timedelta(minutes=10, seconds=1))
    answer = browser.send(SECOND_STEP, {"csrf_token": token, "code": two_step[0].code()})
    assert answer.location == "/login"
    assert flash(browser.get("/login")) == "Sign in again. You took longer than 10 minutes."
    assert live_sessions(app) == []


def test_a_password_changed_meanwhile_ends_the_pending_sign_in(app, browser, two_step):
    browser.try_sign_in()
    with app.app_context():
        database.run(update(User).values(password_changed_at=clock.now()))
    answer = show_code(browser, two_step[0].code())
    assert answer.location == "/login"
    assert flash(browser.get("/login")).startswith("Sign in again.")
    assert live_sessions(app) == []


def test_a_code_that_was_shown_signs_in_once(app, browser, two_step):
    browser.try_sign_in()
    copy = Browser(app)
    copy.client.set_cookie("authsite", browser.cookie().value)
    assert show_code(browser, two_step[0].code()).status_code == 303
    assert show_code(copy, two_step[1][0]).location == "/login"
    assert len(live_sessions(app)) == 1


def test_five_wrong_codes_close_it_and_a_new_round_of_the_password_does_not_open_it(
    app, browser, two_step
):
    for _ in range(5):
        browser.sign_in()
        assert show_code(browser, "000000").status_code == 422
    browser.sign_in()
    refused = show_code(browser, two_step[0].code())
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 60
    assert live_sessions(app) == []


def test_who_is_signed_in_as_another_changes_accounts_with_the_code(app, browser, two_step):
    browser.register(OTHER_EMAIL)
    earlier = browser.session_id()
    page = browser.get("/account")
    token = elements(page, "input", name="csrf_token")[0]["value"]
    browser.send("/login", {"csrf_token": token, "email": EMAIL, "password": PASSWORD})
    assert session_row(app, earlier).ended_at is None
    assert heading(browser.get(SECOND_STEP)) == "Enter your code"
    assert show_code(browser, two_step[0].code()).status_code == 303
    assert session_row(app, earlier).end_reason == "replaced"
    assert "ada@example.com" in words(browser.get("/account"))


def test_confirming_an_address_does_not_pass_the_step_by(make_app, open_browser):
    app = make_app(EMAIL_VERIFICATION="optional")
    with app.app_context():
        account = accounts.register(email=EMAIL, password=PASSWORD, first_name="Ada").account
        phone, _ = turn_on(account)
        before = live_sessions(app)
        link = tokens.sign("verify_email", f"{account.id}:{account.email}")
    browser = Browser(app)
    browser.get(f"/verify-email?token={link}")
    answer = browser.post("/verify-email", password=PASSWORD)
    assert answer.location == SECOND_STEP
    assert live_sessions(app) == before
    page = browser.get(SECOND_STEP)
    assert flash(page) == "Email address confirmed."
    assert show_code(browser, phone.code()).status_code == 303
    assert browser.is_signed_in()


# browsers that are trusted


def trusted(browser, two_step):
    browser.try_sign_in()
    assert show_code(browser, two_step[0].code(), trust="y").status_code == 303
    return browser.cookie("authsite-trust")


def test_a_trusted_browser_is_asked_for_the_password_only(app, browser, two_step, open_browser):
    cookie = trusted(browser, two_step)
    assert (cookie.http_only, cookie.same_site, cookie.path) == (True, "Lax", "/")
    assert cookie.max_age == pytest.approx(30 * 86400, abs=5)
    browser.sign_out()
    assert browser.cookie("authsite-trust").value == cookie.value, "signing out keeps it"
    browser.sign_in()
    row = session_row(app, browser.session_id())
    assert (row.signed_in_with, row.authenticated_at) == ("password+trusted", None)
    assert browser.cookie("authsite-trust").max_age == cookie.max_age, "it is never extended"
    assert open_browser().try_sign_in().location == SECOND_STEP


def test_the_cookie_opens_nothing_without_the_password_nor_for_anybody_else(
    app, browser, two_step, open_browser
):
    cookie = trusted(browser, two_step)
    with app.app_context():
        turn_on(accounts.register(email=OTHER_EMAIL, password=PASSWORD, first_name="G").account)
    thief = open_browser()
    thief.client.set_cookie("authsite-trust", cookie.value)
    assert thief.try_sign_in(password="not it at all").status_code == 422
    assert thief.try_sign_in(OTHER_EMAIL).location == SECOND_STEP


def test_two_people_who_share_a_browser_are_each_trusted_by_a_secret_of_their_own(
    app, browser, two_step
):
    first = trusted(browser, two_step).value
    browser.sign_out()
    with app.app_context():
        account = accounts.register(email=OTHER_EMAIL, password=PASSWORD, first_name="G").account
        phone, _ = turn_on(account)
    browser.try_sign_in(OTHER_EMAIL)
    show_code(browser, phone.code(), trust="y")
    assert browser.cookie("authsite-trust").value.split(".")[1:] == [first]
    for email in (EMAIL, OTHER_EMAIL):
        browser.sign_out()
        assert browser.try_sign_in(email).location == "/account/devices"
    assert count(app, TrustedBrowser) == 2


@pytest.mark.parametrize("value", ["x", "." * 300, "x" * 1000, "A" * 43, "\u00e9"])
def test_any_other_cookie_is_worth_nothing(browser, two_step, value):
    browser.client.set_cookie("authsite-trust", value)
    assert browser.try_sign_in().location == SECOND_STEP


def test_where_the_settings_offer_no_trust_it_is_not_offered(make_app, sqlite_url):
    app = make_app(TRUSTED_BROWSER_DAYS="0")
    with app.app_context():
        account = accounts.register(email=EMAIL, password=PASSWORD, first_name="Ada").account
        phone, _ = turn_on(account)
    browser = Browser(app)
    browser.try_sign_in()
    assert not elements(browser.get(SECOND_STEP), "input", name="trust")
    show_code(browser, phone.code(), trust="y")
    assert browser.is_signed_in()
    assert browser.cookie("authsite-trust") is None


# setting it up, changing it, taking it away

APP = "/account/two-step/app"
CODES = "/account/two-step/recovery-codes"


def key_of(page):
    return re.search(r'<p class="key"><code>(.*?)</code>', page.text)[1].replace(" ", "")


def codes_of(page):
    return re.findall(r"<li><code>(.*?)</code></li>", page.text)


def set_up(browser):
    """Turn two-step sign-in on as a person does, and return the phone and the page with the codes."""
    phone = Phone(key_of(browser.get(APP)))
    return phone, browser.post(APP, code=phone.code(-1))


def test_the_picture_the_key_and_the_link_say_the_same(ada):
    page = ada.get(APP)
    (link,) = [each["href"] for each in elements(page, "a") if "otpauth:" in str(each["href"])]
    assert f"secret={key_of(page)}&" in link
    picture = segno.make(link, micro=False).svg_inline(
        border=4, dark="#000", light="#fff", omitsize=True
    )
    assert picture in page.text
    assert "style=" not in picture
    assert elements(page, "div", role="img")


def test_the_same_picture_is_shown_after_a_reload_and_after_a_wrong_code(ada):
    page = ada.get(APP)
    wrong = ada.post(APP, code="000000")
    assert wrong.status_code == 422
    assert summary(wrong) == [("code", "The code is wrong or has been used")]
    assert key_of(page) == key_of(ada.get(APP)) == key_of(wrong)


def test_the_secret_in_the_cookie_is_sealed(ada):
    key = key_of(ada.get(APP))
    content = repr(ada.cookie_content())
    assert "app_setup" in content
    assert key not in content
    assert base64.b32decode(key).hex() not in content


def test_a_code_turns_it_on_and_the_recovery_codes_are_shown_once(app, ada):
    phone, page = set_up(ada)
    assert (page.status_code, heading(page)) == (200, "Save your recovery codes")
    assert len(set(codes_of(page))) == 10
    assert session_row(app, ada.session_id()).signed_in_with == "password+app"
    for path in (CODES, "/account/security", APP):
        again = ada.get(path)
        assert not any(code in again.text for code in codes_of(page)), path
    assert "Two-step sign-in On since" in words(ada.get("/account/security"))
    assert "10 of 10 recovery codes left" in words(ada.get("/account/security"))
    ada.sign_out()
    assert ada.try_sign_in().location == SECOND_STEP
    assert show_code(ada, phone.code()).status_code == 303


def test_what_is_turned_on_ends_no_other_device_and_offers_to(ada, open_browser):
    other = open_browser()
    other.sign_in()
    _, page = set_up(ada)
    assert elements(page, "a", href="/account/devices/revoke-others")
    assert other.is_signed_in()


def test_the_session_that_turned_it_on_is_fresh_and_a_copy_of_its_cookie_dead(app, ada):
    thief = Browser(app)
    thief.client.set_cookie("authsite", ada.cookie().value)
    set_up(ada)
    assert not thief.is_signed_in()
    assert not elements(ada.get(CODES), "input", name="current_code")
    assert ada.post(CODES, replaces=set_id(ada)).status_code == 200


def set_id(browser):
    return elements(browser.get(CODES), "input", name="replaces")[0]["value"]


def test_after_ten_minutes_every_change_asks_for_a_code_and_not_the_password(ada, later):
    phone, _page = set_up(ada)
    later(timedelta(minutes=11))
    for path in (APP, f"{APP}/remove", CODES):
        asked = ada.get(path)
        assert elements(asked, "input", name="current_code"), path
        assert not elements(asked, "input", name="current_password")
    refused = ada.post(f"{APP}/remove", current_password=PASSWORD)
    assert refused.status_code == 422
    refused = ada.post(f"{APP}/remove", current_code="000000")
    assert refused.status_code == 422
    assert "On since" in words(ada.get("/account/security"))
    assert ada.post(f"{APP}/remove", current_code=phone.code()).status_code == 303
    assert "Off. Your password alone signs in." in words(ada.get("/account/security"))


def test_without_a_second_step_a_stale_session_sets_nothing_up(ada, later):
    later(timedelta(minutes=11))
    phone = Phone(key_of(ada.get(APP)))
    refused = ada.post(APP, code=phone.code())
    assert refused.status_code == 422
    assert "Off. Your password alone signs in." in words(ada.get("/account/security"))
    assert ada.post(APP, code=phone.code(), current_password=PASSWORD).status_code == 200


def test_the_security_page_says_since_when_there_is_which_password(browser, time_machine):
    """FACTORS 6: of one that was never changed not that it was."""
    time_machine.move_to("2030-05-03T12:00:00Z", tick=False)
    browser.register()
    assert "Password set 3 May" in words(browser.get("/account/security"))
    time_machine.move_to("2031-01-01T12:00:00Z", tick=False)
    browser.sign_in()
    assert "Password set 3 May 2030" in words(browser.get("/account/security"))
    browser.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)

    assert "Password changed 1 January" in words(browser.get("/account/security"))


def test_removing_the_app_turns_it_off(ada):
    set_up(ada)
    answer = ada.post(f"{APP}/remove")
    assert answer.location == "/account/security"
    assert flash(ada.get("/account/security")) == "Two-step sign-in is off."
    ada.sign_out()
    ada.sign_in()
    assert ada.is_signed_in()


def test_a_new_app_takes_the_place_of_the_old_one(ada, later):
    old, _page = set_up(ada)
    later(timedelta(minutes=1))
    new = Phone(key_of(ada.get(APP)))
    assert new.secret != old.secret
    assert ada.post(APP, code=new.code(-1)).location == "/account/security"
    assert flash(ada.get("/account/security")).startswith("Your new authenticator app is set up.")
    ada.sign_out()
    ada.try_sign_in()
    assert show_code(ada, old.code()).status_code == 422
    assert show_code(ada, new.code()).status_code == 303


def test_new_codes_replace_the_old_ones_and_of_two_tabs_one_is_told(ada):
    _, page = set_up(ada)
    seen, token = set_id(ada), ada.csrf_token(CODES)
    made = ada.send(CODES, {"csrf_token": token, "replaces": seen})
    assert not set(codes_of(made)) & set(codes_of(page))
    again = ada.send(CODES, {"csrf_token": token, "replaces": seen})
    assert again.location == CODES
    assert flash(ada.get(CODES)).startswith("These recovery codes have been replaced since.")


def test_the_codes_are_sent_as_a_file_only_if_they_are_the_current_ones(ada):
    _, page = set_up(ada)
    codes = " ".join(codes_of(page))
    file = ada.post(f"{CODES}.txt", page=CODES, codes=codes)
    assert file.headers["Content-Disposition"] == 'attachment; filename="recovery-codes.txt"'
    assert file.mimetype == "text/plain"
    assert file.text.split() == codes.split()
    for wrong in ("", "anything else", codes[:-1], "<script>"):
        assert ada.post(f"{CODES}.txt", page=CODES, codes=wrong).location == CODES


def test_browsers_that_are_trusted_can_be_forgotten(app, browser, two_step):
    trusted(browser, two_step)
    assert "1 browser skips the code" in words(browser.get("/account/security"))
    answer = browser.post("/account/two-step/browsers/forget", page="/account/security")
    assert answer.location == "/account/security"
    page = browser.get("/account/security")
    assert flash(page) == "Forgot 1 browser."
    assert "No browser skips the code" in words(page)
    browser.sign_out()
    assert browser.try_sign_in().location == SECOND_STEP


@pytest.mark.parametrize("path", ["/account/security", APP, f"{APP}/remove", CODES])
def test_none_of_it_is_shown_to_who_is_not_signed_in(browser, path):
    assert browser.get(path).location == f"/login?next={path}"


def test_who_has_no_app_is_not_asked_whether_to_remove_it(ada):
    answer = ada.get("/account/two-step/app/remove")

    assert flash(ada.get(answer.location)) == "There is no authenticator app."


def test_what_is_seen_of_a_button_says_what_it_does(ada):
    """The hidden words, for who hears the page, only add of what it is."""
    page = re.sub(
        r'<span class="visually-hidden">.*?</span>', "", ada.get("/account/security").text
    )

    assert re.findall(r'<a class="button[^>]*>(.*?)</a>', page) == ["Change", "Turn on", "Manage"]
