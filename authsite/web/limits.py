"""Rate limits, by what they protect. A page and its API twin carry the same one, and share its count.

A limit is per client: the user where one is signed in, else the address. The store is shared by all
processes; while it cannot be reached each process counts for itself, its share of the limit.

Flask-Limiter binds the store that the settings name. A request is counted here: its own decorator takes
two round trips and, measured on the authenticated read, as much time as all the rest of the work.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar, cast

import orjson
from flask import Flask, Response, current_app, g, request

from .. import events
from ..crypto import tokens
from ..errors import TokenInvalid, TooManyAttempts
from ..extensions import limiter
from .limit_store import WINDOW_SECONDS, Store, Window

REFRESH_GRANT = "refresh_token"  # RFC 6749 §6
View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Limit:
    """So many requests in any minute, for each client that `key` tells apart; decorates views."""

    name: str
    per_minute: int
    key: Callable[[], str]

    @property
    def whose(self) -> str:
        """Return by what it tells clients apart: `user`, `session` or `address`."""
        return {by_user: "user", by_session: "session", by_bound_session: "session"}.get(
            self.key, "address"
        )

    def __call__(self, view: View) -> View:
        @functools.wraps(view)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.count()
            return view(*args, **kwargs)

        limited.limit = self  # type: ignore[attr-defined]
        return cast(View, limited)

    def count(self, client: str | None = None) -> None:
        """Count one request of this client, if none is named of the request's; or raise TooManyAttempts."""
        window = self.hit(client)
        if window and not window.is_allowed:
            events.record("rate_limited", outcome="refused", limit=self.name)
            raise TooManyAttempts(window.resets_in)

    def hit(self, client: str | None = None) -> Window | None:
        """Count a request of this client where it is allowed; return how the limit stands, None without."""
        if not current_app.config["RATELIMIT_ENABLED"]:
            return None
        store: Store = current_app.extensions["limit_store"]
        window = store.hit(f"{self.name}:{client or self.key()}", self.per_minute)
        g.limit = self, window
        return window


def init_app(app: Flask) -> None:
    """Bind the store; nothing is connected before a request needs it."""
    url = app.config["REDIS_URL"]
    app.config.update(
        RATELIMIT_STORAGE_URI=url or "memory://",
        RATELIMIT_STORAGE_OPTIONS=_store_options(url, app.config["REDIS_TLS_VERIFY"]),
    )
    app.extensions["limiter"] = {limiter}  # known already: without its hooks on every request
    limiter.init_app(app)
    if app.config["RATELIMIT_ENABLED"]:
        app.extensions["limit_store"] = Store(limiter.storage, workers=app.config["WORKERS"])
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


def by_session() -> str:
    """Return the key of the session that a refresh token of ours names, whatever its age; else the address.

    Forty people behind one office address are no attack, and nobody can make a token for a session.
    """
    try:
        return of_session(verified(_refresh_token()))
    except TokenInvalid:
        return by_address()


def of_session(claims: tokens.Claims) -> str:
    """Return the key of the session that a refresh token of ours names."""
    return f"session:{claims.session_id}"


def verified(refresh_token: str) -> tokens.Claims:
    """Return what a refresh token of ours says, expired or not, or raise RefreshTokenInvalid.

    The limit and then the view ask: what was verified for the one is not verified again for the other.
    """
    seen: tuple[str, tokens.Claims] | None = g.get("verified_refresh_token")
    if seen and seen[0] == refresh_token:
        return seen[1]
    claims = tokens.read(refresh_token, tokens.REFRESH, even_expired=True)
    g.verified_refresh_token = refresh_token, claims
    return claims


def by_bound_session() -> str:
    """Return the key of the session that a browser proves to be its own; of one address there are many."""
    return f"session:{g.unproven.id}" if "unproven" in g else by_address()


def _refresh_token() -> str:
    """Return the refresh token in a body of a length that the view will take, else nothing."""
    if request.mimetype == "application/x-www-form-urlencoded":
        return _form_field("refresh_token")
    if not _has_body_to_read():
        return ""
    try:
        members = orjson.loads(request.get_data(cache=True))
    except ValueError:
        return ""
    token = members.get("refresh_token") if isinstance(members, dict) else None
    return token if isinstance(token, str) else ""


def _form_field(name: str) -> str:
    """Return a field of a form whose length is declared and such as the view will take, else nothing."""
    if request.mimetype != "application/x-www-form-urlencoded" or not _has_body_to_read():
        return ""
    request.get_data(cache=True)  # the view reads it again
    return request.form.get(name, "")


def _has_body_to_read() -> bool:
    return 0 < (request.content_length or 0) <= (request.max_content_length or 0)


