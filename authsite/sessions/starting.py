"""A sign-in becomes a row, or there is no sign-in."""

import secrets
import uuid
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flask import current_app
from sqlalchemy import (
    BindParameter,
    Boolean,
    String,
    Uuid,
    and_,
    bindparam,
    case,
    func,
    insert,
    not_,
    or_,
    select,
)

from .. import activity, clock, database, events
from ..clients import devices
from ..crypto import tokens
from ..database import Row, UtcDateTime
from ..database.models import (
    DISTRUSTED_ENDS,
    MAX_DEVICE_ID,
    MAX_DEVICE_NAME,
    MAX_USER_AGENT,
    Account,
    User,
    UserSession,
)
from ..errors import InvalidCredentials
from ..mail import emails, outbox
from .columns import (
    ABSOLUTE_LIFETIME,
    IDLE_LIFETIME,
    IDLE_LIFETIME_OF_BROWSER_SESSION,
    IS_LIVE,
    NAME,
    USER_ID,
    Grant,
)
from .ending import end_by, end_where, ending
from .resuming import cookie_digest

# For so long after it was made an account may have had no device yet.
SILENT_FOR = timedelta(days=1)


class Client(NamedTuple):
    """What a request tells of the device it came from; all of it is hearsay."""

    ip_address: str | None = None
    user_agent: str | None = None
    device_id: str | None = None
    device_name: str | None = None
    city: str | None = None
    country: str | None = None
    hints: tuple[tuple[str, str], ...] = ()


