"""Who is asking: the API by bearer token, the pages by cookie, never the other way round."""

import functools
import re
import secrets
import uuid
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlencode

from flask import (
    Flask,
    Request,
    Response,
    after_this_request,
    current_app,
    flash,
    g,
    has_request_context,
    redirect,
    request,
    session,
)
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from flask_wtf.csrf import generate_csrf
from werkzeug.exceptions import HTTPException

from .. import (
    accounts,
    activity,
    clock,
    database,
    passkeys,
    second_steps,
    service_clients,
    sessions,
    step_up,
)
from ..clients import places
from ..crypto import tokens
from ..database.models import MAX_USER_AGENT
from ..errors import (
    InvalidClient,
    InvalidInput,
    MalformedRequest,
    NotAuthenticated,
    SessionRevoked,
    TokenExpired,
    TokenInvalid,
)
from . import bindings, headers, limits

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HINTS = (
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-model",
    "sec-ch-ua-platform",
    "sec-ch-ua-platform-version",
)
MAX_BASIC = 512
DEVICE_ID_HEADER = "X-Device-Id"
DEVICE_COOKIE_LIFETIME = timedelta(days=400)  # browsers keep none for longer
MAX_TRUSTS = 4  # so many people may have one browser trusted at a time
LOGIN = "/login"
CONFIRM = "/login/confirm"
# Where a product leads that has signed its browser out: the session's cookie is still there.
AFTER_SIGN_OUT = f"{LOGIN}?signed-out=here"
SIGNED_OUT = "You have signed out."
NOTICE = "notice"  # the kind of a word that tells of no success
SIGNED_OUT_ELSEWHERE = "This device was signed out. Sign in again to continue."
View = TypeVar("View", bound=Callable[..., Any])
_DEVICE_ID = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_TRUST_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_DEVICE_COOKIE = re.compile(r"[A-Za-z0-9_-]{22}")


def init_app(app: Flask) -> None:
    app.session_interface = CookieInterface()
    app.extensions["actor"] = _actor


def _actor(user_id: uuid.UUID) -> activity.Actor:
    """Return who acts by this request: the device of the user's session, else what it tells of itself.

    A browser may be signed in to another account: its id and the name given to it there are of that owner.
    """
    if not has_request_context():
        return activity.OPERATOR
    client = _client(None, None)
    if "session" in g and g.session.account.id == user_id:
        named = g.session.id, g.session.device_name
    else:
        named = None, sessions.describe(client).name
    return activity.Actor(*named, client.ip_address, client.country and client.country[:100])


def current_session() -> sessions.Resumed:
    """Return the session behind this request."""
    return cast(sessions.Resumed, g.session)


def current_sessions() -> Sequence[database.Row]:
    """Return all live sessions of the user behind this request, last used first."""
    if read_along := g.get("sessions"):
        return cast("Sequence[database.Row]", read_along)
    return sessions.active_for(current_session().account.id)


def lists_sessions(view: View) -> View:
    """Mark an API view that shows all sessions: they come with the caller's, in one read."""
    view.lists_sessions = True  # type: ignore[attr-defined]
    return view


def public(view: View) -> View:
    """Mark an API view that answers without a token; all others demand one."""
    view.is_public = True  # type: ignore[attr-defined]
    return view


def step_up_required(view: View) -> View:
    """Answer InsufficientAuthentication to a bearer that is not fresh; goes below the view's limit.

    The body is not looked at before.
    """

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        step_up.require(current_session())
        return view(*args, **kwargs)

    guarded.needs_step_up = True  # type: ignore[attr-defined]
    return cast(View, guarded)


def service_client() -> str:
    """Return the name of the service that asks (HTTP Basic, RFC 7617); raise InvalidClient.

    Only a wrong secret is counted: a right one may ask as often as its product is used.
    """
    try:
        header = request.headers.get("Authorization", "")
        return service_clients.authenticate(*basic_credentials(header))
    except InvalidClient:
        limits.service_secret.count()
        raise


def from_bearer() -> None:
    """Read the session behind the bearer token (RFC 6750 §2.1), unless the view is public.

    Raise NotAuthenticated, TokenExpired, TokenInvalid or SessionRevoked.
    """
    view = current_app.view_functions.get(request.endpoint or "")
    # A browser asks with OPTIONS, and without the token, whether it may send it (Fetch, CORS preflight).
    if getattr(view, "is_public", False) or request.method == "OPTIONS":
        return
    token = _bearer_token(request.headers.get("Authorization", ""))
    if request.query_string and "access_token" in request.args:
        raise MalformedRequest("Send the access token in the Authorization header only")
    with_all = getattr(view, "lists_sessions", False)
    g.session, g.sessions = _resume_bearer(token, with_all=with_all, address=remote_address)


