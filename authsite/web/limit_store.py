"""Where requests are counted: in a store that all processes share, and in this process while it is away."""

import hashlib
import math
import socket
import ssl
import struct
import threading
import time
from typing import Any, NamedTuple

from limits.storage import MemoryStorage, RedisStorage
from redis import RedisError
from redis.exceptions import NoScriptError

from .. import events

WINDOW_SECONDS = 60
LONGEST_PAUSE_SECONDS = 30
# A connection used so lately is taken as it is; one that the store has closed since is found out by using it.
TRUSTED_SECONDS = 1


class Window(NamedTuple):
    """How a limit stands for one client after its request."""

    is_allowed: bool
    remaining: int
    resets_in: int  # whole seconds until the oldest request of the window no longer counts


class Store:
    """Counts in the shared store, in one round trip; while it is away, in this process."""

    def __init__(self, storage: Any, *, workers: int) -> None:
        self._workers = workers
        self._memory = storage if isinstance(storage, MemoryStorage) else MemoryStorage()
        self._pause = self._ask_again_at = 0.0
        self._changes = threading.Lock()
        if isinstance(storage, RedisStorage):
            client: Any = storage.get_connection()
            self._connections = Connections(client.connection_pool)
            self._prefixed = storage.prefixed_key
        self._is_shared = isinstance(storage, RedisStorage)

    def hit(self, key: str, amount: int) -> Window:
        """Count one request, unless `amount` of them stand in the window already."""
        if not self._is_shared:
            return self._hit_memory(key, amount)
        if self._is_to_be_asked():
            try:
                window = self._hit_redis(key, amount)
            except RedisError:
                self._lose()
            else:
                self._find()
                return window
        # All workers together keep the limit.
        return self._hit_memory(key, max(1, amount // self._workers))

    def _hit_redis(self, key: str, amount: int) -> Window:
        now = time.time()
        arguments = (1, self._prefixed(key), repr(now), amount, WINDOW_SECONDS)
        try:
            answer = self._connections.ask("EVALSHA", HIT_DIGEST, *arguments)
        except NoScriptError:  # the first request of all, or the first after a restart of the store
            answer = self._connections.ask("EVAL", HIT, *arguments)
        return _window(bool(answer[0]), amount - int(answer[1]), float(answer[2]), now)

    def _hit_memory(self, key: str, amount: int) -> Window:
        is_allowed = self._memory.acquire_entry(key, amount, WINDOW_SECONDS)
        oldest, count = self._memory.get_moving_window(key, amount, WINDOW_SECONDS)
        return _window(is_allowed, amount - count, oldest, time.time())

    def _is_to_be_asked(self) -> bool:
        if not self._pause:
            return True
        now = time.monotonic()
        if now < self._ask_again_at:
            return False
        self._ask_again_at = now + self._pause  # one thread waits for the answer, not all of them
        return True

    def _lose(self) -> None:
        with self._changes:
            is_news = not self._pause
            self._pause = min(self._pause * 2 or 1, LONGEST_PAUSE_SECONDS)
            self._ask_again_at = time.monotonic() + self._pause
        if is_news:
            events.record("limiter_fallback", outcome="error")

    def _find(self) -> None:
        if not self._pause:
            return
        with self._changes:
            is_news, self._pause = bool(self._pause), 0
        if is_news:
            self._memory.reset()
            events.record("limiter_recovered")


class Connections:
    """Connections to the store that nobody uses; the one used last is the next to be used.

    The client's own pool looks at each before it gives it out, and a timeout of Python's asks the kernel
    before each read and write whether it may. At each of these five calls the threads of this process change
    places; two of them are work.
    """

    def __init__(self, pool: Any) -> None:
        self._class, self._options = pool.connection_class, pool.connection_kwargs
        self._idle: list[tuple[float, Any]] = []

    def ask(self, *command: Any) -> Any:
        """Send one command and return its answer; what fails is not tried again. Raise RedisError."""
        connection = self._take()
        try:
            connection.send_command(*command)
            answer = connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append((time.monotonic(), connection))
        return answer

    def _take(self) -> Any:
        while self._idle:
            try:
                idle_since, connection = self._idle.pop()
            except IndexError:  # another thread was first
                break
            if time.monotonic() - idle_since < TRUSTED_SECONDS or _is_silent(connection):
                return connection
            connection.disconnect()
        return self._connect()

    def _connect(self) -> Any:
        connection = self._class(**self._options)
        connection.connect()
        seconds = connection.socket_timeout
        # TLS has a second buffer, for which the kernel's timeout is none.
        if seconds and not isinstance(connection._sock, ssl.SSLSocket):
            connection._sock.settimeout(None)
            for each in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                connection._sock.setsockopt(socket.SOL_SOCKET, each, _timeval(seconds))
        return connection


def _is_silent(connection: Any) -> bool:
    """Return whether nothing waits to be read: neither an answer that nobody fetched nor the end."""
    try:
        return not connection.can_read()
    except RedisError:
        return False


def _timeval(seconds: float) -> bytes:
    """Return the time as the kernel reads it (setsockopt(2)): whole seconds and microseconds."""
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))


def _window(is_allowed: bool, remaining: int, oldest: float, now: float) -> Window:
    resets_in = math.ceil(oldest + WINDOW_SECONDS - now)
    return Window(is_allowed, max(0, remaining), min(max(1, resets_in), WINDOW_SECONDS))


# KEYS[1] is a list of the times of the hits that count, newest first.
HIT = """
local now, limit, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local oldest = redis.call('lindex', KEYS[1], -1)
while oldest and tonumber(oldest) < now - window do
    redis.call('rpop', KEYS[1])
    oldest = redis.call('lindex', KEYS[1], -1)
end
local hits = oldest and redis.call('llen', KEYS[1]) or 0
if hits >= limit then
    return {0, hits, oldest}
end
redis.call('lpush', KEYS[1], ARGV[1])
redis.call('expire', KEYS[1], window)
return {1, hits + 1, oldest or ARGV[1]}
"""
HIT_DIGEST = hashlib.sha1(HIT.encode(), usedforsecurity=False).hexdigest()  # as EVALSHA names it
