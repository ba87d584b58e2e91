"""Forms that were opened in another state than they are sent in: what is said is so."""

import pytest

from authsite import sessions
from authsite.database.models import PasswordReset
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
    summary,
    user,
    words,
)
from tests.pages.test_passwords import ask, link

NO_COOKIE = "Your browser keeps no cookie for this site. Allow cookies and try again."
ALREADY_IN = "You are already signed in."
CREDENTIALS = {"email": EMAIL, "password": PASSWORD}


class WithoutCookies(Browser):
    """A browser that keeps none and sends none."""

    def __init__(self, app) -> None:
        super().__init__(app)
        self.client = app.test_client(use_cookies=False)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/login", CREDENTIALS),
        ("/register", {"first_name": "Grace", "email": OTHER_EMAIL, "password": PASSWORD}),
        ("/forgot-password", {"email": EMAIL}),
    ],
)
def test_who_blocks_cookies_is_told_that_and_not_that_the_form_expired(app, ada, path, fields):
    before = live_sessions(app)
    browser = WithoutCookies(app)
    for _ in range(2):
        answer = browser.post(path, **fields)
        assert answer.status_code == 400
        assert summary(answer) == [(None, NO_COOKIE)]
        assert "expired" not in words(answer)
        assert elements(answer, "input", id="email")[0]["value"] == fields["email"]
    assert live_sessions(app) == before
    assert count(app, PasswordReset) == 0


@pytest.mark.parametrize("path", ["/account", "/account/password", "/logout"])
def test_a_form_of_the_account_without_a_cookie_says_so(app, ada, path):
    """PG-01"""
    before = user(app)
    token = ada.csrf_token("/account")
    answer = WithoutCookies(app).send(path, {"first_name": "Eve", "csrf_token": token})
    assert answer.status_code == 400
    assert heading(answer) == "Your browser keeps no cookie for this site"
    assert user(app) == before
    assert ada.is_signed_in()


def test_a_live_reset_link_is_not_called_used_where_cookies_are_blocked(app, ada):
    ask(ada)
    browser = WithoutCookies(app)
    before = user(app).password_hash
    assert browser.get(link(app)).location == "/reset-password"
    for page in (browser.get("/reset-password"), browser.send("/reset-password")):
        assert page.status_code == 400
        assert heading(page) == "Your browser sent no cookie"
        assert "used" not in words(page)
    assert user(app).password_hash == before
    # And it still works where they are kept.
    ada.get(link(app))
    assert ada.post("/reset-password", password=NEW_PASSWORD).status_code == 303


@pytest.mark.parametrize(
    ("opened", "leads_to"),
    [
        ("/login", "/account/devices"),
        ("/login?next=/account", "/account"),
        ("/login?next=//evil.example/", "/account/devices"),
        ("/register", "/account/devices"),
    ],
)
def test_the_sign_in_form_of_a_second_tab_leads_to_where_the_first_went(app, ada, opened, leads_to):
    ada.sign_out()
    token = ada.csrf_token(opened)
    ada.sign_in()
    before = live_sessions(app)
    answer = ada.send(opened, {**CREDENTIALS, "first_name": "Ada", "csrf_token": token})
    assert (answer.status_code, answer.location) == (303, leads_to)
    assert flash(ada.get(leads_to)) == ALREADY_IN
    assert live_sessions(app) == before


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/account", "/login?next=/account"),
        ("/account/password", "/login?next=/account/password"),
        ("/account/devices/revoke-others", "/login?next=/account/devices/revoke-others"),
        ("/account/devices/{id}/revoke", "/login"),
        ("/logout", "/login"),
    ],
)
def test_who_was_signed_out_in_another_tab_hears_that(app, ada, path, leads_to):
    path = path.format(id=ada.session_id())
    token, before = ada.csrf_token("/account"), user(app)
    ada.sign_out()
    ada.get("/login")  # where the other tab now stands
    answer = ada.send(path, {"first_name": "Eve", "csrf_token": token})
    assert answer.status_code == 400
    assert heading(answer) == "You are signed out"
    assert "expired" not in words(answer)
    assert elements(answer, "a", class_="button", href=leads_to)
    assert user(app) == before


def test_who_was_signed_out_from_elsewhere_hears_that_also_with_a_form_that_expired(app, ada):
    with app.app_context():
        sessions.end_all(user(app).id, reason="revoked")
    answer = ada.send("/account", {"first_name": "Eve", "csrf_token": "expired"})
    assert heading(answer) == "You are signed out"
    said = flash(ada.get("/login?next=/account"))
    assert said == "This device was signed out. Sign in again to continue."


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        ("GET", "/no-such-page", 404, {}),
        ("GET", "/account/devices/no-such-id", 404, {}),
        ("DELETE", "/account", 405, {}),
        ("POST", "/account", 403, {"Sec-Fetch-Site": "cross-site"}),
        ("GET", "/static/nothing.css", 404, {}),
    ],
)
def test_an_error_page_keeps_the_navigation_for_who_is_signed_in(
    ada, open_browser, method, path, status, headers
):
    answer = ada.client.open(path, method=method, headers=headers)
    assert answer.status_code == status
    assert elements(answer, "nav", aria_label="Account")
    # Its button works.
    token = elements(answer, "input", name="csrf_token")[0]["value"]
    stranger = open_browser().client.open(path, method=method, headers=headers)
    assert stranger.status_code == status
    assert not elements(stranger, "nav")
    assert ada.send("/logout", {"csrf_token": token}).status_code == 303
    assert not ada.is_signed_in()


def test_a_request_that_is_too_large_keeps_the_navigation(ada):
    answer = ada.send("/account", {"csrf_token": "x", "first_name": "x" * 70_000})
    assert answer.status_code == 413
    assert elements(answer, "nav", aria_label="Account")


def test_a_form_that_is_shown_where_no_page_is_says_where_it_goes(app, ada, open_browser):
    """Without an action it would be sent to the path that showed it, which takes another form."""
    by_verb = {verb: set() for verb in ("GET", "POST")}
    for rule in app.url_map.iter_rules():
        for verb in by_verb.keys() & rule.methods:
            by_verb[verb].add(rule.rule)
    acts = {
        path.replace("<device_id>", "0").replace("<passkey_id>", "0")
        for path in by_verb["POST"] - by_verb["GET"]
        if not path.startswith(("/api/", "/.authsite/", "/oauth/"))
    }
    assert "/login/passkey" in acts
    shown = 0
    for path in sorted(acts - {"/logout"}):
        for browser, page in ((ada, "/account"), (open_browser(), "/login")):
            for answer in (browser.post(path, page=page), browser.send(path)):
                forms = elements(answer, "form")
                assert all(form.get("action") for form in forms), path
                shown += len(forms)
    assert shown >= 4
