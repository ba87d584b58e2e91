"""What comes over the wire before anybody has signed in: half requests, long headers, names of files."""

import contextlib
import json
import logging
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from gunicorn.config import Config
from gunicorn.workers.gthread import TConn

from authsite import create_app
from authsite.server import worker as server
from authsite.server.worker import MAX_BODY, MAX_CORKED, MAX_UNSENT, ClientSocket, Intake
from tests import services
from tests.test_faults import crowd

pytestmark = pytest.mark.site

GET = b"GET /login HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
UNFINISHED = {
    "head": GET + b"X-A: ",
    "long head": GET + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 8000) for number in range(9)),
    "nothing but a line": b"GET /login HTTP/1.1\r\n",
    "body": POST + b"Content-Length: 100\r\n\r\nemail=",
    "long body": POST + b"Content-Length: 900000\r\n\r\n" + b"x" * 70_000,
    "chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nemail\r\n9\r\nab",
    "chunk that looks like the last": POST + b"Transfer-Encoding: chunked\r\n\r\n9\r\n0\r\n\r\n",
    "second request": GET + b"\r\n" + GET,
}


@pytest.fixture(scope="module")
def wire_site(_sqlite_template, tmp_path_factory) -> Iterator[services.Site]:
    """One process, so that what holds it up is seen."""
    path = tmp_path_factory.mktemp("wire") / "authsite.db"
    path.write_bytes(_sqlite_template.read_bytes())
    environ = {"DATABASE_URL": f"sqlite:///{path}", "RATELIMIT_ENABLED": "0", "LOG_FORMAT": "json"}
    with services.Site(environ, workers=1) as site:
        yield site


def connect(site: services.Site) -> socket.socket:
    return socket.create_connection((services.HOST, site.port), timeout=30)


def answers_meanwhile(site: services.Site, count: int = 20) -> None:
    """The page is there for others, again and again, however long the machine takes over it."""
    for _ in range(count):
        answer = requests.get(f"{site.url}/login", headers={"Connection": "close"}, timeout=10)
        assert answer.status_code == 200


@pytest.mark.parametrize("kind", UNFINISHED)
def test_half_sent_requests_keep_nobody_from_an_answer(wire_site, kind):
    """FA-12: 400 of them in one process, which has 64 threads."""
    with contextlib.ExitStack() as open_connections:
        for _ in range(400):
            connection = open_connections.enter_context(connect(wire_site))
            with contextlib.suppress(ConnectionError):  # an answer may come before the end
                connection.sendall(UNFINISHED[kind])
        answers_meanwhile(wire_site)


def test_a_head_that_does_not_come_is_cut_off(wire_site):
    """FA-12: the server closes, whoever waits."""
    with connect(wire_site) as connection:
        connection.sendall(UNFINISHED["head"])
        assert connection.recv(1000) == b""


def test_clients_that_never_close_after_their_answer_cost_nobody_theirs(wire_site):
    """FA-14"""
    with contextlib.ExitStack() as open_connections:
        connections = [open_connections.enter_context(connect(wire_site)) for _ in range(150)]
        for connection in connections:
            connection.sendall(GET + b"Connection: close\r\n\r\n")
        answers_meanwhile(wire_site)
        for connection in connections:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_answers_that_nobody_fetches_keep_nobody_from_theirs(wire_site):
    """FA-14: once the kernel's buffers are full, a thread for each waited twenty seconds for room."""
    ask = b"GET /api/v1/docs HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as open_connections:
        for _ in range(80):
            connection = open_connections.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            connection.connect((services.HOST, wire_site.port))
            connection.sendall(ask * 80)
        answers_meanwhile(wire_site)


def test_an_answer_is_whole_however_slowly_it_is_fetched(wire_site):
    whole = requests.get(f"{wire_site.url}/api/v1/docs", timeout=10).content
    ask = b"GET /api/v1/docs HTTP/1.1\r\nHost: localhost\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.settimeout(30)
        connection.connect((services.HOST, wire_site.port))
        connection.sendall((ask + b"\r\n") * 60 + ask + b"Connection: close\r\n\r\n")
        answers_meanwhile(wire_site, 3)
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    assert received.count(whole) == 61


def fetch_while(far: socket.socket, goes_on: Callable[[], bool]) -> bytes:
    """Return what arrives until it goes on no longer and nothing more is there."""
    far.settimeout(0.02)
    received = bytearray()
    while True:
        is_last = not goes_on()
        try:
            received += far.recv(65_536)
        except TimeoutError:
            if is_last:
                return received


