"""A browser in few words: it keeps cookies, fills in the form that it was shown and reads the page."""

import re
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from werkzeug.test import Cookie, TestResponse

from authsite import clock, database
from authsite.database.models import OutgoingMail, User, UserSession
from tests.factories import PASSWORD

EMAIL = "ada@example.com"
OTHER_EMAIL = "grace@example.com"
CHROME_ON_WINDOWS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/142.0.0.0 Safari/537.36"
)
FIREFOX_ON_LINUX = "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"
SAFARI_ON_IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)


class Browser:
    """One browser: a cookie jar, a user agent, an address, and the forms that it has been shown."""

    def __init__(
        self,
        app: Flask,
        *,
        user_agent: str = CHROME_ON_WINDOWS,
        address: str = "127.0.0.1",
        base_url: str = "http://localhost",
    ) -> None:
        self.app = app
        self.client: FlaskClient = app.test_client()
        self._how: dict[str, Any] = {
            "base_url": base_url,
            "environ_overrides": {"HTTP_USER_AGENT": user_agent, "REMOTE_ADDR": address},
        }

    def get(self, path: str, **how: Any) -> TestResponse:
        return self.client.get(path, **self._how, **how)

    def send(self, path: str, fields: dict[str, Any] | None = None, **how: Any) -> TestResponse:
        """Post these fields and nothing else."""
        return self.client.post(path, data=fields or {}, **self._how, **how)

    def csrf_token(self, page: str) -> str:
        return re.findall(r'name="csrf_token" value="([^"]+)"', self.get(page).text)[-1]

    def post(self, path: str, /, *, page: str | None = None, **fields: Any) -> TestResponse:
        """Fill in the form of `page` (the same path, if not given) and send it."""
        return self.send(path, {"csrf_token": self.csrf_token(page or path), **fields})

    def register(self, email: str = EMAIL, *, password: str = PASSWORD, **fields: Any) -> None:
        fields = {"first_name": "Ada", "email": email, "password": password} | fields
        assert self.post("/register", **fields).status_code == 303

    def try_sign_in(
        self, email: str = EMAIL, password: str = PASSWORD, **fields: Any
    ) -> TestResponse:
        return self.post("/login", email=email, password=password, **fields)

    def sign_in(self, email: str = EMAIL, password: str = PASSWORD, **fields: Any) -> None:
        assert self.try_sign_in(email, password, **fields).status_code == 303

    def sign_out(self) -> TestResponse:
        return self.post("/logout", page="/account")

    def is_signed_in(self) -> bool:
        answer = self.get("/account/password")
        assert answer.status_code in {200, 302}
        return answer.status_code == 200

    def cookie(self, name: str = "authsite") -> Cookie | None:
        return self.client.get_cookie(name)

    def cookie_content(self, name: str = "authsite") -> dict[str, Any]:
        """Return what the signed cookie holds; anybody who has it can read it."""
        cookie = self.cookie(name)
        serializer = self.app.session_interface.get_signing_serializer(self.app)
        return serializer.loads(cookie.value) if cookie else {}

    def session_id(self) -> uuid.UUID:
        return uuid.UUID(self.cookie_content()["id"])


OpenBrowser = Callable[..., Browser]


@pytest.fixture
def open_browser(app: Flask) -> OpenBrowser:
    def open_(**how: Any) -> Browser:
        return Browser(app, **how)

    return open_


@pytest.fixture
def browser(open_browser: OpenBrowser) -> Browser:
    return open_browser()


@pytest.fixture
def ada(browser: Browser) -> Browser:
    """A browser that is signed in to ada@example.com."""
    browser.register()
    return browser


@pytest.fixture
def later(time_machine: Any) -> Callable[[timedelta], None]:
    """Let time pass; from then on it stands still."""

    def pass_(by: timedelta) -> None:
        time_machine.move_to(clock.now() + by, tick=False)

    return pass_


class _Element(HTMLParser):
    """Collects elements with their attributes, and the text of the page as a person reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def elements(answer: TestResponse, tag: str, **attributes: str) -> list[dict[str, str | None]]:
    """Return the attributes of each element of this tag that has these; `for_` is `for`."""
    parser = _Element()
    parser.feed(answer.text)
    wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    return [
        found for name, found in parser.elements if name == tag and wanted.items() <= found.items()
    ]


def words(answer: TestResponse) -> str:
    """Return the text of the page, spaces made single."""
    parser = _Element()
    parser.feed(answer.text)
    return " ".join("".join(parser.words).split())


def flash(answer: TestResponse) -> str | None:
    found = re.search(r'<p class="flash(?: notice)?"[^>]*>(.*?)</p>', answer.text, re.DOTALL)
    return unescape(re.sub("<.*?>", "", found[1])) if found else None


def is_notice(answer: TestResponse) -> bool:
    """Return whether the word above the page has not the look of a success."""
    return '<p class="flash notice"' in answer.text


def summary(answer: TestResponse) -> list[tuple[str | None, str]]:
    """Return the items of the error summary: the id that each links to, and its sentence."""
    found = re.search(r'<div class="error-summary".*?</div>', answer.text, re.DOTALL)
    items = re.findall(
        r"<li>(?:<a href=\"#([^\"]*)\">)?(.*?)(?:</a>)?</li>", found[0] if found else ""
    )
    return [(name or None, unescape(re.sub("<[^>]*>", "", text))) for name, text in items]


def title(answer: TestResponse) -> str:
    found = re.search(r"<title>(.*?)</title>", answer.text, re.DOTALL)
    return unescape(found[1]) if found else ""


def heading(answer: TestResponse) -> str:
    (found,) = re.findall(r"<h1>(.*?)</h1>", answer.text, re.DOTALL)
    return unescape(found)


def count(app: Flask, model: type) -> int:
    with app.app_context():
        found = database.row(select(func.count()).select_from(model))
        return found[0]


def user(app: Flask, email: str = EMAIL) -> database.Row:
    with app.app_context():
        found = database.row(select(*User.__table__.c).where(User.email == email))
        assert found is not None
        return found


def session_row(app: Flask, session_id: uuid.UUID) -> database.Row:
    with app.app_context():
        found = database.row(select(*UserSession.__table__.c).where(UserSession.id == session_id))
        assert found is not None
        return found


def live_sessions(app: Flask) -> list[uuid.UUID]:
    with app.app_context():
        return [
            row.id
            for row in database.rows(select(UserSession.id).where(UserSession.ended_at.is_(None)))
        ]


def mails(app: Flask) -> list[str]:
    """Return the names of the mails that wait, oldest first."""
    with app.app_context():
        return [
            row.name for row in database.rows(select(OutgoingMail.name).order_by(OutgoingMail.id))
        ]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def api_tokens(app: Flask, email: str = EMAIL, password: str = PASSWORD) -> dict[str, Any]:
    answer = app.test_client().post(
        "/api/v1/auth/login", json={"email": email, "password": password}
    )
    assert answer.status_code == 200
    return answer.get_json()


def bearer(held: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {held['access_token']}"}


def token_opens(app: Flask, held: dict[str, Any]) -> bool:
    return app.test_client().get("/api/v1/auth/me", headers=bearer(held)).status_code == 200
