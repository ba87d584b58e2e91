"""Passkeys in a real browser, with its virtual authenticator in the place of a finger."""

import re
from typing import Any

import pytest
from playwright.sync_api import CDPSession, Page, expect

from tests.browser.conftest import fill_in_login, flash, heading, sign_in, sign_out

pytestmark = pytest.mark.browser

PASSKEYS = "/account/passkeys"


class Authenticator:
    """What a computer has built in: it verifies its user, and keeps passkeys."""

    def __init__(self, page: Page, **options: Any) -> None:
        self._session: CDPSession = page.context.new_cdp_session(page)
        self._session.send("WebAuthn.enable", {"enableUI": False})
        how = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
            "defaultBackupEligibility": True,
            "defaultBackupState": True,
        } | options
        made = self._session.send("WebAuthn.addVirtualAuthenticator", {"options": how})
        self._id = {"authenticatorId": made["authenticatorId"]}

    def touches(self, *, by_itself: bool) -> None:
        """Whether somebody is there who touches it when it asks."""
        self._session.send(
            "WebAuthn.setAutomaticPresenceSimulation", self._id | {"enabled": by_itself}
        )

    def verifies(self, *, is_right: bool) -> None:
        """Whether it is the right finger."""
        self._session.send("WebAuthn.setUserVerified", self._id | {"isUserVerified": is_right})

    def holds(self, passkey: dict[str, Any]) -> None:
        """Have a passkey of another device of the same owner."""
        self._session.send("WebAuthn.addCredential", self._id | {"credential": passkey})

    def passkeys(self) -> list[dict[str, Any]]:
        return self._session.send("WebAuthn.getCredentials", self._id)["credentials"]


def add(page: Page) -> None:
    page.goto(PASSKEYS)
    page.get_by_role("button", name="Add a passkey").click()
    expect(flash(page)).to_have_text("Passkey added: Chrome on Linux.")


def with_passkey(page: Page, email: str, **options: Any) -> Authenticator:
    """Sign in, add a passkey, and sign out again; nobody touches it then."""
    authenticator = Authenticator(page, **options)
    sign_in(page, email)
    add(page)
    authenticator.touches(by_itself=False)
    sign_out(page)
    return authenticator


def test_a_passkey_is_added_and_its_button_signs_in(open_page, email):
    page = open_page()
    # A browser without the list under the field, which would be the first to ask.
    page.add_init_script("PublicKeyCredential.isConditionalMediationAvailable = async () => false")
    authenticator = with_passkey(page, email)
    [held] = authenticator.passkeys()
    assert held["rpId"] == "localhost"
    assert held["userName"] == email
    authenticator.touches(by_itself=True)
    page.get_by_role("button", name="Use a passkey").click()
    expect(heading(page)).to_have_text("Your devices")
    page.goto(PASSKEYS)
    expect(page.get_by_role("main")).to_contain_text("Saved in your password manager")
    expect(page.get_by_role("main")).to_contain_text("Last used just now")


def test_the_list_under_the_email_field_signs_in(open_page, email):
    page = open_page()
    authenticator = with_passkey(page, email)
    expect(page.get_by_label("Email address")).to_have_attribute(
        "autocomplete", "username webauthn"
    )
    authenticator.touches(by_itself=True)
    page.goto("/login?next=/account/activity")
    expect(heading(page)).to_have_text("What happened in your account")


def test_the_wrong_finger_signs_nobody_in_and_the_page_stays_quiet(open_page, email):
    """What the person gave up is no error; the password still signs in."""
    page = open_page()
    authenticator = with_passkey(page, email)
    authenticator.verifies(is_right=False)
    authenticator.touches(by_itself=True)
    page.goto("/login")
    page.get_by_role("button", name="Use a passkey").click()
    expect(heading(page)).to_have_text("Sign in")
    expect(page.get_by_role("alert")).to_have_count(0)
    fill_in_login(page, email)
    page.get_by_role("button", name="Sign in").click()
    expect(heading(page)).to_have_text("Your devices")


def test_a_device_that_has_one_says_so(open_page, email):
    page = open_page()
    Authenticator(page)
    sign_in(page, email)
    add(page)
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("alert")).to_have_text(
        "This device has a passkey for this account already."
    )


def test_a_removed_passkey_leaves_its_device_and_is_forgotten_there(open_page, email):
    page = open_page()
    authenticator = Authenticator(page)
    sign_in(page, email)
    add(page)
    page.get_by_role("link", name="Remove Chrome on Linux").click()
    page.get_by_role("button", name="Remove the passkey").click()
    expect(flash(page)).to_have_text("Passkey removed: Chrome on Linux.")
    expect(page.get_by_role("main")).to_contain_text("You have no passkeys yet.")
    page.wait_for_function("document.readyState == 'complete'")
    assert authenticator.passkeys() == [], "the page has told which there are"


def test_an_unknown_passkey_is_refused_once_and_forgotten(open_page, email):
    """The list that failed does not come back by itself."""
    page, other = open_page(), open_page()
    authenticator = with_passkey(page, email)
    sign_in(other, email)
    other.goto(PASSKEYS)
    other.get_by_role("link", name=re.compile("^Remove")).click()
    other.get_by_role("button", name="Remove the passkey").click()
    authenticator.touches(by_itself=True)
    page.goto("/login")
    expect(page.locator(".error-summary")).to_contain_text("That passkey is not known here.")
    expect(page.get_by_role("button", name="Use a passkey")).to_be_visible()
    assert authenticator.passkeys() == []


def test_a_passkey_is_the_second_step_and_confirms(open_page, email):
    page = open_page()
    authenticator = Authenticator(page)
    sign_in(page, email)
    add(page)
    page.goto("/account/two-step/on")
    page.get_by_role("button", name="Turn on").click()
    expect(heading(page)).to_have_text("Save your recovery codes")
    authenticator.touches(by_itself=False)
    page.goto(PASSKEYS)
    authenticator.touches(by_itself=True)
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_role("button", name="Add a passkey")).to_be_visible()
    authenticator.touches(by_itself=False)
    sign_out(page)
    fill_in_login(page, email)
    page.get_by_role("button", name="Sign in").click()
    expect(heading(page)).to_have_text("Use your passkey or a recovery code")
    authenticator.touches(by_itself=True)
    page.get_by_role("button", name="Use a passkey").click()
    expect(heading(page)).to_have_text("Your devices")


def test_without_a_script_nothing_of_it_is_shown_but_what_works(open_page, email):
    page = open_page(has_script=False)
    page.goto("/login")
    expect(page.get_by_role("button", name="Use a passkey")).to_be_hidden()
    sign_in(page, email)
    page.goto(PASSKEYS)
    expect(page.get_by_role("button", name="Add a passkey")).to_be_hidden()
