"""Deleting one's account and keeping it after all, in a real browser, and each page without a barrier."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import (
    fill_in_login,
    flash,
    heading,
    mail_to,
    new_account,
    sign_in,
    with_and_without_script,
)
from tests.browser.test_accessibility import violations_and_scrolling
from tests.factories import PASSWORD

pytestmark = pytest.mark.browser


def is_without_barrier(page, title):
    expect(heading(page)).to_have_text(title)
    return violations_and_scrolling(page) == []


@with_and_without_script
def test_an_account_is_deleted_and_kept_after_all(open_page, site, mailbox, has_script):
    email = new_account(site)
    page = open_page(has_script=has_script)
    sign_in(page, email)
    page.goto("/account")
    page.get_by_role("link", name="Delete your account").click()
    page.get_by_role("button", name="Delete my account").click()
    expect(page.get_by_role("alert")).to_contain_text("Enter your password to confirm it is you")
    if has_script:
        assert is_without_barrier(page, "Delete your account")
    page.fill("[name=current_password]", PASSWORD)
    page.get_by_role("button", name="Delete my account").click()
    expect(flash(page)).to_contain_text("Your account will be deleted on")
    fill_in_login(page, email)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("To keep it, open the link in our email")

    index = mail_to(mailbox, email)
    page.goto(f"/keep-account?token={mailbox.token('/keep-account', index)}")
    assert page.url.endswith("/keep-account")
    if has_script:
        assert is_without_barrier(page, "Keep your account")
    page.fill("[name=email]", email)
    page.get_by_role("button", name="Keep my account").click()
    expect(flash(page)).to_have_text("Your account is kept. Sign in to go on.")
    sign_in(page, email)
    expect(heading(page)).to_have_text("Your devices")
