"""A passkey is used: to sign in alone, to finish a sign-in, to confirm who it is.

The signature is judged before the transaction; in it the row is moved on from what was seen, so one that was
removed or used meanwhile is refused, and a fault undoes all: no challenge is spent without what it was for.
"""

import uuid
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Uuid, bindparam, select, update

from .. import accounts, clock, database, events, second_steps, sessions, throttling
from ..database import Row
from ..database.models import ACCOUNT_COLUMNS, Account, Passkey, User
from ..errors import (
    PasskeyExpired,
    PasskeyInvalid,
    PasskeySignInExpired,
    SecondStepRequired,
    UnknownPasskey,
)
from . import ceremonies, challenges, listing

SIGN_IN, SECOND_STEP, CONFIRM = "sign in", "second step", "confirm"


class Proof(NamedTuple):
    """A signature that was right, and what of the passkey changes by it."""

    challenge: bytes
    passkey: Row
    changes: dict[str, Any]


def sign_in_options(audience: str) -> dict[str, Any]:
    """Return what any passkey of this site may answer to sign in; nothing is read or written.

    Raise PasskeysUnavailable.
    """
    return ceremonies.request_options((), audience=f"{SIGN_IN} {audience}")


def options_of(user_id: uuid.UUID, *, purpose: str, subject: str) -> dict[str, Any]:
    """Return what one of the user's passkeys may answer, for a pending sign-in or a session.

    Raise PasskeysUnavailable.
    """
    return ceremonies.request_options(listing.of(user_id), audience=f"{purpose} {subject}")


def offer(required: SecondStepRequired) -> SecondStepRequired:
    """Return the refusal with what a passkey may answer to it, where the user has one."""
    if "webauthn" in required.methods:
        waiting = second_steps.pending.read(required.mfa_token, is_page=False)
        how = {"purpose": SECOND_STEP, "subject": waiting.jti}
        required.passkey_options = options_of(waiting.user_id, **how)
    return required


def sign_in(
    credential: str,
    *,
    audience: str,
    client: sessions.Client,
    entrance: str,
    is_remembered: bool = True,
) -> sessions.Grant:
    """Sign a device in by a passkey alone: whose it is, it says itself.

    Raise InvalidInput for what cannot be read, UnknownPasskey for one that is not known, removed or did not
    sign this, PasskeySignInExpired, and after a good signature InactiveAccount or EmailNotVerified.
    """
    ceremonies.rp_id()
    is_api = entrance != "page"
    assertion = ceremonies.read_assertion(credential)
    lifetime = challenges.LIFETIME if is_api else challenges.LIFETIME_ON_A_PAGE
    passkey = _find(assertion.user_handle, assertion.credential_id)
    if passkey is None:
        events.record("passkey_login", outcome="failure")
        raise UnknownPasskey(credential_id=ceremonies.encoded(assertion.credential_id))
    try:
        proof = _prove(assertion, passkey, f"{SIGN_IN} {audience}", lifetime, is_api=is_api)
        grant = _start(proof, client=client, entrance=entrance, is_remembered=is_remembered)
    except PasskeyExpired:
        raise PasskeySignInExpired from None
    except PasskeyInvalid:
        events.record("passkey_login", outcome="failure", user_id=passkey.user_id)
        raise UnknownPasskey from None
    facts = {"user_id": grant.user_id, "session_id": grant.session_id, "passkey_id": passkey.id}
    events.record("passkey_login", **facts)
    return grant


def complete(
    waiting: second_steps.pending.Pending,
    credential: str,
    *,
    client: sessions.Client,
    is_trusted: bool = False,
) -> second_steps.SignedIn:
    """Finish the sign-in of whose password was right; raise InvalidInput, PasskeyInvalid, MfaTokenInvalid."""
    proof = _prove_own(
        waiting.user_id,
        credential,
        f"{SECOND_STEP} {waiting.jti}",
        is_api=waiting.entrance != "page",
    )
    signed_in = second_steps.complete(
        waiting, lambda _: _spend(proof), client=client, is_trusted=is_trusted
    )
    throttling.forget_second_step(waiting.user_id)
    return signed_in


