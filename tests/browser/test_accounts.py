"""Register, sign in and out, one's details, in a real browser."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import services
from tests.browser.conftest import (
    ARGUMENTS,
    FIREFOX_ON_LINUX,
    WITHOUT,
    OpenPage,
    browsers,
    device,
    expect_thrown_out,
    fill_in_login,
    flash,
    heading,
    mail_to,
    new_email,
    register,
    running_site,
    sign_in,
    sign_out,
    with_and_without_script,
)
from tests.factories import NEW_PASSWORD

pytestmark = pytest.mark.browser
WRONG = "Email or password is wrong. Check both and try again"


@with_and_without_script
def test_registering_signs_this_browser_in_and_shows_it_among_the_devices(open_page, has_script):
    page = open_page(has_script=has_script)
    page.goto("/")
    page.get_by_role("link", name="Create an account").click()
    register(page, new_email())
    expect(heading(page)).to_have_text("Your devices")
    expect(flash(page)).to_have_text("Account created. You are signed in on this device.")
    expect(device(page, "Chrome on Linux")).to_contain_text("This device")


@with_and_without_script
@pytest.mark.parametrize("is_remembered", [True, False], ids=["kept", "not-kept"])
def test_a_sign_in_outlives_the_browser_only_if_it_was_to_be_kept(
    open_page, email, has_script, is_remembered
):
    """PG-13."""
    page = open_page(has_script=has_script)
    sign_in(page, email, is_remembered=is_remembered)
    kept = [each for each in page.context.cookies() if each["expires"] != -1]
    started_again = open_page(has_script=has_script)
    started_again.context.add_cookies(kept)
    started_again.goto("/account/devices")
    expect(heading(started_again)).to_have_text("Your devices" if is_remembered else "Sign in")


@with_and_without_script
def test_a_wrong_password_is_said_and_the_right_one_then_leads_to_the_page_that_was_wanted(
    open_page, email, has_script
):
    page = open_page(has_script=has_script)
    page.goto("/account/password")
    expect(page.get_by_text("Sign in to continue")).to_be_visible()
    fill_in_login(page, email, "a wrong guess")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text(WRONG)
    expect(page.get_by_label("Email address")).to_have_value(email)
    expect(page.get_by_role("textbox", name="Password")).to_have_value("")
    fill_in_login(page, email)
    page.get_by_role("button", name="Sign in").click()
    expect(heading(page)).to_have_text("Change your password")


@with_and_without_script
def test_the_back_button_shows_no_private_page_after_signing_out(open_page, email, has_script):
    """PG-08: neither from the HTTP cache nor as it was left, which needs no request at all."""
    page = open_page(has_script=has_script)
    sign_in(page, email)
    page.goto("/account")
    expect(page.get_by_role("definition").filter(has_text=email)).to_be_visible()
    page.goto("/account/devices")
    sign_out(page)
    expect(flash(page)).to_have_text("You have signed out.")
    for _ in range(2):
        page.go_back(wait_until="commit")
        expect(heading(page)).to_have_text("Sign in")
        expect(page.get_by_role("definition").filter(has_text=email)).to_have_count(0)


@pytest.fixture
def whole_chromium(chromium: Browser) -> Iterator[Browser]:
    """Chromium with a window's machinery, which keeps pages whole for the Back button without script too."""
    program = shutil.which("chromium")
    if program is None:
        services.missing("No chromium: install the package chromium")
    browser = chromium.browser_type.launch(
        executable_path=program, args=ARGUMENTS, ignore_default_args=WITHOUT
    )
    yield browser
    browser.close()


