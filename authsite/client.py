"""What a product behind authsite may copy: one file, the standard library, nothing of the package.

    accounts = Accounts("https://accounts.example.com", "https://wiki.example.com", key="…")
    user = accounts.user(request.headers)   # None: nobody is signed in

`key` is what `flask forward-auth-key ORIGIN` prints; while it is rotated, a list of both. A request that
comes through the proxy carries `Remote-Assertion`, which is verified here; unsigned `Remote-*` are never
read. One that brings a bearer token is asked about at the account service, for which `service` is the
pair that `flask service-client NAME` made. `Unavailable` means that nobody can say who it is: answer 503,
never "anonymous". An assertion that is rightly signed and still not for this product, since `base_url` or
`origin` is another than the account service's, is a warning in the log `authsite.client`, once for each.

Adapters: flask_login_required, DjangoMiddleware (settings.AUTHSITE), starlette_user. verify_webhook
verifies what the account service posts (Standard Webhooks).
"""

import base64
import functools
import hashlib
import hmac
import json
import logging
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

__all__ = [
    "Accounts",
    "DjangoMiddleware",
    "Unavailable",
    "User",
    "WebhookInvalid",
    "flask_login_required",
    "starlette_user",
    "verify_webhook",
]

LEEWAY_SECONDS = 10
MAX_TOKEN = 8192
MOST_CACHE_SECONDS = 5
MOST_MISMATCHES = 20
WEBHOOK_TOLERANCE_SECONDS = 300

logger = logging.getLogger("authsite.client")


class Unavailable(Exception):
    """The account service cannot be asked, or does not know this service's secret."""


class WebhookInvalid(Exception):
    """The signature is not ours, or the message is more than five minutes off."""


class User(NamedTuple):
    """Who is signed in; of a bearer token only the ids are known."""

    id: str
    email: str | None
    name: str | None
    session_id: str


class Accounts:
    """The account service, as one product sees it; may be shared by threads."""

    def __init__(
        self,
        base_url: str,
        origin: str,
        key: str | Sequence[str],
        service: tuple[str, str] | None = None,
        cache_seconds: float = 0,
        *,
        timeout: float = 5,
    ) -> None:
        """Take the addresses and keys; with `cache_seconds` (5 at most) an end is seen that much later."""
        if not 0 <= cache_seconds <= MOST_CACHE_SECONDS:
            raise ValueError(f"cache_seconds must be from 0 to {MOST_CACHE_SECONDS}")
        self._base_url = base_url.rstrip("/")
        self._origin = origin
        self._keys = [key] if isinstance(key, str) else list(key)
        self._service = service
        self._cache_seconds = cache_seconds
        self._timeout = timeout
        self._known: dict[bytes, tuple[float, User]] = {}
        self._mismatches: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def user(self, headers: Mapping[str, str]) -> User | None:
        """Return who sent a request with these headers, None for nobody; raise Unavailable."""
        assertion = _header(headers, "Remote-Assertion")
        if assertion:
            return self._asserted(assertion)
        scheme, _, token = (_header(headers, "Authorization") or "").partition(" ")
        if scheme.lower() == "bearer" and self._service and 0 < len(token) <= MAX_TOKEN:
            return self._introspected(token.strip(" "))
        return None

    def _asserted(self, assertion: str) -> User | None:
        claims = self._verified(assertion)
        if claims is None:
            return None
        now = time.time()
        is_now = claims.get("iat", now) <= now + LEEWAY_SECONDS
        if not is_now or claims.get("exp", 0) <= now - LEEWAY_SECONDS:
            return None
        if not self._is_for_us(claims):
            return None
        return User(claims["sub"], claims["email"], claims["name"], claims["sid"])

    def _is_for_us(self, claims: dict[str, Any]) -> bool:
        """Tell whether the account service meant this product; the log says once what is set wrong."""
        said = str(claims.get("iss")), str(claims.get("aud"))
        if said == (self._base_url, self._origin):
            return True
        with self._lock:
            is_new = said not in self._mismatches and len(self._mismatches) < MOST_MISMATCHES
            if is_new:
                self._mismatches.add(said)
        if is_new:
            logger.warning(
                "An assertion from %r for %r is refused: this product expects %r for %r",
                *(each[:300] for each in (*said, self._base_url, self._origin)),
            )
        return False

    def _verified(self, token: str) -> dict[str, Any] | None:
        """Return the claims of an HS256 JWT that one of our keys signed (RFC 7515 §5.2), else None."""
        signed, _, signature = token.rpartition(".")
        if len(token) > MAX_TOKEN or signed.count(".") != 1 or not token.isascii():
            return None
        for key in self._keys:
            right = _encoded(hmac.digest(key.encode("ascii"), signed.encode(), "sha256"))
            if hmac.compare_digest(right, signature):
                header, claims = (_decoded(part) for part in signed.split("."))
                return claims if header.get("alg") == "HS256" else None
        return None

    def _introspected(self, token: str) -> User | None:
        name = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        with self._lock:
            until, user = self._known.get(name, (0.0, None))
        if user is not None and time.monotonic() < until:
            return user
        answer = self._ask(token)
        if not answer.get("active"):
            return None  # never kept: who signs in must not wait
        user = User(answer["sub"], None, None, answer["sid"])
        lifetime = min(self._cache_seconds, answer["exp"] - time.time())
        if lifetime > 0:
            self._remember(name, time.monotonic() + lifetime, user)
        return user

    def _remember(self, name: bytes, until: float, user: User) -> None:
        now = time.monotonic()
        with self._lock:
            if len(self._known) > 10_000:
                self._known = {each: kept for each, kept in self._known.items() if kept[0] > now}
            self._known[name] = until, user

    def _ask(self, token: str) -> dict[str, Any]:
        assert self._service is not None
        pair = base64.b64encode(":".join(self._service).encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - base_url is the operator's
            f"{self._base_url}/api/v1/auth/introspect",
            data=urllib.parse.urlencode({"token": token}, errors="replace").encode(),
            headers={"Authorization": f"Basic {pair}"},
        )
        try:
            with _OPENER.open(request, timeout=self._timeout) as answer:
                found = json.load(answer)
        except (OSError, ValueError) as error:  # HTTPError too: 401 is our secret, 5xx the service
            raise Unavailable(type(error).__name__) from None
        if not isinstance(found, dict):
            raise Unavailable("no object was answered")
        return found


