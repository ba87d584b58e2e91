"""Services of ours that may ask about tokens: named in the settings, each by the SHA-256 of its secret.

There is no table: two entries of one name let a secret be changed for the next.
"""

import hashlib
import hmac
import secrets

from flask import current_app

from . import events
from .errors import InvalidClient


def authenticate(name: str, secret: str) -> str:
    """Return the name of the service whose secret this is, or raise InvalidClient."""
    if not is_secret_of(name, secret):
        events.record("service_client", outcome="failure")
        raise InvalidClient
    return name


def is_secret_of(name: str, secret: str) -> bool:
    """Return whether the secret is the service's.

    An unknown name takes as long as a wrong secret: every entry is compared either way.
    """
    given = digest(secret)
    is_right = False
    for known, expected in current_app.config["SERVICE_CLIENTS"]:
        is_right |= hmac.compare_digest(given, expected) & (known == name)
    return is_right


def new_secret() -> str:
    """Return a secret of 256 random bits, 43 characters."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """Return what the settings hold of a secret: 256 random bits need neither salt nor work."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
