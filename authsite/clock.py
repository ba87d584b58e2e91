"""The only reader of the wall clock, so that tests move time in one place."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the present moment, aware and in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: object) -> str:
    """Return "2026-11-23T18:04:00.000000Z"; raise TypeError for what is no datetime.

    Its microseconds also where they happen to be none: times of one form sort as text.
    """
    if not isinstance(moment, datetime):
        raise TypeError("not a moment")
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
