"""Two-step sign-in as its owner goes through it, on the narrowest screen and in the dark."""

import io
import re
from urllib.parse import parse_qs, urlsplit

import pytest
import zxingcpp
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import flash, heading, sign_out, with_and_without_script
from tests.browser.test_accessibility import NARROW, violations_and_scrolling
from tests.factories import PASSWORD, Phone

pytestmark = pytest.mark.browser

SECRET = re.compile(r"[A-Z2-7]{32}")


def scan(picture: Locator) -> str:
    """Return what an app reads of the picture, as the screen shows it."""
    found = zxingcpp.read_barcodes(Image.open(io.BytesIO(picture.screenshot())))
    assert len(found) == 1
    return found[0].text


def enter_password(page: Page, email: str) -> None:
    page.goto("/login")
    page.get_by_label("Email address").fill(email)
    page.get_by_role("textbox", name="Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


@with_and_without_script
def test_two_step_sign_in_is_set_up_used_trusted_recovered_and_removed(
    open_page, email, has_script
):
    """FACTORS 3, 6: scanned off the dark page itself, and with no barrier on any page of the way."""
    page = open_page(has_script=has_script, viewport=NARROW, color_scheme="dark")
    barriers: list[object] = []

    def look(title: str) -> None:
        expect(heading(page)).to_have_text(title)
        if has_script:
            barriers.extend(violations_and_scrolling(page))
            page.set_viewport_size(NARROW)
            page.emulate_media(color_scheme="dark")

    enter_password(page, email)
    page.get_by_role("link", name="Security").click()
    look("Security")
    page.get_by_role("link", name="Turn on").click()
    look("Set up an authenticator app")
    scanned = urlsplit(scan(page.locator(".qr")))
    secret = parse_qs(scanned.query)["secret"][0]
    assert (scanned.scheme, scanned.netloc) == ("otpauth", "totp")
    assert scanned.path.endswith(email.replace("@", "%40"))
    above = page.get_by_role("heading", name="1. Scan this").bounding_box()
    assert page.locator(".qr").bounding_box()["y"] >= above["y"] + above["height"] + 8
    assert page.locator(".key").inner_text().replace(" ", "") == secret
    assert SECRET.fullmatch(secret)
    phone = Phone(secret)

    # Of the codes of three steps one each time, each of a later step than the one before.
    page.get_by_role("textbox", name="Code").fill(phone.code(-1))
    page.get_by_role("button", name="Turn on").click()
    look("Save your recovery codes")
    paper = page.get_by_role("main").get_by_role("listitem").all_inner_texts()
    assert len(set(paper)) == 10
    for code in page.locator(".codes code").all():
        assert code.evaluate("each => each.getClientRects().length") == 1, "it stands on one line"
    page.get_by_role("link", name="I have saved them").click()
    look("Security")
    expect(page.get_by_text("10 of 10 recovery codes left")).to_be_visible()
    sign_out(page)

    enter_password(page, email)
    look("Enter your code")
    label, hint = (
        page.locator(each).bounding_box() for each in ("label[for=trust]", "#trust-hint")
    )
    assert hint["x"] > label["x"]
    page.get_by_role("textbox", name="Code").fill("000000")
    page.get_by_role("button", name="Continue").click()
    look("Enter your code")
    expect(page.get_by_role("alert")).to_contain_text("That code is wrong or has been used.")
    page.get_by_role("textbox", name="Code").fill(phone.code())
    page.get_by_label("Do not ask on this browser for 30 days").check()
    page.get_by_role("button", name="Continue").click()
    expect(heading(page)).to_have_text("Your devices")
    sign_out(page)

    enter_password(page, email)
    expect(heading(page)).to_have_text("Your devices")
    page.goto("/account/security")
    page.get_by_role("button", name="Forget").click()
    expect(flash(page)).to_have_text("Forgot 1 browser.")
    sign_out(page)

    enter_password(page, email)
    page.get_by_role("link", name="Use a recovery code").click()
    look("Enter a recovery code")
    page.get_by_label("Recovery code").fill(paper[0].upper())
    page.get_by_role("button", name="Continue").click()
    expect(heading(page)).to_have_text("Your devices")
    page.goto("/account/two-step/recovery-codes")
    look("Recovery codes")
    expect(page.get_by_text("9 of 10 recovery codes left")).to_be_visible()
    page.goto("/account/activity")
    look("What happened in your account")
    expect(page.get_by_text("Wrong code for the second step")).to_be_visible()

    page.goto("/account/two-step/app/remove")
    look("Remove the authenticator app?")
    page.get_by_role("button", name="Remove the app").click()
    expect(flash(page)).to_have_text("Two-step sign-in is off.")
    sign_out(page)
    enter_password(page, email)
    expect(heading(page)).to_have_text("Your devices")
    assert barriers == []
