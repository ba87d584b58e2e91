"""How a browser that is signed in here gets the cookie of a product's host.

The account's cookie never leaves its host. The product's host remembers a nonce and sends the browser here
with its digest; here a code is signed for that origin and digest; there it is changed for a cookie.
"""

import hashlib
import re
import secrets
from datetime import UTC, datetime
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, current_app, g, request, session
from flask.typing import ResponseReturnValue
from markupsafe import escape

from .. import clock, products, sessions
from ..errors import Forbidden, SessionRevoked
from ..web import authentication, headers, limits
from . import cookies, verdicts

blueprint = Blueprint("handoff", __name__)

PREFIX = "/.authsite/"
_CHALLENGE = re.compile(r"[0-9a-f]{64}")
_NONCE = re.compile(r"[A-Za-z0-9_-]{43}")


@blueprint.get("/.authsite/start")
@limits.handoff
def start() -> ResponseReturnValue:
    """Remember a nonce on this product's host, and ask the account's host for a code."""
    origin = _product()
    given = request.cookies.get(cookies.nonce_name(), "")
    # One that is there is kept, so that tabs opened together all go on.
    nonce = given if _NONCE.fullmatch(given) else secrets.token_urlsafe(32)
    query = {
        "origin": origin,
        "next": verdicts.own_path(request.args.get("next", "/")),
        "challenge": hashlib.sha256(nonce.encode()).hexdigest(),
    }
    answer = _redirect(f"{headers.own_origin()}/handoff?{urlencode(query)}", 302)
    cookies.put(answer, cookies.nonce_name(), nonce, cookies.NONCE_LIFETIME)
    return answer


@blueprint.get("/handoff")
@limits.handoff
def hand_off() -> ResponseReturnValue:
    """Send a browser that is signed in here back with a code; another to the sign-in page first."""
    origin = request.args.get("origin", "")
    challenge = request.args.get("challenge", "")
    if origin not in current_app.config["FORWARD_AUTH_ORIGINS"] or not _CHALLENGE.fullmatch(
        challenge
    ):
        abort(400)
    authentication.from_cookie()
    if "session" not in g:
        target = f"/handoff?{urlencode({name: request.args.get(name, '') for name in _KEPT})}"
        return _redirect(f"{authentication.entrance()}?{urlencode({'next': target})}", 302)
    code = products.begin(
        g.session,
        session["secret"],
        origin=origin,
        challenge=challenge,
        next_path=verdicts.own_path(request.args.get("next", "/")),
    )
    return _redirect(f"{origin}/.authsite/callback?{urlencode({'code': code})}", 303)


@blueprint.get("/.authsite/callback")
@limits.handoff
def callback() -> ResponseReturnValue:
    """Change a code for this host's cookie, and go where the browser wanted to."""
    origin = _product()
    nonce = request.cookies.get(cookies.nonce_name(), "")
    handoff = products.complete(request.args.get("code", ""), origin=origin, nonce=nonce)
    if handoff is None:
        return _not_taken(origin)
    # Here, once for a browser and a product: a question of the proxy writes nothing.
    sessions.note_product(handoff.user_id, handoff.session_id, origin)
    answer = _redirect(f"{origin}{handoff.next}", 303)
    ends_at = datetime.fromtimestamp(handoff.expires_at, UTC)
    lifetime = ends_at - clock.now() if handoff.is_remembered else None
    cookies.put(answer, cookies.app_name(), products.cookie(handoff), lifetime)
    cookies.drop(answer, cookies.nonce_name())
    return answer


@blueprint.post("/.authsite/sign-out")
def sign_out() -> ResponseReturnValue:
    """End the session behind this product's cookie, and so in all products of this browser."""
    origin, location = _product(), authentication.LOGIN
    if request.headers.get("Origin") != origin:
        raise Forbidden("Another site sent this")
    try:
        ended = products.resume(request.cookies.get(cookies.app_name(), ""), origin=origin)
    except SessionRevoked:
        pass
    else:
        sessions.end(ended.account.id, ended.id, reason="logged_out")
        location = authentication.AFTER_SIGN_OUT
    answer = _redirect(f"{headers.own_origin()}{location}", 303)
    cookies.drop(answer, cookies.app_name())
    return answer


def _product() -> str:
    """Return the listed origin whose host is asked; any other has nothing here."""
    listed: list[str] = current_app.config["FORWARD_AUTH_ORIGINS"]
    origin = verdicts.origin_of(request.scheme, request.host, listed)
    if origin is None:
        abort(404)
    return origin


def _not_taken(origin: str) -> ResponseReturnValue:
    """Lead on who has the cookie (another tab was first), else say how to start again: never a loop."""
    try:
        products.resume(request.cookies.get(cookies.app_name(), ""), origin=origin)
    except SessionRevoked:
        pass
    else:
        return _redirect(f"{origin}/", 303)
    site = escape(current_app.config["SITE_NAME"])
    # It loads nothing: whatever else this host has is the product's.
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Signing in took too long – {site}</title></head><body>"
        "<h1>Signing in took too long</h1>"
        "<p>The way back from the sign-in page works once and for a minute, in the browser that began it.</p>"
        f'<p><a href="{escape(verdicts.start_url(origin, "/"))}">Sign in again</a></p></body></html>'
    )
    answer = Response(text, 400)
    headers.send_no_referrer()
    return answer


def _redirect(location: str, status: int) -> Response:
    answer = Response(status=status)
    answer.headers["Location"] = location
    answer.headers["Cache-Control"] = "no-store"
    del answer.headers["Content-Type"]
    headers.send_no_referrer()
    return answer


_KEPT = ("origin", "next", "challenge")
