"""Register, sign in and one's details, as a person in a browser meets them."""

import re

import pytest
from sqlalchemy import update

from authsite import accounts, database
from authsite.database.models import User, UserSession
from tests.factories import PASSWORD
from tests.pages.conftest import (
    EMAIL,
    OTHER_EMAIL,
    count,
    elements,
    flash,
    heading,
    live_sessions,
    mails,
    session_row,
    summary,
    title,
    user,
    words,
)

WRONG = "Email or password is wrong. Check both and try again"
TAKEN = "An account with this email address already exists. Sign in or reset your password"
EMAIL_FORMAT = "Enter an email address in the correct format, like name@example.com"
GOOD = {"first_name": "Ada", "email": EMAIL, "password": PASSWORD}


def test_registering_signs_in_on_this_device_and_leads_to_the_devices(app, browser):
    answer = browser.post("/register", **GOOD)
    assert (answer.status_code, answer.location) == (303, "/account/devices")
    devices = browser.get("/account/devices")
    assert flash(devices) == "Account created. You are signed in on this device."
    row = session_row(app, browser.session_id())
    assert (row.entrance, row.is_remembered, row.device_name) == (
        "page",
        False,
        "Chrome on Windows",
    )
    assert mails(app) == []  # the first device is no news


def test_a_password_manager_understands_the_registration(browser):
    """PW-12: no maxlength, no second password field, one control that shows it."""
    page = browser.get("/register")
    (password,) = elements(page, "input", type="password")
    assert password["autocomplete"] == "new-password"
    assert "maxlength" not in password
    (email,) = elements(page, "input", type="email")
    assert (email["autocomplete"], email["spellcheck"], email["autocapitalize"]) == (
        "username",
        "false",
        "none",
    )
    (show,) = elements(page, "button", data_show="password")
    assert show["type"] == "button"


@pytest.mark.parametrize(
    ("changed", "field", "sentence"),
    [
        ({"first_name": " "}, "first_name", "Enter your first name"),
        ({"first_name": "x" * 101}, "first_name", "First name must be 100 characters or fewer"),
        ({"email": ""}, "email", "Enter your email address"),
        ({"email": "ada"}, "email", EMAIL_FORMAT),
        ({"email": "ada@example.com,eve@example.com"}, "email", EMAIL_FORMAT),
        ({"email": "ada@e\u212aample.com"}, "email", EMAIL_FORMAT),
        ({"password": ""}, "password", "Enter a password"),
        ({"password": "seven77"}, "password", "Password must be at least 8 characters"),
        ({"password": "x1" * 65}, "password", "Password must be 128 characters or fewer"),
        (
            {"password": "Password123"},
            "password",
            "This password is on a list of commonly used passwords. Choose a different one",
        ),
        (
            {"password": EMAIL},
            "password",
            "Password must not be your email address or the name of this site",
        ),
        ({"first_name": "A\x00da" + "\x00" * 3}, None, None),
        ({"password": "three\x00words"}, "password", "This holds a character that cannot be used"),
    ],
)
def test_what_is_wrong_is_said_once_above_the_form_and_at_its_field(
    app, browser, changed, field, sentence
):
    """PW-01 to PW-08: the same sentence twice, status 422, and nothing is created."""
    answer = browser.post("/register", **GOOD | changed)
    if field is None:  # control characters in a name are dropped
        assert user(app).first_name == "A da"
        return
    assert answer.status_code == 422
    assert summary(answer) == [(field, sentence)]
    (input_,) = elements(answer, "input", id=field)
    assert input_["aria-invalid"] == "true"
    assert f"{field}-error" in input_["aria-describedby"].split()
    assert f"Error: {sentence}" in words(answer)
    assert title(answer) == "Error: Create an account – authsite"
    assert count(app, User) == 0


def test_a_form_with_errors_keeps_what_was_typed_but_no_password(browser):
    answer = browser.post("/register", **GOOD | {"email": "ada@", "first_name": 'A "d" <a>'})
    (name,) = elements(answer, "input", id="first_name")
    assert name["value"] == 'A "d" <a>'
    (email,) = elements(answer, "input", id="email")
    assert email["value"] == "ada@"
    (password,) = elements(answer, "input", id="password")
    assert password["value"] == ""
    assert PASSWORD not in answer.text


