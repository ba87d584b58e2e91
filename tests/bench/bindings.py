"""What a sign-in bound to a key costs: the CPU time of this process, by requests that take turns.

Prints the median for one page where binding is switched off, where it is on and the session is not bound,
and where it is; and for a refresh, which a browser needs every ten minutes. The service runs in this process
on a PostgreSQL of its own, whose time is not counted.
"""

import argparse
import os
import time
from contextlib import ExitStack, redirect_stderr
from datetime import UTC, datetime
from statistics import median

from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app

from authsite import create_app
from tests import services
from tests.bench import sites
from tests.factories import PASSWORD, BrowserKey

PAGE = "/account"
CHALLENGE = "Secure-Session-Challenge"
WARMING_UP = 200
REFRESH = "/session/refresh-binding"
ORIGIN = "http://localhost"


class Side:
    """A browser that is signed in, and the requests that it sends."""

    def __init__(self, app: Flask, email: str, *, is_on: bool, is_bound: bool) -> None:
        self._app, self._is_on, self._key = app, is_on, BrowserKey()
        self._client = app.test_client()
        self._switch()
        signed_in = _register(self._client, email)
        if is_bound:
            challenge = signed_in.headers["Secure-Session-Registration"].split('"')[3]
            proof = {"Secure-Session-Response": self._key.proof(challenge, is_first=True)}
            bound = self._client.post("/session/bind", headers={"Origin": ORIGIN} | proof)
            assert bound.status_code == 200, bound.status
        cookies = self._client._cookies.values()
        cookie = "; ".join(f"{each.key}={each.value}" for each in cookies)
        self._cookie = {"Cookie": cookie}

    def page(self) -> float:
        """Return the microseconds of CPU that a page took."""
        self._switch()
        status, _, microseconds = self._send(PAGE, "GET")
        assert status == "200 OK", status
        return microseconds

    def refresh(self) -> float:
        """Return the microseconds of CPU that both requests of a refresh took, without the signing."""
        self._switch()
        _, headers, asked = self._send(REFRESH, "POST", Origin=ORIGIN)
        proof = {"Secure-Session-Response": self._key.proof(headers[CHALLENGE].split('"')[1])}
        status, _, proved = self._send(REFRESH, "POST", Origin=ORIGIN, **proof)
        assert status == "200 OK", status
        return asked + proved

    def _send(self, path: str, method: str, **headers: str) -> tuple[str, Headers, float]:
        """Return the status and headers of the answer, and the microseconds of CPU that it took."""
        environ = EnvironBuilder(path, method=method, headers=self._cookie | headers).get_environ()
        began = time.process_time_ns()
        _, status, answered = run_wsgi_app(self._app.wsgi_app, environ, buffered=True)
        return status, answered, (time.process_time_ns() - began) / 1000

    def _switch(self) -> None:
        self._app.config["DEVICE_BOUND_SESSIONS"] = self._is_on


def _register(client: FlaskClient, email: str) -> TestResponse:
    token = client.get("/register").text.partition('name="csrf_token" value="')[2].partition('"')[0]
    fields = {"first_name": "Ada", "email": email, "password": PASSWORD, "csrf_token": token}
    answer = client.post("/register", data=fields)
    assert answer.status_code == 303, answer.status
    return answer


def main() -> None:
    options = _options()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {sites.machine()}")
    print(f"{options.pages} pages of each side in turns; microseconds of CPU, in the median")
    with ExitStack() as stack:
        server = stack.enter_context(services.postgresql_server())
        url = stack.enter_context(services.new_database(server.url))
        # The log is written, and read by nobody.
        stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        app = create_app(
            {
                "DATABASE_URL": url,
                "SECRET_KEY": services.SECRET_KEY,
                "PUBLIC_BASE_URL": ORIGIN,
                "EMAIL_VERIFICATION": "off",
                "RATELIMIT_ENABLED": "0",
                "LOG_FORMAT": "json",  # as in production
            }
        )
        with app.app_context():
            upgrade()
        sides = {
            "switched off": Side(app, "ada1@example.com", is_on=False, is_bound=False),
            "on, not bound": Side(app, "ada2@example.com", is_on=True, is_bound=False),
            "on, bound": Side(app, "ada3@example.com", is_on=True, is_bound=True),
        }
        _compare(sides, options.pages)


def _compare(sides: dict[str, Side], pages: int) -> None:
    found: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(pages + WARMING_UP):
        # Each is the first as often as the others: what comes after another side's page is slower.
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            each = sides[name].page()
            if turn >= WARMING_UP:
                found[name].append(each)
    floor = median(found["switched off"])
    for name, values in found.items():
        own = median(values)
        print(f"GET {PAGE}, {name:14} {own:7.1f}  {own - floor:+6.1f}")
    bound = sides["on, bound"]
    print(
        f"a refresh, both requests     {median(bound.refresh() for _ in range(pages // 10)):7.1f}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.bindings", description=__doc__)
    parser.add_argument("--pages", type=int, default=5000, help="of each side")
    return parser.parse_args()


if __name__ == "__main__":
    main()