def is_bearer_good(environ: "WSGIEnvironment", *, with_all: bool) -> bool:
    """Return whether a bearer is signed in, and have him be the current one where Flask has no request."""
    try:
        token = _bearer_token(environ.get("HTTP_AUTHORIZATION", ""))
        g.session, g.sessions = _resume_bearer(
            token,
            with_all=with_all,
            address=lambda: limits.address_text(environ.get("REMOTE_ADDR")),
        )
    except (NotAuthenticated, TokenExpired, TokenInvalid, SessionRevoked):
        return False
    return not with_all or g.sessions is not None


def _resume_bearer(
    token: str, *, with_all: bool, address: Callable[[], str | None]
) -> tuple[sessions.Resumed, Sequence[database.Row] | None]:
    """Return the session behind an access token, and if wanted all of its user's, in the same read.

    Not those (None) where the caller's has just moved to the top. Raise TokenExpired, TokenInvalid or
    SessionRevoked.
    """
    claims = tokens.read(token, tokens.ACCESS)
    named = claims.session_id, claims.user_id
    rows = None
    if with_all:
        resumed, rows = sessions.resume_api_with_all(*named, issued_at=claims.issued_at)
    else:
        resumed = sessions.resume_api(*named, issued_at=claims.issued_at)
    if sessions.touch(resumed, address=address) is not resumed:
        rows = None
    if claims.auth_time is not None:
        proved_at = datetime.fromtimestamp(claims.auth_time, UTC)
        resumed = resumed._replace(authenticated_at=proved_at)
    return resumed, rows


def _bearer_token(authorization: str) -> str:
    """Return the token of an Authorization header (RFC 6750 §2.1), or raise NotAuthenticated."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthenticated
    return token.strip(" ")


def basic_credentials(header: str) -> tuple[str, str]:
    """Return the name and the secret of an Authorization header (RFC 7617), or raise InvalidClient."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or len(header) > MAX_BASIC:
        raise InvalidClient
    try:
        name, _, secret = b64decode(encoded.strip(" "), validate=True).decode().partition(":")
    except ValueError:
        raise InvalidClient from None
    return name, secret


def from_cookie() -> None:
    """Read the session that the cookie names, if any. One that has ended is forgotten, with a word.

    One that is bound to a computer, and came from where that was not proved, counts for nothing.
    """
    if "secret" not in session or "unproven" in g:
        return
    try:
        resumed = sessions.resume_page(*_named_by_cookie(), session["secret"])
    except SessionRevoked:
        forget()
        is_own_act = request.path == LOGIN and request.args.get("signed-out") == "here"
        if is_own_act:
            flash(SIGNED_OUT)
        else:
            flash(SIGNED_OUT_ELSEWHERE, NOTICE)
        return
    g.cookie_expires_at = resumed.expires_at
    if not bindings.is_proven(resumed):
        g.unproven = resumed
        sessions.note_unproven(resumed)
        return
    g.session = sessions.touch(resumed, address=remote_address)
    g.cookie_expires_at = g.session.expires_at
    # Where its end has moved, the cookie's moves along.
    session.modified |= session.permanent and g.session is not resumed


def _named_by_cookie() -> tuple[uuid.UUID, uuid.UUID]:
    """Return the ids of the session and of its user; raise SessionRevoked where there is no such row."""
    session_id = uuid.UUID(session["id"])
    if "user" not in session:
        # A cookie of the release that named only the session: from now on it names both.
        owner = sessions.find_owner(session_id)
        if owner is None:
            raise SessionRevoked
        session["user"] = str(owner)
    return session_id, uuid.UUID(session["user"])


def session_of_cookie() -> sessions.Resumed | None:
    """Return what `from_cookie` would find, where this path does not read the cookie by itself."""
    found = claimed_by_cookie()
    return found if found and bindings.is_proven(found) else None


def claimed_by_cookie() -> sessions.Resumed | None:
    """Return the live session that the cookie names, also where it is bound to a computer and not proven."""
    cookie = SecureCookieSessionInterface.open_session(
        cast(SecureCookieSessionInterface, current_app.session_interface),
        current_app._get_current_object(),  # type: ignore[attr-defined]
        request,
    )
    if not cookie or not {"id", "user", "secret"} <= cookie.keys():
        return None
    try:
        return sessions.resume_page(
            uuid.UUID(cookie["id"]), uuid.UUID(cookie["user"]), cookie["secret"]
        )
    except SessionRevoked:
        return None