def address_key(address: str | None) -> str:
    """Return an address's canonical form; IPv6 by /64, which is what one customer gets."""
    parsed = canonical_address(address)
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed or "unknown")


def address_text(address: str | None) -> str | None:
    """Return an address's canonical form as text, or None for what is none."""
    parsed = canonical_address(address)
    return str(parsed) if parsed else None


@functools.lru_cache(maxsize=4096)
def canonical_address(address: str | None) -> IPv4Address | IPv6Address | None:
    """Return the address, an IPv4 one also where it came mapped into IPv6; None for anything else."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        return parsed.ipv4_mapped
    return parsed


register = Limit("register", 5, by_address)
login = Limit("login", 10, by_address)
refresh = Limit("refresh", 30, by_session)
read_account = Limit("read-account", 60, by_user)
update_account = Limit("update-account", 30, by_user)
change_password = Limit("change-password", 5, by_user)
not_me = Limit("not-me", 5, by_address)
confirm_registration = Limit("confirm-registration", 5, by_address)
read_email = Limit("read-email", 30, by_user)
request_verification = Limit("request-verification", 3, by_user)
verify_email = Limit("verify-email", 5, by_user)
change_email = Limit("change-email", 5, by_user)
cancel_email_change = Limit("cancel-email-change", 10, by_user)
confirm_email_change = Limit("confirm-email-change", 5, by_user)
undo_email_change = Limit("undo-email-change", 5, by_address)
request_reset = Limit("request-reset", 3, by_address)
confirm_reset = Limit("confirm-reset", 5, by_address)
bad_credential = Limit("bad-credential", 60, by_address)
handoff = Limit("handoff", 30, by_address)
service_secret = Limit("service-secret", 10, by_address)
revoke_token = Limit("revoke-token", 10, by_address)
export = Limit("export", 2, by_user)
delete_account = Limit("delete-account", 5, by_user)
keep_account = Limit("keep-account", 5, by_address)
step_up = Limit("step-up", 5, by_user)
second_step = Limit("second-step", 10, by_address)
passkey_options = Limit("passkey-options", 30, by_address)
read_passkeys = Limit("read-passkeys", 30, by_user)
begin_passkey = Limit("begin-passkey", 10, by_user)
add_passkey = Limit("add-passkey", 10, by_user)
change_passkey = Limit("change-passkey", 10, by_user)
read_two_step = Limit("read-two-step", 60, by_user)
set_up_app = Limit("set-up-app", 10, by_user)
remove_app = Limit("remove-app", 5, by_user)
switch_two_step = Limit("switch-two-step", 10, by_user)
replace_recovery_codes = Limit("replace-recovery-codes", 5, by_user)
distrust_browsers = Limit("distrust-browsers", 5, by_user)
read_step_up = Limit("read-step-up", 30, by_user)
read_activity = Limit("read-activity", 30, by_user)
logout = Limit("logout", 10, by_user)
logout_all = Limit("logout-all", 5, by_user)
list_sessions = Limit("list-sessions", 30, by_user)
bind_session = Limit("bind-session", 10, by_bound_session)
name_session = Limit("name-session", 60, by_address)
prove_binding = Limit("prove-binding", 30, by_bound_session)
rename_session = Limit("rename-session", 60, by_user)
revoke_session = Limit("revoke-session", 60, by_user)
revoke_others = Limit("revoke-others", 10, by_user)
delete_expired = Limit("delete-expired", 5, by_user)


def login_or_refresh(view: View) -> View:
    """Count a refresh by OAuth with the other refreshes, and whatever else is sent there with the sign-ins.

    The view reads the same field, and refuses one that is given twice: no guess passes for a refresh.
    """

    @functools.wraps(view)
    def limited(*args: Any, **kwargs: Any) -> Any:
        (refresh if _form_field("grant_type") == REFRESH_GRANT else login).count()
        return view(*args, **kwargs)

    limited.limit = login  # type: ignore[attr-defined]
    return cast(View, limited)


def of(view: Callable[..., Any]) -> Limit | None:
    """Return the limit of a view, or None where it has none."""
    return getattr(view, "limit", None)


def fields() -> dict[str, str]:
    """Return the fields of a request that is limited (draft-ietf-httpapi-ratelimit-headers)."""
    if "limit" not in g:
        return {}
    limit, window = g.limit
    return {
        "RateLimit-Policy": f'"{limit.name}";q={limit.per_minute};w={WINDOW_SECONDS}',
        "RateLimit": f'"{limit.name}";r={window.remaining};t={window.resets_in}',
    }


def _add_fields(response: Response) -> Response:
    response.headers.update(fields())
    return response
