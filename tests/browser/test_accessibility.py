"""Every page and what it says when something is wrong: axe-core, reflow, zoom, and the keyboard alone.

WCAG 2.2, levels A and AA, and axe-core's best practice: no violation on any page, in light and dark, on a
wide screen and on the narrowest that there is to be (320 CSS pixels, SC 1.4.10).
"""

from collections.abc import Callable
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from authsite import create_app
from authsite.web import problems
from tests import services
from tests.browser.conftest import (
    api_get,
    api_sign_in,
    flash,
    heading,
    mail_to,
    new_account,
    new_email,
    open_rename,
    post,
    sign_in,
    with_and_without_script,
)
from tests.browser.test_passkeys import Authenticator
from tests.browser.test_passkeys import add as add_passkey
from tests.factories import PASSWORD

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 320, "height": 640}
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"]
ABOUT_COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
RUN_AXE = """rules => axe.run({...rules, resultTypes: ["violations"], preload: false}).then(
  ({violations}) => violations.flatMap(({id, nodes}) => nodes.map(node => [id, node.html])))"""
# The page of the API repeats itself, and axe-core takes seconds for it: the first of each kind is enough,
# and of the contents, beside the first calls of each noun, all those of the first.
REPEATED = "article ~ article, tr:nth-child(n+4), .contents li:has(ul) ~ li li ~ li"
IS_SCROLLED_SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
AGENTS = {
    "a phone": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    "a tablet": "Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    "a television": "Mozilla/5.0 (SMART-TV; Linux; Tizen 8.0) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Version/8.0 TV Safari/537.36",
    "a console": "Mozilla/5.0 (PlayStation; PlayStation 5/11.00) AppleWebKit/605.1.15",
    "a robot": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "a program": "curl/8.16.0",
    "nobody": "",
}


class Visitor:
    """Somebody who brings a page into the state that is to be looked at."""

    def __init__(self, page: Page, site: services.Site, mailbox: services.Mailbox) -> None:
        self.page = page
        self.site = site
        self.mailbox = mailbox
        self.email = ""

    def has_account(self) -> None:
        self.email = new_account(self.site)

    def is_signed_in(self) -> None:
        self.has_account()
        sign_in(self.page, self.email)

    def has_many_devices(self) -> None:
        self.has_account()
        for agent in AGENTS.values():
            held = api_sign_in(self.site, self.email, user_agent=agent)
        # The longest name there can be, in a word that offers no place to break.
        session = next(
            each
            for each in api_get(self.site, "/sessions/me", held).json()["sessions"]
            if each["is_current"]
        )
        address = f"{self.site.url}/api/v1/sessions/{session['id']}"
        requests.patch(address, json={"device_name": "W" * 64}, headers=held, timeout=30)
        post(self.site, "/auth/logout", {}, **api_sign_in(self.site, self.email))
        sign_in(self.page, self.email)

    def submit(self, button: str, **fields: str) -> None:
        for name, value in fields.items():
            self.page.locator(f"#{name}").fill(value)
        self.page.get_by_role("main").get_by_role("button", name=button, exact=True).click()

    def opens_link(self) -> str:
        self.has_account()
        self.page.goto("/forgot-password")
        self.submit("Send reset link", email=self.email)
        link = self.mailbox.link(mail_to(self.mailbox, self.email))
        self.page.goto(link)
        return link


def login_error(she: Visitor) -> None:
    she.page.goto("/login")
    she.submit("Sign in", email="nobody@example.com", password="a wrong guess")


def login_needed(she: Visitor) -> None:
    she.page.goto("/account")


def signed_out(she: Visitor) -> None:
    she.is_signed_in()
    she.page.get_by_role("banner").get_by_role("button", name="Sign out").click()


def register_errors(she: Visitor) -> None:
    she.page.goto("/register")
    she.submit("Create account", email="ada@", password="short")


def email_taken(she: Visitor) -> None:
    she.has_account()
    she.page.goto("/register")
    she.submit("Create account", first_name="Ada", email=she.email, password=PASSWORD)


def forgot_error(she: Visitor) -> None:
    she.page.goto("/forgot-password")
    she.submit("Send reset link", email="ada@")


def sent(she: Visitor) -> None:
    she.page.goto("/forgot-password")
    she.submit("Send reset link", email=f"{'w' * 60}@{'example' * 8}.com")