def login_required(view: View) -> View:
    """Send who is not signed in to where one does, and from there back to this page."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if "session" in g:
            return view(*args, **kwargs)
        is_page = request.method in {"GET", "HEAD"} or find_form() is not None
        target = request.full_path.removesuffix("?")
        query = f"?{urlencode({'next': target}, safe='/')}" if is_page else ""
        return redirect(f"{entrance()}{query}")

    return cast(View, guarded)


def entrance() -> str:
    """Return where who is not signed in goes; with a sign-in that has to be confirmed, to confirm it."""
    return CONFIRM if "unproven" in g else LOGIN


def find_form() -> tuple[str, Mapping[str, Any]] | None:
    """Return the endpoint and arguments that show this path's form, None where there is none."""
    adapter = current_app.create_url_adapter(request)
    assert adapter is not None
    try:
        return adapter.match(method="GET")
    except HTTPException:
        return None


def sign_in(authenticated: accounts.Authenticated, *, is_remembered: bool) -> None:
    """Start a session for this browser, if the password is enough; else raise SecondStepRequired.

    Raise InvalidCredentials if the password has just changed.
    """
    device = browser()
    way = second_steps.require(
        authenticated,
        entrance="page",
        is_remembered=is_remembered,
        trust_secrets=_trust_secrets(),
    )
    grant = sessions.start(
        authenticated.account,
        password_changed_at=authenticated.password_changed_at,
        client=device,
        entrance="page",
        is_remembered=is_remembered,
        signed_in_with=way,
    )
    _take_over(grant, device, is_remembered=is_remembered)


def sign_in_with_passkey(credential: str, *, is_remembered: bool) -> None:
    """Start a session for this browser by a passkey alone; raise as `passkeys.sign_in` does."""
    device = browser()
    grant = passkeys.sign_in(
        credential,
        audience=form_secret(),
        client=device,
        entrance="page",
        is_remembered=is_remembered,
    )
    _take_over(grant, device, is_remembered=is_remembered)


def form_secret() -> str:
    """Return what the cookie holds to tell this browser's forms from others: no page shows it."""
    generate_csrf()
    return str(session["csrf_token"])


def complete_sign_in(
    waiting: second_steps.pending.Pending, code: str, *, credential: str = "", is_trusted: bool
) -> None:
    """Start the session of a pending sign-in for this browser, trusted from now on if it is to be.

    With a passkey's answer the code does not count. Raise MfaTokenInvalid, InvalidCode, TooManyAttempts,
    PasskeyInvalid or InvalidInput.
    """
    device = browser()
    how: dict[str, Any] = {"client": device, "is_trusted": is_trusted}
    if credential:
        signed_in = passkeys.complete(waiting, credential, **how)
    else:
        signed_in = second_steps.complete_with_code(waiting, code, **how)
    _take_over(signed_in.grant, device, is_remembered=signed_in.is_remembered)
    if signed_in.trust:
        # Of several people who share a browser each has a secret of their own: used again for another, one
        # that was copied before a change of password would be good again.
        secrets_held = [signed_in.trust.secret, *_trust_secrets()][:MAX_TRUSTS]
        days = signed_in.trust.expires_at - clock.now()
        _set_cookie(_trust_cookie_name(), ".".join(secrets_held), days)


def _take_over(grant: sessions.Grant, device: sessions.Client, *, is_remembered: bool) -> None:
    """Put a new session in this browser, in place of the one that it had."""
    earlier = g.pop("session", None)
    if earlier is not None:
        # Its cookie is about to be overwritten: nobody could use the session again.
        sessions.end(earlier.account.id, earlier.id, reason="replaced")
    remember(grant, is_remembered=is_remembered)
    bindings.offer(grant)
    _set_cookie(_device_cookie_name(), str(device.device_id), DEVICE_COOKIE_LIFETIME)


def remember(grant: sessions.Grant, *, is_remembered: bool) -> None:
    """Put a session in the cookie, in place of all that was there: a planted one is worth nothing."""
    forget()
    session["id"], session["user"] = str(grant.session_id), str(grant.user_id)
    session["secret"] = grant.cookie_secret
    session.permanent = is_remembered
    g.cookie_expires_at = grant.expires_at


def confirmed(grant: sessions.Grant) -> None:
    """Go on with the session in the cookie as a confirmation renewed it; the rest of the cookie stays.

    One that could not be proven to be on its computer may be bound to this one.
    """
    session["secret"] = grant.cookie_secret
    unproven = g.pop("unproven", None)
    if unproven is not None:
        sessions.unbind(unproven)
        bindings.offer(grant)
    g.session = (unproven or current_session())._replace(authenticated_at=grant.authenticated_at)


