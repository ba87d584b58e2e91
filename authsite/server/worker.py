"""gunicorn's threaded worker, whose threads do not wait for clients, nor for each other.

gunicorn hands a connection to a thread as soon as its first byte is there, and lingers in its main thread for
two seconds with each connection that its client does not close. Then 64 half-sent requests leave nobody to
answer, and some clients that keep their side open silence a worker. Here the thread that leads (threads.py)
waits for all sockets at once, takes a request in until it is whole and answers it itself, sends on what of an
answer the client had no room for, and lets a finished connection go when the client has. The main thread
hears the signals, and has another one lead where an answer takes long. Only of an answer that is too large to
be kept, a copy of somebody's data, a thread waits for its client; few do at a time.

Nothing of the package is imported: the main process loads this file by its path (gunicorn_conf.py), so that
a reload renews it.
"""

import contextlib
import errno
import json
import os
import select
import selectors
import socket
import threading
import time
from collections import deque
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

MOST_THREADS = 64  # with those that wait; see threads.py
# Seconds for a request's head and body to arrive, and for a client to close after its answer.
HEAD_SECONDS = 10
BODY_SECONDS = 20
LINGER_SECONDS = 2
SEND_SECONDS = 20  # for a client to fetch its answer, or to make room for more of a large one
STUCK_SECONDS = 20
# Beyond these gunicorn's own limits refuse: a hundred fields, and the request's line.
MAX_HEAD = 100 * (16 * 1024 + 2) + 8 * 1024
MAX_LINE = 8 * 1024
MAX_BODY = 64 * 1024  # CONTRACT: beyond it the application refuses
# Chunks of one byte are six on the wire.
MAX_CHUNKED_BODY = 6 * (MAX_BODY + 1)
MAX_DRAINED = 1024 * 1024
# What all unfinished requests of a process may hold together.
MAX_HELD = 32 * 1024 * 1024
MAX_CHUNK_LINE = 64
MAX_CORKED = 16 * 1024  # of an answer; what is longer is sent as it comes
NOTIFY_SECONDS = 1  # between two signs of life
LOOK_SECONDS = 0.2  # between two looks for what has taken too long
# The longest waits, for events and for signals; at the end, for the last connection to go.
MOST_SECONDS = 1.0
MOST_SECONDS_AT_THE_END = 0.05
# What is kept of one answer, and how many threads may wait for room for more than that.
MAX_UNSENT = 256 * 1024
MOST_WAITING = 16
_PIECE = 16 * 1024
_OF_BODIES = (b"content-length", b"transfer-encoding", b"expect")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def refuse(client: socket.socket, status: int, reason: str, _message: str) -> None:
    """Answer a request that gunicorn could not read: whose path that was nobody knows.

    In the shape of the API's errors (RFC 9457). gunicorn's own answer is HTML, and repeats what was sent.
    """
    is_ours = status == HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal_error" if is_ours else "malformed_request"
    detail = "There is a problem with the service" if is_ours else "The request could not be read"
    problem = {
        "type": "about:blank",
        "title": reason,
        "status": status,
        "detail": detail,
        "success": False,
        "errors": [{"code": code, "message": detail, "field": None}],
    }
    body = json.dumps(problem)
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
        "Content-Type: application/problem+json\r\nX-Content-Type-Options: nosniff\r\n"
        f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(client, (head + body).encode())


util.write_error = refuse  # the one place through which all of gunicorn's own refusals go


