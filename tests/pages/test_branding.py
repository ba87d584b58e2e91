"""The way back to the product, and whom it all belongs to: links that an operator sets (PRODUCTS §5)."""

import re

import pytest

from authsite import accounts, clock
from authsite.mail import emails
from tests import factories
from tests.pages.conftest import (
    EMAIL,
    OTHER_EMAIL,
    Browser,
    elements,
    flash,
    heading,
    summary,
    words,
)

PRODUCT = "https://app.example.com/home"
BRAND = {
    "SITE_NAME": "Acme",
    "PRODUCT_URL": PRODUCT,
    "PRODUCT_NAME": 'Notes & "More" <b>',
    "SUPPORT_EMAIL": "help&us?subject=x@example.com",
    "PRIVACY_URL": "https://example.com/privacy?a=1&b=2",
    "TERMS_URL": "https://example.com/terms",
}
SUPPORT_LINK = "mailto:help%26us%3Fsubject%3Dx@example.com"


@pytest.fixture
def database_url(sqlite_url):
    """One database is enough: none of it is asked."""
    return sqlite_url


@pytest.fixture
def branded(make_app):
    return make_app(**BRAND)


@pytest.fixture
def ada(branded):
    """A browser that is signed in there."""
    browser = Browser(branded)
    browser.register()
    return browser


def links(page) -> list[str]:
    return [each["href"] for each in elements(page, "a")]


@pytest.mark.parametrize("path", ["/account/devices", "/account", "/account/password", "/nothing"])
def test_every_page_has_the_ways_out(ada, path):
    page = ada.get(path)

    assert links(page).count(PRODUCT) == 2  # at the top and at the foot
    assert words(page).count('Back to Notes & "More" <b>') == 2
    for link in (SUPPORT_LINK, BRAND["PRIVACY_URL"], BRAND["TERMS_URL"]):
        assert links(page).count(link) == 1


@pytest.mark.parametrize("path", ["/login", "/register", "/forgot-password", "/nothing"])
def test_a_site_without_any_has_no_place_for_them(make_app, path):
    page = Browser(make_app()).get(path)

    assert "back" not in {each.get("class") for each in elements(page, "span")}
    assert not any(link.startswith(("http", "mailto")) for link in links(page))


def test_what_applies_to_an_account_stands_where_it_is_made(make_app):
    terms, privacy = ({name: BRAND[name]} for name in ("TERMS_URL", "PRIVACY_URL"))
    for environ, said in (
        (terms | privacy, "For your account, our terms of use and our privacy policy apply."),
        (terms, "For your account, our terms of use apply."),
        (privacy, "For your account, our privacy policy applies."),
    ):
        page = Browser(make_app(**environ)).get("/register")
        assert said in words(page)
        assert all(links(page).count(link) == 2 for link in environ.values())


@pytest.mark.parametrize(
    ("query", "leads_to"),
    [
        ("", PRODUCT),
        ("?next=/account", "/account"),
        ("?next=https://evil.example/", "/account/devices"),
        ("?next=//evil.example/", "/account/devices"),
        ("?next=", "/account/devices"),
    ],
)
def test_a_sign_in_that_began_nowhere_else_leads_to_the_product(ada, query, leads_to):
    ada.sign_out()
    again = Browser(ada.app)
    answer = again.post(f"/login{query}", email=EMAIL, password=factories.PASSWORD)

    assert (answer.status_code, answer.location) == (303, leads_to)
    assert again.get(f"/login{query}").location == leads_to  # who is signed in already


def test_the_first_page_of_the_account_is_still_ones_own(ada):
    """Who goes there by the product's link to the account would be led in a circle."""
    assert ada.get("/").location == "/account/devices"


@pytest.mark.parametrize("environ", [{}, {"PRODUCT_URL": PRODUCT}])
def test_who_makes_an_account_on_the_way_goes_on_to_where_it_led(make_app, environ):
    """From the sign-in page to the other form and back again."""
    browser = Browser(make_app(**environ))
    (onward,) = [link for link in links(browser.get("/login?next=/account")) if "register" in link]
    (back,) = [link for link in links(browser.get(onward)) if link.startswith("/login")]
    fields = {"first_name": "Ada", "email": EMAIL, "password": factories.PASSWORD}
    answer = browser.post(onward, **fields)

    assert (onward, back) == ("/register?next=/account", "/login?next=/account")
    assert (answer.status_code, answer.location) == (303, "/account")
    assert browser.get(onward).location == "/account"


def test_a_new_account_leads_to_the_product_and_leaves_no_word_behind(branded):
    """It would be told at the next look at the account, days later."""
    browser = Browser(branded)
    fields = {"first_name": "Ada", "email": EMAIL, "password": factories.PASSWORD}
    answer = browser.post("/register", **fields)

    assert (answer.status_code, answer.location) == (303, PRODUCT)
    assert flash(browser.get("/account/devices")) is None


