"""What must be readable again, sealed with AES-256-GCM: a copy of the database opens nothing.

Each purpose has a key of its own (HKDF, as for tokens). What is sealed names the secret whose key sealed it,
so that it opens as long as that secret is SECRET_KEY or stands in SECRET_KEY_FALLBACKS.
"""

import hashlib
import secrets
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flask import current_app

from .tokens import derived_key

VERSION = b"\x01"
KEY_ID_BYTES = 8
NONCE_BYTES = 12
_HEAD = len(VERSION) + KEY_ID_BYTES


class Unreadable(Exception):
    """No secret that is set can open it, or it was sealed for something else."""


class Opened(NamedTuple):
    content: bytes
    is_outdated: bool  # sealed by a secret of the fallbacks: seal it anew


def seal(purpose: str, content: bytes, *, belongs_to: bytes) -> bytes:
    """Return version 1 ‖ key id 8 ‖ nonce 12 ‖ ciphertext ‖ tag 16: 37 bytes more than the content.

    It opens only for the same purpose and the same `belongs_to`: moved to another row it does not.
    """
    secret: str = current_app.config["SECRET_KEY"]
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = AESGCM(derived_key(secret, purpose)).encrypt(nonce, content, belongs_to)
    return VERSION + _key_id(secret) + nonce + sealed


def open_(purpose: str, sealed: bytes, *, belongs_to: bytes) -> Opened:
    """Return what was sealed, or raise Unreadable."""
    config = current_app.config
    key_id, nonce = sealed[len(VERSION) : _HEAD], sealed[_HEAD : _HEAD + NONCE_BYTES]
    for secret in (config["SECRET_KEY"], *config["SECRET_KEY_FALLBACKS"]):
        if sealed[: len(VERSION)] != VERSION or _key_id(secret) != key_id:
            continue
        key = AESGCM(derived_key(secret, purpose))
        try:
            content = key.decrypt(nonce, sealed[_HEAD + NONCE_BYTES :], belongs_to)
        except (InvalidTag, ValueError):
            raise Unreadable from None
        return Opened(content, secret != config["SECRET_KEY"])
    raise Unreadable


def _key_id(secret: str) -> bytes:
    """Return what names a secret without telling anything of it; tokens call it `kid`."""
    return hashlib.sha256(derived_key(secret, "kid")).digest()[:KEY_ID_BYTES]
