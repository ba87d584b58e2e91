"""The session and user behind a token or cookie, in one indexed read; and that it is in use."""

import hashlib
import secrets
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import LargeBinary, String, bindparam, func, select, update

from .. import clock, database
from ..crypto import tokens
from ..database import Row, UtcDateTime
from ..database.models import ACCOUNT_COLUMNS, Account, User, UserSession
from ..errors import SessionRevoked
from .columns import (
    IDLE_LIFETIME,
    IDLE_LIFETIME_OF_BROWSER_SESSION,
    IS_LIVE,
    IS_OWN,
    LAST_USED_FIRST,
    NOW,
    SESSION_COLUMNS,
    SESSION_ID,
    SESSION_WIDTH,
    SHOWN_COLUMNS,
    USER_ID,
    Grant,
)
from .ending import find_owner

TOUCH_INTERVAL = timedelta(minutes=1)


class Resumed(NamedTuple):
    """The session behind a request, and whose it is; `device_name` is the device's own, not a given one."""

    id: uuid.UUID
    device_name: str
    entrance: str
    is_remembered: bool
    last_used_at: datetime
    expires_at: datetime
    absolute_expires_at: datetime
    # Of the API it stands in the access token, not in the row.
    authenticated_at: datetime | None
    two_step_since: datetime | None
    unused_rotation_at: datetime | None
    bound_at: datetime | None
    account: Account


def resume_api(
    session_id: uuid.UUID, user_id: uuid.UUID, *, issued_at: int | None = None
) -> Resumed:
    """Return the live session that an access token names; raise SessionRevoked when it is not live.

    `issued_at` is the token's, in seconds since 1970 (None: just now): the first use of what a rotation gave
    out is noted.
    """
    row = database.row(
        _RESUME_API, {"session_id": session_id, "user_id": user_id, "now": clock.now()}
    )
    return _noting_first_use(_resumed(row), issued_at)


def resume_api_with_all(
    session_id: uuid.UUID, user_id: uuid.UUID, *, issued_at: int | None = None
) -> tuple[Resumed, Sequence[Row]]:
    """Like resume_api; in the same read all of the user's live sessions, last used first."""
    rows = database.rows(_RESUME_API_WITH_ALL, {"user_id": user_id, "now": clock.now()})
    own = next((row for row in rows if row.id == session_id and row.has_tokens), None)
    return _noting_first_use(_resumed(own), issued_at), rows


def resume_page(session_id: uuid.UUID, user_id: uuid.UUID, cookie_secret: str) -> Resumed:
    """Return the live session that a cookie names; raise SessionRevoked when it is not live."""
    key = {"session_id": session_id, "user_id": user_id, "now": clock.now()}
    row = database.row(_RESUME_PAGE, key | {"cookie_digest": cookie_digest(cookie_secret)})
    return _resumed(row)


def resume_product(session_id: uuid.UUID, user_id: uuid.UUID) -> tuple[Resumed, bytes]:
    """Return the live browser session that a product's cookie names, and the digest of its secret.

    Raise SessionRevoked when it is not live.
    """
    key = {"session_id": session_id, "user_id": user_id, "now": clock.now()}
    row = database.row(_RESUME_PRODUCT, key)
    return _resumed(row), bytes(row.cookie_digest) if row else b""


def resume_bound(session_id: uuid.UUID) -> Resumed:
    """Return the live session, bound to a key, that a browser names without its cookie.

    Raise SessionRevoked when it is not live, or not bound.
    """
    owner = find_owner(session_id)
    key = {"session_id": session_id, "user_id": owner, "now": clock.now()}
    return _resumed(database.row(_RESUME_BOUND, key) if owner else None)


def require_live(user_id: uuid.UUID, session_id: uuid.UUID) -> None:
    """Let the user's session not end before the commit; raise SessionRevoked if it has.

    For a transaction that has locked the user's row: the session that was let in with a request may have been
    taken from its holder since.
    """
    key = {"session_id": session_id, "owner_id": user_id, "now": clock.now()}
    if database.row(_LOCK_LIVE, key) is None:
        raise SessionRevoked


def touch(session: Resumed, *, address: Callable[[], str | None]) -> Resumed:
    """Note that the session is in use, at most once a minute, and return it as it is then.

    A browser's idle time starts afresh. `address` is asked where from, only where it is noted.
    """
    now = clock.now()
    if now - session.last_used_at < TOUCH_INTERVAL:
        return session
    idle = IDLE_LIFETIME if session.is_remembered else IDLE_LIFETIME_OF_BROWSER_SESSION
    # An API session's expiry is written in its refresh token: only a rotation moves it, and writing back
    # what was read would undo one that has come between.
    expires_at = (
        min(now + idle, session.absolute_expires_at) if session.entrance == "page" else None
    )
    key = {"session_id": session.id, "owner_id": session.account.id, "now": now}
    database.run(_TOUCH, key | {"new_expires_at": expires_at, "ip": address()})
    return session._replace(last_used_at=now, expires_at=expires_at or session.expires_at)


