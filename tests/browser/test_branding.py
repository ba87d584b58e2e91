"""A site in an operator's colours: as readable as ours, under the same content security policy."""

import shutil

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import browsers, fill_in_login, heading, new_account, running_site
from tests.browser.test_accessibility import ABOUT_COLOURS, RUN_AXE, WIDE, violations_and_scrolling

pytestmark = pytest.mark.browser

# The lightest grey that is taken in light mode, and the darkest in dark mode.
BORDERLINE = "#717171,#838383"
BRAND = {
    "SITE_NAME": "The Association of Very Long Names",
    "PRODUCT_URL": "https://app.example.com/",
    "PRODUCT_NAME": "A product whose name nobody would call short",
    "SUPPORT_EMAIL": "help@example.com",
    "PRIVACY_URL": "https://example.com/privacy",
    "TERMS_URL": "https://example.com/terms",
    "LOGO_URL": "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHZpZXdCb3g9"
    "IjAgMCA0IDEiPjxyZWN0IHdpZHRoPSI0IiBoZWlnaHQ9IjEiLz48L3N2Zz4=",
    "ACCENT_COLOR": BORDERLINE,
}
BACKGROUND = "element => getComputedStyle(element).backgroundColor"


@pytest.fixture(scope="module")
def site(_sqlite_template, tmp_path_factory, mailbox):
    path = tmp_path_factory.mktemp("branding") / "authsite.db"
    shutil.copyfile(_sqlite_template, path)
    with running_site(f"sqlite:///{path}", mailbox, **BRAND) as running:
        yield running


def test_the_palest_colour_that_is_taken_can_be_read_on_every_ground(chromium, site):
    """WCAG 2.2 AA in both modes, wide and narrow, hovered too; `browsers` fails on a breach of the policy."""
    with browsers(chromium, site) as open_page:
        page = open_page(viewport=WIDE, device_scale_factor=1)
        page.goto("/register")
        button = page.get_by_role("button", name="Create account")
        for scheme, color in (("light", "rgb(113, 113, 113)"), ("dark", "rgb(131, 131, 131)")):
            page.emulate_media(color_scheme=scheme)
            assert button.evaluate(BACKGROUND) == color
        assert page.locator("img.logo").evaluate("image => image.naturalWidth") > 0
        assert violations_and_scrolling(page) == []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            button.hover()
            assert page.evaluate(RUN_AXE, ABOUT_COLOURS) == []
        page.emulate_media(color_scheme="light")
        page.goto("/account/devices")  # without it the sign-in leads to the product
        fill_in_login(page, new_account(site))
        page.get_by_role("button", name="Sign in").click()
        expect(heading(page)).to_have_text("Your devices")
        assert violations_and_scrolling(page) == []
