"""Signed things that leave the service: access and refresh tokens, and the links in mails.

Each purpose has an audience and a key of its own (HKDF, RFC 5869), so none passes for another; every
secret of SECRET_KEY_FALLBACKS still verifies. Nothing here reads the database: a token only names a row.
"""

import hashlib
import hmac
import re
import secrets
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jwt
import orjson
from flask import current_app
from itsdangerous import BadSignature, URLSafeTimedSerializer

from .. import clock
from ..errors import RefreshTokenExpired, RefreshTokenInvalid, TokenExpired, TokenInvalid

ISSUER = "authsite"
ALGORITHM = "HS256"
ACCESS_LIFETIME = timedelta(minutes=15)
LEEWAY_SECONDS = 10
# A machine of ours whose clock is ahead: the signature is ours, and such a token ends no later.
EARLY_SECONDS = 60
MAX_TOKEN = 4096
_SIGNED = re.compile(r"(?P<dot>\.?)(?P<rest>[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?)")
_STAMP = re.compile(r"(?P<at>[0-9]{16})\.(?P<mac>[A-Za-z0-9_-]{43})")


class Purpose(NamedTuple):
    """What a token is for: its audience, which is also the label of its key, and its `typ`."""

    audience: str
    typ: str
    expired: type[TokenExpired]
    invalid: type[TokenInvalid]


ACCESS = Purpose("authsite:access", "at+jwt", TokenExpired, TokenInvalid)
REFRESH = Purpose("authsite:refresh", "rt+jwt", RefreshTokenExpired, RefreshTokenInvalid)


class Claims(NamedTuple):
    """What a token says; its times in seconds since 1970, as they stand in it.

    `auth_time` (RFC 9068 §2.2.1) is when the user proved who they are to get this very token, if they did:
    to the microsecond (RFC 7519 §2 allows fractions), for it is compared with when a second step was set up.
    """

    user_id: uuid.UUID
    session_id: uuid.UUID
    jti: str
    issued_at: int
    expires_at: int
    auth_time: float | None = None


def access_token(
    *,
    user_id: uuid.UUID,
    session_id: uuid.UUID,
    issued_at: datetime,
    authenticated_at: datetime | None = None,
) -> str:
    """Return an access token (RFC 9068 `typ`) that is good for 15 minutes while its session lives."""
    seconds = _seconds(issued_at), _seconds(issued_at + ACCESS_LIFETIME)
    auth_time = authenticated_at.timestamp() if authenticated_at else None
    return _encode(ACCESS, Claims(user_id, session_id, new_jti(), *seconds, auth_time))


def refresh_token(
    *,
    user_id: uuid.UUID,
    session_id: uuid.UUID,
    jti: str,
    issued_at: datetime,
    expires_at: datetime,
) -> str:
    """Return the refresh token that names the session's current `jti`."""
    seconds = _seconds(issued_at), _seconds(expires_at)
    return _encode(REFRESH, Claims(user_id, session_id, jti, *seconds))


def read(token: str, purpose: Purpose, *, even_expired: bool = False) -> Claims:
    """Return the claims of a token of this purpose; raise its TokenExpired or TokenInvalid."""
    # The first part must be, to the letter, a header that we write: `alg`, `crit`, `jku` or `kid` of
    # anybody else's making is never even parsed (RFC 8725 §3.1, §3.10).
    key = _keys_by_header(purpose, _secrets()).get(token.partition(".")[0])
    if key is None or len(token) > MAX_TOKEN:
        raise purpose.invalid()
    try:
        claims = _verify(token, key)
        now = clock.now().timestamp()
        if (
            (claims["iss"], claims["aud"]) != (ISSUER, purpose.audience)
            or max(claims["iat"], claims.get("nbf", 0)) > now + EARLY_SECONDS
            or type(claims["exp"]) is not int
        ):
            raise purpose.invalid()
        found = Claims(
            uuid.UUID(claims["sub"]),
            uuid.UUID(claims["sid"]),
            _text(claims["jti"]),
            claims["iat"],
            claims["exp"],
            claims.get("auth_time"),
        )
        return found if even_expired else unexpired(found, purpose)
    # Not signed by us; or by us, who would never have written it.
    except (ValueError, LookupError, TypeError, AttributeError):
        raise purpose.invalid() from None


def unexpired(claims: Claims, purpose: Purpose) -> Claims:
    """Return the claims that a token of this purpose made; raise its TokenExpired where its time is over."""
    if claims.expires_at <= clock.now().timestamp() - LEEWAY_SECONDS:
        raise purpose.expired()
    return claims


def new_jti() -> str:
    """Return a token id of 128 random bits (ASVS 7.2.3), 22 characters."""
    return secrets.token_urlsafe(16)


def sign(purpose: str, value: str) -> str:
    """Return `value`, signed for one purpose and stamped with the time, safe in a URL."""
    return _serializer(purpose, _secrets()).dumps(value)


def unsign(purpose: str, text: str, *, max_age: timedelta) -> str | None:
    """Return the value that was signed for this purpose at most `max_age` ago, or None.

    What sticks to a link when it is copied out of a mail, a full stop or a bracket, is no part of it.
    """
    found = _SIGNED.search(text)
    seconds = int(max_age.total_seconds())
    # A dot before it says that the value was compressed, or is punctuation.
    spellings = (found["dot"] + found["rest"], found["rest"]) if found else ()
    for each in dict.fromkeys(spellings):
        try:
            value = _serializer(purpose, _secrets()).loads(each, max_age=seconds)
        except (BadSignature, ValueError):
            continue
        return value if isinstance(value, str) else None
    return None