def renew(session: Resumed, *, authenticated_at: datetime | None = None) -> Grant:
    """Give a session new credentials, in place: a copy of those of before is worth nothing from now on.

    A browser gets a new cookie secret, an API client a refresh token without a predecessor.
    `authenticated_at` is when the user has just proved who they are, None where that was not asked. Raise
    SessionRevoked if it has ended meanwhile.
    """
    now = clock.now()
    cookie_secret = secrets.token_urlsafe(32) if session.entrance == "page" else None
    jti = None if cookie_secret else tokens.new_jti()
    values = {
        "session_id": session.id,
        "owner_id": session.account.id,
        "new_digest": cookie_digest(cookie_secret) if cookie_secret else None,
        "new_jti": jti,
        "proved_at": authenticated_at if cookie_secret else None,
        "now": now,
    }
    if not database.run(_RENEW, values):
        raise SessionRevoked
    return Grant(
        session.id,
        session.account.id,
        now,
        session.expires_at,
        jti,
        cookie_secret,
        authenticated_at,
    )


def cookie_digest(cookie_secret: str) -> bytes:
    """Return what the row holds of a cookie's secret: 256 random bits need no salt."""
    return hashlib.sha256(cookie_secret.encode(errors="surrogatepass")).digest()


def _noting_first_use(session: Resumed, issued_at: int | None) -> Resumed:
    """Note, once for each rotation, that what was issued with it has arrived and is in use.

    An older token proves nothing. One of the same second counts as the rotation's: tokens know no fractions.
    """
    rotated_at = session.unused_rotation_at
    if rotated_at is None:
        return session
    if issued_at is not None and issued_at < int(rotated_at.timestamp()):
        return session
    key = {"session_id": session.id, "owner_id": session.account.id}
    database.run(_NOTE_FIRST_USE, key | {"of_rotation": rotated_at})
    return session._replace(unused_rotation_at=None)


def _resumed(row: Row | None) -> Resumed:
    if row is None:
        raise SessionRevoked
    account = Account._make(row[SESSION_WIDTH : SESSION_WIDTH + len(ACCOUNT_COLUMNS)])
    return Resumed._make((*row[:SESSION_WIDTH], account))


_RESUME = (
    select(*SESSION_COLUMNS, *ACCOUNT_COLUMNS)
    .join_from(UserSession, User, User.id == UserSession.user_id)
    .where(UserSession.id == SESSION_ID, UserSession.user_id == USER_ID, IS_LIVE, User.is_active)
)
_RESUME_API = database.Prepared(_RESUME.where(UserSession.refresh_jti.is_not(None)))
_RESUME_PAGE = database.Prepared(
    _RESUME.where(UserSession.cookie_digest == bindparam("cookie_digest"))
)
_RESUME_PRODUCT = database.Prepared(
    _RESUME.add_columns(UserSession.cookie_digest).where(UserSession.cookie_digest.is_not(None))
)
_RESUME_BOUND = _RESUME.where(UserSession.bound_key.is_not(None))
_LOCK_LIVE = select(UserSession.id).where(IS_OWN, IS_LIVE).with_for_update(key_share=True)
_TOUCH = (
    update(UserSession)
    .where(IS_OWN, UserSession.ended_at.is_(None), UserSession.last_used_at < NOW)
    .values(
        last_used_at=NOW,
        expires_at=func.coalesce(
            bindparam("new_expires_at", type_=UtcDateTime()), UserSession.expires_at
        ),
        ip_address=func.coalesce(bindparam("ip", type_=String()), UserSession.ip_address),
    )
)
_RENEW = (
    update(UserSession)
    .where(IS_OWN, IS_LIVE)
    .values(
        cookie_digest=bindparam("new_digest", type_=LargeBinary()),
        refresh_jti=bindparam("new_jti", type_=String()),
        previous_jti=None,
        unused_rotation_at=None,
        rotated_at=NOW,
        authenticated_at=func.coalesce(
            bindparam("proved_at", type_=UtcDateTime()), UserSession.authenticated_at
        ),
    )
)
# Of that rotation only: one that has come between is unused again.
_NOTE_FIRST_USE = (
    update(UserSession)
    .where(
        IS_OWN,
        UserSession.unused_rotation_at == bindparam("of_rotation", type_=UtcDateTime()),
        UserSession.ended_at.is_(None),
    )
    .values(unused_rotation_at=None)
)
_RESUMED = {each.key for each in SESSION_COLUMNS}
_RESUME_API_WITH_ALL = database.Prepared(
    select(
        *SESSION_COLUMNS,
        *(each.label(f"account_{each.key}") for each in ACCOUNT_COLUMNS),
        *(each for each in SHOWN_COLUMNS if each.key not in _RESUMED),
        UserSession.refresh_jti.is_not(None).label("has_tokens"),
    )
    .join_from(UserSession, User, User.id == UserSession.user_id)
    .where(UserSession.user_id == USER_ID, IS_LIVE, User.is_active)
    .order_by(*LAST_USED_FIRST)
)
