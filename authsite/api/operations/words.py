"""Words and examples that several operations share."""

PASSWORD = "three random words"  # noqa: S105
NEW_PASSWORD = "another four quiet words"  # noqa: S105
LOCKOUT = (
    "Ten wrong passwords for one address within 15 minutes, by whatever way they came, and no more are"
    " tried until that time is over or the password has been reset: 429, for the right one too."
)
