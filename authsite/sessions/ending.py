"""One session ends, or all of a user's: at once, and with its reason."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import String, Uuid, and_, bindparam, delete, not_, or_, select, true, update
from sqlalchemy.sql.dml import ReturningUpdate

from .. import activity, clock, database, events, webhooks
from ..database import Row
from ..database.models import DISTRUSTED_ENDS, EmailChange, User, UserSession
from ..errors import Forbidden, SessionNotFound
from ..mail import emails, outbox
from .columns import DEVICE_NAME, IS_OWN, NOW, OWNER_ID, SESSION_ID
from .trusted import distrust_all, distrust_device

# Ends that are acts of their own; the others belong to one that is told by itself.
BY_ITSELF = ("logged_out", "revoked")


def end(
    user_id: uuid.UUID, session_id: uuid.UUID, *, reason: str, ended_from: str | None = None
) -> str:
    """End one of the user's sessions and return its device's name; ending it again changes nothing.

    Raise SessionNotFound or, for somebody else's, Forbidden.
    """
    with database.transaction():
        ended = end_where(user_id, UserSession.id == session_id, reason, ended_from)
        if ended:
            _record_end(user_id, session_id, str(ended[0].device_name), reason, ended_from)
        if ended and reason in DISTRUSTED_ENDS and ended[0].device_id:
            distrust_device(user_id, ended[0].device_id)
    if ended:
        events.record("session_ended", user_id=user_id, session_id=session_id, reason=reason)
        return str(ended[0].device_name)
    return owned(user_id, session_id, "You can only revoke your own sessions")


def disown(user_id: uuid.UUID, session_id: uuid.UUID) -> None:
    """End a session that was not its owner's, and whatever the same device has signed in since.

    What has ended is marked too: a browser that has once been a stranger's is not known by an older row.
    A row that has been cleared away changes nothing.
    """
    of = {"owner_id": user_id, "session_id": session_id}
    with database.transaction():
        named = database.row(_DEVICE_OF, of)
        if named is None:
            return
        is_disowned = UserSession.id == session_id
        if named.device_id:
            is_page = UserSession.entrance == "page"
            is_alike = is_page if named.entrance == "page" else not_(is_page)
            is_disowned = or_(is_disowned, and_(UserSession.device_id == named.device_id, is_alike))
            distrust_device(user_id, named.device_id)
        ended = end_where(user_id, is_disowned, "not_me", None)
        was_trusted = UserSession.end_reason.not_in(DISTRUSTED_ENDS)
        marked = update(UserSession).where(UserSession.user_id == user_id, is_disowned, was_trusted)
        database.run(marked.values(end_reason="not_me"))
    for each in ended:
        events.record("session_ended", user_id=user_id, session_id=each.id, reason="not_me")


def end_all(
    user_id: uuid.UUID,
    *,
    reason: str,
    keep: uuid.UUID | None = None,
    ended_from: str | None = None,
) -> int:
    """End all live sessions of the user, but for `keep`, and return how many.

    From then on every browser is asked for the second step again, the one of `keep` too. A change of address
    that waits stays only if `keep` asked for it: a session that is over by now may have asked before.
    """
    is_other = true() if keep is None else UserSession.id != keep
    condition = and_(UserSession.expires_at > clock.now(), is_other)
    with database.transaction():
        database.row(_LOCK_USER, {"owner_id": user_id})
        ended = _end(ending(condition), user_id, reason, ended_from)
        end_email_change(user_id, but_of=keep)
        distrust_all(user_id)
        if ended and reason in BY_ITSELF:
            activity.record("devices_signed_out", user_id, target=_devices(len(ended)))
    events.record("sessions_ended", user_id=user_id, reason=reason, count=len(ended))
    return len(ended)


def end_everywhere(
    user_id: uuid.UUID,
    session_id: uuid.UUID,
    *,
    reason: str,
    device_name: str,
    ip_address: str | None,
    keeps_own: bool,
) -> int:
    """End all sessions of the user from this one, mail it to the owner, and return how many ended.

    Whoever holds a stolen session can do it too: the owner hears of it where the thief cannot.
    """
    keep = session_id if keeps_own else None
    with database.transaction():
        ended = end_all(user_id, reason=reason, keep=keep, ended_from=device_name)
        others = ended if keeps_own else ended - 1
        if others > 0:
            outbox.queue(
                emails.signed_out(
                    user_id,
                    count=others,
                    has_kept_own=keeps_own,
                    session_id=session_id,
                    device_name=device_name,
                    ip_address=ip_address,
                    ended_at=clock.now(),
                )
            )
    return ended


def _devices(count: int) -> str:
    return f"{count} device{'' if count == 1 else 's'}"


def delete_own_dead(user_id: uuid.UUID) -> int:
    """Delete the user's expired and ended rows and return how many."""
    return database.run(
        delete(UserSession).where(
            UserSession.user_id == user_id,
            or_(UserSession.ended_at.is_not(None), UserSession.expires_at <= clock.now()),
        )
    )


