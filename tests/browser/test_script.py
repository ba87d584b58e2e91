"""What app.js adds to pages that do without it."""

import re
import shutil
from datetime import datetime, timedelta

import pytest
import requests
from playwright.sync_api import expect

from tests import services
from tests.browser.conftest import (
    ARGUMENTS,
    SIGNED_OUT_ELSEWHERE,
    WITHOUT,
    api_sign_in,
    browsers,
    device,
    fill_in_login,
    flash,
    heading,
    new_email,
    register,
    sign_in,
)
from tests.factories import PASSWORD

pytestmark = pytest.mark.browser

SEND_TWICE = """() => {
  const form = document.querySelector("main form"), stopped = [];
  addEventListener("submit", event => stopped.push(event.defaultPrevented));
  form.requestSubmit();
  form.requestSubmit();
  return stopped;
}"""


def test_a_password_can_be_shown_and_is_hidden_again_before_it_is_sent(open_page, email):
    """PW-12: a browser would keep what it sends as text among the words for its own suggestions."""
    page = open_page()
    page.goto("/login")
    fill_in_login(page, email)
    password = page.locator("#password")
    page.get_by_role("button", name="Show password").click()
    expect(password).to_have_attribute("type", "text")
    page.get_by_role("button", name="Hide password").click()
    expect(password).to_have_attribute("type", "password")
    page.get_by_role("button", name="Show password").click()
    page.evaluate(
        "addEventListener('submit', (event) => { sessionStorage.sentAs = event.target.password.type })"
    )
    page.get_by_role("button", name="Sign in").click()
    expect(heading(page)).to_have_text("Your devices")
    assert page.evaluate("sessionStorage.sentAs") == "password"


@pytest.mark.parametrize("path", ["/account/activity", "/account/security", "/account/devices"])
def test_every_time_is_told_again_in_the_time_of_its_reader(open_page, email, path):
    """In Kiritimati it is a day and an hour later than in Pago Pago."""
    told = []
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        page = open_page(timezone_id=zone)
        sign_in(page, email)
        page.goto(path)
        told.append(page.locator("[data-local]").all_text_contents())
    assert told[0] != told[1]


@pytest.mark.parametrize(
    ("zone", "hours_ahead"), [("Pacific/Kiritimati", 14), ("Pacific/Honolulu", -10)]
)
def test_what_happened_stands_under_its_readers_own_day(open_page, email, zone, hours_ahead):
    """One of the two has another day than UTC at any time; one UTC day may be two there."""
    page = open_page(timezone_id=zone)
    sign_in(page, email)
    page.route("**/account/activity", a_day_before_the_first)
    page.goto("/account/activity")
    days = page.locator(".day")
    expect(days).to_have_count(2)
    for day in days.all():
        time = day.get_by_role("listitem").locator("time")
        at = datetime.fromisoformat(time.get_attribute("datetime")) + timedelta(hours=hours_ahead)
        expect(day.get_by_role("heading")).to_have_text(
            re.compile(rf"{at.day} {at:%B}( {at.year})?")
        )
        expect(time).to_have_text(f"{at:%H:%M}")


def a_day_before_the_first(route):
    """Answer with the list of two, the older of which is a day older than it is."""
    answer = route.fetch()
    newer, older = re.findall(r'datetime="(\S+)"', answer.text())
    before = datetime.fromisoformat(older) - timedelta(days=1)
    head, _, tail = answer.text().rpartition(older)
    assert f'datetime="{newer}"' in head
    route.fulfill(response=answer, body=f"{head}{before:%Y-%m-%dT%H:%M:%SZ}{tail}")


def test_a_button_that_would_do_nothing_without_the_script_is_not_shown(open_page):
    page = open_page(has_script=False)
    page.goto("/login")
    expect(page.locator("[data-show]")).to_be_hidden()


def test_a_form_that_is_sent_twice_in_a_row_arrives_once(open_page):
    page, sent = open_page(), []
    page.goto("/login")
    fill_in_login(page, new_email())
    page.on("request", lambda request: sent.append(request.method))
    assert page.evaluate(SEND_TWICE) == [False, True]
    expect(page.get_by_role("alert")).to_be_visible()
    assert sent.count("POST") == 1


def test_what_happened_has_the_focus_so_that_it_is_read_out_first(open_page):
    page = open_page()
    page.goto("/register")
    page.get_by_role("button", name="Create account").click()
    summary = page.get_by_role("alert")
    expect(summary).to_be_focused()
    expect(summary.get_by_role("heading")).to_have_text("There is a problem")
    summary.get_by_role("link", name="Enter your email address").click()
    expect(page.get_by_label("Email address")).to_be_focused()
    register(page, new_email())
    expect(flash(page)).to_be_focused()


