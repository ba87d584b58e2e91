"""A real Chromium before the running service: gunicorn, a database, an SMTP server that takes its mail.

Each page that a test opens is a browser of its own, with its own cookies. Whatever goes wrong in one fails
the test: an error in the console, an exception in a script, a breach of the content security policy, a
request to anywhere but the site.
"""

import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    expect,
)

from tests import services
from tests.factories import PASSWORD

# Playwright keeps pages from coming back out of the cache as they were left, which is what people get.
WITHOUT = ["--disable-back-forward-cache"]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
FIREFOX_ON_LINUX = "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"
SIGNED_OUT_ELSEWHERE = "This device was signed out. Sign in again to continue."

with_and_without_script = pytest.mark.parametrize(
    "has_script", [pytest.param(True, id="script"), pytest.param(False, id="no-script")]
)
OpenPage = Callable[..., Page]

_STATUS = re.compile(r"Failed to load resource: the server responded with a status of ")
_numbers = itertools.count(1)


@contextmanager
def launched(
    playwright: Playwright, *programs: str, arguments: Sequence[str] = ()
) -> Iterator[Browser]:
    """Start the first of these programs that there is, with the usual arguments and these."""
    program = next(filter(None, map(shutil.which, programs)), None)
    if program is None:
        services.missing(f"No chromium: install the package {' or '.join(programs)}")
    browser = playwright.chromium.launch(
        executable_path=program,
        args=[*ARGUMENTS, *arguments],
        ignore_default_args=WITHOUT,
    )
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def mailbox() -> Iterator[services.Mailbox]:
    """The SMTP server of every site here; a test finds its mail by the recipient."""
    with services.Mailbox() as box:
        yield box


@contextmanager
def running_site(
    database_url: str, mailbox: services.Mailbox, **environ: str
) -> Iterator[services.Site]:
    site = services.Site(
        {
            "DATABASE_URL": database_url,
            "MAIL_SERVER": services.HOST,
            "MAIL_PORT": str(mailbox.port),
            "RATELIMIT_ENABLED": "0",
            **environ,
        }
    )
    site.url = f"http://localhost:{site.port}"  # a name: passkeys are bound to one
    site.environ["PUBLIC_BASE_URL"] = site.url
    with site:
        yield site


@pytest.fixture(scope="session")
def site(
    _sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, mailbox: services.Mailbox
) -> Iterator[services.Site]:
    """One site for all tests, each of which has accounts of its own."""
    path = tmp_path_factory.mktemp("browser") / "authsite.db"
    shutil.copyfile(_sqlite_template, path)
    with running_site(f"sqlite:///{path}", mailbox) as running:
        yield running


@pytest.fixture
def open_page(chromium: Browser, site: services.Site) -> Iterator[OpenPage]:
    with browsers(chromium, site) as open_:
        yield open_


@contextmanager
def browsers(chromium: Browser, site: services.Site) -> Iterator[OpenPage]:
    """Yield what opens a browser with nothing in it; fail if anything went wrong in any of them."""
    problems: list[str] = []
    opened = []

    def open_(*, has_script: bool = True, **how: Any) -> Page:
        context = chromium.new_context(base_url=site.url, java_script_enabled=has_script, **how)
        context.set_default_timeout(15_000)
        documents: set[str] = set()

        def note_request(request: Request) -> None:
            if request.is_navigation_request():
                documents.add(request.url)
            if not request.url.startswith(f"{site.url}/"):
                problems.append(f"a request to {request.url}")

        def note_message(message: ConsoleMessage) -> None:
            # A page that says what is wrong has a status of 400 and more, which is reported as an error.
            is_status = _STATUS.match(message.text) and message.location["url"] in documents
            if message.type != "info" and not is_status:
                problems.append(f"{message.type}: {message.text} ({message.location['url']})")

        context.on("request", note_request)
        context.on("console", note_message)
        context.on("weberror", lambda error: problems.append(f"exception: {error.error}"))
        opened.append(context)
        return context.new_page()

    yield open_
    for context in opened:
        context.close()
    assert problems == []


def new_email() -> str:
    return f"person{next(_numbers)}@example.com"


@pytest.fixture
def email(site: services.Site) -> str:
    """The address of somebody who has an account, and is signed in nowhere."""
    return new_account(site)


def new_account(site: services.Site) -> str:
    email = new_email()
    post(site, "/auth/register", {"email": email, "password": PASSWORD, "first_name": "Ada"})
    return email


def post(site: services.Site, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    """Post to the API, which has to do as it is told, and return its answer."""
    answer = requests.post(f"{site.url}/api/v1{path}", json=body, headers=headers, timeout=30)
    assert answer.ok, answer.text
    return answer.json()


def api_sign_in(site: services.Site, email: str, *, user_agent: str = "curl/8.16") -> dict:
    """Sign a program in and return the header that it then sends."""
    held = post(
        site, "/auth/login", {"email": email, "password": PASSWORD}, **{"User-Agent": user_agent}
    )
    return {"Authorization": f"Bearer {held['access_token']}"}


def api_get(site: services.Site, path: str, held: dict[str, str]) -> requests.Response:
    return requests.get(f"{site.url}/api/v1{path}", headers=held, timeout=30)


def register(page: Page, email: str) -> None:
    page.goto("/register")
    page.get_by_label("First name").fill("Ada")
    page.get_by_label("Email address").fill(email)
    page.get_by_label("Password", exact=False).and_(page.locator("input")).fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()


def sign_in(
    page: Page, email: str, password: str = PASSWORD, *, is_remembered: bool = False
) -> None:
    page.goto("/login")
    fill_in_login(page, email, password)
    page.get_by_label("Keep me signed in on this device").set_checked(is_remembered)
    page.get_by_role("button", name="Sign in").click()
    expect(heading(page)).not_to_have_text("Sign in")


def fill_in_login(page: Page, email: str, password: str = PASSWORD) -> None:
    page.get_by_label("Email address").fill(email)
    page.get_by_role("textbox", name="Password").fill(password)


def sign_out(page: Page) -> None:
    page.get_by_role("banner").get_by_role("button", name="Sign out").click()


def heading(page: Page) -> Any:
    return page.get_by_role("heading", level=1)


def flash(page: Page) -> Any:
    return page.get_by_role("status")


def device(page: Page, name: str) -> Any:
    """Return the row of the device of this name."""
    named = page.get_by_role("heading", level=2, name=name)
    return page.get_by_role("main").get_by_role("listitem").filter(has=named)


def open_rename(page: Page, name: str = "Chrome on Linux") -> None:
    """Lead from the list to the form for a device's name, which is folded away."""
    row = device(page, name)
    row.get_by_text("More about this device").click()
    row.get_by_role("link", name="Rename this device").click()


def expect_thrown_out(page: Page) -> None:
    """Expect the next click in a browser that was signed out elsewhere to lead to the login page."""
    page.get_by_role("link", name="Profile").click()
    expect(heading(page)).to_have_text("Sign in")
    expect(flash(page)).to_have_text(SIGNED_OUT_ELSEWHERE)


def mail_to(mailbox: services.Mailbox, email: str, count: int = 1) -> int:
    """Wait for this many mails to an address and return the index of the last."""

    def found() -> list[int]:
        return [index for index, to in enumerate(mailbox.recipients) if to == [email]]

    services.wait_until(lambda: len(found()) >= count, what=f"a mail to {email}")
    return found()[-1]