def test_an_address_that_has_an_account_is_led_to_the_login_and_the_reset(app, open_browser):
    open_browser().register()
    answer = open_browser().post("/register", **GOOD | {"email": "Ada@Example.com"})
    assert answer.status_code == 422
    assert summary(answer) == [("email", TAKEN)]
    said = re.search(r'<div class="error-summary".*?</div>', answer.text, re.DOTALL)[0]
    assert dict(re.findall(r'<a href="(.*?)">(.*?)</a>', said)) == {
        "#email": "An account with this email address already exists.",
        "/login": "Sign in",
        "/forgot-password": "reset your password",
    }
    assert count(app, User) == 1
    assert len(live_sessions(app)) == 1


def test_registering_cannot_set_what_is_not_asked_for(app, browser):
    """AP-13: a field that the form does not have changes nothing."""
    browser.register(is_superuser="1", is_active="", id="1", role="admin")
    assert not user(app).is_superuser
    assert user(app).is_active


def test_signing_in_leads_to_the_devices(app, ada):
    ada.sign_out()
    answer = ada.try_sign_in()
    assert (answer.status_code, answer.location) == (303, "/account/devices")
    assert session_row(app, ada.session_id()).entrance == "page"


@pytest.mark.parametrize(
    "target",
    ["/account", "/account/password?from=mail", "/account/devices/1/rename", "/%2F/evil.com"],
)
def test_signing_in_leads_back_to_a_page_of_this_site(ada, target):
    ada.sign_out()
    answer = ada.post(
        "/login?next=" + target.replace("%", "%25").replace("?", "%3F"),
        email=EMAIL,
        password=PASSWORD,
    )
    assert answer.location == target


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/\r\nSet-Cookie:%20a=b",
        "/ /evil.example",
        "/\x00evil",
        "https://evil.example",
        "http:///evil.example",
        "https:evil.example",
        "javascript:alert(1)",
        "evil.example",
        "account",
        "",
        "/account\\..\\",
    ],
)
def test_signing_in_never_leads_to_another_site(ada, target):
    """PG-05: what is not plainly a path of ours counts for nothing."""
    ada.sign_out()
    answer = ada.send(
        "/login",
        {"csrf_token": ada.csrf_token("/login"), "email": EMAIL, "password": PASSWORD},
        query_string={"next": target},
    )
    assert (answer.status_code, answer.location) == (303, "/account/devices")
    # Signed in already, the same address leads nowhere else either.
    assert ada.get("/login", query_string={"next": target}).location == "/account/devices"


def test_an_unknown_address_and_a_wrong_password_get_the_same_page(app, ada, open_browser):
    """LT-01: one sentence, one status, the same headers; only the address typed differs."""
    pages = []
    for email in (EMAIL, OTHER_EMAIL):
        stranger = open_browser()
        token = stranger.csrf_token("/login")
        answer = stranger.try_sign_in(email, "not the password")
        assert answer.status_code == 422
        assert summary(answer) == [("email", WRONG)]
        text = answer.text.replace(email, "someone").replace(token, "")
        names = {*answer.headers.keys()}
        pages.append((text.split("csrf_token")[0], words(answer), names))
        assert not stranger.is_signed_in()
    assert pages[0] == pages[1]
    assert len(live_sessions(app)) == 1


def test_a_failed_login_keeps_the_address_and_the_choice_but_no_password(browser):
    answer = browser.try_sign_in("nobody@example.com", "not the password", remember="y")
    (email,) = elements(answer, "input", id="email")
    assert email["value"] == "nobody@example.com"
    assert "checked" in elements(answer, "input", id="remember")[0]
    assert elements(answer, "input", id="password")[0]["value"] == ""
    assert "not the password" not in answer.text


def test_only_the_right_password_learns_that_the_account_is_deactivated(app, ada):
    """LT-01, SE-14."""
    with app.app_context():
        accounts.deactivate(EMAIL)
    wrong = ada.try_sign_in(password="not the password")
    assert summary(wrong) == [("email", WRONG)]
    right = ada.try_sign_in()
    assert right.status_code == 422
    assert "deactivated" in summary(right)[0][1]
    assert live_sessions(app) == []
    assert not ada.is_signed_in()


@pytest.mark.parametrize("path", ["/login", "/register"])
def test_who_is_signed_in_is_led_past_the_doors(ada, path):
    """PG-15."""
    answer = ada.get(path)
    assert (answer.status_code, answer.location) == (302, "/account/devices")


