"""Races over HTTP: requests that the two workers of a running site get at the same moment.

Which worker gets a connection the kernel decides, and of two that come at once it gives both to the same one
more often than not. So connections are kept of which it is known whose they are, and dealt out in turn.
"""

import http.client
import itertools
import json
import re
import select
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import urlencode

import psutil
from flask import Flask, current_app

from authsite.errors import AuthsiteError
from tests import services


class Ask(NamedTuple):
    """A request that is ready to be sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str
    is_whole: bool = True

    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """What the API calls its refusal, or `done`."""
        return "done" if 0 < self.status < 400 else self.json()["errors"][0]["code"]


def api(
    method: str, path: str, *, bearer: str | None = None, mode: str = "off", **body: Any
) -> Ask:
    """Make a request of the API, for the site with this EMAIL_VERIFICATION."""
    headers = {"Content-Type": "application/json", "Email-Verification": mode}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    return Ask(method, f"/api/v1{path}", headers, json.dumps(body).encode())


class Line:
    """A connection to a site, and whose of its workers it is."""

    def __init__(self, site: services.Site) -> None:
        self._connection = http.client.HTTPConnection(services.HOST, site.port, timeout=30)
        self._connection.request("GET", "/healthz")
        self._connection.getresponse().read()  # now some worker has taken it
        self._connection.auto_open = 0  # another one might be another worker's
        port = self._connection.sock.getsockname()[1]
        self.worker = next(pid for pid in site.worker_pids() if _talks_to(pid, port))

    def send(self, ask: Ask) -> None:
        self._connection.request(ask.method, ask.path, ask.body, ask.headers)

    def read(self) -> Answer:
        """Return the answer; one that its worker cuts, be it before its head, is the last on this line."""
        try:
            answer = self._connection.getresponse()
        except http.client.RemoteDisconnected:
            self.close()
            return Answer(0, http.client.HTTPMessage(), "", is_whole=False)
        try:
            return Answer(answer.status, answer.headers, answer.read().decode())
        except http.client.IncompleteRead as cut:
            self.close()
            return Answer(answer.status, answer.headers, cut.partial.decode(), is_whole=False)

    def is_open(self) -> bool:
        socket = self._connection.sock
        return socket is not None and not select.select([socket], [], [], 0)[0]

    def close(self) -> None:
        self._connection.close()


def _talks_to(pid: int, port: int) -> bool:
    held = psutil.Process(pid).net_connections("tcp")
    return any(each.raddr and each.raddr.port == port for each in held)


class Track:
    """A running site of two workers, and lines to both."""

    def __init__(self, site: services.Site) -> None:
        self.site = site
        self._idle: list[Line] = []
        self._turns = itertools.count()

    def ask(self, ask: Ask) -> Answer:
        """Send one request by itself."""
        (answer,) = self._run([ask], 0)
        return answer

    def race(self, *acts: Ask | Callable[[], Any]) -> list[Any]:
        """Begin all at once, and return what each was answered, or returned, or refused with.

        Requests go to both workers in turn, back to back over lines that are open; which is sent first, and
        to whom, is another in each race. What is no request is done in this process, which is the third.
        """
        return self._run(acts, next(self._turns))

    def form(self, path: str) -> Callable[..., Ask]:
        """Follow a link as a browser does, and return what sends the form of the page with these fields."""
        led = self.ask(Ask("GET", path, {}))
        page, cookies = led.headers["Location"], _cookies(led)
        shown = self.ask(Ask("GET", page, {"Cookie": _written(cookies)}))
        assert shown.status == 200, shown
        (csrf_token,) = set(re.findall(r'name="csrf_token" value="([^"]+)"', shown.text))
        headers = {
            "Cookie": _written(cookies | _cookies(shown)),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return lambda **fields: Ask(
            "POST", page, headers, urlencode({"csrf_token": csrf_token, **fields}).encode()
        )

    def close(self) -> None:
        for each in self._idle:
            each.close()

    def _run(self, acts: Any, turn: int) -> list[Any]:
        """Do it, and fail on any answer that is a fault of ours."""
        workers, begin = self.site.worker_pids(), threading.Event()
        asks = [number for number, act in enumerate(acts) if isinstance(act, Ask)]
        lines = {
            number: self._line_to(workers[(place + turn) % len(workers)])
            for place, number in enumerate(asks)
        }
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        with ThreadPoolExecutor(len(acts)) as pool:
            here = {
                number: pool.submit(_do, act, begin, app)
                for number, act in enumerate(acts)
                if number not in lines
            }
            begin.set()
            for number in asks if turn // 2 % 2 else reversed(asks):
                lines[number].send(acts[number])
            answers = [
                lines[number].read() if number in lines else here[number].result()
                for number in range(len(acts))
            ]
        self._idle += lines.values()
        faults = [each for each in answers if isinstance(each, Answer) and each.status >= 500]
        assert not faults, f"{faults}\n{self.site.output()[-4000:]}"
        return answers

    def _line_to(self, worker: int) -> Line:
        """Return a line to this worker that nobody uses."""
        while True:
            for each in self._idle:
                if each.worker == worker:
                    self._idle.remove(each)
                    if each.is_open():
                        return each
                    each.close()
                    break
            else:
                self._idle.append(Line(self.site))


def _do(act: Callable[[], Any], begin: threading.Event, app: Flask) -> Any:
    with app.app_context():
        begin.wait()
        try:
            return act()
        except AuthsiteError as refusal:
            return refusal


def _cookies(answer: Answer) -> dict[str, str]:
    found = SimpleCookie("; ".join(answer.headers.get_all("Set-Cookie", [])))
    return {name: morsel.value for name, morsel in found.items()}


def _written(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())
