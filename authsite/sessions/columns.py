"""What several of the statements on a session read, and the two clocks of every session."""

import uuid
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Uuid, and_, bindparam, case, func, update

from ..database import UtcDateTime
from ..database.models import User, UserSession

IDLE_LIFETIME = timedelta(days=7)
IDLE_LIFETIME_OF_BROWSER_SESSION = timedelta(hours=12)
ABSOLUTE_LIFETIME = timedelta(days=30)


# By what a session was signed in with: its authenticator assurance level (NIST SP 800-63B-4) and its methods
# (RFC 8176). A trusted browser's cookie is no authenticator. `pop`, since where a passkey is kept nobody
# attests.
ASSURANCE: dict[str, tuple[int, list[str]]] = {
    "password": (1, ["pwd"]),
    "password+trusted": (1, ["pwd"]),
    "password+app": (2, ["pwd", "otp", "mfa"]),
    "password+recovery": (2, ["pwd", "otp", "mfa"]),
    "password+passkey": (2, ["pwd", "pop", "user", "mfa"]),
    "passkey": (2, ["pop", "user", "mfa"]),
}


class Grant(NamedTuple):
    """What a client gets to hold of a session: for the API `jti`, for a browser `cookie_secret`.

    `authenticated_at` is when the user proved who they are to get it; NULL for what a rotation gives.
    """

    session_id: uuid.UUID
    user_id: uuid.UUID
    issued_at: datetime
    expires_at: datetime
    jti: str | None = None
    cookie_secret: str | None = None
    authenticated_at: datetime | None = None


# Statements of the hot paths are built once: composing one costs more than PostgreSQL needs to answer it.

DEVICE_NAME = func.coalesce(UserSession.given_name, UserSession.device_name).label("device_name")
# What the device is, whatever its owner, or whoever holds a session of theirs, calls it.
OWN_NAME = UserSession.device_name.label("own_name")
NOW = bindparam("now", type_=UtcDateTime())
SESSION_ID = bindparam("session_id", type_=Uuid())
USER_ID = bindparam("user_id", type_=Uuid())
OWNER_ID = bindparam("owner_id", type_=Uuid())  # in updates, where a column's name is taken
IS_LIVE = and_(UserSession.ended_at.is_(None), UserSession.expires_at > NOW)
SESSION_COLUMNS = (
    UserSession.id,
    OWN_NAME,
    UserSession.entrance,
    UserSession.is_remembered,
    UserSession.last_used_at,
    UserSession.expires_at,
    UserSession.absolute_expires_at,
    UserSession.authenticated_at,
    User.two_step_since,
    UserSession.unused_rotation_at,
    UserSession.bound_at,
)
SESSION_WIDTH = len(SESSION_COLUMNS)
IS_OWN = and_(UserSession.id == SESSION_ID, UserSession.user_id == OWNER_ID)
NAME = update(UserSession).where(IS_OWN).values(given_name=bindparam("name"))
SHOWN_COLUMNS = (
    UserSession.id,
    DEVICE_NAME,
    OWN_NAME,
    UserSession.given_name,
    # Of a browser it is the value of its cookie, which is to be known to nobody else.
    case((UserSession.entrance == "page", None), else_=UserSession.device_id).label("device_id"),
    UserSession.ip_address,
    UserSession.location_city,
    UserSession.location_country,
    UserSession.last_used_at,
    UserSession.created_at,
    UserSession.expires_at,
    UserSession.absolute_expires_at,
    UserSession.browser,
    UserSession.os,
    UserSession.device_type,
    UserSession.entrance,
    UserSession.user_agent,
    UserSession.ended_at,
    UserSession.end_reason,
    UserSession.ended_from,
    UserSession.signed_in_with,
    UserSession.authenticated_at,
    UserSession.bound_at,
    UserSession.products,
)
LAST_USED_FIRST = (UserSession.last_used_at.desc(), UserSession.id.desc())