def stamp(purpose: str, subject: str) -> str:
    """Return now, in microseconds since 1970, signed for one purpose and one subject, which is not in it.

    Of fewer parts than what `sign` returns, and so read for a third of the time.
    """
    now = str(round(clock.now().timestamp() * 1_000_000))
    return f"{now}.{_mac(current_app.config['SECRET_KEY'], purpose, subject, now)}"


def stamped_at(purpose: str, subject: str, text: str) -> datetime | None:
    """Return when a stamp of this purpose and subject was made, None where it is no such stamp."""
    found = _STAMP.fullmatch(text)
    if found is None:
        return None
    for secret in _secrets():
        expected = _mac(secret, purpose, subject, found["at"])
        if hmac.compare_digest(expected, found["mac"]):
            return datetime.fromtimestamp(int(found["at"]) / 1_000_000, UTC)
    return None


def reset_link(user_id: uuid.UUID, reset_id: str) -> str:
    """Return what a reset link carries: whose request for a new password it is, and which."""
    return sign("reset", f"{user_id.hex}.{reset_id}")


def read_reset_link(text: str, *, max_age: timedelta) -> tuple[uuid.UUID | None, str] | None:
    """Return the user and the id of the request that a link names, or None.

    Without a user it is a link of the release that named only the request.
    """
    value = unsign("reset", text, max_age=max_age)
    if value is None:
        return None
    user_id, dot, reset_id = value.rpartition(".")
    return (uuid.UUID(user_id) if dot else None), reset_id


def keyed_digest(purpose: str, value: str) -> bytes:
    """Return 32 bytes that stand for `value` and cannot be computed without the secret."""
    key = derived_key(current_app.config["SECRET_KEY"], purpose)
    return hmac.digest(key, value.encode(errors="surrogatepass"), "sha256")


def _mac(secret: str, purpose: str, subject: str, at: str) -> str:
    digest = hmac.digest(derived_key(secret, purpose), f"{subject} {at}".encode(), "sha256")
    return urlsafe_b64encode(digest).decode().rstrip("=")


@lru_cache(maxsize=64)
def derived_key(secret: str, purpose: str) -> bytes:
    """Return the 32-byte key of one purpose (HKDF-SHA256, RFC 5869, one block, no salt)."""
    extracted = hmac.digest(bytes(hashlib.sha256().digest_size), secret.encode(), "sha256")
    return hmac.digest(extracted, f"authsite {purpose}".encode() + b"\x01", "sha256")


def _verify(token: str, key: bytes) -> dict[str, Any]:
    """Return the claims of a token in compact form whose HMAC-SHA256 is right (RFC 7515 §5.2).

    Raise ValueError or TypeError for any other. What PyJWT checks beyond it concerns the header, which
    `read` has compared to the letter, and the spelling of the signature, which is compared as it is spelled:
    measured, 11 µs instead of 61 on every request.
    """
    signed, _, signature = token.rpartition(".")
    expected = _base64url(hmac.digest(key, signed.encode("ascii"), "sha256"))
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise ValueError("the signature is not ours")
    claims = orjson.loads(urlsafe_b64decode(signed.partition(".")[2] + "=="))
    return cast("dict[str, Any]", claims)


def _encode(purpose: Purpose, claims: Claims) -> str:
    header, key = next(iter(_keys_by_header(purpose, _secrets()).items()))
    proof = {} if claims.auth_time is None else {"auth_time": claims.auth_time}
    return signed_jwt(
        header,
        {
            "iss": ISSUER,
            "aud": purpose.audience,
            "sub": str(claims.user_id),
            "sid": str(claims.session_id),
            "jti": claims.jti,
            "iat": claims.issued_at,
            "exp": claims.expires_at,
            **proof,
        },
        key,
    )


def signed_jwt(header: str, claims: Mapping[str, Any], key: bytes) -> str:
    """Return a JWT in compact form (RFC 7515 §7.1) under a header of `encoded_header`.

    Measured, 10 µs instead of the 50 that PyJWT takes, which a rotation would pay twice.
    """
    signed = f"{header}.{_base64url(orjson.dumps(claims))}"
    return f"{signed}.{_base64url(hmac.digest(key, signed.encode(), 'sha256'))}"


def encoded_header(key: bytes, **members: str) -> str:
    """Return the first part of a JWT, with `alg` and `typ`."""
    return jwt.encode({}, key, algorithm=ALGORITHM, headers=members).partition(".")[0]


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _header(purpose: Purpose, secret: str) -> dict[str, str]:
    return {"typ": purpose.typ, "kid": hashlib.sha256(derived_key(secret, "kid")).hexdigest()[:16]}


@lru_cache(maxsize=16)
def _keys_by_header(purpose: Purpose, all_secrets: tuple[str, ...]) -> Mapping[str, bytes]:
    """Return each secret's key, the newest first, under the encoded header of the tokens that it signs."""
    keys = {}
    for secret in all_secrets:
        key = derived_key(secret, purpose.audience)
        keys[encoded_header(key, **_header(purpose, secret))] = key
    return keys


@lru_cache(maxsize=16)
def _serializer(purpose: str, all_secrets: tuple[str, ...]) -> URLSafeTimedSerializer:
    # The newest key comes last: it signs, all verify.
    keys = [derived_key(secret, purpose) for secret in reversed(all_secrets)]
    return URLSafeTimedSerializer(
        keys,
        salt=purpose,
        signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
    )


def _secrets() -> tuple[str, ...]:
    config = current_app.config
    return (config["SECRET_KEY"], *config["SECRET_KEY_FALLBACKS"])


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a jti is text")
    return value
