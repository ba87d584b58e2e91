"""Where a sign-in was to lead is found again after a mail: by the browser that asked, and by no link."""

from urllib.parse import quote

import pytest
from sqlalchemy import select

from authsite import database
from authsite.database.models import OutgoingMail
from authsite.mail import emails
from tests import factories
from tests.api.conftest import email_token, registration_token
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.pages.conftest import EMAIL, Browser
from tests.pages.test_branding import links
from tests.pages.test_passwords import link

WIKI = "https://wiki.example.com"
PRODUCTS = {"FORWARD_AUTH_ORIGINS": f"{WIKI},https://b.example.com", "TRUSTED_PROXY_HOPS": "1"}


@pytest.fixture
def app(make_app):
    return make_app(**PRODUCTS)


def way(browser: Browser, next_: str, *, to: str) -> str:
    """Return the link to the next form on the way that a product's sign-in has begun."""
    page = browser.get("/login", query_string={"next": next_})
    (onward,) = [each for each in links(page) if each.startswith(to)]
    return onward


def ask_for_a_link(app, next_: str) -> Browser:
    browser = Browser(app)
    answer = browser.post(way(browser, next_, to="/forgot-password"), email=EMAIL)
    assert answer.status_code == 200
    return browser


def reset(app, browser: Browser) -> str:
    """Return the path of the sign-in to which a reset leads."""
    assert browser.get(link(app)).location == "/reset-password"
    answer = browser.post("/reset-password", password=NEW_PASSWORD)
    assert answer.status_code == 303
    return answer.location


@pytest.fixture
def ada(app):
    with app.app_context():
        factories.account()


HANDOFF = f"/handoff?origin={WIKI}&next=/notes/7%3Fa%3Db&challenge={'a' * 64}"


@pytest.mark.parametrize(
    ("next_", "leads_to"),
    [
        ("/account/activity", "/account/activity"),
        (f"{WIKI}/notes", f"{WIKI}/notes"),
        # The cookie of a hand-off lasts ten minutes and a link sixty: the product begins another one.
        (HANDOFF, f"{WIKI}/notes/7?a=b"),
        (f"/handoff?origin={WIKI}&next=//evil.example/", f"{WIKI}/"),
    ],
)
def test_who_has_forgotten_the_password_goes_on_to_where_the_sign_in_led(app, ada, next_, leads_to):
    browser = ask_for_a_link(app, next_)
    sign_in = reset(app, browser)
    assert sign_in.startswith("/login?next=")
    answer = browser.post(sign_in, email=EMAIL, password=NEW_PASSWORD)
    assert (answer.status_code, answer.location) == (303, leads_to)


@pytest.mark.parametrize(
    "next_",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "https://wiki.example.com.evil.example/",
        "/handoff?origin=https://evil.example&next=/",
        "/handoff?origin=https://wiki.example.com@evil.example&next=/",
        "/handoff?origin=&next=/x",
        "/handoff?next=/account",
        "/account/" + "x" * 600,
    ],
)
def test_a_mail_leads_nowhere_that_a_sign_in_would_not(app, ada, next_):
    """LG-09: nor does what is too long fill the cookie."""
    browser = ask_for_a_link(app, next_)
    sign_in = reset(app, browser)
    answer = browser.post(sign_in, email=EMAIL, password=NEW_PASSWORD)
    assert answer.location in {"/account/devices", "/x", "/account"}


def test_another_browser_is_led_home_and_the_link_names_no_place(app, ada):
    """Whoever asks for the mail of somebody else does not choose where its reader ends."""
    ask_for_a_link(app, "/account/activity")
    with app.app_context():
        [row] = database.rows(select(OutgoingMail.user_id, OutgoingMail.name, OutgoingMail.facts))
        sent = emails.compose(emails.Mail(*row), email=EMAIL, first_name="Ada")
    assert "/reset-password?token=" in sent.body
    assert "activity" not in sent.body + sent.html + str(row.facts)
    assert reset(app, Browser(app)) == "/login"


def test_the_next_link_leads_where_that_one_was_asked_for(app, ada):
    browser = ask_for_a_link(app, "/account/activity")
    browser.post("/forgot-password", email=EMAIL)
    assert reset(app, browser) == "/login"