class ClientSocket(socket.socket):
    """A socket that reads what is there, and keeps what cannot be sent yet, unless that is too much."""

    places = threading.BoundedSemaphore(MOST_WAITING)

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(fileno=accepted.detach())
        super().setblocking(False)
        self.unsent = bytearray()
        self.is_corked = False

    def setblocking(self, flag: bool) -> None:
        """Stay as it is, whatever gunicorn asks for."""

    def settimeout(self, value: float | None) -> None:
        """Stay as it is, whatever gunicorn asks for."""

    def take(self) -> bytes:
        """Return what is there, nothing at the end; raise BlockingIOError where it has yet to come."""
        return super().recv(_PIECE)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return what is there. To a thread, whose request is whole, what has yet to come is the end."""
        try:
            return super().recv(bufsize, flags)
        except BlockingIOError:
            return b""

    def uncork(self) -> None:
        """Send what was held back, as far as the client has room for it; raise OSError where it is gone."""
        self.is_corked = False
        self.send_more()

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send what the client has room for, and keep the rest for later.

        A head and a short body, which come one after the other, are held back and sent in one piece. Of a
        large answer wait until the client has fetched some; raise BrokenPipeError if it does not.
        """
        if self.is_corked:
            self.unsent += data
            if len(self.unsent) > MAX_CORKED:
                self.send_more()
        else:
            self._send_or_keep(data)
        if len(self.unsent) > MAX_UNSENT:
            self._wait_for_room()

    def _send_or_keep(self, data: Any) -> None:
        sent = 0
        if not self.unsent:
            with contextlib.suppress(BlockingIOError):
                sent = super().send(data)
        if sent < len(data):
            self.unsent += data[sent:]
            self.send_more()

    def _wait_for_room(self) -> None:
        # Whoever comes when all places are taken is cut off: else slow clients could take every thread.
        is_fetched = False
        if self.places.acquire(blocking=False):
            try:
                is_fetched = self._send_half()
            finally:
                self.places.release()
        if not is_fetched:
            self.unsent.clear()
            raise BrokenPipeError(errno.EPIPE, "the client does not fetch its answer")

    def _send_half(self) -> bool:
        """Send until half of what may be kept is left; return whether the client fetched so much in time."""
        room = select.poll()
        room.register(self, select.POLLOUT)
        ends_at = time.monotonic() + SEND_SECONDS
        while len(self.unsent) > MAX_UNSENT // 2:
            left = ends_at - time.monotonic()
            if left <= 0 or not room.poll(left * 1000):
                return False
            self.send_more()
        return True

    def send(self, data: Any, flags: int = 0) -> int:
        self.sendall(data)
        return len(data)

    def send_more(self) -> None:
        """Send what the client has room for; raise OSError where it is gone."""
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                sent = super().send(bytes(self.unsent[:_PIECE]))
                del self.unsent[:sent]