def end_everywhere(*, reason: str, keeps_own: bool) -> int:
    """End all sessions of the user behind this request, as from its device; return how many ended."""
    caller = current_session()
    return sessions.end_everywhere(
        caller.account.id,
        caller.id,
        reason=reason,
        device_name=caller.device_name,
        ip_address=remote_address(),
        keeps_own=keeps_own,
    )


def forget() -> None:
    """Empty the cookie, its CSRF token included."""
    session.clear()
    g.pop("session", None)
    g.pop("csrf_token", None)


class CookieInterface(SecureCookieSessionInterface):
    """Flask's signed cookie; one that lasts ends with the session that it names, at the latest.

    The API has none: it neither reads a cookie nor can set one.
    """

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        if headers.is_api() or request.path in headers.FOR_PROXIES:
            return None
        return super().open_session(app, request)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        if session.accessed:
            response.vary.add("Cookie")
        if not session.modified:
            return
        name = self.get_cookie_name(app)
        attributes: dict[str, Any] = {
            "path": "/",
            "secure": self.get_cookie_secure(app),
            "httponly": True,
            "samesite": "Lax",
        }
        serializer = self.get_signing_serializer(app)
        if session and serializer is not None:
            value = serializer.dumps(dict(session))
            response.set_cookie(name, value, max_age=_cookie_lifetime(session), **attributes)
        else:
            response.delete_cookie(name, **attributes)


def _cookie_lifetime(session: SessionMixin) -> timedelta | None:
    """Return how long the cookie may last; None ends it with the browser."""
    expires_at: datetime | None = g.get("cookie_expires_at")
    return expires_at - clock.now() if session.permanent and expires_at else None


def browser() -> sessions.Client:
    """Return what this request tells of its browser, which is known again by a cookie of its own.

    That cookie is no credential: it only tells a new device from one that comes back.
    """
    given = request.cookies.get(_device_cookie_name(), "")
    is_ours = _DEVICE_COOKIE.fullmatch(given)
    return _client(given if is_ours else secrets.token_urlsafe(16), None)


def _trust_secrets() -> list[str]:
    """Return what this browser's cookie holds of trusts; whose they are, only the rows tell."""
    held = request.cookies.get(_trust_cookie_name(), "")
    if len(held) > MAX_TRUSTS * 44:
        return []
    return [each for each in held.split(".") if _TRUST_SECRET.fullmatch(each)]


def _set_cookie(name: str, value: str, lifetime: timedelta) -> None:
    def add(response: Response) -> Response:
        response.set_cookie(
            name,
            value,
            max_age=lifetime,
            path="/",
            secure=current_app.config["SESSION_COOKIE_SECURE"],
            httponly=True,
            samesite="Lax",
        )
        return response

    after_this_request(add)


def _device_cookie_name() -> str:
    return ("__Host-" if current_app.config["IS_PRODUCTION"] else "") + "authsite-device"


def _trust_cookie_name() -> str:
    return ("__Host-" if current_app.config["IS_PRODUCTION"] else "") + "authsite-trust"


def client(*, device_name: str | None = None) -> sessions.Client:
    """Return what this request tells of its device; raise InvalidInput for a bad X-Device-Id."""
    return _client(_device_id(), device_name)


def _client(device_id: str | None, device_name: str | None) -> sessions.Client:
    address = remote_address()
    place = places.locate(address)
    return sessions.Client(
        ip_address=address,
        user_agent=_user_agent(),
        device_id=device_id,
        device_name=device_name,
        city=place.city,
        country=place.country,
        hints=tuple(
            (name, request.headers[name][:256]) for name in HINTS if name in request.headers
        ),
    )


def remote_address() -> str | None:
    """Return the canonical address of the peer, or None where it has none (a Unix socket)."""
    return limits.address_text(request.remote_addr)


def _user_agent() -> str | None:
    text = request.headers.get("User-Agent", "")[:MAX_USER_AGENT]
    # PostgreSQL takes no NUL, and a log or page no control character.
    return "".join(each for each in text if each.isprintable()) or None


def _device_id() -> str | None:
    device_id = request.headers.get(DEVICE_ID_HEADER)
    if device_id is None:
        return None
    if not _DEVICE_ID.fullmatch(device_id):
        raise InvalidInput(
            [(DEVICE_ID_HEADER, "X-Device-Id must be 1 to 255 printable ASCII characters")]
        )
    return device_id
