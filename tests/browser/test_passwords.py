"""A forgotten password and a changed one, in a real browser, with the mail that an SMTP server received."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import (
    FIREFOX_ON_LINUX,
    device,
    expect_thrown_out,
    fill_in_login,
    flash,
    heading,
    mail_to,
    sign_in,
    with_and_without_script,
)
from tests.factories import NEW_PASSWORD, PASSWORD

pytestmark = pytest.mark.browser


@with_and_without_script
def test_a_link_from_the_mail_sets_a_new_password_and_ends_every_session(
    open_page, email, mailbox, has_script
):
    """RS-08, RS-10: the token leaves the address at once, and no way back leads to it."""
    page, other = open_page(has_script=has_script), open_page(user_agent=FIREFOX_ON_LINUX)
    sign_in(other, email)
    page.goto("/login")
    page.get_by_role("link", name="Forgot your password?").click()
    page.get_by_label("Email address").fill(email)
    page.get_by_role("button", name="Send reset link").click()
    expect(heading(page)).to_have_text("Check your email")
    expect(page.get_by_role("main")).to_contain_text(f"If an account exists for {email}, we have")

    page.goto(mailbox.link(mail_to(mailbox, email)))
    assert page.url.endswith("/reset-password")
    expect(page.get_by_role("definition")).to_have_text(email)
    page.reload()
    page.get_by_role("textbox", name="New password").fill(NEW_PASSWORD)
    page.get_by_role("button", name="Change password").click()
    expect(flash(page)).to_have_text("Password changed. Sign in with your new password.")
    expect_thrown_out(other)

    fill_in_login(page, email, PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Email or password is wrong.")
    sign_in(page, email, NEW_PASSWORD)
    expect(heading(page)).to_have_text("Your devices")
    assert "Your authsite password was changed" in _subjects(mailbox, email)


@with_and_without_script
def test_a_used_link_says_so_and_leads_to_a_new_one(open_page, email, mailbox, has_script):
    """RS-02: also in the history of the browser that used it."""
    page = open_page(has_script=has_script)
    link = _ask_for_link(page, email, mailbox)
    page.goto(link)
    page.get_by_role("textbox", name="New password").fill(NEW_PASSWORD)
    page.get_by_role("button", name="Change password").click()
    expect(heading(page)).to_have_text("Sign in")
    page.go_back(wait_until="commit")
    expect(heading(page)).to_have_text("This link no longer works")
    page.goto(link)
    expect(heading(page)).to_have_text("This link no longer works")
    page.get_by_role("link", name="Ask for a new link").click()
    expect(heading(page)).to_have_text("Reset your password")


@with_and_without_script
def test_changing_the_password_keeps_this_browser_and_ends_the_other(open_page, email, has_script):
    """PW-13."""
    page = open_page(has_script=has_script)
    other = open_page(has_script=has_script, user_agent=FIREFOX_ON_LINUX)
    sign_in(page, email)
    sign_in(other, email)
    page.goto("/.well-known/change-password")
    page.get_by_role("textbox", name="Current password").fill(PASSWORD)
    page.get_by_role("textbox", name="New password").fill(NEW_PASSWORD)
    page.get_by_role("button", name="Change password").click()
    expect(flash(page)).to_have_text("Password changed. Signed out 1 other device.")
    expect(device(page, "Chrome on Linux")).to_contain_text("This device")
    expect(
        page.get_by_role("listitem").filter(has_text="the password was changed on")
    ).to_contain_text("Firefox on Linux")
    expect_thrown_out(other)


@pytest.mark.parametrize("path", ["/register", "/login", "/account/password", "/reset-password"])
def test_a_password_manager_knows_whose_password_each_field_wants(open_page, email, mailbox, path):
    """PW-12: one field for the name, `current` and `new` told apart; Chromium has nothing to suggest."""
    page = open_page()
    if path == "/account/password":
        sign_in(page, email)
    page.goto(_ask_for_link(page, email, mailbox) if path == "/reset-password" else path)
    found = page.locator("main input:not([type=hidden], [type=checkbox])").evaluate_all(
        "inputs => inputs.map(input => [input.autocomplete, input.value])"
    )
    assert (
        found
        == {
            "/register": [["given-name", ""], ["username", ""], ["new-password", ""]],
            "/login": [["username webauthn", ""], ["current-password", ""]],
            "/account/password": [
                ["username", email],
                ["current-password", ""],
                ["new-password", ""],
            ],
            "/reset-password": [["username", email], ["new-password", ""]],
        }[path]
    )


@pytest.mark.parametrize("path", ["/register", "/login"])
def test_a_password_can_be_pasted_and_is_not_cut(open_page, path):
    """PW-12: nothing stands in the way of a password manager, nor of a hundred characters."""
    page, long_password = open_page(), "correct horse battery staple " * 4
    page.goto(path)
    page.get_by_label("Email address").fill(long_password)
    page.get_by_label("Email address").press("Control+A")
    page.get_by_label("Email address").press("Control+X")
    password = page.get_by_role("textbox", name="assword")
    password.press("Control+V")
    expect(password).to_have_value(long_password)


def _ask_for_link(page, email, mailbox) -> str:
    page.goto("/forgot-password")
    page.get_by_label("Email address").fill(email)
    page.get_by_role("button", name="Send reset link").click()
    expect(heading(page)).to_have_text("Check your email")
    return mailbox.link(mail_to(mailbox, email))


def _subjects(mailbox, email) -> list[str]:
    mail_to(mailbox, email, 2)
    return [
        message["Subject"]
        for message, to in zip(mailbox.messages, mailbox.recipients, strict=False)
        if to == [email]
    ]