def test_a_large_answer_waits_for_its_client_and_not_in_memory():
    """PR-04: a copy of one's data, over a slow line."""
    pieces = [number.to_bytes(4) * 5_000 for number in range(200)]
    near, far = socket.socketpair()
    held = []

    def send() -> None:
        for piece in pieces:
            client.sendall(piece)
            held.append(len(client.unsent))

    with ClientSocket(near) as client, far, ThreadPoolExecutor(1) as pool:
        client.is_corked = True  # as for every answer
        sending = pool.submit(send)
        services.wait_until(lambda: len(client.unsent) > MAX_UNSENT, what="a full buffer")
        received = fetch_while(far, lambda: not sending.done())
        sending.result()
        while client.unsent:
            client.send_more()  # as the main thread does
            received += fetch_while(far, lambda: False)
    assert received == b"".join(pieces)
    assert max(held) <= MAX_UNSENT


def test_a_client_that_fetches_nothing_of_a_large_answer_is_cut_off(monkeypatch):
    monkeypatch.setattr(server, "SEND_SECONDS", 0.1)
    near, far = socket.socketpair()
    with ClientSocket(near) as client, far:
        with pytest.raises(BrokenPipeError):
            client.sendall(b"x" * 10_000_000)
        assert not client.unsent


def test_slow_clients_of_large_answers_hold_few_threads(monkeypatch):
    """FA-14: one too many is cut off, and waits for nobody."""
    monkeypatch.setattr(ClientSocket, "places", threading.BoundedSemaphore(1))
    pairs = [socket.socketpair() for _ in range(2)]
    (first, far), (second, other_far) = pairs
    with ClientSocket(first) as one, ClientSocket(second) as two, far, other_far:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(one.sendall, b"x" * 10_000_000)
            services.wait_until(lambda: not ClientSocket.places._value, what="the only place taken")
            with pytest.raises(BrokenPipeError):
                two.sendall(b"x" * 10_000_000)
            assert not sending.done()
            fetch_while(far, lambda: not sending.done())
        sending.result()


def test_many_who_send_much_cost_one_who_sends_little_nothing(wire_site):
    """FA-12: of what is not whole yet the largest goes first, when it is too much for the process."""
    body = b"email=a%40example.com"
    whole = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    large = GET + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 16_000) for number in range(90))
    with connect(wire_site) as small, contextlib.ExitStack() as open_connections:
        small.sendall(whole[:-10])
        for _ in range(40):  # 58 MB
            connection = open_connections.enter_context(connect(wire_site))
            with contextlib.suppress(ConnectionError):
                connection.sendall(large)
        small.sendall(whole[-10:])
        assert b" 400 " in small.recv(100)


class AtOnce:
    """The only thread there is."""

    def submit(self, task):
        task()

    def has_tasks(self):
        return False

    def is_led_by_caller(self):
        return True


@pytest.fixture
def bare_worker() -> Iterator[server.Worker]:
    """A worker without its loop and its application."""
    worker = server.Worker(0, os.getpid(), [], None, 0, Config(), logging.getLogger())
    worker.poller = selectors.DefaultSelector()
    worker.tpool = AtOnce()
    worker.method_queue.init()
    yield worker
    worker.method_queue.close()
    for key in worker.poller.get_map().values():
        key.fileobj.close()
    worker.poller.close()
    worker.tmp.close()


def begin(worker: server.Worker, sent: bytes) -> tuple[socket.socket, TConn]:
    """Connect a client that has sent this, and return both ends."""
    client, accepted = socket.socketpair()
    client.settimeout(10)
    client.sendall(sent)
    conn = TConn(worker.cfg, ClientSocket(accepted), ("127.0.0.1", 1), ("127.0.0.1", 2))
    worker.nr_conns += 1
    worker._begin(conn)
    return client, conn


def test_one_given_up_for_anothers_sake_may_have_sent_more_at_that_moment(bare_worker, monkeypatch):
    """FA-12: the worker looked for what it had just closed and ended, with all that others had asked."""
    monkeypatch.setattr(server, "MAX_HELD", 600)
    (small, _), (large, lost) = begin(bare_worker, GET), begin(bare_worker, GET + b"X" * 400)
    with small, large:
        small.sendall(b"Y" * 200)  # known to be there first, and too much together
        large.sendall(b"Y")
        bare_worker.wait_for_and_dispatch_events(0)

        assert lost.sock.fileno() < 0
        assert (bare_worker.nr_conns, bare_worker._held) == (1, len(GET) + 200)
        # Until its time would have been over it stands in a queue; no other of its kind may pile up there.
        assert [len(intake.data) for _, conn, intake in bare_worker._heads if conn is lost] == [0]