def test_a_page_that_the_browser_kept_whole_is_gone_once_signed_out(whole_chromium, site, email):
    """PG-08: the changed cookie alone does it, without script and without Clear-Site-Data."""
    with browsers(whole_chromium, site) as open_:
        page = open_(has_script=False)
        asked = []
        page.on("request", lambda each: each.is_navigation_request() and asked.append(each.url))
        sign_in(page, email)
        page.goto("/account")
        page.get_by_role("navigation").get_by_role("link", name="Devices").click()
        expect(heading(page)).to_have_text("Your devices")
        before = len(asked)
        page.go_back(wait_until="commit")
        expect(page.get_by_role("definition").filter(has_text=email)).to_be_visible()
        assert len(asked) == before, "it comes back without a request, or nothing is shown here"
        page.get_by_role("navigation").get_by_role("link", name="Devices").click()
        sign_out(page)
        expect(flash(page)).to_have_text("You have signed out.")
        for _ in range(2):
            before = len(asked)
            page.go_back(wait_until="commit")
            expect(heading(page)).to_have_text("Sign in")
            expect(page.get_by_role("definition").filter(has_text=email)).to_have_count(0)
            assert len(asked) > before


@with_and_without_script
def test_ones_details_are_kept_as_they_were_typed(open_page, email, has_script):
    page = open_page(has_script=has_script)
    sign_in(page, email)
    page.get_by_role("link", name="Profile").click()
    page.get_by_label("First name").fill('<b onclick="alert(1)">Ada</b>')
    page.get_by_label("Phone number").fill("none")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("alert").get_by_role("link").click()
    expect(page.get_by_label("Phone number")).to_be_focused()
    page.get_by_label("Phone number").fill("+44 20 7946 0958")
    page.get_by_role("button", name="Save").click()
    expect(flash(page)).to_have_text("Your details are saved.")
    expect(page.get_by_label("First name")).to_have_value('<b onclick="alert(1)">Ada</b>')


@with_and_without_script
def test_a_form_of_an_earlier_session_is_shown_again_with_what_was_typed(
    open_page, email, has_script
):
    """PG-01: a second tab has signed in meanwhile, and with it the first one's token is worth nothing."""
    page = open_page(has_script=has_script)
    page.goto("/login")
    other_tab = page.context.new_page()
    sign_in(other_tab, email)
    sign_out(other_tab)
    fill_in_login(page, email)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Your form expired. Try again.")
    expect(page.get_by_label("Email address")).to_have_value(email)
    fill_in_login(page, email)
    page.get_by_role("button", name="Sign in").click()
    expect(heading(page)).to_have_text("Your devices")


@pytest.fixture
def postgresql_site(
    empty_postgresql_url: str, mailbox: services.Mailbox
) -> Iterator[services.Site]:
    with running_site(empty_postgresql_url, mailbox) as running:
        yield running


@pytest.fixture
def open_page_on_postgresql(
    chromium: Browser, postgresql_site: services.Site
) -> Iterator[OpenPage]:
    with browsers(chromium, postgresql_site) as open_:
        yield open_


@pytest.mark.postgresql
def test_the_whole_story_of_an_account_runs_on_postgresql(open_page_on_postgresql, mailbox):
    """Register, a second browser, its name, a lost password, and all is signed out."""
    email = new_email()
    here: Page = open_page_on_postgresql()
    there: Page = open_page_on_postgresql(user_agent=FIREFOX_ON_LINUX)
    register(here, email)
    sign_in(there, email)
    mail_to(mailbox, email)  # a new device
    here.reload()
    row = device(here, "Firefox on Linux")
    row.get_by_text("More about this device").click()
    row.get_by_role("link", name="Rename").click()
    here.get_by_label("Name").fill("Kitchen laptop")
    here.get_by_role("button", name="Save").click()
    expect(device(here, "Kitchen laptop")).to_be_visible()
    sign_out(here)
    here.get_by_role("link", name="Forgot your password?").click()
    here.get_by_label("Email address").fill(email)
    here.get_by_role("button", name="Send reset link").click()
    here.goto(mailbox.link(mail_to(mailbox, email, 2)))
    here.get_by_role("textbox", name="New password").fill(NEW_PASSWORD)
    here.get_by_role("button", name="Change password").click()
    expect_thrown_out(there)
    sign_in(here, email, NEW_PASSWORD)
    expect(here.get_by_text("Kitchen laptop")).to_be_visible()
    expect(here.get_by_role("main")).to_contain_text("You are not signed in anywhere else.")