@pytest.mark.parametrize(
    ("environ", "targets"),
    [
        ({"PRODUCT_URL": PRODUCT}, "'self' https://app.example.com"),
        (
            {
                "PRODUCT_URL": PRODUCT,
                "FORWARD_AUTH_ORIGINS": "https://app.example.com,https://b.example.com",
                "TRUSTED_PROXY_HOPS": "1",
            },
            "'self' https://app.example.com https://b.example.com",
        ),
        ({"PRIVACY_URL": BRAND["PRIVACY_URL"]}, "'self'"),
    ],
)
def test_forms_may_lead_to_the_product_and_to_no_other_site(make_app, environ, targets):
    """Chromium holds the redirect after a sign-in to it."""
    policy = Browser(make_app(**environ)).get("/login").headers["Content-Security-Policy"]

    assert f"form-action {targets};" in policy


def test_a_closed_account_is_told_whom_to_write_to(ada):
    with ada.app.app_context():
        accounts.deactivate(EMAIL)
    answer = Browser(ada.app).try_sign_in()
    said = "This account has been deactivated. Write to help&us?subject=x@example.com to have it opened again"

    assert summary(answer)[0][1] == said
    assert links(answer).count(SUPPORT_LINK) == 3  # in the summary, at the field, at the foot
    # With another's password nobody learns of it.
    assert "deactivated" not in words(Browser(ada.app).try_sign_in(password="a wrong guess"))


def test_a_fault_of_ours_says_whom_to_write_to(make_app):
    app = make_app(is_of_its_own=True, **BRAND)
    app.add_url_rule("/fault", "fault", lambda: 1 / 0)
    answer = Browser(app).get("/fault")

    assert heading(answer) == "There is a problem with the service"
    assert "write to help&us?subject=x@example.com and name the reference" in words(answer)
    assert links(answer) == ["/", SUPPORT_LINK]


def test_researchers_write_to_the_people_who_help(branded):
    assert f"Contact: {SUPPORT_LINK}\n" in Browser(branded).get("/.well-known/security.txt").text


def test_mails_lead_back_and_their_answers_reach_somebody(branded):
    with branded.app_context():
        account = factories.account(OTHER_EMAIL)
        mail = emails.password_changed(
            account.id,
            changed_at=clock.now(),
            device_name=None,
            ip_address=None,
            signed_out=0,
            has_kept_own=False,
        )
        message = emails.compose(mail, email=OTHER_EMAIL, first_name="Ada")
    in_html = re.findall(r'href="([^"]*)"', message.html)

    assert message.reply_to == "help&us?subject=x@example.com"
    assert f'Open Notes & "More" <b>: {PRODUCT}\n' in message.body
    assert "Questions? Write to help&us?subject=x@example.com" in message.body
    assert PRODUCT in in_html
    assert SUPPORT_LINK in in_html
    assert "<b>" not in message.html


PICTURE = "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4="


def sheets(page) -> list[str]:
    return [each["href"] for each in elements(page, "link", rel="stylesheet")]


@pytest.mark.parametrize("path", ["/login", "/nothing", "/api/v1/docs"])
def test_the_colour_is_a_style_sheet_of_our_own_and_the_policy_stays(make_app, path):
    """PG-09: nothing inline, and none where none is set."""
    plain, coloured = Browser(make_app()), Browser(make_app(ACCENT_COLOR="#B3005E"))
    page = coloured.get(path)
    *_, address = sheets(page)

    assert address.startswith("/accent.css?v=")
    assert "<style" not in page.text
    assert not re.search(r"<[^>]+\sstyle=", page.text)
    policy = "Content-Security-Policy"
    assert page.headers[policy] == plain.get(path).headers[policy]
    assert not any(each.startswith("/accent.css") for each in sheets(plain.get(path)))
    assert plain.get("/accent.css").status_code == 404


def test_the_style_sheet_is_kept_for_good_until_the_colour_changes(make_app):
    red, blue = (Browser(make_app(ACCENT_COLOR=color)) for color in ("#b3005e", "#00508c"))
    address, other = (sheets(each.get("/login"))[-1] for each in (red, blue))
    answer = red.get(address)

    assert address != other
    assert answer.content_type == "text/css; charset=utf-8"
    assert "--accent: #b3005e;" in answer.text
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "Set-Cookie" not in answer.headers
    for stale in (other, "/accent.css", "/accent.css?v="):
        assert red.get(stale).headers["Cache-Control"] == "public, max-age=3600"


@pytest.mark.parametrize("logo", ["/logo.svg?a=1&b=2", PICTURE])
def test_the_logo_stands_before_the_name_and_says_nothing_twice(make_app, logo):
    page = Browser(make_app(LOGO_URL=logo)).get("/login")

    assert elements(page, "img") == [{"class": "logo", "src": logo, "alt": ""}]
    assert elements(Browser(make_app()).get("/login"), "img") == []


@pytest.mark.parametrize(("color", "shown"), [("", "#2563eb"), ("#b3005e", "#b3005e")])
def test_a_mails_button_has_the_colour(make_app, color, shown):
    with make_app(ACCENT_COLOR=color).app_context():
        account = factories.account()
        mail = emails.verify_email(account.id, requested_at=clock.now())
        html = emails.compose(mail, email=EMAIL, first_name="Ada").html

    assert f"background-color: {shown}; color: #ffffff" in html