def test_a_product_that_is_no_longer_listed_is_led_to_no_more(app, ada, make_app):
    browser = ask_for_a_link(app, f"{WIKI}/notes")
    browser.app.config["FORWARD_AUTH_ORIGINS"] = ["https://b.example.com"]
    assert reset(app, browser) == "/login?next=/account/devices"


def test_a_claim_goes_on_to_what_the_account_was_made_for(make_app):
    app = make_app(EMAIL_VERIFICATION="required", **PRODUCTS)
    browser = Browser(app)
    onward = way(browser, HANDOFF, to="/register")
    sent = browser.post(onward, first_name="Ada", email=EMAIL, password=PASSWORD)
    assert onward in links(sent), "who fills in the form again"
    browser.get(f"/register/confirm?token={registration_token(app)}")
    answer = browser.post("/register/confirm")
    assert (answer.status_code, answer.location) == (303, f"{WIKI}/notes/7?a=b")


def test_who_has_to_confirm_the_address_first_goes_on_after_it(make_app):
    app = make_app(EMAIL_VERIFICATION="required", **PRODUCTS)
    with app.app_context():
        factories.account()
    browser = Browser(app)
    path = f"/login?next={WIKI}/notes"
    assert browser.post(path, email=EMAIL, password=PASSWORD).status_code == 422
    browser.get(f"/verify-email?token={email_token(app, EMAIL)}")
    answer = browser.post("/verify-email", password=PASSWORD)
    assert (answer.status_code, answer.location) == (303, f"{WIKI}/notes")


def test_an_address_that_is_taken_is_pointed_to_forms_that_lead_on(app, ada):
    browser = Browser(app)
    onward = way(browser, "/account/activity", to="/register")
    taken = browser.post(onward, first_name="Ada", email=EMAIL, password=PASSWORD)
    assert taken.status_code == 422
    assert {"/login?next=/account/activity", "/forgot-password?next=/account/activity"} <= set(
        links(taken)
    )


def test_a_link_that_no_longer_works_points_to_forms_that_lead_on(app, ada):
    """In the browser that asked for it, again and again, and in no other."""
    browser, onward = ask_for_a_link(app, f"{WIKI}/notes"), f"next={quote(WIKI)}/notes"
    for each, way_on in [(browser, f"/forgot-password?{onward}")] * 2 + [
        (Browser(app), "/forgot-password")
    ]:
        each.get("/reset-password?token=old")
        gone = each.get("/reset-password")
        assert (gone.status_code, way_on in links(gone)) == (410, True)
    assert browser.post(onward_of(browser), email=EMAIL).status_code == 200
    assert reset(app, browser) == f"/login?{onward}"


def onward_of(browser: Browser) -> str:
    (onward,) = [each for each in links(browser.get("/reset-password")) if "forgot" in each]
    return onward


@pytest.mark.parametrize("path", ["/register/confirm", "/verify-email"])
def test_a_link_that_confirms_nothing_points_to_forms_that_lead_on(make_app, path):
    app = make_app(EMAIL_VERIFICATION="required", **PRODUCTS)
    browser = Browser(app)
    onward = way(browser, "/account/activity", to="/register")
    browser.post(onward, first_name="Ada", email=EMAIL, password=PASSWORD)
    browser.get(f"{path}?token=old")
    shown = links(browser.get(path))
    assert "/login?next=/account/activity" in shown
    assert ("/register?next=/account/activity" in shown) == path.startswith("/register")


def test_a_second_step_after_a_mail_leads_there_as_well(make_app):
    app = make_app(**PRODUCTS)
    with app.app_context():
        factories.turn_on(factories.account())
    app.config["EMAIL_VERIFICATION"] = "required"  # from now on
    browser = Browser(app)
    assert (
        browser.post(f"/login?next={WIKI}/notes", email=EMAIL, password=PASSWORD).status_code == 422
    )
    browser.get(f"/verify-email?token={email_token(app, EMAIL)}")
    answer = browser.post("/verify-email", password=PASSWORD)
    assert answer.location == f"/login/second-step?next={quote(WIKI)}/notes"
