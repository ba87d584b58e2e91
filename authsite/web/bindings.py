"""Headers and cookie by which a browser binds its session to a key (Device Bound Session Credentials).

Written for what Chromium speaks since version 145, https://w3c.github.io/webappsec-dbsc/; the Sec-Session-*
of its trials before are gone from it.
"""

import uuid
from typing import Any

from flask import Response, after_this_request, current_app, request

from .. import sessions

BIND = "/session/bind"
REFRESH = "/session/refresh-binding"
MAX_ID = 38  # in quotes
NOBODYS = uuid.UUID(int=0)
# What no cookie opens needs no proof: its styles must not keep a page waiting.
OUTSIDE = ("/static/", "/api/", "/.well-known/")


def are_on() -> bool:
    """Return whether browsers are asked to bind their sessions, and are held to it."""
    return bool(current_app.config["DEVICE_BOUND_SESSIONS"])


def offer(grant: sessions.Grant) -> None:
    """Ask the browser to bind the session that it gets by this response, if it knows how."""
    if not are_on():
        return
    challenge = sessions.challenge_to_bind(grant)
    _add("Secure-Session-Registration", f'(ES256);path="{BIND}";challenge="{challenge}"')


def ask(session: sessions.Resumed) -> None:
    """Ask the browser, by this response, to prove its key; with 403 it does at once."""
    challenge = sessions.challenge_to_prove(session)
    _add("Secure-Session-Challenge", f'"{challenge}";id="{session.id}"')


def proof() -> str | None:
    """Return the proof that came with this request, if any."""
    return request.headers.get("Secure-Session-Response")


def named_session() -> uuid.UUID | None:
    """Return which of its sessions the browser means, where it says so; for no id of ours one of nobody's."""
    named = request.headers.get("Sec-Secure-Session-Id")
    if named is None:
        return None
    try:
        return uuid.UUID(named[:MAX_ID].strip('"'))
    except ValueError:
        return NOBODYS


def is_proven(session: sessions.Resumed) -> bool:
    """Return whether this request may use a session: of one that is bound, only where its key was proved."""
    if session.bound_at is None or not are_on():
        return True
    return sessions.is_proven(session, request.cookies.get(_cookie_name(), ""))


def instructions(session: sessions.Resumed) -> dict[str, Any]:
    """Return what a browser needs to know to go on with a bound session (§9.6 of the draft)."""
    flags = "; Secure" if current_app.config["SESSION_COOKIE_SECURE"] else ""
    return {
        "session_identifier": str(session.id),
        "refresh_url": REFRESH,
        "scope": {
            "include_site": False,
            "scope_specification": [{"type": "exclude", "path": path} for path in OUTSIDE],
        },
        "credentials": [
            {
                "type": "cookie",
                "name": _cookie_name(),
                "attributes": f"Path=/; HttpOnly; SameSite=Lax{flags}",
            }
        ],
        # A link in a mail, read on another site, leads here too; the cookie is sent with nothing else of it.
        "allowed_refresh_initiators": ["*"],
    }


def keep(response: Response, value: str) -> Response:
    """Return the response with the cookie for the next ten minutes."""
    response.set_cookie(
        _cookie_name(),
        value,
        max_age=sessions.PROOF_LIFETIME,
        secure=current_app.config["SESSION_COOKIE_SECURE"],
        path="/",
        httponly=True,
        samesite="Lax",
    )
    return response


def _cookie_name() -> str:
    return ("__Host-" if current_app.config["IS_PRODUCTION"] else "") + "authsite-bound"


def _add(name: str, value: str) -> None:
    def add(response: Response) -> Response:
        response.headers[name] = value
        return response

    after_this_request(add)