class Intake:
    """What has arrived of one request, and whether a thread can answer it without waiting for more.

    It looks for where the request ends and judges nothing: what is malformed counts as whole, and gunicorn's
    parser, which reads the same bytes, refuses it. Each byte is looked at once.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.has_head = self.wants_continue = self.is_overlong = False
        self._seen = self._end = self._dropped = 0
        self._next_chunk: int | None = None

    def feed(self, more: bytes) -> bool:
        """Take bytes in and return whether the request is whole."""
        if self.has_head and self.is_overlong:
            # Refused for its length in any case: the rest is waited for, and not kept (Heroku's H18).
            self._dropped += len(more)
            arrived = len(self.data) + self._dropped
            return arrived >= min(self._end, MAX_DRAINED)
        self.data += more
        if not self.has_head and not self._find_head():
            has_line = len(self.data) <= MAX_LINE or self.data.find(b"\r\n", 0, MAX_LINE) >= 0
            return len(self.data) > MAX_HEAD or not has_line
        if self._next_chunk is not None:
            return self._is_last_chunk_there()
        return len(self.data) >= self._end

    def _find_head(self) -> bool:
        at = self.data.find(b"\r\n\r\n", max(0, self._seen - 3))
        self._seen = len(self.data)
        if at < 0:
            return False
        self.has_head, self._end = True, at + 4
        self._read_head(bytes(self.data[:at]).lower())
        return True

    def _read_head(self, head: bytes) -> None:
        """Note how the body will be delimited (RFC 9112 §6.3)."""
        if not any(name in head for name in _OF_BODIES):
            return
        lengths = []
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            value = value.strip()
            if name == b"content-length":
                lengths.append(value)
            elif name == b"transfer-encoding" and value.endswith(b"chunked"):
                self._next_chunk = self._end
            elif name == b"expect":
                self.wants_continue = value == b"100-continue"
        if self._next_chunk is None and len(lengths) == 1 and lengths[0].isdigit():
            length = int(lengths[0][:20])
            self.is_overlong = length > MAX_BODY
            self._end += length

    def _is_last_chunk_there(self) -> bool:
        assert self._next_chunk is not None
        if len(self.data) - self._end > MAX_CHUNKED_BODY:
            self.is_overlong = True
            return True
        while self._next_chunk < len(self.data):
            line_end = self.data.find(b"\r\n", self._next_chunk, self._next_chunk + MAX_CHUNK_LINE)
            if line_end < 0:
                return len(self.data) - self._next_chunk >= MAX_CHUNK_LINE
            try:
                size = int(bytes(self.data[self._next_chunk : line_end]).partition(b";")[0], 16)
            except ValueError:
                return True
            if size <= 0:
                return size < 0 or self.data.find(b"\r\n\r\n", line_end) >= 0
            self._next_chunk = line_end + 2 + size + 2
        return False


def _has_more(conn: TConn) -> bool:
    """Return whether bytes of a next request came along with the last one."""
    return bool(conn.parser.unreader.buf.getvalue())


class Worker(ThreadWorker):
    """gunicorn's gthread with threads of our own, and requests that are whole before they are answered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # By deadline, each in order since all of a kind may take equally long. What is done is passed over.
        self._heads: deque[tuple[float, TConn, Intake]] = deque()
        self._bodies: deque[tuple[float, TConn, Intake]] = deque()
        self._sending: deque[tuple[float, TConn, bytearray]] = deque()
        self._lingering: deque[tuple[float, TConn]] = deque()
        self._unfinished: set[TConn] = set()
        self._finished: deque[tuple[TConn, bool]] = deque()
        self._keeping = threading.Lock()
        self._bell = select.poll()
        self._held = 0
        self._notified_at = self._looked_at = 0.0

    def load_wsgi(self) -> None:
        super().load_wsgi()
        # Not before the fork: what the main process has imported, a reload (SIGHUP) does not renew. Nor
        # before the signals have their handlers: a SIGTERM while the worker imports would be lost.
        from authsite.server.threads import LeaderFollowers

        self.tpool = LeaderFollowers(self._find, self._ring, self.cfg.threads, MOST_THREADS)

    def run(self) -> None:
        """Watch over the threads that answer; once the worker is to end, until they have answered."""
        self.poller.register(
            self.method_queue.fileno(), selectors.EVENT_READ, self.method_queue.run_callbacks
        )
        self._bell.register(self.PIPE[0], select.POLLIN)
        self.tpool.start()
        while self.alive:
            self._oversee(MOST_SECONDS)
        # A kept connection may have its next request under way: it is answered, and told to close.
        self._cap_keepalive(time.monotonic() + STOP_KEEPALIVE_LINGER)
        ends_at = time.monotonic() + self.cfg.graceful_timeout
        while self.nr_conns > 0 and time.monotonic() < ends_at:
            self._oversee(MOST_SECONDS_AT_THE_END)
        self.tpool.shutdown()
        for listener in self.sockets:
            listener.close()

    def _oversee(self, seconds: float) -> None:
        """Wait for a signal, for so long at most; meanwhile see to it that somebody finds requests."""
        self.notify()
        sooner = self.tpool.watch()
        if self._bell.poll((seconds if sooner is None else sooner) * 1000):
            with contextlib.suppress(BlockingIOError):
                os.read(self.PIPE[0], _PIECE)

    def _ring(self) -> None:
        """Wake the main thread, as a signal does."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.PIPE[1], b".")

    def notify(self) -> None:
        """Tell the main process that all is well, unless every thread is stuck: then it replaces us."""
        now = time.monotonic()
        if now - self._notified_at < NOTIFY_SECONDS:
            return
        self._notified_at = now
        if not self.is_parent_alive():
            self.alive = False
        is_stuck = getattr(self.tpool, "is_stuck", None)
        if is_stuck is None or not is_stuck(STUCK_SECONDS):
            super().notify()

    def _find(self) -> None:
        """Wait for what clients send, for a second at most, and take it in; in the thread that leads."""
        while self._finished:
            self.finish_request(*self._finished.popleft())
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        self.set_accept_enabled(self.alive and self.nr_conns < self.worker_connections)
        self.wait_for_and_dispatch_events(0 if self.tpool.has_tasks() else MOST_SECONDS)
        now = time.monotonic()
        if now - self._looked_at > LOOK_SECONDS:
            self._looked_at = now
            self.murder_keepalived()
            self.murder_pending()

    def accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError:  # nobody there any more, or another worker was first
            return
        self.nr_conns += 1
        conn = TConn(self.cfg, ClientSocket(client), address, listener.getsockname())
        if not self._read(conn, Intake()):
            # A browser may connect ahead of what it will ask: that is no half-sent request.
            conn.set_timeout()
            self.pending_conns.append(conn)
            self._hurry(conn)
            self._watch(conn, self.on_pending_socket_readable, conn)

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        self.poller.unregister(client)
        self.pending_conns.remove(conn)
        self._begin(conn)

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._begin(conn)

    def enqueue_req(self, conn: TConn) -> None:
        """Have a request that is whole answered."""
        self.tpool.submit(partial(self._answer, conn))

    def _answer(self, conn: TConn) -> None:
        """Answer a request, and wait for the next one of its connection without waking anybody."""
        conn.sock.is_corked = True
        try:
            is_kept = self.handle(conn)
            if conn.sock.fileno() >= 0:
                conn.sock.uncork()
        except BaseException:
            is_kept = False
        if is_kept and self.alive and not conn.sock.unsent and not _has_more(conn):
            self._keep(conn)
        else:
            self._finished.append((conn, is_kept))
            if not self.tpool.is_led_by_caller():  # who leads looks there next
                self.method_queue.defer(lambda: None)

    def _keep(self, conn: TConn) -> None:
        """Wait for the next request; from any thread."""
        conn.set_timeout()
        # The last request may have had over a megabyte of fields; the next one may take a minute to come.
        conn.parser.mesg = None
        # As one step for whoever makes room: of a connection closed in between, the next one with its number
        # would be watched.
        with self._keeping:
            # First the queue: who is told of the next request looks for its connection there.
            self.keepalived_conns.append(conn)
            self._hurry(conn)
            self._watch(conn, self.on_client_socket_readable, conn)

    def _hurry(self, conn: TConn) -> None:
        """Let a queued connection be silent for a moment only where the worker is about to end."""
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)

    def _cap_keepalive(self, deadline: float) -> None:
        # Those too that have asked nothing yet. Threads still add to both.
        for conn in (*self.pending_conns, *self.keepalived_conns):
            conn.timeout = min(conn.timeout, deadline)

    def finish_request(self, conn: TConn, is_kept: bool) -> None:
        """Once the answer is out, keep the connection for its next request, or let it go."""
        try:
            if conn.sock.fileno() >= 0 and conn.sock.unsent:
                self._send_on(conn, is_kept)
                return
            if not is_kept:
                self._linger(conn)
            elif left := conn.parser.unreader.take_buffered():
                # Sent ahead; it may be half a request.
                self._begin(conn, left)
            else:
                self._keep(conn)
        except Exception:
            self._close(conn)

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        # What was not kept of an overlong body is not there to be drained.
        return not conn.is_overlong and super()._keepalive_after(conn, keepalive)

    def murder_pending(self) -> None:
        """Close what has taken too long."""
        super().murder_pending()
        now = time.monotonic()
        for waiting in (self._heads, self._bodies):
            while waiting and waiting[0][0] <= now:
                _, conn, intake = waiting.popleft()
                if conn.intake is intake and intake.has_head == (waiting is self._bodies):
                    self._give_up(conn)
        while self._sending and self._sending[0][0] <= now:
            _, conn, unsent = self._sending.popleft()
            if unsent and conn.sock.fileno() >= 0:
                self._unwatch(conn)
                self._close(conn)
        while self._lingering and self._lingering[0][0] <= now:
            _, conn = self._lingering.popleft()
            if conn.sock.fileno() >= 0:
                self._unwatch(conn)
                self._close(conn)

    def _make_room(self) -> None:
        """Let go who has been silent for longest, where nobody else would be let in.

        First who has never asked anything. A client whose connection has gone connects anew.
        """
        with self._keeping:
            while self.nr_conns >= self.worker_connections:
                silent = self.pending_conns or self.keepalived_conns
                if not silent:
                    return
                conn = silent.popleft()
                self._unwatch(conn)
                self._close(conn)

    def _send_on(self, conn: TConn, is_kept: bool) -> None:
        """Send the rest of an answer as the client makes room for it."""
        # An answer of its own, so that a later one of this connection has its own time.
        self._sending.append((time.monotonic() + SEND_SECONDS, conn, conn.sock.unsent))
        self.poller.register(
            conn.sock, selectors.EVENT_WRITE, partial(self._on_room_to_send, conn, is_kept)
        )

    def _on_room_to_send(self, conn: TConn, is_kept: bool, _client: socket.socket) -> None:
        try:
            conn.sock.send_more()
        except OSError:
            self._unwatch(conn)
            self._close(conn)
            return
        if not conn.sock.unsent:
            self._unwatch(conn)
            conn.sock.unsent = bytearray()
            self.finish_request(conn, is_kept)

    def _begin(self, conn: TConn, data: bytes = b"") -> None:
        intake = Intake()
        if data and intake.feed(data):
            self._hand_over(conn, intake)
        elif not self._read(conn, intake):
            self._wait_for_more(conn, intake)

    def _read(self, conn: TConn, intake: Intake) -> bool:
        """Read what is there; return False if nothing was, and what there is of the request is not whole."""
        conn.intake = None
        try:
            more = conn.sock.take()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            more = b""
        if not more:
            self._close(conn)
        elif intake.feed(more):
            self._hand_over(conn, intake)
        else:
            self._wait_for_more(conn, intake)
        return True

    def _wait_for_more(self, conn: TConn, intake: Intake) -> None:
        self._held += len(intake.data)
        conn.intake = intake
        self._unfinished.add(conn)
        waiting, seconds = (
            (self._bodies, BODY_SECONDS) if intake.has_head else (self._heads, HEAD_SECONDS)
        )
        waiting.append((time.monotonic() + seconds, conn, intake))
        self._ask_for_body(conn, intake)
        self._watch(conn, self._on_more, conn)
        self._hold_no_more_than_allowed()

    def _hold_no_more_than_allowed(self) -> None:
        """Close whoever takes most: of many who send much, and one who does not, that one is answered."""
        while self._held > MAX_HELD:
            self._give_up(max(self._unfinished, key=lambda conn: len(conn.intake.data)))

    def _on_more(self, conn: TConn, _client: socket.socket) -> None:
        intake = conn.intake
        if intake is None:  # given up for another's sake, when this was already known to be there
            return
        had_head = intake.has_head
        try:
            more = conn.sock.take()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            more = b""
        held = len(intake.data)
        # One that has said all it will: the parser tells it what is missing.
        is_whole = intake.feed(more) if more else intake.has_head
        self._held += len(intake.data) - held
        if is_whole:
            self._forget(conn)
            self._hand_over(conn, intake)
        elif not more:
            self._give_up(conn)
        elif intake.has_head and not had_head:
            self._bodies.append((time.monotonic() + BODY_SECONDS, conn, intake))
            self._ask_for_body(conn, intake)
        self._hold_no_more_than_allowed()

    def _ask_for_body(self, conn: TConn, intake: Intake) -> None:
        """Answer `Expect: 100-continue`, whose sender waits to be told (RFC 9110 §10.1.1)."""
        if intake.has_head and intake.wants_continue:
            intake.wants_continue = False
            with contextlib.suppress(OSError):
                conn.sock.send(_CONTINUE)

    def _hand_over(self, conn: TConn, intake: Intake) -> None:
        conn.intake, conn.data_ready, conn.is_overlong = None, True, intake.is_overlong
        conn.init()
        conn.parser.unreader.unread(bytes(intake.data))
        intake.data.clear()
        self.enqueue_req(conn)

    def _give_up(self, conn: TConn) -> None:
        """Close a connection whose request is not whole; its deadline, still queued, holds nothing of it."""
        data = conn.intake.data
        self._forget(conn)
        self._close(conn)
        data.clear()

    def _forget(self, conn: TConn) -> None:
        """Stop waiting for the rest of a request."""
        self._held -= len(conn.intake.data)
        self._unfinished.discard(conn)
        conn.intake = None
        self._unwatch(conn)

    def _linger(self, conn: TConn) -> None:
        """Close our side, and all of it once the client has closed its own (RFC 9112 §9.6).

        Closed at once, the kernel could cut off the answer's end.
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        if not self._is_closed_by_client(conn):
            self._lingering.append((time.monotonic() + LINGER_SECONDS, conn))
            self._watch(conn, self._on_leftover, conn)

    def _on_leftover(self, conn: TConn, _client: socket.socket) -> None:
        if self._is_gone(conn):
            self._unwatch(conn)
            self._close(conn)

    def _is_closed_by_client(self, conn: TConn) -> bool:
        if is_gone := self._is_gone(conn):
            self._close(conn)
        return is_gone

    @staticmethod
    def _is_gone(conn: TConn) -> bool:
        """Read what nobody will look at, a piece at a time; return whether the client has closed."""
        try:
            return not conn.sock.take()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def _close(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()
        conn.sock.unsent.clear()  # its deadline, still queued, holds nothing of it

    def _watch(self, conn: TConn, callback: Any, *arguments: Any) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(callback, *arguments))

    def _unwatch(self, conn: TConn) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)