@pytest.mark.parametrize("waits_for", ["its first request", "its next request"])
def test_silent_connections_leave_room_for_who_asks(bare_worker, monkeypatch, waits_for):
    """FA-14: as many as a process may have refused everybody else for the 95 seconds of a kept one."""
    monkeypatch.setattr(bare_worker, "handle", lambda conn: bool(next(conn.parser)))
    bare_worker.worker_connections = 3
    silent = []
    with contextlib.ExitStack() as open_connections, socket.create_server(("127.0.0.1", 0)) as port:
        port.setblocking(False)
        for number in range(1, 4):
            client = socket.create_connection(port.getsockname())
            silent.append(open_connections.enter_context(client))
            if waits_for == "its next request":
                client.sendall(GET + b"\r\n")
            bare_worker.accept(port)
            while len(bare_worker.poller.get_map()) < number:
                bare_worker.wait_for_and_dispatch_events(0.02)
        assert bare_worker.nr_conns == 3

        bare_worker._find()

        assert bare_worker.nr_conns == 2
        assert silent[0].recv(1) == b"", "the one that has been silent for longest"
        assert len(bare_worker.poller.get_map()) == 2


def test_room_is_made_by_nobody_who_is_only_being_kept(bare_worker, monkeypatch):
    """FA-14: closed between the two steps, it had the worker watch what was closed, or another, and end."""
    monkeypatch.setattr(bare_worker, "handle", lambda conn: bool(next(conn.parser)))
    bare_worker.worker_connections = 1
    making_room = threading.Thread(target=bare_worker._make_room)
    register = bare_worker.poller.register

    def register_late(*arguments):
        making_room.start()  # as the thread that leads does, while another has answered
        making_room.join(0.2)  # as far as it may go meanwhile
        return register(*arguments)

    monkeypatch.setattr(bare_worker.poller, "register", register_late)
    client, conn = begin(bare_worker, GET + b"\r\n")
    with client:
        making_room.join()
        assert client.recv(1) == b""
        assert conn.sock.fileno() < 0
        assert bare_worker.nr_conns == 0
        assert not bare_worker.poller.get_map()


@pytest.mark.parametrize("comes", ["before", "after"])
def test_who_has_asked_nothing_yet_does_not_hold_up_a_worker_that_is_to_end(
    bare_worker, monkeypatch, comes
):
    """DP-08: one silent connection made each stop and each reload take all of its twenty seconds."""
    monkeypatch.setattr(server, "STOP_KEEPALIVE_LINGER", 0)
    with socket.create_server(("127.0.0.1", 0)) as port:
        port.setblocking(False)
        with socket.create_connection(port.getsockname()) as client:
            bare_worker.alive = comes == "before"
            bare_worker.accept(port)
            assert list(bare_worker.pending_conns)
            if comes == "before":
                bare_worker.murder_pending()
                assert bare_worker.nr_conns == 1
                bare_worker._cap_keepalive(time.monotonic())
            bare_worker.murder_pending()

            assert bare_worker.nr_conns == 0
            assert client.recv(1) == b""


def test_what_a_client_left_unfetched_goes_with_it(bare_worker):
    """FA-14: it stayed until its time would have been over, and counted as no connection meanwhile."""
    client, conn = begin(bare_worker, GET)
    conn.sock.unsent += bytes(MAX_UNSENT)
    bare_worker._forget(conn)
    bare_worker._send_on(conn, True)
    client.close()
    bare_worker.wait_for_and_dispatch_events(0)

    assert bare_worker.nr_conns == 0
    assert [bytes(unsent) for _, _, unsent in bare_worker._sending] == [b""]


def test_a_connection_that_waits_holds_nothing_of_its_last_request(bare_worker, monkeypatch):
    """FA-12: 300 of them that had sent a long head each took 600 MB, for as long as they were kept."""
    monkeypatch.setattr(bare_worker, "handle", lambda conn: bool(next(conn.parser)))
    client, conn = begin(bare_worker, GET + b"X-A: b\r\n\r\n")
    with client:
        services.wait_until(bare_worker.poller.get_map, what="the wait for the next")
        assert list(bare_worker.keepalived_conns) == [conn]
        assert conn.parser.mesg is None
        assert not conn.parser.unreader.buf.getvalue()


