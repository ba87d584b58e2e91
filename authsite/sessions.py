"""Sessions: one row for each signed-in device, read on every request, so that ending one is immediate.

start    a sign-in becomes a row, or there is no sign-in
resume   the session and user behind a token or cookie, in one indexed read
rotate   a refresh token is changed for its successor, by compare-and-swap
end      one session, or all of a user's; an ended row stays with its reason until delete_dead takes it
"""

import hashlib
import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flask import current_app
from sqlalchemy import (
    Select,
    String,
    Uuid,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from . import clock, database, events
from .clients import devices
from .crypto import tokens
from .database import Row, UtcDateTime
from .database.models import (
    ACCOUNT_COLUMNS,
    MAX_DEVICE_ID,
    MAX_DEVICE_NAME,
    MAX_USER_AGENT,
    Account,
    User,
    UserSession,
)
from .errors import (
    Forbidden,
    InvalidCredentials,
    RefreshTokenExpired,
    SessionNotFound,
    SessionRevoked,
)
from .mail import emails, outbox

IDLE_LIFETIME = timedelta(days=7)
IDLE_LIFETIME_OF_BROWSER_SESSION = timedelta(hours=12)
ABSOLUTE_LIFETIME = timedelta(days=30)
TOUCH_INTERVAL = timedelta(minutes=1)
ENDED_ARE_SHOWN_FOR = timedelta(days=30)
# The clean-up's transactions: sign-ins and refreshes may have to wait for one of them.
FIRST_BATCH = 1000
BATCH_SECONDS = 0.1


class Client(NamedTuple):
    """What a request tells of the device it came from; all of it is hearsay."""

    ip_address: str | None = None
    user_agent: str | None = None
    device_id: str | None = None
    device_name: str | None = None
    city: str | None = None
    country: str | None = None
    hints: tuple[tuple[str, str], ...] = ()


class Grant(NamedTuple):
    """What a client gets to hold of a session: for the API `jti`, for a browser `cookie_secret`."""

    session_id: uuid.UUID
    user_id: uuid.UUID
    issued_at: datetime
    expires_at: datetime
    jti: str | None = None
    cookie_secret: str | None = None


class Resumed(NamedTuple):
    """The session behind a request, and whose it is."""

    id: uuid.UUID
    device_name: str
    entrance: str
    is_remembered: bool
    last_used_at: datetime
    expires_at: datetime
    absolute_expires_at: datetime
    account: Account


def start(
    account: Account,
    *,
    password_changed_at: datetime,
    client: Client,
    entrance: str,
    is_remembered: bool = True,
) -> Grant:
    """Sign a device in. Raise InvalidCredentials if the password has changed since it was verified.

    The same device (by its id) takes over from its older session, the least recently used session
    beyond MAX_SESSIONS_PER_USER ends, and the owner is told of a device not seen before.
    """
    now = clock.now()
    device = _describe(client)
    cookie_secret = secrets.token_urlsafe(32) if entrance == "page" else None
    jti = None if cookie_secret else tokens.new_jti()
    absolute = now + ABSOLUTE_LIFETIME
    idle = IDLE_LIFETIME if is_remembered else IDLE_LIFETIME_OF_BROWSER_SESSION
    session_id, expires_at = database.uuid7(now), min(now + idle, absolute)
    session = {
        "id": session_id,
        "user_id": account.id,
        "entrance": entrance,
        "refresh_jti": jti,
        "cookie_digest": cookie_digest(cookie_secret) if cookie_secret else None,
        "rotated_at": now,
        "is_remembered": is_remembered,
        "device_name": device.name,
        "browser": device.browser,
        "os": device.os,
        "device_type": device.type,
        "device_id": client.device_id and client.device_id[:MAX_DEVICE_ID],
        "ip_address": client.ip_address,
        "user_agent": client.user_agent and client.user_agent[:MAX_USER_AGENT],
        "location_city": client.city and client.city[:100],
        "location_country": client.country and client.country[:100],
        "created_at": now,
        "last_used_at": now,
        "expires_at": expires_at,
        "absolute_expires_at": absolute,
    }
    with database.transaction():
        if not database.run(_INSERT, session | {"seen_password_changed_at": password_changed_at}):
            raise InvalidCredentials
        earlier = database.row(_EARLIER, session | {"now": now})
        _make_room(session, earlier, now)
        if earlier and earlier.any and not earlier.known:
            outbox.queue(emails.new_device(account.id, session))
    events.record("login", user_id=account.id, session_id=session_id, entrance=entrance)
    return Grant(session_id, account.id, now, expires_at, jti, cookie_secret)


def resume_api(session_id: uuid.UUID, user_id: uuid.UUID) -> Resumed:
    """Return the live session that an access token names; raise SessionRevoked when it is not live."""
    row = database.row(
        _RESUME_API, {"session_id": session_id, "user_id": user_id, "now": clock.now()}
    )
    return _resumed(row)


def resume_api_with_all(session_id: uuid.UUID, user_id: uuid.UUID) -> tuple[Resumed, Sequence[Row]]:
    """Like resume_api; in the same read all of the user's live sessions, last used first."""
    rows = database.rows(_RESUME_API_WITH_ALL, {"user_id": user_id, "now": clock.now()})
    own = next((row for row in rows if row.id == session_id and row.has_tokens), None)
    return _resumed(own), rows


def resume_page(session_id: uuid.UUID, cookie_secret: str) -> Resumed:
    """Return the live session that a cookie names; raise SessionRevoked when it is not live."""
    digest = cookie_digest(cookie_secret)
    row = database.row(
        _RESUME_PAGE, {"session_id": session_id, "cookie_digest": digest, "now": clock.now()}
    )
    return _resumed(row)


def touch(session: Resumed, *, ip_address: str | None) -> Resumed:
    """Note that the session is in use, at most once a minute, and return it as it is then.

    A browser's idle time starts afresh.
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
    database.run(
        _TOUCH,
        {"session_id": session.id, "now": now, "new_expires_at": expires_at, "ip": ip_address},
    )
    return session._replace(last_used_at=now, expires_at=expires_at or session.expires_at)


def rotate(
    session_id: uuid.UUID, user_id: uuid.UUID, jti: str, *, ip_address: str | None = None
) -> Grant:
    """Change a refresh token for its successor.

    Raise RefreshTokenExpired or SessionRevoked. One caller wins the compare-and-swap; the others, and a
    client that lost the answer, get the same successor again inside the grace (RFC 9700 §4.14.2).
    """
    now = clock.now()
    new_jti = tokens.new_jti()
    row = database.row(
        _ROTATE,
        {
            "session_id": session_id,
            "owner_id": user_id,
            "presented": jti,
            "new_jti": new_jti,
            "now": now,
            "idle_until": now + IDLE_LIFETIME,
            "ip": ip_address,
        },
    )
    if row is None:
        return _converge_or_end(session_id, user_id, jti, now)
    events.record("refresh", user_id=user_id, session_id=session_id)
    return Grant(session_id, user_id, now, row.expires_at, new_jti)


def renew_cookie(session: Resumed) -> Grant:
    """Give a browser session a new cookie secret; the old one is worth nothing from now on."""
    cookie_secret = secrets.token_urlsafe(32)
    database.run(
        _RENEW_COOKIE,
        {"session_id": session.id, "new_digest": cookie_digest(cookie_secret)},
    )
    return Grant(
        session.id, session.account.id, clock.now(), session.expires_at, None, cookie_secret
    )


def active_for(user_id: uuid.UUID) -> Sequence[Row]:
    """Return the user's live sessions, last used first."""
    return database.rows(_LIST_ACTIVE, {"user_id": user_id, "now": clock.now()})


def recently_ended_for(user_id: uuid.UUID, *, limit: int = 50) -> Sequence[Row]:
    """Return what ended in the last 30 days, the latest first."""
    return database.rows(
        _RECENTLY_ENDED_FOR,
        {"user_id": user_id, "since": clock.now() - ENDED_ARE_SHOWN_FOR, "most": limit},
    )


def find_own(user_id: uuid.UUID, session_id: uuid.UUID) -> Row | None:
    """Return one live session of the user, or None."""
    return database.row(
        _FIND_OWN, {"user_id": user_id, "session_id": session_id, "now": clock.now()}
    )


def is_known_browser(user_id: uuid.UUID | None, device_id: str) -> bool:
    """Return whether a browser with this device cookie has signed in to the account on a page."""
    return database.row(_KNOWN_BROWSER, {"user_id": user_id, "device_id": device_id}) is not None


def rename(user_id: uuid.UUID, session_id: uuid.UUID, name: str | None) -> Row:
    """Give a live session the user's own name for it (None forgets it) and return the session.

    Raise SessionNotFound or, for somebody else's, Forbidden.
    """
    with database.transaction():
        key = {"owner_id": user_id, "session_id": session_id, "now": clock.now()}
        database.run(_RENAME, key | {"name": name})
        session = find_own(user_id, session_id)
    if session is None:
        _owned(user_id, session_id, "You can only rename your own sessions")
        raise SessionNotFound
    return session


def end(
    user_id: uuid.UUID, session_id: uuid.UUID, *, reason: str, ended_from: str | None = None
) -> str:
    """End one of the user's sessions and return its device's name; ending it again changes nothing.

    Raise SessionNotFound or, for somebody else's, Forbidden.
    """
    ended = _end_where(
        and_(UserSession.id == session_id, UserSession.user_id == user_id), reason, ended_from
    )
    if ended:
        events.record("session_ended", user_id=user_id, session_id=session_id, reason=reason)
        return str(ended[0].device_name)
    return _owned(user_id, session_id, "You can only revoke your own sessions")


def end_all(
    user_id: uuid.UUID,
    *,
    reason: str,
    keep: uuid.UUID | None = None,
    ended_from: str | None = None,
) -> int:
    """End all live sessions of the user, but for `keep`, and return how many."""
    condition = and_(UserSession.user_id == user_id, UserSession.expires_at > clock.now())
    if keep is not None:
        condition = and_(condition, UserSession.id != keep)
    ended = _end_where(condition, reason, ended_from)
    events.record("sessions_ended", user_id=user_id, reason=reason, count=len(ended))
    return len(ended)


def delete_own_dead(user_id: uuid.UUID) -> int:
    """Delete the user's expired and ended rows and return how many."""
    return database.run(
        delete(UserSession).where(
            UserSession.user_id == user_id,
            or_(UserSession.ended_at.is_not(None), UserSession.expires_at <= clock.now()),
        )
    )


def delete_dead(
    before: datetime, *, batch_size: int, is_dry_run: bool = False
) -> Iterator[tuple[int, int]]:
    """Delete every row that ended or expired before; yield (rows looked at, rows deleted) by batch.

    Each batch is a short transaction over a stretch of the primary key, which is ordered by the time of
    sign-in: the oldest go first, no index has to be kept for it, and what signed in after `before`, which
    cannot have died before it, is not even looked at. Rows that another run holds are skipped: it deletes
    them. A batch that takes long makes the next one smaller. `before` must not lie ahead, or nothing live is
    safe.
    """
    is_dead = or_(UserSession.ended_at < before, UserSession.expires_at < before)
    last, end = uuid.UUID(int=0), database.first_uuid7(before)
    size = min(batch_size, FIRST_BATCH)
    while stretch := database.row(_STRETCH, {"last": last, "end": end, "size": size}):
        began_at = time.monotonic()
        looked_at, upto = stretch.looked_at, stretch.id
        dead = select(UserSession.id).where(UserSession.id > last, UserSession.id <= upto, is_dead)
        if is_dry_run:
            found = database.row(select(func.count()).select_from(dead.subquery()))
            yield looked_at, found[0] if found else 0
        else:
            claimed = dead.order_by(UserSession.id).with_for_update(skip_locked=True)
            deleted = database.run(
                delete(UserSession).where(database.is_among(UserSession.id, claimed))
            )
            share = BATCH_SECONDS / (time.monotonic() - began_at)
            # At most twice as many as before: what took no time may have found nothing to delete.
            size = max(1, min(batch_size, int(size * min(share, 2))))
            yield looked_at, deleted
        last = upto


def count_before(before: datetime) -> int:
    """Return how many rows `delete_dead` will look at, for a progress bar."""
    older = UserSession.id < database.first_uuid7(before)
    found = database.row(select(func.count()).select_from(UserSession).where(older))
    return found[0] if found else 0


def statistics() -> dict[str, Any]:
    """Return counts: active, expired, ended by reason, active by device type."""
    now = clock.now()
    is_expired = UserSession.expires_at <= now
    state = case(
        (UserSession.ended_at.is_not(None), UserSession.end_reason),
        (is_expired, literal("expired")),
        else_=literal("active"),
    )
    by_state = _counts(select(state, func.count()).group_by(state))
    types = (
        select(UserSession.device_type, func.count())
        .where(UserSession.ended_at.is_(None), UserSession.expires_at > now)
        .group_by(UserSession.device_type)
    )
    by_type = _counts(types)
    active, expired = by_state.pop("active", 0), by_state.pop("expired", 0)
    return {
        "active": active,
        "expired": expired,
        "ended": dict(sorted(by_state.items())),
        "device_types": dict(sorted(by_type.items())),
    }


def _counts(statement: Select[str, int]) -> dict[str, int]:
    return {row[0]: row[1] for row in database.rows(statement)}


def cookie_digest(cookie_secret: str) -> bytes:
    """Return what the row holds of a cookie's secret: 256 random bits need no salt."""
    return hashlib.sha256(cookie_secret.encode(errors="surrogatepass")).digest()


def _describe(client: Client) -> devices.Device:
    device = devices.describe(client.user_agent, dict(client.hints))
    if client.device_name and device.browser is None:
        return device._replace(name=client.device_name[:MAX_DEVICE_NAME])
    return device


def _make_room(session: dict[str, Any], earlier: Row | None, now: datetime) -> None:
    """End the older session of the same device, and what is beyond the cap, least recently used first."""
    most: int = current_app.config["MAX_SESSIONS_PER_USER"]
    if earlier is None or not (earlier.of_device or earlier.live >= most):
        return
    if earlier.of_device:
        given = database.row(_GIVEN_NAME, session)
        if given is not None and given.given_name:
            database.run(_NAME, {"session_id": session["id"], "name": given.given_name})
        replaced = and_(
            UserSession.user_id == session["user_id"],
            UserSession.device_id == session["device_id"],
            UserSession.id != session["id"],
        )
        _end_where(replaced, "replaced", None)
    beyond = (
        select(UserSession.id)
        .where(
            UserSession.user_id == session["user_id"],
            UserSession.id != session["id"],
            UserSession.ended_at.is_(None),
            UserSession.expires_at > now,
        )
        .order_by(UserSession.last_used_at.desc(), UserSession.id.desc())
        .offset(most - 1)
        .limit(10_000)  # SQLite has no OFFSET without LIMIT
    )
    _end_where(UserSession.id.in_(beyond), "evicted", None)


def _resumed(row: Row | None) -> Resumed:
    if row is None:
        raise SessionRevoked
    account = Account._make(row[_SESSION_WIDTH : _SESSION_WIDTH + len(ACCOUNT_COLUMNS)])
    return Resumed._make((*row[:_SESSION_WIDTH], account))


def _converge_or_end(session_id: uuid.UUID, user_id: uuid.UUID, jti: str, now: datetime) -> Grant:
    """Answer a refresh token that is not the row's current one."""
    row = database.row(_LOOK_BACK, {"session_id": session_id, "owner_id": user_id})
    if row is None or row.ended_at is not None or not row.is_active or row.refresh_jti is None:
        raise SessionRevoked
    if row.expires_at <= now:
        raise RefreshTokenExpired
    grace = timedelta(seconds=current_app.config["REFRESH_GRACE_SECONDS"])
    # Were the successor already used, its own successor would be current and this jti two steps back.
    if grace and row.previous_jti == jti and now - row.rotated_at <= grace:
        return Grant(session_id, user_id, row.rotated_at, row.expires_at, row.refresh_jti)
    # The end is committed before the refusal is raised: raising inside would undo it.
    with database.transaction():
        ended = _end_where(UserSession.id == session_id, "reuse_detected", None)
        if ended:
            outbox.queue(emails.token_reuse(user_id, row.device_name, now))
    events.record("refresh_reuse", outcome="refused", user_id=user_id, session_id=session_id)
    raise SessionRevoked


def _end_where(condition: Any, reason: str, ended_from: str | None) -> Sequence[Row]:
    statement = (
        update(UserSession)
        .where(condition, UserSession.ended_at.is_(None))
        .values(ended_at=clock.now(), end_reason=reason, ended_from=ended_from)
        .returning(UserSession.id, _DEVICE_NAME)
    )
    return database.rows(statement)


def _owned(user_id: uuid.UUID, session_id: uuid.UUID, refusal: str) -> str:
    """Return the device's name of one's own session, live or not; raise for any other."""
    row = database.row(_OWNER, {"session_id": session_id})
    if row is None:
        raise SessionNotFound
    if row.user_id != user_id:
        events.record("forbidden", outcome="refused", user_id=user_id, session_id=session_id)
        raise Forbidden(refusal)
    return str(row.device_name)


# Statements of the hot paths are built once: composing one costs more than PostgreSQL needs to answer it.

_DEVICE_NAME = func.coalesce(UserSession.given_name, UserSession.device_name).label("device_name")
_NOW = bindparam("now", type_=UtcDateTime())
_SESSION_ID = bindparam("session_id", type_=Uuid())
_USER_ID = bindparam("user_id", type_=Uuid())
_OWNER_ID = bindparam("owner_id", type_=Uuid())  # in updates, where a column's name is taken
_IS_LIVE = and_(UserSession.ended_at.is_(None), UserSession.expires_at > _NOW)

_SESSION_COLUMNS = (
    UserSession.id,
    _DEVICE_NAME,
    UserSession.entrance,
    UserSession.is_remembered,
    UserSession.last_used_at,
    UserSession.expires_at,
    UserSession.absolute_expires_at,
)
_SESSION_WIDTH = len(_SESSION_COLUMNS)
_RESUME = (
    select(*_SESSION_COLUMNS, *ACCOUNT_COLUMNS)
    .join_from(UserSession, User, User.id == UserSession.user_id)
    .where(UserSession.id == _SESSION_ID, _IS_LIVE, User.is_active)
)
_RESUME_API = database.Prepared(
    _RESUME.where(UserSession.user_id == _USER_ID, UserSession.refresh_jti.is_not(None))
)
_RESUME_PAGE = database.Prepared(
    _RESUME.where(UserSession.cookie_digest == bindparam("cookie_digest"))
)

_TOUCH = (
    update(UserSession)
    .where(
        UserSession.id == _SESSION_ID,
        UserSession.ended_at.is_(None),
        UserSession.last_used_at < _NOW,
    )
    .values(
        last_used_at=_NOW,
        expires_at=func.coalesce(
            bindparam("new_expires_at", type_=UtcDateTime()), UserSession.expires_at
        ),
        ip_address=func.coalesce(bindparam("ip", type_=String()), UserSession.ip_address),
    )
)

_IDLE_UNTIL = bindparam("idle_until", type_=UtcDateTime())
_ROTATE = database.Prepared(
    update(UserSession)
    .where(
        UserSession.id == _SESSION_ID,
        UserSession.user_id == _OWNER_ID,
        UserSession.refresh_jti == bindparam("presented"),
        _IS_LIVE,
        exists().where(User.id == UserSession.user_id, User.is_active),
    )
    .values(
        previous_jti=UserSession.refresh_jti,
        refresh_jti=bindparam("new_jti"),
        rotated_at=_NOW,
        last_used_at=_NOW,
        expires_at=case(
            (UserSession.absolute_expires_at < _IDLE_UNTIL, UserSession.absolute_expires_at),
            else_=_IDLE_UNTIL,
        ),
        ip_address=func.coalesce(bindparam("ip"), UserSession.ip_address),
    )
    .returning(UserSession.expires_at)
)
_LOOK_BACK = (
    select(
        UserSession.refresh_jti,
        UserSession.previous_jti,
        UserSession.rotated_at,
        UserSession.expires_at,
        UserSession.ended_at,
        _DEVICE_NAME,
        User.is_active,
    )
    .join_from(UserSession, User, User.id == UserSession.user_id)
    .where(
        UserSession.id == _SESSION_ID,
        UserSession.user_id == _OWNER_ID,
    )
)
_RENEW_COOKIE = (
    update(UserSession)
    .where(UserSession.id == _SESSION_ID, UserSession.ended_at.is_(None))
    .values(cookie_digest=bindparam("new_digest"))
)

# The user's row is locked until the commit: a change of password waits for this sign-in and then ends its
# session, or comes first and the sign-in finds another password_changed_at. Sign-ins of one user also
# take turns, so the cap holds exactly.
_INSERTED = [
    column
    for column in UserSession.__table__.c
    if column.name not in {"previous_jti", "given_name", "ended_at", "end_reason", "ended_from"}
]
_INSERT = insert(UserSession).from_select(
    [column.name for column in _INSERTED],
    select(
        *(
            bindparam(column.name, type_=column.type) if column.name != "user_id" else User.id
            for column in _INSERTED
        )
    )
    .where(
        User.id == _USER_ID,
        User.is_active,
        User.password_changed_at == bindparam("seen_password_changed_at", type_=UtcDateTime()),
    )
    .with_for_update(key_share=True, of=User),
    include_defaults=False,
)
_IS_SAME_DEVICE = UserSession.device_id == bindparam("device_id")
_IS_SAME_KIND = and_(
    UserSession.browser.is_not_distinct_from(bindparam("browser")),
    UserSession.os.is_not_distinct_from(bindparam("os")),
    UserSession.device_name == bindparam("device_name"),
)
_IS_EARLIER = and_(UserSession.user_id == _USER_ID, UserSession.id != bindparam("id", type_=Uuid()))
# Only what is live is counted: a user may have ten thousand rows that are not.
_EARLIER = select(
    exists().where(_IS_EARLIER).label("any"),
    select(func.count()).where(_IS_EARLIER, _IS_LIVE).scalar_subquery().label("live"),
    exists().where(_IS_EARLIER, _IS_SAME_DEVICE).label("of_device"),
    exists().where(_IS_EARLIER, or_(_IS_SAME_DEVICE, _IS_SAME_KIND)).label("known"),
)
_GIVEN_NAME = (
    select(UserSession.given_name)
    .where(_IS_EARLIER, _IS_SAME_DEVICE)
    .order_by(UserSession.id.desc())
    .limit(1)
)
_NAME = (
    update(UserSession).where(UserSession.id == _SESSION_ID).values(given_name=bindparam("name"))
)
_RENAME = _NAME.where(UserSession.user_id == _OWNER_ID, _IS_LIVE)

_SHOWN_COLUMNS = (
    UserSession.id,
    _DEVICE_NAME,
    UserSession.given_name,
    UserSession.device_id,
    UserSession.ip_address,
    UserSession.location_city,
    UserSession.location_country,
    UserSession.last_used_at,
    UserSession.created_at,
    UserSession.expires_at,
    UserSession.browser,
    UserSession.os,
    UserSession.device_type,
    UserSession.entrance,
    UserSession.user_agent,
    UserSession.ended_at,
    UserSession.end_reason,
    UserSession.ended_from,
)
_LAST_USED_FIRST = (UserSession.last_used_at.desc(), UserSession.id.desc())
_ACTIVE_FOR = (
    select(*_SHOWN_COLUMNS)
    .where(UserSession.user_id == _USER_ID, _IS_LIVE)
    .order_by(*_LAST_USED_FIRST)
)
_KNOWN_BROWSER = (
    select(UserSession.id)
    .where(
        UserSession.user_id == _USER_ID,
        UserSession.device_id == bindparam("device_id"),
        UserSession.entrance == "page",
    )
    .limit(1)
)
_LIST_ACTIVE = database.Prepared(_ACTIVE_FOR)
_RESUMED = {each.key for each in _SESSION_COLUMNS}
_RESUME_API_WITH_ALL = database.Prepared(
    select(
        *_SESSION_COLUMNS,
        *(each.label(f"account_{each.key}") for each in ACCOUNT_COLUMNS),
        *(each for each in _SHOWN_COLUMNS if each.key not in _RESUMED),
        UserSession.refresh_jti.is_not(None).label("has_tokens"),
    )
    .join_from(UserSession, User, User.id == UserSession.user_id)
    .where(UserSession.user_id == _USER_ID, _IS_LIVE, User.is_active)
    .order_by(*_LAST_USED_FIRST)
)
_FIND_OWN = _ACTIVE_FOR.where(UserSession.id == _SESSION_ID)
_RECENTLY_ENDED_FOR = (
    select(*_SHOWN_COLUMNS)
    .where(
        UserSession.user_id == _USER_ID,
        UserSession.ended_at > bindparam("since", type_=UtcDateTime()),
    )
    .order_by(UserSession.ended_at.desc())
    .limit(bindparam("most"))
)
_OWNER = select(UserSession.user_id, _DEVICE_NAME).where(UserSession.id == _SESSION_ID)

# The end is not asked for inside: of a range, PostgreSQL expects few rows in a table that it has not
# analysed yet, and would sort all of a million for each batch instead of walking the index.
_NEXT_IDS = (
    select(UserSession.id)
    .where(UserSession.id > bindparam("last", type_=Uuid()))
    .order_by(UserSession.id)
    .limit(bindparam("size"))
    .subquery()
)
_STRETCH = (
    select(func.count().over().label("looked_at"), _NEXT_IDS.c.id)
    .where(_NEXT_IDS.c.id < bindparam("end", type_=Uuid()))
    .order_by(_NEXT_IDS.c.id.desc())
    .limit(1)
)