@pytest.mark.parametrize(
    "path", ["/account", "/account/devices", "/account/activity", "/account/security"]
)
def test_every_page_of_the_account_has_the_navigation_and_a_sign_out_button(ada, path):
    """PG-15: the button is a POST with a token."""
    answer = ada.get(path)
    assert [link["href"] for link in elements(answer, "a", aria_current="page")] == [path]
    assert elements(answer, "nav", aria_label="Account")
    assert elements(answer, "form", method="post", action="/logout")


@pytest.mark.parametrize(
    "path",
    [
        "/account",
        "/account/devices",
        "/account/password",
        "/account/devices/revoke-others",
        "/account/devices/01a214d0-0a14-7a82-b9ec-9e64ba990d5e/rename?a=b",
    ],
)
def test_a_page_of_the_account_asks_who_is_not_signed_in_and_comes_back_to_itself(
    app, ada, open_browser, path
):
    stranger = open_browser()
    answer = stranger.get(path)
    assert answer.status_code == 302
    assert answer.location.startswith("/login?next=/account")
    login = stranger.get(answer.location)
    assert "Sign in to continue" in words(login)
    back = stranger.post(answer.location, email=EMAIL, password=PASSWORD)
    assert back.location == path


def test_the_login_page_says_nothing_of_continuing_to_who_came_by_himself(browser):
    assert "Sign in to continue" not in words(browser.get("/login"))


def test_the_login_page_asks_browsers_what_tells_their_devices_apart(browser):
    answer = browser.get("/login")
    assert answer.headers["Accept-CH"] == "Sec-CH-UA-Model, Sec-CH-UA-Platform-Version"


def test_a_hint_of_the_browser_tells_windows_11(app, browser):
    token = browser.csrf_token("/register")
    hints = {"Sec-CH-UA-Platform": '"Windows"', "Sec-CH-UA-Platform-Version": '"15.0.0"'}
    browser.send("/register", GOOD | {"csrf_token": token}, headers=hints)
    assert session_row(app, browser.session_id()).os == "Windows 11"


def test_the_first_page_leads_to_the_login_or_to_the_devices(browser):
    assert (browser.get("/").status_code, browser.get("/").location) == (302, "/login")
    browser.register()
    assert (browser.get("/").status_code, browser.get("/").location) == (302, "/account/devices")


def test_details_are_saved_and_shown(app, ada):
    fields = {"first_name": "Augusta", "last_name": "King", "phone_number": "+44 20 7946 0958"}
    answer = ada.post("/account", **fields)
    assert (answer.status_code, answer.location) == (303, "/account")
    page = ada.get("/account")
    assert flash(page) == "Your details are saved."
    for name, value in fields.items():
        assert elements(page, "input", id=name)[0]["value"] == value
    assert EMAIL in words(page)
    emptied = ada.post("/account", first_name="Augusta", last_name="", phone_number=" ")
    assert emptied.status_code == 303
    assert (user(app).last_name, user(app).phone_number) == (None, None)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("first_name", "", "Enter your first name"),
        ("last_name", "x" * 101, "Last name must be 100 characters or fewer"),
        ("phone_number", "call me", "Enter a phone number, like +44 20 7946 0958"),
    ],
)
def test_wrong_details_are_not_saved(app, ada, field, value, sentence):
    before = user(app)
    fields = {"first_name": "Augusta", "last_name": "King", "phone_number": ""} | {field: value}
    answer = ada.post("/account", **fields)
    assert answer.status_code == 422
    assert summary(answer) == [(field, sentence)]
    assert heading(answer) == "Your details"
    assert elements(answer, "input", id=field)[0]["value"] == value
    assert user(app) == before


def test_the_details_page_changes_neither_the_address_nor_the_standing(app, ada):
    """AP-13."""
    ada.post("/account", first_name="Ada", email="eve@example.com", is_superuser="1")
    assert user(app, EMAIL).is_superuser is False


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7*191_919_191 }}",
        "a\u202eb",
    ],
)
def test_a_hostile_name_or_user_agent_stays_text(app, ada, hostile):
    """PG-14."""
    ada.post("/account", first_name=hostile)
    with app.app_context():
        database.run(
            update(UserSession).values(user_agent=hostile, ip_address="<b>", device_id="<i>")
        )
        database.run(update(UserSession).values(device_name=hostile[:64], location_country="<u>"))
    for path in ("/account", "/account/devices"):
        page = ada.get(path)
        assert page.status_code == 200
        assert not elements(page, "img")
        assert len(elements(page, "script")) == 1
        assert not any(elements(page, tag) for tag in ("b", "i", "u"))
        assert "1343434337" not in words(page)
