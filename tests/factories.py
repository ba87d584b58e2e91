"""Rows as the verbs would have left them, for tests that start in the middle of a story."""

import hashlib
import json
import uuid
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Any

import pyotp
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from sqlalchemy import insert, update

from authsite import accounts, clock, database, second_steps, sessions
from authsite.crypto import tokens
from authsite.database.models import Account, User, UserSession

PASSWORD = "three random words"
NEW_PASSWORD = "another four quiet words"


def account(email: str = "ada@example.com", *, password: str = PASSWORD, **details: Any) -> Account:
    """Register an account and return it."""
    return accounts.register(
        email=email, password=password, first_name=details.pop("first_name", "Ada"), **details
    ).account


def grant(
    owner: Account, *, password: str = PASSWORD, entrance: str = "api", **client: Any
) -> sessions.Grant:
    """Sign a device of this account in and return what its client gets to hold."""
    authenticated = accounts.authenticate(owner.email, password)
    return sessions.start(
        authenticated.account,
        password_changed_at=authenticated.password_changed_at,
        client=sessions.Client(**client),
        entrance=entrance,
    )


def refresh_token(held: sessions.Grant) -> str:
    assert held.jti is not None
    return tokens.refresh_token(
        user_id=held.user_id,
        session_id=held.session_id,
        jti=held.jti,
        issued_at=held.issued_at,
        expires_at=held.expires_at,
    )


def access_token(held: sessions.Grant) -> str:
    return tokens.access_token(
        user_id=held.user_id, session_id=held.session_id, issued_at=clock.now()
    )


def fresh_access_token(held: sessions.Grant) -> str:
    """Return the access token of the sign-in itself, with which who it is has just been proved."""
    return tokens.access_token(
        user_id=held.user_id,
        session_id=held.session_id,
        issued_at=held.issued_at,
        authenticated_at=held.authenticated_at,
    )


def session_rows(
    owner: Account,
    count: int = 1,
    *,
    age: timedelta = timedelta(0),
    ended: timedelta | None = None,
    lifetime: timedelta = sessions.IDLE_LIFETIME,
    **columns: Any,
) -> list[dict[str, Any]]:
    """Write sessions that began `age` ago and, with `ended`, ended that long ago; return them."""
    now = clock.now()
    created_at = now - age
    rows = [
        {
            "id": database.uuid7(created_at),
            "user_id": owner.id,
            "entrance": "api",
            "refresh_jti": tokens.new_jti(),
            "rotated_at": created_at,
            "device_name": "curl",
            "browser": "curl",
            "device_type": "cli",
            "created_at": created_at,
            "last_used_at": created_at,
            "expires_at": created_at + lifetime,
            "absolute_expires_at": created_at + sessions.ABSOLUTE_LIFETIME,
            "ended_at": None if ended is None else now - ended,
            "end_reason": None if ended is None else "revoked",
            **columns,
        }
        for _ in range(count)
    ]
    with database.transaction():
        database.run(insert(UserSession), rows)
    return rows


def live_session(user_id: uuid.UUID) -> uuid.UUID:
    """Return the id of a session of the user's, for a verb that asks in which it is asked."""
    (row,) = session_rows(accounts.find_by_id(user_id))
    return row["id"]


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class Phone:
    """An authenticator app: it knows the secret, and the time."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self._totp = pyotp.TOTP(secret)

    def code(self, offset: int = 0) -> str:
        return self._totp.generate_otp(second_steps.codes.step_at(clock.now()) + offset)


def turn_on(owner: Account) -> tuple[Phone, list[str]]:
    """Turn two-step sign-in on half a minute ago, and return the user's phone and recovery codes."""
    held = grant(owner)
    setup = second_steps.apps.begin(owner, held.session_id)
    phone = Phone(setup.secret)
    made = second_steps.apps.confirm(
        owner, held.session_id, setup_token=setup.setup_token, code=phone.code(-1)
    )
    assert made.recovery_codes is not None
    since = clock.now() - second_steps.codes.STEP
    database.run(update(User).where(User.id == owner.id).values(two_step_since=since))
    return phone, made.recovery_codes


class BrowserKey:
    """The key of a browser that knows device-bound sessions, and the proofs that it makes."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, str]:
        point = self._private.public_key().public_numbers()
        halves = {"x": point.x.to_bytes(32), "y": point.y.to_bytes(32)}
        return {"kty": "EC", "crv": "P-256"} | {name: _b64(half) for name, half in halves.items()}

    def proof(self, challenge: str, *, is_first: bool = False, **header: Any) -> str:
        """Return the proof as Chromium writes it: with its key in it only when a session is bound."""
        header = (
            {"alg": "ES256", "typ": "dbsc+jwt"} | ({"jwk": self.jwk} if is_first else {}) | header
        )
        return self.signed(header, {"jti": challenge})

    def signed(self, header: Any, claims: Any) -> str:
        text = ".".join(_b64(json.dumps(each).encode()) for each in (header, claims))
        r_and_s = decode_dss_signature(self._private.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_b64(b''.join(each.to_bytes(32) for each in r_and_s))}"


def _b64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