def test_a_request_in_pieces_is_answered_like_one_in_one_piece(wire_site):
    body = b"email=a%40example.com"
    whole = POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    for size in (1, 7, 100):
        with connect(wire_site) as connection:
            for start in range(0, len(whole), size):
                connection.sendall(whole[start : start + size])
            # Without a CSRF token it is refused, in the application's own words.
            assert b" 400 " in connection.recv(100)


def test_requests_sent_ahead_are_answered_in_turn(wire_site):
    with connect(wire_site) as connection:
        connection.sendall(
            GET + b"\r\n" + GET.replace(b"/login", b"/healthz") + b"\r\n" + GET[: len(GET) // 2]
        )
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 2:
            received += connection.recv(65536)
        connection.sendall(GET[len(GET) // 2 :] + b"Connection: close\r\n\r\n")
        while more := connection.recv(65536):
            received += more
        assert received.count(b"HTTP/1.1 200 OK") == 3


def test_who_asks_whether_to_send_a_body_is_told_to(wire_site):
    """RFC 9110 §10.1.1: curl waits for it."""
    with connect(wire_site) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"email")
        received = b""
        while b" 400 " not in received:
            received += connection.recv(1000)


@pytest.mark.parametrize(
    ("body", "is_chunked"),
    [(b"x" * 200_000, False), (b"x" * 400_000, True)],
    ids=["long", "chunked"],
)
def test_a_body_that_is_too_long_gets_its_answer_whole(wire_site, body, is_chunked):
    """AP-06, DP-09: after the body, so that no router loses it."""
    pieces = (body[at : at + 1000] for at in range(0, len(body), 1000)) if is_chunked else body
    answer = requests.post(
        f"{wire_site.url}/api/v1/auth/login",
        data=pieces,
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (413, "payload_too_large")


REFUSED = [
    b"GET /\x01reset-password?token=SECRET-TOKEN HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /reset-password?token=SECRET-TOKEN\r\n\r\n",
    b"GET /reset-password?token=SECRET-TOKEN HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET /reset-password?token=SECRET-TOKEN HTTP/1.1\r\nBad Header: SECRET-TOKEN\r\n\r\n",
    b"SECRET-TOKEN\xff /reset-password HTTP/1.1\r\nHost: a\r\n\r\n",
]


def test_a_refused_request_leaves_nothing_of_itself_in_the_log(wire_site):
    """RS-15: a link with a stray character behind it was logged whole, and still worked."""
    for raw in REFUSED:
        with connect(wire_site) as connection:
            connection.sendall(raw)
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    output = wire_site.output()
    assert "SECRET" not in output
    assert output.count("A request could not be read or answered") >= len(REFUSED)
    for line in output.splitlines():
        assert line.startswith('{"time"'), line


@pytest.mark.parametrize(
    ("request_", "is_whole"),
    [
        (GET + b"\r\n", True),
        (GET, False),
        (POST + b"Content-Length: 3\r\n\r\nabc", True),
        (POST + b"Content-Length: 3\r\n\r\nab", False),
        (POST + b"content-length:3\r\n\r\nab", False),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", True),
        (POST + b"Content-Length: -1\r\n\r\n", True),
        (POST + b"Content-Length: %d\r\n\r\n" % (10**30), False),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", True),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n", True),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n", False),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n", False),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n", True),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", True),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", True),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 100, True),
        (b"x" * 70_000, True),
    ],
    ids=str,
)
def test_a_request_is_whole_when_its_last_byte_is_there_however_it_came(request_, is_whole):
    """FA-12: malformed counts as whole, for the parser to refuse."""
    for size in (1, 3, len(request_)):
        intake = Intake()
        found = [intake.feed(request_[at : at + size]) for at in range(0, len(request_), size)]
        assert found[-1] is is_whole, size
        # Not before: a thread would have to wait for the rest.
        if is_whole and b"Length: 3\r\n\r\n" in request_ and size == 1:
            assert not any(found[:-1])


def test_an_overlong_body_is_waited_for_and_not_kept():
    intake = Intake()
    assert not intake.feed(POST + b"Content-Length: 500000\r\n\r\n")
    for _ in range(4):
        assert not intake.feed(b"x" * 100_000)
    assert intake.feed(b"x" * 100_000)
    assert len(intake.data) < 2 * MAX_BODY


