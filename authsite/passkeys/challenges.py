"""What a passkey signs: random, stamped with the time, for one audience, and good once.

The audience is the cookie's CSRF value on the sign-in page, the pending sign-in, or the session: what was
shown to one browser is worth nothing in another. No row is written before an answer was accepted.
"""

from base64 import urlsafe_b64encode
from datetime import timedelta

from .. import clock
from ..crypto import tokens
from ..errors import PasskeyExpired, PasskeyInvalid
from ..second_steps import pending

LIFETIME = timedelta(minutes=10)
# A browser's list under the e-mail field waits for as long as the page is open, whatever timeout it was told.
LIFETIME_ON_A_PAGE = timedelta(minutes=60)
MAX_LENGTH = 128
_PURPOSE = "passkey challenge"


def new(audience: str) -> str:
    """Return a challenge for this audience in Base64url, as options carry it."""
    nonce = tokens.new_jti()
    stamp = tokens.stamp(_PURPOSE, f"{audience} {nonce}")
    return urlsafe_b64encode(f"{nonce} {stamp}".encode()).decode().rstrip("=")


def check(challenge: bytes, audience: str, *, lifetime: timedelta) -> None:
    """Raise PasskeyInvalid unless it is ours and of this audience, PasskeyExpired where it is too old."""
    if len(challenge) > MAX_LENGTH or not challenge.isascii():
        raise PasskeyInvalid
    nonce, _, stamp = challenge.decode().partition(" ")
    made_at = tokens.stamped_at(_PURPOSE, f"{audience} {nonce}", stamp)
    if made_at is None:
        raise PasskeyInvalid
    if made_at + lifetime <= clock.now():
        raise PasskeyExpired


def spend(challenge: bytes) -> None:
    """Use it up, in the transaction of what it was for; raise PasskeyInvalid if it was."""
    expires_at = clock.now() + LIFETIME_ON_A_PAGE
    if not pending.spend_once(_PURPOSE, challenge.decode(), expires_at=expires_at):
        raise PasskeyInvalid
