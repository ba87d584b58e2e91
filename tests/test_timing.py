"""Equal answers take equal time: who measures them learns nothing, with passwords hashed as in production.

What is compared is the work, in seconds of processor time of this process and all its threads: whatever else
the machine does costs none of it.
"""

import re
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from authsite import database
from authsite.crypto import hashing
from authsite.database.models import User
from tests import factories
from tests.api.conftest import V1
from tests.pages.conftest import Browser

pytestmark = pytest.mark.site

WARM_UPS = 3
SAMPLES = 12
TOLERANCE_SECONDS = 0.011  # half of what one hash costs: as far from no difference as from that one
# Read while the tests are collected, before what is cheap takes their place.
DEAR, NICELY = hashing.HASHER, hashing._nicely


@pytest.fixture
def real_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "HASHER", DEAR)
    monkeypatch.setattr(hashing, "_nicely", NICELY)


@pytest.fixture
def unlimited_app(make_app):
    return make_app(RATELIMIT_ENABLED="0")


def medians(asks: dict[str, Callable[[int], object]]) -> dict[str, float]:
    """Return the median work of each question, asked in turns; the answers must all be equal."""
    taken: dict[str, list[float]] = {name: [] for name in asks}
    for number in range(WARM_UPS + SAMPLES):
        answers = []
        for name, ask in asks.items():
            start = time.process_time()
            answers.append(ask(number))
            taken[name].append(time.process_time() - start)
        assert len(set(answers)) == 1, answers
    return {name: median(times[WARM_UPS:]) for name, times in taken.items()}


def are_equally_long(asks: dict[str, Callable[[int], object]]) -> bool:
    """Return whether the medians are close. A real difference shows each time, chance does not."""
    for _ in range(3):
        found = medians(asks)
        print({name: f"{seconds * 1000:.1f} ms" for name, seconds in found.items()})
        if max(found.values()) - min(found.values()) <= TOLERANCE_SECONDS:
            return True
    return False


@pytest.fixture
def people(unlimited_app) -> None:
    """An account for each question: wrong-0@example.com, inactive-0@example.com and so on.

    Ten wrong passwords would close one, and a closed one answers otherwise.
    """
    with unlimited_app.app_context():
        for number in range(WARM_UPS + SAMPLES):
            for kind in ("wrong", "inactive"):
                factories.account(f"{kind}-{number}@example.com")
        database.run(update(User).where(User.email.like("inactive-%")).values(is_active=False))


@pytest.fixture
def dear_people(people, unlimited_app, real_hashes) -> None:
    """The same, their passwords hashed as in production."""
    with unlimited_app.app_context():
        database.run(update(User).values(password_hash=hashing.hash_password(factories.PASSWORD)))


def poster(app: Flask, path: str) -> Callable[[dict[str, str]], Any]:
    """Return what posts fields to a route of the API, or to a page with its CSRF token."""
    if path.startswith("/auth/"):
        client = app.test_client()
        return lambda fields: client.post(V1 + path, json=fields)
    browser = Browser(app)
    csrf_token = browser.csrf_token(path)
    return lambda fields: browser.send(path, fields | {"csrf_token": csrf_token})


@pytest.mark.parametrize("entrance", ["api", "page"])
def test_a_failed_sign_in_takes_as_long_whether_or_not_there_is_an_account(
    unlimited_app, dear_people, entrance
):
    """LT-02: unknown address, wrong password, deactivated account."""
    post = poster(unlimited_app, "/auth/login" if entrance == "api" else "/login")

    def ask(email: str) -> int:
        return post({"email": email, "password": "not the password"}).status_code

    start = time.process_time()
    ask("nobody@example.com")
    assert time.process_time() - start > 0.005  # else no password was hashed
    assert are_equally_long(
        {
            kind: lambda number, kind=kind: ask(f"{kind}-{number}@example.com")
            for kind in ("unknown", "wrong", "inactive")
        }
    )


@pytest.mark.parametrize("entrance", ["api", "page"])
def test_asking_for_a_link_takes_as_long_whether_or_not_there_is_an_account(
    unlimited_app, people, entrance
):
    """RS-04: unknown, known, deactivated, and an account that has had its three mails of the hour."""
    path = "/auth/password-reset/request" if entrance == "api" else "/forgot-password"
    post = poster(unlimited_app, path)

    def ask(email: str) -> tuple[int, str]:
        answer = post({"email": email})
        # The page repeats the address that was typed in, and its token is another each second.
        said = re.sub(r'name="csrf_token" value="[^"]+"', "", answer.text)
        return answer.status_code, said.replace(email, "")

    with unlimited_app.app_context():
        factories.account("often@example.com")
    for _ in range(3):
        ask("often@example.com")
    assert are_equally_long(
        {
            "unknown": lambda number: ask(f"unknown-{number}@example.com"),
            "known": lambda number: ask(f"wrong-{number}@example.com"),
            "inactive": lambda number: ask(f"inactive-{number}@example.com"),
            "often": lambda number: ask("often@example.com"),
        }
    )
