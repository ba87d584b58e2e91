"""A browser's session is bound to a key which never leaves that computer (Device Bound Session Credentials).

A browser that knows how is asked to at its sign-in. From then on its cookie counts for ten minutes at a
time, each begun by a proof of the key: a copy of its cookies is worth nothing after that.
"""

from datetime import datetime, timedelta

from sqlalchemy import LargeBinary, bindparam, or_, select, update

from .. import activity, clock, database, events
from ..crypto import proofs, tokens
from ..database import UtcDateTime
from ..database.models import UserSession
from ..errors import ProofRefused
from ..mail import emails, outbox
from .columns import IS_LIVE, IS_OWN, NOW, Grant
from .resuming import Resumed

PROOF_LIFETIME = timedelta(minutes=10)
# Of a cookie, beyond its end: a request that was on its way, and clocks that differ.
LEEWAY = timedelta(seconds=60)
# Between the binding and the first such cookie a page may be asked for already.
SETTLING = timedelta(seconds=30)
TOLD_AGAIN_AFTER = timedelta(days=1)
CHALLENGE_LIFETIME = timedelta(minutes=5)
_TO_BIND = "challenge to bind a session"
_TO_PROVE = "challenge to prove a key"
_PROVEN = "proven session"


def challenge_to_bind(session: Grant) -> str:
    """Return what a browser signs to bind the session that it has just got."""
    return tokens.stamp(_TO_BIND, session.session_id.hex)


def challenge_to_prove(session: Resumed) -> str:
    """Return what a browser signs to prove the session's key, once."""
    return tokens.stamp(_TO_PROVE, session.id.hex)


def bind(session: Resumed, proof: str) -> str:
    """Bind a session to the key of a proof, once and for good, and return the first cookie to go with it.

    Raise ProofRefused for a proof that is none, or if the session is bound already.
    """
    said, signed_at = _read(session, proof, None, _TO_BIND)
    key = {"session_id": session.id, "owner_id": session.account.id, "now": clock.now()}
    if not database.run(_BIND, key | {"key": said.key, "signed_at": signed_at}):
        raise _refused(session)
    events.record("session_bound", user_id=session.account.id, session_id=session.id)
    return tokens.stamp(_PROVEN, session.id.hex)


def prove(session: Resumed, proof: str) -> str:
    """Return the cookie for the next ten minutes of a bound session, for a proof of its key.

    A challenge counts once: the row keeps when the last that counted was made, and only later ones count.
    Raise ProofRefused.
    """
    key = {"session_id": session.id, "owner_id": session.account.id, "now": clock.now()}
    row = database.row(_KEY, key)
    if row is None:
        raise _refused(session)
    _, signed_at = _read(session, proof, bytes(row.bound_key), _TO_PROVE)
    if not database.run(_PROVE, key | {"signed_at": signed_at}):
        raise _refused(session)
    return tokens.stamp(_PROVEN, session.id.hex)


def is_proven(session: Resumed, cookie: str) -> bool:
    """Return whether this cookie is of the last ten minutes, or the session was bound just now, or never."""
    if session.bound_at is None or _is_within(SETTLING, session.bound_at):
        return True
    proved_at = tokens.stamped_at(_PROVEN, session.id.hex, cookie)
    return proved_at is not None and _is_within(PROOF_LIFETIME + LEEWAY, proved_at)


def unbind(session: Resumed) -> None:
    """Forget the key of a session whose user has just proved who they are: it may be bound anew."""
    database.run(_UNBIND, {"session_id": session.id, "owner_id": session.account.id})
    events.record("session_unbound", user_id=session.account.id, session_id=session.id)


def note_unproven(session: Resumed) -> None:
    """Note that a bound session's cookie came without a proof of its key, and tell its owner once a day.

    It may be a copy, or their own browser that has lost the key: nothing is ended by it.
    """
    user_id, now = session.account.id, clock.now()
    events.record("key_not_proven", outcome="refused", user_id=user_id, session_id=session.id)
    key = {"session_id": session.id, "owner_id": user_id, "now": now}
    with database.transaction():
        if not database.run(_NOTE_UNPROVEN, key | {"since": now - TOLD_AGAIN_AFTER}):
            return
        by = activity.actor(user_id)
        activity.record("key_not_proven", user_id, by=by, target=session.device_name)
        outbox.queue(
            emails.key_not_proven(
                user_id,
                bound_name=session.device_name,
                used_at=now,
                device_name=by.device_name,
                ip_address=by.ip_address,
            )
        )


def _read(
    session: Resumed, text: str, key: bytes | None, purpose: str
) -> tuple[proofs.Proof, datetime]:
    """Return a proof of this session and when its challenge was made; raise ProofRefused for any other."""
    try:
        proof = proofs.read(text, key)
    except proofs.InvalidProof:
        raise _refused(session) from None
    made_at = tokens.stamped_at(purpose, session.id.hex, proof.challenge)
    if made_at is None or not _is_within(CHALLENGE_LIFETIME, made_at):
        raise _refused(session)
    return proof, made_at


def _is_within(lifetime: timedelta, made_at: datetime) -> bool:
    """Return whether what was made then is good now; another machine's clock may be ahead a little."""
    return -LEEWAY <= clock.now() - made_at <= lifetime


def _refused(session: Resumed) -> ProofRefused:
    events.record(
        "proof_refused",
        outcome="refused",
        user_id=session.account.id,
        session_id=session.id,
    )
    return ProofRefused()


_SIGNED_AT = bindparam("signed_at", type_=UtcDateTime())
_BIND = (
    update(UserSession)
    .where(IS_OWN, IS_LIVE, UserSession.cookie_digest.is_not(None), UserSession.bound_key.is_(None))
    .values(bound_key=bindparam("key", type_=LargeBinary()), bound_at=NOW, key_proved_at=_SIGNED_AT)
)
_KEY = select(UserSession.bound_key).where(IS_OWN, IS_LIVE, UserSession.bound_key.is_not(None))
_UNBIND = (
    update(UserSession).where(IS_OWN).values(bound_key=None, bound_at=None, key_proved_at=None)
)
_NOTE_UNPROVEN = (
    update(UserSession)
    .where(
        IS_OWN,
        IS_LIVE,
        or_(
            UserSession.unproven_at.is_(None),
            UserSession.unproven_at < bindparam("since", type_=UtcDateTime()),
        ),
    )
    .values(unproven_at=NOW)
)
_PROVE = (
    update(UserSession)
    .where(
        IS_OWN,
        IS_LIVE,
        or_(UserSession.key_proved_at.is_(None), UserSession.key_proved_at < _SIGNED_AT),
    )
    .values(key_proved_at=_SIGNED_AT)
)