def flask_login_required(accounts: Accounts) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a Flask view: `flask.g.user` is a User, else the answer is 401, or 503."""

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            import flask

            try:
                flask.g.user = accounts.user(cast("Mapping[str, str]", flask.request.headers))
            except Unavailable:
                return "The account service is unavailable", 503, {"Retry-After": "5"}
            if flask.g.user is None:
                return "Sign in first", 401, {"WWW-Authenticate": "Bearer"}
            return view(*args, **kwargs)

        return guarded

    return decorate


class DjangoMiddleware:
    """Set `request.authsite_user` (None: nobody) from `settings.AUTHSITE`, the arguments of Accounts."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from django.conf import settings

        self._get_response = get_response
        self._accounts = Accounts(**settings.AUTHSITE)

    def __call__(self, request: Any) -> Any:
        from django.http import HttpResponse

        try:
            request.authsite_user = self._accounts.user(request.headers)
        except Unavailable:
            answer = HttpResponse("The account service is unavailable", status=503)
            answer["Retry-After"] = "5"
            return answer
        return self._get_response(request)


def starlette_user(accounts: Accounts) -> Callable[[Any], Any]:
    """Return a dependency for Starlette and FastAPI: the User of a request; it raises 401, or 503."""

    async def user(request: Any) -> User:
        from starlette.concurrency import run_in_threadpool
        from starlette.exceptions import HTTPException

        try:
            found = await run_in_threadpool(accounts.user, request.headers)
        except Unavailable:
            raise HTTPException(503, headers={"Retry-After": "5"}) from None
        if found is None:
            raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
        return User._make(found)

    return user


def verify_webhook(
    body: bytes, headers: Mapping[str, str], secrets: str | Sequence[str]
) -> dict[str, Any]:
    """Return the message of a webhook of ours; raise WebhookInvalid. `secrets` are one `whsec_…` or more."""
    sent_id, sent_at = _header(headers, "webhook-id"), _header(headers, "webhook-timestamp")
    signatures = (_header(headers, "webhook-signature") or "").split()
    if not sent_id or not sent_at or not sent_at.isascii() or not sent_at.isdigit():
        raise WebhookInvalid("a header is missing")
    if abs(time.time() - int(sent_at[:12])) > WEBHOOK_TOLERANCE_SECONDS:
        raise WebhookInvalid("the time is more than five minutes off")
    signed = f"{sent_id}.{sent_at}.".encode(errors="surrogatepass") + body
    for secret in [secrets] if isinstance(secrets, str) else secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        right = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        if any(hmac.compare_digest(right.encode(), each.encode()) for each in signatures):
            message = json.loads(body)
            assert isinstance(message, dict)
            return message
    raise WebhookInvalid("no signature is right")


def _header(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    if value is None:  # a mapping that minds the case
        same = (each for key, each in headers.items() if key.lower() == name.lower())
        value = next(same, None)
    return value


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(part: str) -> dict[str, Any]:
    found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found if isinstance(found, dict) else {}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any) -> None:
        """Follow none: the secret goes where the operator said, and nowhere else."""


# No proxies of the environment either.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