def test_a_head_and_its_body_leave_in_one_piece_and_a_long_answer_as_it_comes():
    ours, theirs = socket.socketpair()
    with theirs, ClientSocket(ours) as answering:
        theirs.setblocking(False)
        answering.is_corked = True
        answering.sendall(b"head")
        answering.sendall(b"body")
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        answering.uncork()
        assert theirs.recv(100) == b"headbody"

        answering.is_corked = True
        answering.sendall(b"x" * (MAX_CORKED + 1))
        assert len(theirs.recv(2 * MAX_CORKED)) == MAX_CORKED + 1


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "files"),
    [(300, 300, 100, 300), (256, 1000, 800, 1000), (1024, 10_000, 4000, 4200)],
)
def test_a_worker_lets_in_no_more_than_it_may_open_files_for(
    sqlite_url, soft, hard, connections, files
):
    """FA-12: without a descriptor left nobody is let in, and nobody told so."""
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, str(soft), str(hard)],
        env={"DATABASE_URL": sqlite_url, "SECRET_KEY": services.SECRET_KEY},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == [connections, files]


LIMITED = """
import json, resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, tuple(map(int, sys.argv[1:])))
conf = runpy.run_path("authsite/server/gunicorn_conf.py")
print(json.dumps([conf["worker_connections"], resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""


# headers


def test_a_cookie_of_blanks_costs_no_more_than_another(wire_site):
    """AP-21: each took 0.4 s with the interpreter locked; 200 of them would keep a process for 80 s."""
    before = cpu_seconds(wire_site)
    for blank in (" ", "\t", " \t"):
        for _ in range(70):
            cookie = "k=" + (blank * 8_000)[:8_000] + "x y;"
            answer = requests.get(
                f"{wire_site.url}/healthz", headers={"Cookie": cookie}, timeout=10
            )
            assert answer.status_code == 200
    assert cpu_seconds(wire_site) - before < 20  # of processor time: other work does not count


LONG = {
    "X-Forwarded-For": b', "a"' * 1600,
    "Forwarded": b'for="a;' * 1100,
    "If-None-Match": b"0-0" + b"," * 8000,
    "If-Range": b'"a",' * 2000,
    "Range": b"bytes=" + b"0-0," * 2000,
    "Accept": b"a/b;q=0.1," * 800,
    "Accept-Language": b"a-b," * 2000,
    "Cache-Control": b'a="b",' * 1300,
    "Authorization": b"Basic ,a;q=1" * 600,
    "User-Agent": b"Mozilla/5.0 (" * 600,
    "Sec-CH-UA": b'"a";v="1",' * 800,
    "Origin": b"https://" + b"a." * 4000,
}


def test_ninety_lines_of_a_header_cost_what_those_of_another_do(proxied_site):
    """AP-21: the server joins them; of one that no library reads they take as long to arrive."""
    costs = {}
    for name, value in {"X-Read-By-Nobody": b"x" * 8000, **LONG}.items():
        before = cpu_seconds(proxied_site)
        for path in (b"/static/app.css", b"/login"):
            lines = b"%s: %s\r\n" % (name.encode(), value) * 90
            with connect(proxied_site) as connection:
                connection.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (path, lines))
                assert connection.recv(100).startswith(b"HTTP/1.1 ")
        costs[name] = cpu_seconds(proxied_site) - before
    plain = costs.pop("X-Read-By-Nobody")
    assert {name: cost for name, cost in costs.items() if cost > plain * 1.5 + 0.2} == {}


def test_what_a_client_writes_before_it_leaves_the_proxys_word_the_last(proxied_site):
    """LT-10: however much it is, the address is the one that the proxy has added."""
    for count in (0, 10, 3000):
        forwarded = "198.51.100.1, " * count + "203.0.113.77"
        answer = requests.get(
            f"{proxied_site.url}/login?n={count}",
            headers={"X-Forwarded-For": forwarded[-16_000:]},
            timeout=10,
        )
        request_id = answer.headers["X-Request-Id"]
        (line,) = [each for each in proxied_site.output().splitlines() if request_id in each]
        assert json.loads(line)["ip"] == "203.0.113.77"


@pytest.fixture(scope="module")
def proxied_site(_sqlite_template, tmp_path_factory) -> Iterator[services.Site]:
    """One that believes one proxy about addresses."""
    path = tmp_path_factory.mktemp("proxied") / "authsite.db"
    path.write_bytes(_sqlite_template.read_bytes())
    environ = {"DATABASE_URL": f"sqlite:///{path}", "TRUSTED_PROXY_HOPS": "1", "LOG_FORMAT": "json"}
    with services.Site(environ, workers=1) as site:
        yield site


def cpu_seconds(site: services.Site) -> float:
    """Return the processor time of the site's worker, whatever else the machine does."""
    (pid,) = site.worker_pids()
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_more_than_eight_kibibytes_of_cookies_are_refused_in_our_own_words(wire_site):
    """AP-21"""
    cookie = {"Cookie": "a=" + "x" * 8_190}
    assert requests.get(f"{wire_site.url}/login", headers=cookie, timeout=10).status_code == 200
    cookie = {"Cookie": "a=" + "x" * 8_191}
    page = requests.get(f"{wire_site.url}/login", headers=cookie, timeout=10)
    assert (page.status_code, page.headers["Content-Type"]) == (431, "text/html; charset=utf-8")
    assert "too many cookies" in page.text
    assert page.headers["X-Frame-Options"] == "DENY"
    problem = requests.get(f"{wire_site.url}/api/v1/auth/me", headers=cookie, timeout=10)
    assert (problem.status_code, problem.json()["status"]) == (431, 431)
    assert problem.headers["X-Request-Id"] == problem.json()["request_id"]


