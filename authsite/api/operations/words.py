"""Words and examples that several operations share."""

PASSWORD = "three random words"  # noqa: S105
NEW_PASSWORD = "another four quiet words"  # noqa: S105
LOCKOUT = (
    "Ten wrong passwords for one address within 15 minutes, by whatever way they came, and no more are"
    " tried until that time is over or the password has been reset: 429, for the right one too."
)
SECOND_STEP = (
    "An account with two-step sign-in gets 403 `mfa_required` for the right password, and no token: ask for a"
    " code and send it with `mfa_token` to `POST /api/v1/auth/login/second-step` within ten minutes."
)
CODE_LOCKOUT = (
    "Five wrong codes for one account within 15 minutes, and no more are tried until that time is over: 429,"
    " for the right one too."
)