def start(
    account: Account,
    *,
    password_changed_at: datetime,
    client: Client,
    entrance: str,
    is_remembered: bool = True,
    signed_in_with: str = "password",
) -> Grant:
    """Sign a device in. Raise InvalidCredentials if the password has changed since it was verified.

    So it is for a password alone where the user has a second step: no entrance can forget to ask for it, and
    one that is turned on meanwhile counts. `signed_in_with` is one of WAYS_TO_SIGN_IN.

    The same device (by its id) takes over from its older session, the least recently used session
    beyond MAX_SESSIONS_PER_USER ends, and the owner is told of a device not seen before.
    """
    now = clock.now()
    device = describe(client)
    cookie_secret = secrets.token_urlsafe(32) if entrance == "page" else None
    jti = None if cookie_secret else tokens.new_jti()
    absolute = now + ABSOLUTE_LIFETIME
    idle = IDLE_LIFETIME if is_remembered else IDLE_LIFETIME_OF_BROWSER_SESSION
    session_id, expires_at = database.uuid7(now), min(now + idle, absolute)
    # A cookie that stood for the second step proves nothing.
    authenticated_at = None if signed_in_with == "password+trusted" else now
    session = {
        "id": session_id,
        "user_id": account.id,
        "entrance": entrance,
        "refresh_jti": jti,
        "cookie_digest": cookie_digest(cookie_secret) if cookie_secret else None,
        "rotated_at": now,
        "is_remembered": is_remembered,
        "signed_in_with": signed_in_with,
        "authenticated_at": authenticated_at if cookie_secret else None,
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
        guards = {
            "seen_password_changed_at": password_changed_at,
            "second_step_is_done": signed_in_with != "password",
        }
        if not database.run(_INSERT, session | guards):
            raise InvalidCredentials
        country = client.country and client.country[:100]
        by = activity.Actor(session_id, device.name, client.ip_address, country)
        activity.record("signed_in", account.id, by=by)
        earlier = database.row(_EARLIER, session | {"now": now, "is_page": entrance == "page"})
        assert earlier is not None
        _make_room(session, earlier, now)
        # The first device of an account is silent, unless the account is older than its rows.
        is_first = account.created_at > now - SILENT_FOR and not earlier.all
        if not is_first and not earlier.known:
            outbox.queue(emails.new_device(account.id, session))
    events.record("login", user_id=account.id, session_id=session_id, entrance=entrance)
    return Grant(session_id, account.id, now, expires_at, jti, cookie_secret, authenticated_at)


def is_known_browser(user_id: uuid.UUID | None, device_id: str) -> bool:
    """Return whether a browser with this device cookie has signed in to the account on a page."""
    return database.row(_KNOWN_BROWSER, {"user_id": user_id, "device_id": device_id}) is not None


def describe(client: Client) -> devices.Device:
    """Return what a person would call the device, and what it is."""
    device = devices.describe(client.user_agent, dict(client.hints))
    if client.device_name and device.browser is None:
        return device._replace(name=client.device_name[:MAX_DEVICE_NAME])
    return device


def _make_room(session: dict[str, Any], earlier: Row, now: datetime) -> None:
    """End the older session of the same device, and what is beyond the cap, least recently used first."""
    if earlier.given_name:
        key = {"session_id": session["id"], "owner_id": session["user_id"]}
        database.run(NAME, key | {"name": earlier.given_name})
    if earlier.open:
        end_by(
            _END_OPEN,
            session["user_id"],
            "replaced",
            None,
            successor_id=session["id"],
            same_device_id=session["device_id"],
            is_page=session["entrance"] == "page",
        )
    most: int = current_app.config["MAX_SESSIONS_PER_USER"]
    if earlier.live >= most:
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
        end_where(session["user_id"], UserSession.id.in_(beyond), "evicted", None)


# The user's row is locked until the commit: a change of password waits for this sign-in and then ends its
# session, or comes first and the sign-in finds another password_changed_at. Sign-ins of one user also
# take turns, so the cap holds exactly.
_INSERTED = [
    column
    for column in UserSession.__table__.c
    if column.name
    not in {
        "previous_jti",
        "unused_rotation_at",
        "given_name",
        "bound_key",
        "bound_at",
        "key_proved_at",
        "unproven_at",
        "products",
        "ended_at",
        "end_reason",
        "ended_from",
    }
]
_INSERT = database.Prepared(
    insert(UserSession).from_select(
        [column.name for column in _INSERTED],
        select(
            *(
                bindparam(column.name, type_=column.type) if column.name != "user_id" else User.id
                for column in _INSERTED
            )
        )
        .where(
            User.id == USER_ID,
            User.is_active,
            User.password_changed_at == bindparam("seen_password_changed_at", type_=UtcDateTime()),
            or_(User.two_step_since.is_(None), bindparam("second_step_is_done", type_=Boolean())),
        )
        .with_for_update(key_share=True, of=User),
        include_defaults=False,
    )
)
_IS_PAGE: BindParameter[bool] = bindparam("is_page", type_=Boolean())
# A browser is known by its cookie, a client of the API by the id that it gives: neither passes for the other.
_IS_SAME_ENTRANCE = case((UserSession.entrance == "page", _IS_PAGE), else_=not_(_IS_PAGE))
_IS_SAME_DEVICE = and_(UserSession.device_id == bindparam("device_id"), _IS_SAME_ENTRANCE)
_IS_SAME_KIND = and_(
    UserSession.browser.is_not_distinct_from(bindparam("browser")),
    UserSession.os.is_not_distinct_from(bindparam("os")),
)
_WAS_NOT_THROWN_OUT = or_(
    UserSession.end_reason.is_(None),
    and_(*(UserSession.end_reason != each for each in DISTRUSTED_ENDS)),
)
_IS_EARLIER = and_(UserSession.user_id == USER_ID, UserSession.id != bindparam("id", type_=Uuid()))
# Who only knows the id must not pass for "Mum's laptop".
_GIVEN_NAME = (
    select(UserSession.given_name)
    .where(_IS_EARLIER, _IS_SAME_DEVICE, _IS_SAME_KIND)
    .order_by(UserSession.id.desc())
    .limit(1)
)
_OF_DEVICE = func.count().filter(_IS_SAME_DEVICE)
# One look at the user's rows, of which there may be ten thousand; a second one only for a device's name.
_EARLIER = database.Prepared(
    select(
        func.count().label("all"),
        func.count().filter(IS_LIVE).label("live"),
        func.count().filter(_IS_SAME_DEVICE, UserSession.ended_at.is_(None)).label("open"),
        func.count().filter(_IS_SAME_DEVICE, _WAS_NOT_THROWN_OUT).label("known"),
        case((_OF_DEVICE > 0, _GIVEN_NAME.scalar_subquery())).label("given_name"),
    ).where(_IS_EARLIER)
)
_END_OPEN = database.Prepared(
    ending(
        and_(
            UserSession.id != bindparam("successor_id", type_=Uuid()),
            UserSession.device_id == bindparam("same_device_id", type_=String()),
            _IS_SAME_ENTRANCE,
        )
    )
)
_KNOWN_BROWSER = (
    select(UserSession.id)
    .where(
        UserSession.user_id == USER_ID,
        UserSession.device_id == bindparam("device_id"),
        UserSession.entrance == "page",
        _WAS_NOT_THROWN_OUT,
    )
    .limit(1)
)