# files


OUTSIDE = [
    "/static/../../../../../../../etc/passwd",
    "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/static//etc/passwd",
    "/static/../config.py",
    "/static/../../../../../../../dev/zero",
    "/static/../../../../../../../proc/self/fd/1",
    "/static/nope",
    "/static/nope%00.css",
    "/static/",
    "/static/.",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_name_of_a_file_outside_tells_anything(wire_site, path):
    """PG-19: neither whether it is there, nor what is in it; and it costs nothing to ask."""
    answers = set()
    for method in ("OPTIONS", "GET", "HEAD", "PUT"):
        for version in ("", "?v=0123456789ab"):
            with connect(wire_site) as connection:
                line = f"{method} {path}{version} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                connection.sendall(line.encode())
                received = b""
                while more := connection.recv(65536):
                    received += more
            answers.add((method, received.partition(b"\r\n")[0]))
            assert b"root:" not in received
            assert b"immutable" not in received
    assert len(answers) == 4, answers
    assert {status.split()[1] for method, status in answers if method != "OPTIONS"} <= {
        b"404",
        b"405",
        b"308",
    }


def test_a_file_that_cannot_be_read_to_its_end_is_never_begun(wire_site):
    """PG-19: one request took 2.6 GB."""
    (pid,) = wire_site.worker_pids()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    before = peak_of(pid)
    for path in OUTSIDE:
        for _ in range(5):
            with connect(wire_site) as connection:
                connection.sendall(f"OPTIONS {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert connection.recv(10)
    assert peak_of(pid) - before < 100_000
    assert wire_site.worker_pids() == [pid]


def peak_of(pid: int) -> int:
    """Return the most kibibytes of memory that a process has held."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(peak)


@pytest.mark.parametrize("path", ["/static/x/../app.css", "/static/app.css/.", "/static/./app.css"])
def test_a_file_of_ours_by_a_winding_path_is_that_file_or_nothing(wire_site, path):
    """AP-23: it was a 500."""
    with connect(wire_site) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(12) in {b"HTTP/1.1 200", b"HTTP/1.1 404"}


# sign-ins


def test_sign_ins_beyond_what_can_wait_are_refused_and_the_others_go_on(wire_site):
    """LT-17: 220 in flight in one process; who asks for anything else is answered."""
    (person,) = crowd(wire_site, 1)
    body = {"email": "nobody@example.com", "password": "a wrong guess"}

    def sign_in(_number: int) -> requests.Response:
        return requests.post(f"{wire_site.url}/api/v1/auth/login", json=body, timeout=60)

    with ThreadPoolExecutor(220) as pool:
        waiting = [pool.submit(sign_in, number) for number in range(220)]
        answered_meanwhile = 0
        while not all(each.done() for each in waiting):
            assert requests.get(f"{wire_site.url}/healthz", timeout=10).status_code == 200
            assert person.me().status_code == 200
            answered_meanwhile += not all(each.done() for each in waiting)
        statuses = [each.result().status_code for each in waiting]
    assert answered_meanwhile
    refused = [each.result() for each in waiting if each.result().status_code == 503]
    assert set(statuses) <= {401, 429, 503}
    assert refused, "nothing was bounded"
    for answer in refused:
        assert answer.json()["errors"][0]["code"] == "service_unavailable"
        assert int(answer.headers["Retry-After"]) >= 1


def test_a_reload_starts_workers_that_import_everything_anew():
    """The main process has read the settings, with whose libraries an upgrade would mix its own."""
    nowhere = f"postgresql://{services.HOST}:{services.free_port()}/nothing"
    environ = {"DATABASE_URL": nowhere, "REDIS_URL": "redis://localhost"}
    with services.Site(environ, workers=1) as site:
        assert site.process is not None
        [before] = site.worker_pids()
        worker, main = (Path(f"/proc/{pid}/maps").read_text() for pid in (before, site.process.pid))
        assert "psycopg" in worker
        assert "psycopg" not in main
        site.process.send_signal(signal.SIGHUP)
        services.wait_until(lambda: before not in site.worker_pids() and site.worker_pids())
        services.wait_until(site.answers)
        assert "Traceback" not in site.output()


def test_a_port_without_production_is_for_this_machine_alone(tmp_path):
    """Where APP_ENV was forgotten on a server, nobody else reaches the development's service."""
    program = "import runpy; print(runpy.run_path('authsite/server/gunicorn_conf.py')['bind'])"

    production = {
        "SECRET_KEY": services.SECRET_KEY,
        "DATABASE_URL": "postgresql://db.example.com/authsite",
        "PUBLIC_BASE_URL": "https://accounts.example.com",
        "MAIL_SERVER": "smtp.example.com",
    }

    def bound(**environ: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=services.ROOT,
            env={"PATH": "/usr/bin:/bin", **environ},
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.strip()

    assert bound() == "127.0.0.1:8000"
    assert bound(PORT="5001") == "127.0.0.1:5001"
    assert bound(**production, APP_ENV="production") == "127.0.0.1:8000"
    assert bound(**production, APP_ENV="production", PORT="5001") in {"[::]:5001", "0.0.0.0:5001"}
    assert bound(**production, DYNO="web.1", PORT="5001") in {"[::]:5001", "0.0.0.0:5001"}


# guard


HOSTILE = [
    "",
    "/..",
    "/../../etc/passwd",
    "%0d%0aX-A:%20b",
    "%00",
    "/%2e%2e%2f",
    "%ff",
    "/.",
    "//",
    ";x",
    "?v=%00&next=%0d%0a",
]
MULTIPART = "multipart/form-data; boundary=x"
BODIES = [
    ("application/json", b"[]"),
    ("application/json", b'{"email": {}, "token": 1}'),
    ("application/x-www-form-urlencoded", b"email=%00&password=%ff&token=%0d%0a&=&&"),
    (MULTIPART, b"--x\r\nContent-Disposition: form-data\r\n\r\nv\r\n--x--\r\n"),
    (
        MULTIPART,
        b'--x\r\nContent-Disposition: form-data; filename="/etc/passwd"\r\n\r\nv\r\n--x--\r\n',
    ),
    (
        MULTIPART,
        b'--x\r\nContent-Disposition: form-data; name="csrf_token"; filename=""\r\n\r\nv\r\n--x--\r\n',
    ),
    (MULTIPART, b"--x\r\nno header\r\n\r\nv\r\n--x"),
    ("multipart/form-data", b"--"),
    ("text/plain", b"\xff"),
]
ENVIRONS = {
    "development, all entrances open": (
        {
            "FORWARD_AUTH_ORIGINS": "http://wiki.example.com",
            "TRUSTED_PROXY_HOPS": "1",
            "DEVICE_BOUND_SESSIONS": "1",
        },
        "http",
    ),
    "production over http": ({"APP_ENV": "production"}, "http"),
    "production over https": ({"APP_ENV": "production"}, "https"),
}


@pytest.mark.parametrize("which", ENVIRONS)
def test_no_path_method_or_body_is_a_fault_of_ours(which, sqlite_url):
    """AP-23: every route, those of tomorrow included."""
    environ, scheme = ENVIRONS[which]
    is_production = "APP_ENV" in environ
    app = create_app(
        {
            "DATABASE_URL": "postgresql://127.0.0.1:9/none" if is_production else sqlite_url,
            "SECRET_KEY": services.SECRET_KEY,
            "RATELIMIT_ENABLED": "1" if is_production else "0",
            **environ,
            **(
                {"PUBLIC_BASE_URL": "https://localhost", "MAIL_SERVER": "localhost"}
                if is_production
                else {}
            ),
        }
    )
    client, paths = app.test_client(), set()
    for rule in app.url_map.iter_rules():
        paths.add(
            re.sub(r"<(?:\w+:)?\w+>", "app.css" if rule.endpoint == "static" else "x", rule.rule)
        )
    asked = 0
    for path in sorted(paths):
        for suffix in HOSTILE:
            methods = ("GET", "OPTIONS", "POST") if suffix else METHODS
            for method in methods:
                answer = ask(client, scheme, path + suffix, method)
                asked += 1
                assert answer.status_code != 500, (method, path + suffix)
                assert "\n" not in answer.headers.get("Location", "")
        for content_type, body in BODIES:
            answer = ask(client, scheme, path, "POST", data=body, content_type=content_type)
            assert answer.status_code != 500, (path, content_type, body)
    assert asked > 1000


METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"),
    *("CONNECT", "PROPFIND", "QUERY", "FOO"),
)
# A method is a token (RFC 9110 §5.6.2) in capitals, of 3 to 20 characters: so gunicorn reads them.
NO_METHODS = ("get", "1", "$", "<b>", "G\xe9T", "GE\x7fT", "M" * 21, "M" * 2000)


@pytest.mark.parametrize("path", ["/api/v1/auth/me", "/login", "/forward-auth"])
def test_no_method_is_answered_by_html_in_the_api_or_repeats_what_was_sent(wire_site, path):
    """AP-04, AP-23: by the server itself, which reads some that it then refuses."""
    for method in (*METHODS, *NO_METHODS):
        with connect(wire_site) as connection:
            asked = f"{method} {path}?secret HTTP/1.1\r\nHost: {services.HOST}\r\n"
            asked += "Connection: close\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(asked.encode("latin-1"))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        assert status < 500, method
        assert b"secret" not in answer, method
        assert b"X-Content-Type-Options: nosniff" in head, method
        if method in NO_METHODS:
            assert status == 400, method
            assert json.loads(body)["errors"][0]["code"] == "malformed_request"
        if path.startswith("/api") or method in NO_METHODS:
            assert b"<" not in body, method


def ask(client, scheme, path, method, **how):
    with client.open(path, method=method, base_url=f"{scheme}://localhost", **how) as answer:
        return answer


def test_a_foreign_page_cannot_guess_with_its_visitors_addresses(app):
    """LT-18: the one kind of body that a browser sends to another site unasked."""
    client = app.test_client()
    form = {"username": "ada@example.com", "password": "a wrong guess"}
    for path in ("/auth/login/oauth", "/auth/introspect", "/auth/revoke"):
        answer = client.post(
            f"/api/v1{path}",
            data=form,
            headers={"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        )
        assert answer.status_code in {401, 403}
        if path != "/auth/introspect":
            assert answer.get_json()["detail"] == "Another site sent this"
    for headers in ({}, {"Sec-Fetch-Site": "same-origin"}):
        answer = client.post("/api/v1/auth/login/oauth", data=form, headers=headers)
        assert answer.get_json()["errors"][0]["code"] == "invalid_credentials"


def test_a_listed_page_may_sign_in_from_another_origin(make_app):
    """LT-18"""
    client = make_app(CORS_ORIGINS="https://app.example.com").test_client()
    answer = client.post(
        "/api/v1/auth/login/oauth",
        data={"username": "ada@example.com", "password": "a wrong guess"},
        headers={"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example.com"},
    )
    assert answer.get_json()["errors"][0]["code"] == "invalid_credentials"


# a database that is frozen


@pytest.mark.postgresql
def test_a_frozen_database_leaves_what_needs_none(postgresql_server_url):
    """FA-13: forty requests a second wait for it, and the process still says that it lives."""
    with services.postgresql_server() as server, services.new_database(server.url) as url:
        environ = {"DATABASE_URL": url, "RATELIMIT_ENABLED": "0"}
        with services.Site(environ, workers=1) as site, ThreadPoolExecutor(200) as pool:
            for pid in server.pids():
                _signal(pid, signal.SIGSTOP)
            try:
                waiting = []
                for _ in range(200):
                    waiting.append(pool.submit(requests.get, f"{site.url}/readyz", timeout=60))
                    time.sleep(1 / 40)  # the fault itself: how often it is asked
                    if len(waiting) % 10 == 0:
                        assert requests.get(f"{site.url}/healthz", timeout=10).status_code == 200
            finally:
                for pid in server.pids():
                    _signal(pid, signal.SIGCONT)
            assert {each.result().status_code for each in waiting} <= {200, 503}


def _signal(pid: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, which)