def confirm(session: sessions.Resumed, credential: str) -> None:
    """Prove again who uses a session; raise InvalidInput, PasskeyInvalid or SessionRevoked."""
    user_id, is_api = session.account.id, session.entrance != "page"
    proof = _prove_own(user_id, credential, f"{CONFIRM} {session.id}", is_api=is_api)
    with database.transaction():
        second_steps.switch.lock(user_id, asked_in=session.id)
        _spend(proof)
    throttling.forget_second_step(user_id)


def _prove_own(user_id: uuid.UUID, credential: str, audience: str, *, is_api: bool) -> Proof:
    ceremonies.rp_id()
    assertion = ceremonies.read_assertion(credential)
    passkey = _find(user_id.bytes, assertion.credential_id)
    try:
        if passkey is None:
            raise PasskeyInvalid
        return _prove(assertion, passkey, audience, challenges.LIFETIME, is_api=is_api)
    except PasskeyInvalid:
        events.record("second_step", outcome="failure", user_id=user_id, way="passkey")
        raise


def _prove(
    assertion: ceremonies.Assertion,
    passkey: Row,
    audience: str,
    lifetime: timedelta,
    *,
    is_api: bool,
) -> Proof:
    challenges.check(assertion.challenge, audience, lifetime=lifetime)
    changes = ceremonies.verify_assertion(assertion, passkey, is_api=is_api)
    return Proof(assertion.challenge, passkey, changes)


def _spend(proof: Proof) -> str:
    """Move the passkey on and use the challenge up; for a transaction that has locked the user's row.

    Return how the user has signed in by it after a password. Raise PasskeyInvalid for a passkey that was
    removed, or has counted on, since it was read.
    """
    passkey = proof.passkey
    key = {"owner_id": passkey.user_id, "passkey_id": passkey.id, "seen": passkey.sign_count}
    if database.run(_USE, key | proof.changes | {"now": clock.now()}) != 1:
        raise PasskeyInvalid
    challenges.spend(proof.challenge)
    return "password+passkey"


def _start(
    proof: Proof, *, client: sessions.Client, entrance: str, is_remembered: bool
) -> sessions.Grant:
    with database.transaction():
        user = database.row(_LOCK, {"owner_id": proof.passkey.user_id})
        if user is None:
            raise PasskeyInvalid
        account = Account._make(user[: len(ACCOUNT_COLUMNS)])
        if account.is_active and not accounts.has_to_verify(account):
            _spend(proof)
            return sessions.start(
                account,
                password_changed_at=user.password_changed_at,
                client=client,
                entrance=entrance,
                is_remembered=is_remembered,
                signed_in_with="passkey",
            )
    # The link is mailed outside: what raises in a transaction undoes it.
    accounts.require_welcome(account, delete_after=user.delete_after)
    raise PasskeyInvalid  # confirmed in this very moment: the next try is let in


def _find(user_handle: bytes | None, credential_id: bytes) -> Row | None:
    """Return the passkey of this user, None where there is none."""
    if user_handle is None or len(user_handle) != 16:
        return None
    return database.row(_FIND, {"owner_id": uuid.UUID(bytes=user_handle), "named": credential_id})


_OWNER: BindParameter[uuid.UUID] = bindparam("owner_id", type_=Uuid())
_FIND = select(*Passkey.__table__.c).where(
    Passkey.user_id == _OWNER, Passkey.credential_id == bindparam("named")
)
_LOCK = (
    select(*ACCOUNT_COLUMNS, User.password_changed_at, User.delete_after)
    .where(User.id == _OWNER)
    .with_for_update(key_share=True)
)
_USE = (
    update(Passkey)
    .where(
        Passkey.user_id == _OWNER,
        Passkey.id == bindparam("passkey_id", type_=Uuid()),
        Passkey.sign_count == bindparam("seen"),
    )
    .values(
        sign_count=bindparam("count"),
        is_backed_up=bindparam("backed_up"),
        last_used_at=bindparam("now"),
    )
)