def _record_end(
    user_id: uuid.UUID,
    session_id: uuid.UUID,
    device_name: str,
    reason: str,
    ended_from: str | None,
) -> None:
    """Write that a device has signed out, or was signed out; one that was replaced is not news."""
    if reason not in BY_ITSELF:
        return
    if reason == "logged_out" and ended_from is None:
        by = activity.actor(user_id)._replace(session_id=session_id, device_name=device_name)
        activity.record("signed_out", user_id, by=by)
    else:
        activity.record("device_signed_out", user_id, target=device_name)


def end_where(
    user_id: uuid.UUID, condition: Any, reason: str, ended_from: str | None
) -> Sequence[Row]:
    """End those of the user's sessions that meet the condition and return their ids and names.

    In the caller's transaction.
    """
    return end_by(ending(condition), user_id, reason, ended_from)


def ending(condition: Any) -> ReturningUpdate[*tuple[Any, ...]]:
    """Return the statement for `end_by` that ends those of a user's sessions that meet the condition."""
    return (
        update(UserSession)
        .where(UserSession.user_id == OWNER_ID, condition, UserSession.ended_at.is_(None))
        .values(
            ended_at=NOW,
            end_reason=bindparam("reason", type_=String()),
            ended_from=bindparam("from", type_=String()),
        )
        .returning(UserSession.id, DEVICE_NAME, UserSession.device_id)
    )


def end_by(
    statement: ReturningUpdate[*tuple[Any, ...]] | database.Prepared,
    user_id: uuid.UUID,
    reason: str,
    ended_from: str | None,
    **values: Any,
) -> Sequence[Row]:
    """End sessions by a statement of `ending`, with the values that its condition names.

    What a session asked for that was taken from its holder goes with it: a change of address that waits. Who
    signs out, or is signed out for want of room, goes on with it. In the caller's transaction.
    """
    ended = _end(statement, user_id, reason, ended_from, **values)
    if ended and reason in DISTRUSTED_ENDS:
        asked = {"owner_id": user_id, "now": clock.now(), "ids": [each.id for each in ended]}
        database.run(_END_CHANGE_OF, asked)
    return ended


def end_email_change(user_id: uuid.UUID, *, but_of: uuid.UUID | None = None) -> bool:
    """Make the link worthless that waits to change the user's address; return whether there was one.

    One that the session `but_of` asked for stays.
    """
    key = {"owner_id": user_id, "now": clock.now()}
    if but_of is None:
        return database.run(_END_CHANGE, key) > 0
    return database.run(_END_CHANGE_BUT_OF, key | {"but_of": but_of}) > 0


def _end(
    statement: ReturningUpdate[*tuple[Any, ...]] | database.Prepared,
    user_id: uuid.UUID,
    reason: str,
    ended_from: str | None,
    **values: Any,
) -> Sequence[Row]:
    """The one place where sessions end, and so where products are told of it."""
    by = {"owner_id": user_id, "now": clock.now(), "reason": reason, "from": ended_from}
    ended = database.rows(statement, by | values)
    webhooks.session_ended(user_id, [each.id for each in ended], reason)
    return ended


def owned(user_id: uuid.UUID, session_id: uuid.UUID, refusal: str) -> str:
    """Return the device's name of one's own session, live or not; raise for any other."""
    own = database.row(_OWN_NAME, {"session_id": session_id, "owner_id": user_id})
    if own is not None:
        return str(own.device_name)
    if find_owner(session_id) is None:
        raise SessionNotFound
    events.record("forbidden", outcome="refused", user_id=user_id, session_id=session_id)
    raise Forbidden(refusal)


def find_owner(session_id: uuid.UUID) -> uuid.UUID | None:
    """Return whose session it is, live or not; None for an unknown one."""
    row = database.row(_OWNER, {"session_id": session_id})
    return None if row is None else row.user_id


# Rows are locked in this order, here and everywhere: the user's, those of sessions, that of the change. Who
# takes one session only may leave out the first.
_LOCK_USER = select(User.id).where(User.id == OWNER_ID).with_for_update(key_share=True)
_END_CHANGE = (
    update(EmailChange)
    .where(
        EmailChange.user_id == OWNER_ID,
        EmailChange.confirmed_at.is_(None),
        EmailChange.ended_at.is_(None),
    )
    .values(ended_at=NOW)
)
_END_CHANGE_OF = _END_CHANGE.where(EmailChange.session_id.in_(bindparam("ids", expanding=True)))
_END_CHANGE_BUT_OF = _END_CHANGE.where(
    EmailChange.session_id.is_distinct_from(bindparam("but_of", type_=Uuid()))
)
_DEVICE_OF = select(UserSession.device_id, UserSession.entrance).where(IS_OWN)
_OWN_NAME = select(DEVICE_NAME).where(IS_OWN)
_OWNER = select(UserSession.user_id).where(UserSession.id == SESSION_ID)