def test_a_time_is_told_in_the_readers_own_time_zone(open_page, email):
    page = open_page(timezone_id="Asia/Kolkata", locale="en-US")
    sign_in(page, email)
    row = device(page, "Chrome on Linux")
    row.locator("summary").click()
    for kind in ("moment", "end"):
        time = row.locator(f"time[data-local={kind}]")
        there = datetime.fromisoformat(time.get_attribute("datetime"))
        # India is five and a half hours ahead, and often a day.
        local = there + timedelta(hours=5, minutes=30)
        expect(time).to_contain_text(f"{local:%H:%M}")
        assert "UTC" not in time.inner_text()


@pytest.fixture
def whole_chromium(chromium, site):
    """Open pages in the browser that people have: the headless shell keeps no page as it was left."""
    program = shutil.which("chromium")
    if program is None:
        services.missing("No chromium: install the package chromium")
    browser = chromium.browser_type.launch(
        executable_path=program, args=ARGUMENTS, ignore_default_args=WITHOUT
    )
    with browsers(browser, site) as open_:
        yield open_
    browser.close()


def test_a_page_that_comes_back_as_it_was_left_is_asked_for_again(whole_chromium, site, email):
    """PG-08: a device that was signed out meanwhile finds out at once, and not on the next click."""
    page = whole_chromium()
    sign_in(page, email)
    page.evaluate(
        "addEventListener('pageshow', (event) => { sessionStorage.cameBack = event.persisted })"
    )
    page.get_by_role("link", name="Security").click()
    expect(heading(page)).to_have_text("Security")
    address, held = f"{site.url}/api/v1/sessions/me/others", api_sign_in(site, email)
    assert requests.delete(address, headers=held, timeout=30).status_code == 200
    page.go_back(wait_until="commit")
    expect(heading(page)).to_have_text("Sign in")
    expect(flash(page)).to_have_text(SIGNED_OUT_ELSEWHERE)
    assert page.evaluate("sessionStorage.cameBack") == "true"


def test_the_address_that_was_typed_comes_along_from_the_login_to_the_reset(open_page):
    """In no URL: the address is nobody else's to read in a log or a history."""
    page, email = open_page(), new_email()
    page.goto("/login")
    fill_in_login(page, email, PASSWORD)
    page.get_by_role("link", name="Forgot your password?").click()
    expect(page.get_by_label("Email address")).to_have_value(email)
    assert page.url.endswith("/forgot-password")
    page.reload()
    assert page.evaluate("sessionStorage.email") is None


def test_a_command_of_the_api_page_is_copied_whole_by_its_button(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.goto("/api/v1/docs")
    command = page.locator("#login + .address ~ .copied").first
    command.get_by_role("button", name="Copy").click()
    expect(command.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == command.locator("pre").text_content()
    without = open_page(has_script=False)
    without.goto("/api/v1/docs")
    expect(without.get_by_role("button", name="Copy")).to_have_count(0)


IS_BROKEN = """each => {
  const texts = document.createTreeWalker(each, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  while (texts.nextNode()) {
    range.selectNodeContents(texts.currentNode);
    if (!texts.currentNode.data.includes("-") && range.getClientRects().length > 1) return true;
  }
  return false;
}"""


def test_a_phone_shows_the_api_page_itself_and_no_path_broken_within_a_word(open_page):
    """Without script too: the list of all calls is folded away before the first sentence."""
    page = open_page(has_script=False, viewport={"width": 320, "height": 640})
    page.goto("/api/v1/docs")
    contents = page.get_by_role("navigation", name="Contents")
    expect(contents.get_by_role("link", name="Basics")).to_be_hidden()
    expect(page.get_by_text("every place where they are signed in.")).to_be_in_viewport()
    contents.get_by_text("Contents").click()
    expect(contents.get_by_role("link", name="Basics")).to_be_visible()
    paths = page.locator(".address code, .contents code").all()
    assert len(paths) > 90
    assert [each.text_content() for each in paths if each.evaluate(IS_BROKEN)] == []


def test_the_name_of_the_site_stands_above_what_it_heads(open_page):
    page = open_page(viewport={"width": 1280, "height": 800})
    page.goto("/api/v1/docs")
    name, title = page.locator(".site-name"), page.get_by_role("heading", level=1)
    assert name.bounding_box()["x"] == title.bounding_box()["x"]


def test_the_contents_of_the_api_page_stay_beside_what_is_read(open_page):
    page = open_page(viewport={"width": 1280, "height": 800})
    page.goto("/api/v1/docs#errors")
    expect(page.get_by_role("heading", level=2, name="Error codes")).to_be_in_viewport()
    contents = page.get_by_role("navigation", name="Contents")
    expect(contents.get_by_role("link", name="Basics")).to_be_in_viewport()
