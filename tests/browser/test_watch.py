"""The fixture that all tests here rely on sees what goes wrong in a browser."""

import pytest
from playwright.sync_api import Browser

from tests import services
from tests.browser.conftest import browsers

pytestmark = pytest.mark.browser

POLICY = {"Content-Security-Policy": "default-src 'self'; img-src *"}


@pytest.mark.parametrize(
    ("body", "has_script", "problem"),
    [
        ("<script>1</script>", True, "Content Security Policy"),
        ("<p onclick='1'>", True, "Content Security Policy"),
        ("<p style='color: red'>", True, "Content Security Policy"),
        ("<p style='color: red'>", False, "Content Security Policy"),
        ("<img src='/nothing.png'>", False, "404"),
        ("<img src='http://127.0.0.2:9/'>", False, "a request to http://127.0.0.2:9/"),
        ("<script src='/broken.js'></script>", True, "exception: broken"),
    ],
)
def test_what_goes_wrong_in_a_page_fails_its_test(chromium, site, body, has_script, problem):
    with pytest.raises(AssertionError, match=problem):
        _visit(chromium, site, body, has_script)


def _visit(chromium: Browser, site: services.Site, body: str, has_script: bool) -> None:
    with browsers(chromium, site) as open_:
        page = open_(has_script=has_script)
        page.route("**/page", lambda route: route.fulfill(body=body, headers=POLICY | HTML))
        page.route("**/broken.js", lambda route: route.fulfill(body=BROKEN, headers=SCRIPT))
        page.goto("/page")


BROKEN = "throw new Error('broken')"
HTML = {"Content-Type": "text/html"}
SCRIPT = {"Content-Type": "text/javascript"}
