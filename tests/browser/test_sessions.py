"""Your devices, from more than one of them: what one ends, the other finds ended on its next click."""

import pytest
import requests
from playwright.sync_api import expect

from tests.browser.conftest import (
    FIREFOX_ON_LINUX,
    api_get,
    api_sign_in,
    device,
    expect_thrown_out,
    fill_in_login,
    flash,
    heading,
    new_account,
    new_email,
    open_rename,
    register,
    sign_in,
    sign_out,
    with_and_without_script,
)

pytestmark = pytest.mark.browser
CHROME_ON_WINDOWS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/142.0.0.0 Safari/537.36"
)


@with_and_without_script
def test_a_browser_that_was_signed_out_from_another_is_thrown_out_on_its_next_click(
    open_page, email, has_script
):
    """SE-02: it is told why, and may sign in again at once."""
    page = open_page(has_script=has_script)
    other = open_page(has_script=has_script, user_agent=FIREFOX_ON_LINUX)
    sign_in(other, email)
    sign_in(page, email)
    expect(page.get_by_role("main")).to_contain_text("You are signed in on 2 devices.")
    page.get_by_role("button", name="Sign out Firefox on Linux").click()
    expect(flash(page)).to_contain_text("Signed out Firefox on Linux. If you")
    expect(page.get_by_role("listitem").filter(has_text="Firefox on Linux")).to_contain_text(
        "Signed out from Chrome on Linux"
    )
    expect_thrown_out(other)
    fill_in_login(other, email)
    other.get_by_role("button", name="Sign in").click()
    expect(heading(other)).to_have_text("Your details")  # where that click was to lead


@with_and_without_script
def test_a_program_that_signed_in_through_the_api_stands_on_the_page_and_is_ended_from_it(
    open_page, site, email, has_script
):
    """SE-21."""
    page, held = open_page(has_script=has_script), api_sign_in(site, email)
    sign_in(page, email)
    row = device(page, "curl")
    row.get_by_text("More about this device").click()
    expect(row).to_contain_text("An app or script")
    row.get_by_role("button", name="Sign out").click()
    expect(flash(page)).to_contain_text("Signed out curl. If you")
    assert api_get(site, "/auth/me", held).status_code == 401


@with_and_without_script
def test_a_browser_that_was_signed_out_through_the_api_is_thrown_out_on_its_next_click(
    open_page, site, email, has_script
):
    """SE-21."""
    page = open_page(has_script=has_script)
    sign_in(page, email)
    held = api_sign_in(site, email)
    listed = api_get(site, "/sessions/me", held).json()["sessions"]
    (browser,) = [each for each in listed if not each["is_current"]]
    assert browser["device_name"] == "Chrome on Linux"
    address = f"{site.url}/api/v1/sessions/{browser['id']}"
    assert requests.delete(address, headers=held, timeout=30).status_code == 200
    expect_thrown_out(page)


@with_and_without_script
def test_a_device_takes_the_name_that_it_is_given(open_page, site, email, has_script):
    page, held = open_page(has_script=has_script), api_sign_in(site, email)
    sign_in(page, email)
    open_rename(page, "curl")
    expect(page.get_by_label("Name")).to_have_value("curl")
    page.get_by_label("Name").fill("x" * 65)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("Name must be 64 characters or fewer")
    page.get_by_label("Name").fill("  Backup <script>  ")
    page.get_by_role("button", name="Save").click()
    expect(flash(page)).to_contain_text("The name is now Backup <script>")
    expect(device(page, "Backup <script>")).to_be_visible()
    names = {each["device_name"] for each in api_get(site, "/sessions/me", held).json()["sessions"]}
    assert names == {"Backup <script>", "Chrome on Linux"}


@with_and_without_script
def test_signing_out_everywhere_else_asks_first_and_leaves_only_this_browser(
    open_page, site, email, has_script
):
    """SE-12."""
    page = open_page(has_script=has_script)
    other = open_page(has_script=has_script, user_agent=FIREFOX_ON_LINUX)
    held = api_sign_in(site, email)
    sign_in(other, email)
    sign_in(page, email)
    page.get_by_role("link", name="Sign out everywhere else").click()
    expect(heading(page)).to_have_text("Sign out 2 other devices?")
    page.get_by_role("link", name="Cancel").click()
    expect(device(page, "Firefox on Linux")).to_be_visible()
    page.get_by_role("link", name="Sign out everywhere else").click()
    listed = page.get_by_role("main").get_by_role("listitem")
    expect(listed.filter(has_text="Firefox on Linux")).to_be_visible()
    expect(listed.filter(has_text="curl")).to_be_visible()
    page.get_by_role("button", name="Sign out 2 devices").click()
    expect(flash(page)).to_contain_text("Signed out 2 other devices. If you")
    expect(page.get_by_role("main")).to_contain_text("You are not signed in anywhere else.")
    expect_thrown_out(other)
    assert api_get(site, "/auth/me", held).status_code == 401


@with_and_without_script
def test_signing_this_device_out_leads_to_the_login_page(open_page, email, has_script):
    page = open_page(has_script=has_script)
    sign_in(page, email)
    expect(device(page, "Chrome on Linux").get_by_role("button")).to_have_count(0)
    page.get_by_role("banner").get_by_role("button", name="Sign out").click()
    expect(heading(page)).to_have_text("Sign in")
    expect(flash(page)).to_have_text("You have signed out.")


@pytest.mark.parametrize("is_new", [True, False], ids=["register", "sign-in"])
def test_a_browser_that_is_asked_tells_which_windows_it_runs_on(open_page, site, is_new):
    """The user agent says Windows 10 for both; the hint comes with the request after the form's page."""
    page = open_page()
    _pose_as_windows_11(page)
    if is_new:
        register(page, new_email())
    else:
        sign_in(page, new_account(site))
    row = device(page, "Chrome on Windows")
    row.get_by_text("More about this device").click()
    expect(row).to_contain_text("Windows 11")


def test_signing_in_again_in_the_same_browser_is_no_new_device(open_page, email):
    """The cookie that tells a returning browser outlives the sign-out."""
    page = open_page()
    sign_in(page, email)
    open_rename(page)
    page.get_by_label("Name").fill("Kitchen laptop")
    page.get_by_role("button", name="Save").click()
    sign_out(page)
    sign_in(page, email)
    expect(device(page, "Kitchen laptop")).to_contain_text("This device")


def _pose_as_windows_11(page) -> None:
    page.context.new_cdp_session(page).send(
        "Emulation.setUserAgentOverride",
        {
            "userAgent": CHROME_ON_WINDOWS,
            "userAgentMetadata": {
                "brands": [{"brand": "Google Chrome", "version": "142"}],
                "platform": "Windows",
                "platformVersion": "15.0.0",
                "architecture": "x86",
                "model": "",
                "mobile": False,
            },
        },
    )
