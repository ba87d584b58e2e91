"""Confirming an address, in a real browser: with and without script, and each page without a barrier."""

import shutil

import pytest
import requests
from playwright.sync_api import expect

from tests.browser.conftest import (
    FIREFOX_ON_LINUX,
    api_get,
    api_sign_in,
    browsers,
    fill_in_login,
    flash,
    heading,
    mail_to,
    new_account,
    new_email,
    register,
    running_site,
    sign_in,
    with_and_without_script,
)
from tests.browser.test_accessibility import WIDE, violations_and_scrolling
from tests.factories import PASSWORD

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def sites(_sqlite_template, tmp_path_factory, mailbox):
    """Two services on one database: addresses confirmed at leisure, and first."""
    path = tmp_path_factory.mktemp("addresses") / "authsite.db"
    shutil.copyfile(_sqlite_template, path)
    url = f"sqlite:///{path}"
    with (
        running_site(url, mailbox, EMAIL_VERIFICATION="optional") as optional,
        running_site(url, mailbox, EMAIL_VERIFICATION="required") as required,
    ):
        yield {"optional": optional, "required": required}


def link(mailbox, email, page):
    index = mail_to(mailbox, email)
    return f"{page}?token={mailbox.token(page, index)}"


def is_without_barrier(page, title):
    expect(heading(page)).to_have_text(title)
    return violations_and_scrolling(page) == []


@with_and_without_script
def test_an_account_is_made_once_its_address_is_confirmed(chromium, sites, mailbox, has_script):
    email = new_email()
    with browsers(chromium, sites["required"]) as open_:
        page = open_(has_script=has_script)
        register(page, email)
        expect(heading(page)).to_have_text("Check your email")
        page.goto(link(mailbox, email, "/register/confirm"))
        expect(page).to_have_url(f"{sites['required'].url}/register/confirm")
        page.get_by_role("button", name="Create account").click()
        expect(flash(page)).to_have_text("Account created. You are signed in on this device.")


@with_and_without_script
def test_an_address_is_confirmed_by_the_one_button(chromium, sites, mailbox, has_script):
    email = new_email()
    with browsers(chromium, sites["optional"]) as open_:
        page = open_(has_script=has_script)
        register(page, email)
        banner = page.get_by_role("complementary", name="Your email address")
        banner.get_by_role("button", name="Send a new link").click()
        expect(flash(page)).to_have_text(
            f"We are sending a link to {email}. It works for 24 hours."
        )
        page.goto(link(mailbox, email, "/verify-email"))
        page.get_by_role("button", name="Confirm").click()
        expect(flash(page)).to_have_text("Email address confirmed.")
        expect(banner).to_have_count(0)


def test_the_pages_of_a_claim_have_no_barrier(chromium, sites, mailbox):
    email = new_email()
    site = sites["required"]
    with browsers(chromium, site) as open_:
        page, other = (open_(viewport=WIDE, device_scale_factor=1) for _ in range(2))
        register(page, email)
        assert is_without_barrier(page, "Check your email")
        address = link(mailbox, email, "/register/confirm")
        page.set_viewport_size(WIDE)
        page.goto(address)
        assert is_without_barrier(page, "Finish creating your account")
        other.goto(address)
        other.get_by_role("button", name="Create account").click()
        assert is_without_barrier(other, "Finish creating your account")
        other.goto("/register/confirm?token=x")
        assert is_without_barrier(other, "This link no longer works")
        unverified = new_account(sites["optional"])
        other.goto("/login")
        fill_in_login(other, unverified)
        other.get_by_role("button", name="Sign in").click()
        assert is_without_barrier(other, "Sign in")


def test_the_pages_of_a_confirmation_have_no_barrier(chromium, sites, mailbox):
    site = sites["optional"]
    email, stranger = new_account(site), new_account(site)
    address = link(mailbox, email, "/verify-email")
    with browsers(chromium, site) as open_:
        page, other, third = (open_(viewport=WIDE, device_scale_factor=1) for _ in range(3))
        sign_in(page, email)
        assert is_without_barrier(page, "Your devices")
        page.goto("/account")
        page.goto(address)
        assert is_without_barrier(page, "Confirm your email address")
        other.goto(address)
        other.get_by_role("button", name="Confirm").click()
        assert is_without_barrier(other, "Confirm your email address")
        sign_in(third, stranger)
        third.goto(address)
        assert is_without_barrier(third, "You are signed in to another account")
        third.goto("/verify-email?token=x")
        assert is_without_barrier(third, "This link no longer works")
        other.get_by_label("Password").and_(other.locator("input")).fill(PASSWORD)
        other.get_by_role("button", name="Confirm").click()
        expect(flash(other)).to_have_text("Email address confirmed.")


