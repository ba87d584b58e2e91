"""What a product behind us gets to hold: a cookie of its own origin, and for each request a signed assertion.

Both are derived from the session's row and good for nothing without it: the row is read each time, so a
device that is signed out is out of every product at its next request. Nothing here is kept in a table.
"""

import hashlib
import hmac
import uuid
from datetime import timedelta
from functools import lru_cache
from typing import NamedTuple

import orjson
from flask import current_app

from . import clock, sessions
from .crypto import tokens
from .errors import SessionRevoked

CODE_LIFETIME = timedelta(seconds=60)
ASSERTION_LIFETIME = timedelta(seconds=60)
_COOKIE, _CODE = "app cookie", "handoff"


class Handoff(NamedTuple):
    """What leads a browser from the account to one product, once and soon."""

    user_id: uuid.UUID
    session_id: uuid.UUID
    proof: str
    origin: str
    challenge: str
    next: str
    is_remembered: bool
    expires_at: int  # of the session, in seconds since 1970


def begin(
    session: sessions.Resumed, cookie_secret: str, *, origin: str, challenge: str, next_path: str
) -> str:
    """Return the code that the product's host changes for its cookie, within a minute.

    `challenge` is the SHA-256 of a nonce that this browser holds there: a stolen code is worth nothing.
    """
    proof = _proof(sessions.cookie_digest(cookie_secret), origin)
    facts = Handoff(
        session.account.id,
        session.id,
        proof,
        origin,
        challenge,
        next_path,
        session.is_remembered,
        int(session.expires_at.timestamp()),
    )
    return tokens.sign(_CODE, orjson.dumps(list(facts)).decode())


def complete(code: str, *, origin: str, nonce: str) -> Handoff | None:
    """Return what a code says, None for one that is not for this origin and this browser."""
    text = (
        tokens.unsign(_CODE, code, max_age=CODE_LIFETIME) if len(code) <= tokens.MAX_TOKEN else None
    )
    if text is None:
        return None
    user_id, session_id, *others = orjson.loads(text)
    found = Handoff(uuid.UUID(user_id), uuid.UUID(session_id), *others)
    challenge = hashlib.sha256(nonce.encode(errors="surrogatepass")).hexdigest()
    is_ours = found.origin == origin and hmac.compare_digest(found.challenge, challenge)
    return found if is_ours else None


def cookie(handoff: Handoff) -> str:
    """Return the value of the product's cookie: whose session, and a proof for this origin alone."""
    return tokens.sign(_COOKIE, f"{handoff.user_id}.{handoff.session_id}.{handoff.proof}")


def resume(value: str, *, origin: str) -> sessions.Resumed:
    """Return the live session of a product's cookie; raise SessionRevoked for any other.

    What we have not signed costs no statement. After a change of password the proof is another one's.
    """
    text = (
        tokens.unsign(_COOKIE, value, max_age=sessions.ABSOLUTE_LIFETIME)
        if len(value) <= tokens.MAX_TOKEN
        else None
    )
    if text is None:
        raise SessionRevoked
    user_id, session_id, proof = text.split(".")
    session, digest = sessions.resume_product(uuid.UUID(session_id), uuid.UUID(user_id))
    if not hmac.compare_digest(proof, _proof(digest, origin)):
        raise SessionRevoked
    return session


def assertion(session: sessions.Resumed, origin: str) -> str:
    """Return a JWT that tells this product, and no other, whose request it is; good for a minute."""
    account, now = session.account, int(clock.now().timestamp())
    secret: str = current_app.config["SECRET_KEY"]
    header, key = _assertion_header(secret, origin)
    claims = {
        "iss": current_app.config["PUBLIC_BASE_URL"],
        "aud": origin,
        "sub": str(account.id),
        "sid": str(session.id),
        "email": account.email,
        "name": " ".join(each for each in (account.first_name, account.last_name) if each),
        "iat": now,
        "exp": now + int(ASSERTION_LIFETIME.total_seconds()),
    }
    return tokens.signed_jwt(header, claims, key)


@lru_cache(maxsize=64)
def _assertion_header(secret: str, origin: str) -> tuple[str, bytes]:
    """Return the encoded header of a product's assertions, and their key."""
    kid = hashlib.sha256(tokens.derived_key(secret, "kid")).hexdigest()[:16]
    key = assertion_key(origin).encode()
    return tokens.encoded_header(key, kid=kid), key


def assertion_key(origin: str) -> str:
    """Return the text whose ASCII bytes are the key of one product's assertions (HMAC-SHA256)."""
    return tokens.derived_key(current_app.config["SECRET_KEY"], f"assertion {origin}").hex()


def _proof(cookie_digest: bytes, origin: str) -> str:
    """Return what ties a product's cookie to the account's cookie of the moment, and to one origin.

    A plain digest: the cookie's signature is what nobody else can make, and goes on after a rotation of the
    secret (SECRET_KEY_FALLBACKS), where a key of its own would not.
    """
    return hashlib.sha256(cookie_digest + origin.encode()).hexdigest()