def reset_error(she: Visitor) -> None:
    she.opens_link()
    she.submit("Change password", password="short")


def unusable_link(she: Visitor) -> None:
    she.page.goto("/reset-password?token=x")


def only_device(she: Visitor) -> None:
    she.is_signed_in()


def rename(she: Visitor) -> None:
    she.has_many_devices()
    open_rename(she.page, "W" * 64)


def rename_error(she: Visitor) -> None:
    she.is_signed_in()
    open_rename(she.page)
    she.submit("Save", name="x" * 65)


def revoke_others(she: Visitor) -> None:
    she.has_many_devices()
    she.page.get_by_role("link", name="Sign out everywhere else").click()


def password(she: Visitor) -> None:
    she.is_signed_in()
    she.page.goto("/account/password")


def password_error(she: Visitor) -> None:
    password(she)
    she.submit("Change password", current_password="a wrong guess", new_password="x" * 129)


def details(she: Visitor) -> None:
    she.is_signed_in()
    she.page.goto("/account")


def details_error(she: Visitor) -> None:
    details(she)
    she.submit("Save", first_name=" ", phone_number="none")


def expired(she: Visitor) -> None:
    she.page.goto("/login")
    she.page.context.clear_cookies()
    she.submit("Sign in", email="nobody@example.com", password="a wrong guess")


def expired_button(she: Visitor) -> None:
    she.is_signed_in()
    she.page.goto("/account/devices")
    tokens = she.page.locator("input[name=csrf_token]")
    tokens.evaluate_all("each => each.forEach((input) => { input.value = 'expired'; })")
    she.page.get_by_role("banner").get_by_role("button", name="Sign out").click()


def button_without_cookie(she: Visitor) -> None:
    she.is_signed_in()
    she.page.goto("/account/devices")
    she.page.context.clear_cookies()
    she.page.get_by_role("banner").get_by_role("button", name="Sign out").click()


def passkeys(she: Visitor) -> Authenticator:
    authenticator = Authenticator(she.page)
    she.is_signed_in()
    add_passkey(she.page)
    authenticator.touches(by_itself=False)
    return authenticator


def passkey_confirm(she: Visitor) -> None:
    passkeys(she)
    she.page.goto("/account/two-step/on")
    she.submit("Turn on")
    she.page.goto("/account/passkeys")


def passkey_remove(she: Visitor) -> None:
    passkeys(she)
    she.page.get_by_role("link", name="Remove Chrome on Linux").click()


def passkey_second_step(she: Visitor) -> None:
    passkey_confirm(she)
    she.page.context.clear_cookies()
    she.page.goto("/login")
    she.submit("Sign in", email=she.email, password=PASSWORD)


def signed_out_meanwhile(she: Visitor) -> None:
    she.is_signed_in()
    she.page.goto("/account")
    other = she.page.context.new_page()
    other.goto("/account")
    other.get_by_role("banner").get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("Sign in")
    other.close()
    she.submit("Save", first_name="Ada")


def link_without_cookie(she: Visitor) -> None:
    she.page.goto("/reset-password")


def not_found(she: Visitor) -> None:
    she.page.goto("/nothing/is/here")


def wrong_method(she: Visitor) -> None:
    she.page.goto("/logout")


def too_many_attempts(she: Visitor) -> None:
    she.page.goto("/login")
    address, wrong = (
        f"{she.site.url}/api/v1/auth/login",
        {"email": "w@example.com", "password": "x"},
    )
    for _ in range(10):
        requests.post(address, json=wrong, timeout=30)
    she.submit("Sign in", **wrong)


def fault(status: int) -> Callable[[Visitor], None]:
    """Show the page for a fault that a site in good health does not have, as the code makes it."""

    def bring_about(she: Visitor) -> None:
        app = create_app(
            {"SECRET_KEY": services.SECRET_KEY, "DATABASE_URL": services.UNUSED_DATABASE_URL}
        )
        environ = {"authsite.request_id": "3f6b2c1d-4e5f-4a57-9b1d-7c4e01936f2a"}
        with app.test_request_context("/", environ_overrides=environ):
            page = problems.answer(status).get_data(as_text=True)
        she.page.route("**/fault", lambda route: route.fulfill(body=page, content_type="text/html"))
        she.page.goto("/fault")

    return bring_about