@with_and_without_script
def test_a_device_that_was_not_ones_own_is_signed_out_from_the_mail(
    chromium, sites, mailbox, has_script
):
    site = sites["optional"]
    email = new_account(site)
    api_sign_in(site, email)
    held = api_sign_in(site, email, user_agent=FIREFOX_ON_LINUX)
    token = mailbox.token("/not-me", mail_to(mailbox, email, 2))
    with browsers(chromium, site) as open_:
        page = open_(viewport=WIDE, device_scale_factor=1, has_script=has_script)
        page.goto(f"/not-me?token={token}")
        assert not has_script or is_without_barrier(page, "Was this you?")
        page.get_by_role("button", name="No, sign that device out").click()
        expect(heading(page)).to_have_text("That device is signed out")
        assert api_get(site, "/auth/me", held).status_code == 401
        page.get_by_role("button", name="Sign out everywhere and reset my password").click()
        assert not has_script or is_without_barrier(page, "That device is signed out")
        page.get_by_label("Email address").fill(email)
        page.get_by_role("button", name="Sign out everywhere and reset my password").click()
        expect(flash(page)).to_contain_text("Every device is signed out")
        page.goto(f"/not-me?token={token}")
        expect(heading(page)).to_have_text("That device is signed out")
        page.goto("/not-me?token=x")
        assert not has_script or is_without_barrier(page, "This link no longer works")


def verified_account(site, mailbox):
    """Return the address of a new account whose mailbox has shown itself."""
    email = new_account(site)
    token = mailbox.token("/verify-email", mail_to(mailbox, email))
    path = f"{site.url}/api/v1/users/me/email/verify"
    held = api_sign_in(site, email)
    assert requests.post(path, json={"token": token}, headers=held, timeout=10).ok
    return email


@with_and_without_script
def test_an_address_is_changed_and_changed_back(chromium, sites, mailbox, has_script):
    site, new = sites["optional"], new_email()
    email = verified_account(site, mailbox)
    with browsers(chromium, site) as open_:
        page, other = (
            open_(viewport=WIDE, device_scale_factor=1, has_script=has_script) for _ in range(2)
        )
        sign_in(page, email)
        page.goto("/account")
        page.get_by_role("link", name="Change email address").click()
        assert not has_script or is_without_barrier(page, "Your email address")
        page.get_by_role("button", name="Send link").click()
        assert not has_script or is_without_barrier(page, "Your email address")
        page.get_by_label("New email address").fill(new)
        page.get_by_role("button", name="Send link").click()
        expect(flash(page)).to_contain_text(f"We are sending a link to {new}.")
        assert not has_script or is_without_barrier(page, "Your email address")
        address = link(mailbox, new, "/confirm-email")
        other.goto(address)
        other.get_by_role("button", name="Confirm").click()
        assert not has_script or is_without_barrier(other, "Confirm your new email address")
        page.goto(address)
        assert not has_script or is_without_barrier(page, "Confirm your new email address")
        page.get_by_role("button", name="Confirm").click()
        expect(flash(page)).to_have_text(f"Your email address is now {new}.")
        other.goto(address)
        assert not has_script or is_without_barrier(other, "This link no longer works")

        undo = mailbox.token("/undo-email", mail_to(mailbox, email, 3))
        other.goto(f"/undo-email?token={undo}")
        assert not has_script or is_without_barrier(other, "Your email address was changed")
        other.get_by_role("button", name="Change it back").click()
        assert not has_script or is_without_barrier(other, "Your email address was changed")
        other.get_by_label("Type your old email address").fill(email)
        other.get_by_role("button", name="Change it back").click()
        expect(flash(other)).to_contain_text("Your address is changed back")
        other.goto(f"/undo-email?token={undo}")
        assert not has_script or is_without_barrier(other, "This link no longer works")
        page.goto("/account/email")
        expect(heading(page)).to_have_text("Sign in")
