"""Whose request a proxy asks about, and what is to be told: from a credential and a listed origin only.

There is no rule by path, so there is nothing to walk around; and nothing here knows a request of Flask's.
"""

from typing import NamedTuple
from urllib.parse import quote, urlsplit

from .. import products, sessions
from ..crypto import tokens
from ..errors import SessionRevoked, TokenExpired, TokenInvalid


class Asked(NamedTuple):
    """What a proxy says of the request that it holds."""

    origin: str
    path: str
    is_navigation: bool
    bearer: str | None
    app_cookie: str | None


class Verdict(NamedTuple):
    """Whose request it is (None: nobody's), and whether a credential came that is not good."""

    session: sessions.Resumed | None
    has_bad_credential: bool


def decide(asked: Asked) -> Verdict:
    """Return whose request it is; the bearer token alone counts where there is one."""
    try:
        if asked.bearer is not None:
            claims = tokens.read(asked.bearer, tokens.ACCESS)
            return Verdict(sessions.resume_api(claims.session_id, claims.user_id), False)
        if asked.app_cookie:
            return Verdict(products.resume(asked.app_cookie, origin=asked.origin), False)
    except (TokenExpired, TokenInvalid, SessionRevoked):
        return Verdict(None, True)
    return Verdict(None, False)


def origin_of(proto: str, host: str, listed: list[str]) -> str | None:
    """Return the listed origin of a scheme and host as a proxy writes them, None where there is none."""
    scheme = {"wss": "https", "ws": "http"}.get(proto.strip().lower(), proto.strip().lower())
    named = f"{scheme}://{host.strip().lower()}"
    default = {"https": ":443", "http": ":80"}.get(scheme, "")
    named = named.removesuffix(default) if default else named
    return next((each for each in listed if each.lower() == named), None)


def start_url(origin: str, path: str) -> str:
    """Return where a browser gets the cookie of this origin, and then goes on to the path."""
    return f"{origin}/.authsite/start?next={quote(own_path(path), safe='/')}"


def own_path(path: str) -> str:
    """Return a path with its query as it may stand behind an origin; `/` for what is none.

    One slash and then neither a second nor a backslash, which browsers take for one; nothing that they drop.
    """
    is_path = path.startswith("/") and path[1:2] not in {"/", "\\"} and len(path) <= 4096
    is_plain = all(" " < each != "\x7f" and each != "\\" for each in path)
    return path if is_path and is_plain and not urlsplit(path).netloc else "/"