PAGES: dict[str, tuple[Callable[[Visitor], Any], str]] = {
    "login": (lambda she: she.page.goto("/login"), "Sign in"),
    "login-error": (login_error, "Sign in"),
    "login-needed": (login_needed, "Sign in"),
    "signed-out": (signed_out, "Sign in"),
    "register": (lambda she: she.page.goto("/register"), "Create an account"),
    "register-errors": (register_errors, "Create an account"),
    "email-taken": (email_taken, "Create an account"),
    "forgot": (lambda she: she.page.goto("/forgot-password"), "Reset your password"),
    "forgot-error": (forgot_error, "Reset your password"),
    "sent": (sent, "Check your email"),
    "reset": (Visitor.opens_link, "Choose a new password"),
    "reset-error": (reset_error, "Choose a new password"),
    "unusable-link": (unusable_link, "This link no longer works"),
    "devices": (Visitor.has_many_devices, "Your devices"),
    "only-device": (only_device, "Your devices"),
    "rename": (rename, f"Rename {'W' * 64}"),
    "rename-error": (rename_error, "Rename Chrome on Linux"),
    "revoke-others": (revoke_others, "Sign out 7 other devices?"),
    "password": (password, "Change your password"),
    "password-error": (password_error, "Change your password"),
    "details": (details, "Your details"),
    "details-error": (details_error, "Your details"),
    "passkeys": (passkeys, "Passkeys"),
    "passkey-confirm": (passkey_confirm, "Passkeys"),
    "passkey-remove": (passkey_remove, "Remove this passkey?"),
    "passkey-second-step": (passkey_second_step, "Use your passkey or a recovery code"),
    "expired": (expired, "Sign in"),
    "expired-button": (expired_button, "Your form expired"),
    "button-without-cookie": (button_without_cookie, "Your browser keeps no cookie for this site"),
    "signed-out-meanwhile": (signed_out_meanwhile, "You are signed out"),
    "link-without-cookie": (link_without_cookie, "Your browser sent no cookie"),
    "not-found": (not_found, "Page not found"),
    "wrong-method": (wrong_method, "There is no page at this address"),
    "too-many-attempts": (too_many_attempts, "Too many attempts"),
    "fault": (fault(500), "There is a problem with the service"),
    "unavailable": (fault(503), "The service is unavailable"),
    "api": (lambda she: she.page.goto("/api/v1/docs"), "authsite API"),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_barrier_in_light_or_dark_wide_or_narrow(open_page, site, mailbox, name):
    """Nor does it scroll sideways, at 320 pixels or at twice the size."""
    page = open_page(viewport=WIDE, device_scale_factor=1)
    bring_about, title = PAGES[name]
    bring_about(Visitor(page, site, mailbox))
    expect(heading(page)).to_have_text(title)
    assert violations_and_scrolling(page) == []


def violations_and_scrolling(page: Page) -> list[Any]:
    """Return what is wrong with a page in each of the ways to look at it."""
    found: list[Any] = []
    for details in page.locator("details").all():
        details.evaluate("details => { details.open = true }")
    for width in (1280, 640, 320):  # 640 pixels are what 1280 hold at 200 % (SC 1.4.4)
        page.set_viewport_size({"width": width, "height": 800})
        if page.evaluate(IS_SCROLLED_SIDEWAYS):
            found.append(f"scrolls sideways at {width}")
    page.evaluate(
        "repeated => document.querySelectorAll(repeated).forEach(it => it.remove())", REPEATED
    )
    page.evaluate(Axe().axe_script)
    for size in (NARROW, WIDE):
        page.set_viewport_size(size)
        # Dark pages are the same ones with other colours: for them the rules about colours are enough.
        for scheme, rules in (("light", {"runOnly": TAGS}), ("dark", {"runOnly": ABOUT_COLOURS})):
            page.emulate_media(color_scheme=scheme)
            found += [(size["width"], scheme, *each) for each in page.evaluate(RUN_AXE, rules)]
    return found


def test_what_leads_on_without_a_password_keeps_its_distance_on_a_phone(open_page, site, mailbox):
    """Beside the second step as beside the password: a thumb meets only one of the two."""
    page = open_page(viewport=NARROW, color_scheme="dark")
    passkey_second_step(Visitor(page, site, mailbox))
    expect(heading(page)).to_have_text("Use your passkey or a recovery code")
    second_step = distance(page, "Continue", "Use a passkey")
    page.goto("/login")
    assert distance(page, "Sign in", "Use a passkey") == second_step > 24


def distance(page: Page, upper: str, lower: str) -> float:
    """Return how many pixels lie between two buttons."""
    buttons = page.get_by_role("main")
    above = buttons.get_by_role("button", name=upper, exact=True).bounding_box()
    below = buttons.get_by_role("button", name=lower, exact=True).bounding_box()
    return round(below["y"] - above["y"] - above["height"])


BORDER = "element => getComputedStyle(element).borderBottomColor"


def test_forced_colours_tell_where_one_is_and_what_is_chosen(open_page, email):
    """They take every colour but the system's: what only a colour told is gone."""
    page = open_page(forced_colors="active")
    page.goto("/login")
    box = page.get_by_label("Keep me signed in on this device")
    is_empty = box.screenshot()
    box.check()
    assert box.screenshot() != is_empty
    sign_in(page, email)
    tabs = page.get_by_role("navigation", name="Account").get_by_role("link")
    here, *elsewhere = [each.evaluate(BORDER) for each in tabs.all()]
    assert here not in elsewhere


def test_paper_shows_what_there_is_and_nothing_to_press(open_page, email):
    page = open_page()
    sign_in(page, email)
    page.goto("/account")
    page.emulate_media(media="print")
    for hidden in ("nav", "button", ".banner", ".skip-link"):
        for each in page.locator(hidden).all():
            expect(each).to_be_hidden()
    expect(page.get_by_label("First name")).to_be_visible()
    page.goto("/account/devices")
    page.locator("summary").evaluate("summary => { summary.parentElement.open = true }")
    expect(page.get_by_text("More about this device")).to_be_hidden()
    expect(page.get_by_text("Signed in on a web page")).to_be_visible()


@with_and_without_script
def test_an_account_can_be_lived_with_by_keyboard_alone(open_page, has_script):
    """SC 2.1.1, 2.4.3, 2.4.7: in the order of the page, and it is always seen where one is."""
    page = open_page(has_script=has_script)
    page.goto("/register")
    tab_to(page, "Skip to main content")
    page.keyboard.press("Enter")
    for name, words in [
        ("First name", "Ada"),
        ("Email address", new_email()),
        ("Create a password", PASSWORD),
    ]:
        tab_to(page, name)
        page.keyboard.type(words)
    tab_to(page, "Create account")
    page.keyboard.press("Enter")
    expect(heading(page)).to_have_text("Your devices")
    tab_to(page, "More about this device, Chrome on Linux")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Signed in on a web page")).to_be_visible()
    tab_to(page, "Rename this device")
    page.keyboard.press("Enter")
    expect(heading(page)).to_have_text("Rename Chrome on Linux")
    tab_to(page, "Name")
    page.keyboard.press("Control+A")
    page.keyboard.type("Kitchen laptop")
    page.keyboard.press("Enter")
    expect(flash(page)).to_have_text("The name is now Kitchen laptop (Chrome on Linux).")
    page.reload()  # the word on what happened had the focus, and the header is before it
    tab_to(page, "Sign out")
    page.keyboard.press("Enter")
    expect(flash(page)).to_have_text("You have signed out.")


def test_the_skip_link_leads_past_the_navigation(open_page, email):
    """SC 2.4.1."""
    page = open_page()
    sign_in(page, email)
    tab_to(page, "Skip to main content")
    expect(page.get_by_role("link", name="Skip to main content")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


FOCUSED = """() => {
  const focused = document.activeElement;
  const label = focused.labels?.length ? focused.labels[0] : focused;
  const box = focused.getBoundingClientRect();
  const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  return [
    label.textContent.trim().replace(/\\s+/g, " "),
    getComputedStyle(focused).outlineStyle !== "none" && focused.contains(top),
  ];
}"""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element of this name has the focus; all on the way have to show theirs."""
    passed = []
    while name not in passed:
        page.keyboard.press("Tab")
        found, is_seen = page.evaluate(FOCUSED)
        assert is_seen, f"the focus cannot be seen on {found!r}"
        passed.append(found)
        assert len(passed) < 30, passed
