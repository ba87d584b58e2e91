"""Proofs of a browser's key: what its Secure-Session-Response holds (Device Bound Session Credentials §9.9).

A JWT of one kind: ES256, its key in the header when a session is bound to it, known from then on. Nothing
here knows a session: a proof only says which challenge was signed, and with which key.
"""

import re
from base64 import urlsafe_b64decode
from typing import Any, NamedTuple

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

MAX_PROOF = 2048  # Chromium's have 420 characters
KEY_BYTES = 64
_HALF = KEY_BYTES // 2
# Bare, as Chromium writes it, or a string of RFC 9651, as the draft says.
_PROOF = re.compile(r'(?P<quote>"?)(?P<jwt>[\w-]+\.[\w-]+\.[\w-]+)(?P=quote)', re.ASCII)


class InvalidProof(ValueError):
    """Not a proof, or not one by this key."""


class Proof(NamedTuple):
    """Which challenge was signed, and the key (the coordinates of its point, 32 bytes each)."""

    challenge: str
    key: bytes


def read(text: str, key: bytes | None = None) -> Proof:
    """Return what a proof says, once its signature is right: by `key`, or without one by its own.

    Raise InvalidProof for any other.
    """
    found = _PROOF.fullmatch(text) if len(text) <= MAX_PROOF else None
    if found is None:
        raise InvalidProof
    signed, _, signature = found["jwt"].rpartition(".")
    header, claims = (_members(part) for part in signed.split("."))
    if header.get("typ") != "dbsc+jwt" or header.get("alg") != "ES256":
        raise InvalidProof
    challenge, key = claims.get("jti"), key or _own_key(header)
    if not isinstance(challenge, str):
        raise InvalidProof
    _verify(key, signed.encode(), _bytes(signature))
    return Proof(challenge, key)


def _own_key(header: dict[str, Any]) -> bytes:
    """Return the key that a proof brings along (RFC 7518 §6.2.1)."""
    jwk = header.get("jwk")
    if not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != ("EC", "P-256"):
        raise InvalidProof
    halves = [_bytes(jwk.get(name)) for name in ("x", "y")]
    if any(len(half) != _HALF for half in halves):
        raise InvalidProof
    return b"".join(halves)


def _verify(key: bytes, signed: bytes, signature: bytes) -> None:
    """Raise InvalidProof unless the signature (RFC 7518 §3.4: r and s, 32 bytes each) is by this key."""
    if len(signature) != KEY_BYTES:
        raise InvalidProof
    r_and_s = (int.from_bytes(each) for each in (signature[:_HALF], signature[_HALF:]))
    try:
        # Refuses what is no point of the curve.
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key)
        public.verify(encode_dss_signature(*r_and_s), signed, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        raise InvalidProof from None


def _members(part: str) -> dict[str, Any]:
    try:
        members = orjson.loads(_bytes(part))
    except ValueError:
        raise InvalidProof from None
    if not isinstance(members, dict):
        raise InvalidProof
    return members


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise InvalidProof
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise InvalidProof from None
