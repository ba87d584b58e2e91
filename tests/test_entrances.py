"""Every view that can make a session, found in the source, and none of them passes the second step by."""

import ast

import pytest
from sqlalchemy import insert, update

from authsite import accounts, clock, registrations
from authsite.crypto import tokens
from authsite.database import run
from authsite.database.models import EmailChange, User, UserSession
from authsite.mail import emails
from tests import services
from tests.api.conftest import V1
from tests.api.conftest import count as count_rows
from tests.authenticator import Authenticator
from tests.factories import PASSWORD, turn_on
from tests.pages.conftest import EMAIL, Browser

PACKAGE = services.ROOT / "authsite"


def by_json(path, **body):
    return lambda browser, app: browser.client.post(f"{V1}{path}", json=body)


def by_oauth(browser, app):
    form = {"username": EMAIL, "password": PASSWORD}
    return browser.client.post(f"{V1}/auth/login/oauth", data=form)


def by_json_with_the_wrong_code(browser, app):
    token = by_json("/auth/login", email=EMAIL, password=PASSWORD)(browser, app).get_json()
    body = {"mfa_token": token["mfa_token"], "code": "000000"}
    return browser.client.post(f"{V1}/auth/login/second-step", json=body)


def by_page_with_the_wrong_code(browser, app):
    browser.try_sign_in()
    return browser.post("/login/second-step", code="000000", trust="y")


def by_a_passkey_of_nobody(browser, app):
    key = Authenticator()
    key.user_handle = bytes(16)
    answer = browser.client.post(f"{V1}/auth/passkey/options").get_json()
    body = {"credential": key.sign(answer["publicKey"])}
    return browser.client.post(f"{V1}/auth/login/passkey", json=body)


def by_page_with_a_passkey_of_nobody(browser, app):
    return browser.post("/login/passkey", page="/login", credential="{}")


def by_registering(browser, app):
    return browser.post("/register", first_name="Ada", email=EMAIL, password=PASSWORD)


def by_confirming_a_registration(browser, app):
    """Of an address that was registered, and got a second step, after the claim."""
    with app.app_context():
        run(update(User).values(email="old@example.com"))
        app.config["EMAIL_VERIFICATION"] = "required"
        claim = registrations.claim(
            email=EMAIL, password=PASSWORD, first_name="A", device_name="x", ip_address=None
        )
        run(update(User).values(email=EMAIL))
        link = tokens.sign("registration", claim)
    browser.get(f"/register/confirm?token={link}")
    return browser.post("/register/confirm", password=PASSWORD)


def by_verifying_an_address(browser, app):
    with app.app_context():
        account = accounts.find_by_email(EMAIL)
        link = tokens.sign("verify_email", f"{account.id}:{account.email}")
    browser.get(f"/verify-email?token={link}")
    return browser.post("/verify-email", password=PASSWORD)


def by_confirming_a_change_of_address(browser, app):
    with app.app_context():
        account, now = accounts.find_by_email(EMAIL), clock.now()
        addresses = {"old_email": EMAIL, "new_email": "new@example.com", "old_was_verified": True}
        at = {"created_at": now, "expires_at": now + emails.LINK_LIFETIME}
        run(insert(EmailChange), {"id": "x" * 32, "user_id": account.id} | addresses | at)
        link = tokens.sign("change_email", f"{account.id.hex}.{'x' * 32}")
    browser.get(f"/confirm-email?token={link}")
    answer = browser.post("/confirm-email", password=PASSWORD)
    with app.app_context():
        # Who has a second step shows it first, and opens the link again.
        assert accounts.find_by_id(account.id).email == EMAIL
    return answer


# By module and view: what a person does there who knows the password, and has no second step to show.
TRIED = {
    ("api.accounts", "login"): by_json("/auth/login", email=EMAIL, password=PASSWORD),
    ("api.accounts", "login_oauth"): by_oauth,
    ("api.passkeys", "login_with_passkey"): by_a_passkey_of_nobody,
    ("api.second_steps", "complete_login"): by_json_with_the_wrong_code,
    ("pages.accounts", "login"): lambda browser, app: browser.try_sign_in(),
    ("pages.accounts", "login_with_passkey"): by_page_with_a_passkey_of_nobody,
    ("pages.accounts", "register"): by_registering,
    ("pages.addresses", "verify"): by_verifying_an_address,
    ("pages.email_changes", "confirm"): by_confirming_a_change_of_address,
    ("pages.registrations", "confirm"): by_confirming_a_registration,
    ("pages.second_steps", "second_step"): by_page_with_the_wrong_code,
}


def test_every_view_that_can_make_a_session_is_tried_below():
    """A view of tomorrow that leads to `sessions.start` makes this fail until it is."""
    assert set(TRIED) == set(_views_that_lead_to(("sessions", "start")))


@pytest.mark.parametrize("view", TRIED, ids=[".".join(each) for each in TRIED])
def test_no_view_makes_a_session_for_the_password_alone(app, view):
    with app.app_context():
        account = accounts.register(email=EMAIL, password=PASSWORD, first_name="Ada").account
        turn_on(account)
    browser, before = Browser(app), count_rows(app, UserSession)
    answer = TRIED[view](browser, app)
    assert answer.status_code < 500
    assert count_rows(app, UserSession) == before
    assert not browser.is_signed_in()
    assert "access_token" not in answer.text


@pytest.mark.parametrize("view", [("pages.accounts", "login"), ("api.accounts", "login")])
def test_the_same_view_does_make_one_without_a_second_step(app, view):
    """What is tried above would be seen if it worked."""
    with app.app_context():
        accounts.register(email=EMAIL, password=PASSWORD, first_name="Ada")
    assert TRIED[view](Browser(app), app).status_code < 400
    assert count_rows(app, UserSession) == 1


def _views_that_lead_to(target):
    """Return (module, function) of each function of pages and api that is a route and calls it in the end."""
    calls, routes = {}, set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                key = module, node.name
                calls[key] = set(_calls(node, module))
                if any("blueprint" in ast.unparse(each) for each in node.decorator_list):
                    routes.add(key)
    # A package's name stands for what its modules define: `second_steps.complete_with_code`.
    defined = {}
    for module, name in calls.keys() - routes:  # nobody calls a view by its name
        parts = module.split(".")
        for part in (parts[-1], *parts[:1]):
            defined.setdefault((part, name), set()).add((module, name))
    leading, found = {target}, set()
    while True:
        new = {
            key for key, called in calls.items() if key not in found and called & (leading | found)
        }
        if not new:
            return routes & found
        found |= new
        leading |= {short for short, keys in defined.items() if keys & new}


def _calls(function, module):
    """Yield what a function names: `x.y` as (x, y), and plain names as the module's own."""
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr
        elif isinstance(node, ast.Name):
            yield module, node.id
