"""Rate limits, by what they protect. A page and its API twin carry the same one, and share its count.

A limit is per client: the user where one is signed in, else the address. The store is shared by all
processes; while it cannot be reached each process counts for itself, its share of the limit.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple, TypeVar, cast

from flask import Flask, Response, current_app, g, request
from limits import RateLimitItem
from limits.storage import RedisStorage
from limits.strategies import STRATEGIES, MovingWindowRateLimiter
from limits.util import WindowStats

from .extensions import limiter

View = TypeVar("View", bound=Callable[..., Any])


class OneTripMovingWindow(MovingWindowRateLimiter):
    """The moving window, asked once: a hit also brings what the RateLimit header fields tell."""

    def __init__(self, storage: Any) -> None:
        super().__init__(storage)
        if isinstance(storage, RedisStorage):
            self._script = storage.get_connection().register_script(HIT.encode())

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        key, now, window = item.key_for(*identifiers), time.time(), item.get_expiry()
        if isinstance(self.storage, RedisStorage):
            answer = self._script(
                [self.storage.prefixed_key(key)], [repr(now), item.amount, window]
            )
            is_allowed, count, oldest = bool(answer[0]), int(answer[1]), float(answer[2])
        else:
            is_allowed = super().hit(item, *identifiers, cost=cost)
            oldest, count = self.storage.get_moving_window(key, item.amount, window)  # type: ignore[attr-defined]
        g.setdefault("windows", {})[key] = WindowStats(oldest + window, item.amount - count)
        return is_allowed

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        stats: WindowStats = g.windows[item.key_for(*identifiers)]
        return stats


STRATEGIES["one-trip-moving-window"] = OneTripMovingWindow

# KEYS[1] is a list of the times of the latest hits, newest first, at most as many as the limit.
HIT = """
local now, limit, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local floor = now - window
local last = redis.call('lindex', KEYS[1], limit - 1)
local allowed = 0
if not last or tonumber(last) < floor then
    redis.call('lpush', KEYS[1], ARGV[1])
    redis.call('ltrim', KEYS[1], 0, limit - 1)
    redis.call('expire', KEYS[1], window)
    allowed = 1
end
local low, high = 0, redis.call('llen', KEYS[1])
while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(redis.call('lindex', KEYS[1], middle)) >= floor then
        low = middle + 1
    else
        high = middle
    end
end
return {allowed, low, low > 0 and redis.call('lindex', KEYS[1], low - 1) or ARGV[1]}
"""


def init_app(app: Flask) -> None:
    """Bind the limiter to its store; nothing is connected before a request needs it."""
    url = app.config["REDIS_URL"]
    app.config.update(
        RATELIMIT_STORAGE_URI=url or "memory://",
        RATELIMIT_STORAGE_OPTIONS=_store_options(url, app.config["REDIS_TLS_VERIFY"]),
        RATELIMIT_IN_MEMORY_FALLBACK_ENABLED=bool(url),
    )
    limiter.init_app(app)
    app.after_request(_add_fields)


def _store_options(url: str | None, tls_verify: str) -> dict[str, Any]:
    if not url:
        return {}
    # A store that hangs costs half a second once, not ten for each request.
    options: dict[str, Any] = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}
    if url.startswith("rediss://") and tls_verify == "none":
        options["ssl_cert_reqs"] = "none"
    return options


def by_address() -> str:
    """Return the key of an anonymous client."""
    return address_key(request.remote_addr)


def by_user() -> str:
    """Return the key of a signed-in client, wherever it is."""
    return f"user:{g.session.account.id}" if "session" in g else by_address()


def address_key(address: str | None) -> str:
    """Return an address's canonical form; IPv6 by /64, which is what one customer gets."""
    parsed = canonical_address(address)
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed or "unknown")


@lru_cache(maxsize=4096)
def canonical_address(address: str | None) -> IPv4Address | IPv6Address | None:
    """Return the address, an IPv4 one also where it came mapped into IPv6; None for anything else."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        return parsed.ipv4_mapped
    return parsed


class Limit(NamedTuple):
    """What a view is held to, for the documentation."""

    per_minute: int
    is_by_user: bool


def of(view: Callable[..., Any]) -> Limit | None:
    """Return the limit of a view, or None where it has none."""
    return getattr(view, "limit", None)


def _limit(name: str, per_minute: int, key: Callable[[], str]) -> Callable[[View], View]:
    def amount() -> str:
        # Without the shared store each worker allows its share, so that all together keep the limit.
        workers = current_app.config["WORKERS"] if limiter._storage_dead else 1
        return f"{max(1, per_minute // workers)} per minute"

    def limit(view: View) -> View:
        limited = cast("View", limiter.shared_limit(amount, name, key_func=key)(view))
        limited.limit = Limit(per_minute, is_by_user=key is by_user)  # type: ignore[attr-defined]
        return limited

    return limit


register = _limit("register", 5, by_address)
login = _limit("login", 10, by_address)
refresh = _limit("refresh", 30, by_address)
read_account = _limit("read-account", 60, by_user)
update_account = _limit("update-account", 30, by_user)
change_password = _limit("change-password", 5, by_user)
request_reset = _limit("request-reset", 3, by_address)
confirm_reset = _limit("confirm-reset", 5, by_address)
logout = _limit("logout", 10, by_user)
logout_all = _limit("logout-all", 5, by_user)
list_sessions = _limit("list-sessions", 30, by_user)
rename_session = _limit("rename-session", 30, by_user)
revoke_session = _limit("revoke-session", 10, by_user)
revoke_others = _limit("revoke-others", 10, by_user)
delete_expired = _limit("delete-expired", 5, by_user)


def retry_after() -> int:
    """Return the whole seconds until the limit that was just exceeded lets one request pass."""
    limit = limiter.current_limit
    return max(1, math.ceil(limit.window.reset_time - time.time())) if limit else 60


def _add_fields(response: Response) -> Response:
    """Add RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers) to what is limited."""
    limit = limiter.current_limit
    if limit is not None:
        name, window = limit.request_args[-1], limit.limit.get_expiry()
        reset = min(window, max(0, math.ceil(limit.window.reset_time - time.time())))
        response.headers["RateLimit-Policy"] = f'"{name}";q={limit.limit.amount};w={window}'
        response.headers["RateLimit"] = f'"{name}";r={max(0, limit.remaining)};t={reset}'
    return response
