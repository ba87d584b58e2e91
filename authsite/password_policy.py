"""What a new password must be: one policy for register, reset, change, pages, API and commands.

Length and a list of common passwords, nothing about kinds of characters (NIST SP 800-63B-4 §3.1.1.2,
ASVS 6.2.1-6.2.12). The list comes with the zxcvbn package; its scoring is not used.
"""

import re
import unicodedata
from functools import lru_cache

from flask import current_app

from .errors import WeakPassword

MAX_LENGTH = 128


def require_strong(password: str, *, email: str | None = None, field: str = "password") -> None:
    """Raise WeakPassword with the reason unless the password may be used for this address."""
    if len(password) <= 8 * MAX_LENGTH:  # beyond, only the time is long that normalising takes
        password = unicodedata.normalize("NFC", password)
    min_length: int = current_app.config["PASSWORD_MIN_LENGTH"]
    if not password:
        raise WeakPassword("Enter a password", field=field)
    if _NO_TEXT.search(password):
        raise WeakPassword("This holds a character that cannot be used", field=field)
    if len(password) < min_length:
        raise WeakPassword(f"Password must be at least {min_length} characters", field=field)
    if len(password) > MAX_LENGTH:
        raise WeakPassword(f"Password must be {MAX_LENGTH} characters or fewer", field=field)
    if _repeats_a_name(password.casefold(), email or ""):
        raise WeakPassword(
            "Password must not be your email address or the name of this site", field=field
        )
    if password.casefold() in common_passwords() or len(set(password)) == 1:
        raise WeakPassword(
            "This password is on a list of commonly used passwords. Choose a different one",
            field=field,
        )


# NUL ends a text in many a C library, and half of a surrogate pair has no bytes to hash.
_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")


@lru_cache(maxsize=1)
def common_passwords() -> frozenset[str]:
    """Return the 30,000 most common passwords, case-folded."""
    # 13 MB that a process need not hold before somebody chooses a password.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(each.casefold() for each in FREQUENCY_LISTS["passwords"])


def _repeats_a_name(password: str, email: str) -> bool:
    """Return whether the whole password is a context word, once or several times over."""
    words = {email.casefold(), email.partition("@")[0].casefold()}
    site = current_app.config["SITE_NAME"].casefold()
    words |= {site, site.replace(" ", ""), "authsite"}
    return any(password == word * (len(password) // len(word)) for word in words if word)
