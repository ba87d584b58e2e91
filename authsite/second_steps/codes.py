"""The two kinds of code: six digits of an app (RFC 6238), and recovery codes on paper."""

import hashlib
import hmac
import secrets
import uuid
from datetime import datetime, timedelta

import pyotp

STEP = timedelta(seconds=30)
DIGITS = 6
SECRET_BYTES = 20
# RFC 6238 §5.2 recommends one step of delay; the clock may be off by one the other way as well.
ACCEPTED = (-1, 0, 1)
# A clock that is off by minutes is told while an app is set up; at a sign-in it would tell of codes to come.
FAR_OFF = [*range(-10, -1), *range(2, 11)]
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
LENGTH, GROUP = 24, 6
_TYPED = str.maketrans({"o": "0", "i": "1", "l": "1"})


def step_at(moment: datetime) -> int:
    """Return the number of the half minute, counted from 1970."""
    return int(moment.timestamp()) // int(STEP.total_seconds())


def matching_step(secret: str, code: str, moment: datetime) -> int | None:
    """Return the latest accepted step that has this code, or None."""
    now = step_at(moment)
    offset = _matching_offset(secret, code, now, ACCEPTED)
    return None if offset is None else now + offset


def clock_offset(secret: str, code: str, moment: datetime) -> timedelta | None:
    """Return by how much the clock that showed this code is wrong, if by at most five minutes."""
    offset = _matching_offset(secret, code, step_at(moment), FAR_OFF)
    return None if offset is None else STEP * offset


def _matching_offset(
    secret: str, code: str, now: int, offsets: list[int] | tuple[int, ...]
) -> int | None:
    app = pyotp.TOTP(secret)
    found = None
    for offset in offsets:
        # Each is compared, whichever matches: the time tells nothing.
        if hmac.compare_digest(app.generate_otp(now + offset), code):
            found = offset
    return found


def app_code(typed: str) -> str | None:
    """Return the six digits that were typed, spaces left out, or None. Only ASCII digits count."""
    code = "".join(typed.split()) if len(typed) <= 32 else ""
    return code if len(code) == DIGITS and code.isascii() and code.isdigit() else None


def new_recovery_code() -> str:
    """Return 24 characters of Crockford's base 32 in four groups: 120 random bits."""
    code = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    return "-".join(code[start : start + GROUP] for start in range(0, LENGTH, GROUP))


def recovery_code(typed: str) -> str | None:
    """Return the code that was typed as it was made, or None. Case, spaces, hyphens do not count."""
    if len(typed) > 128:
        return None
    code = "".join(typed.lower().split()).replace("-", "").translate(_TYPED)
    return code if len(code) == LENGTH and set(code) <= set(ALPHABET) else None


def recovery_digest(user_id: uuid.UUID, code: str) -> bytes:
    """Return what is kept of a recovery code in the spelling of `recovery_code`."""
    return hashlib.sha256(user_id.bytes + code.encode()).digest()
