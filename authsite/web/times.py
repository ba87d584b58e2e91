"""Moments in words, for pages and mails: always in UTC, and relative where that says more."""

from datetime import UTC, datetime, timedelta

from flask import Flask

from .. import clock

RELATIVE_FOR = timedelta(days=30)
UNITS = (
    (timedelta(days=1), "day"),
    (timedelta(hours=1), "hour"),
    (timedelta(minutes=1), "minute"),
)


def init_app(app: Flask) -> None:
    for to_text in (ago, iso, utc_date, utc_datetime, utc_day, utc_full_date, utc_time, until):
        app.add_template_filter(to_text)


def ago(moment: datetime) -> str:
    """Return "just now" or "3 hours ago", and the date and time from 30 days on."""
    age = clock.now() - moment
    if age >= RELATIVE_FOR:
        return utc_datetime(moment)
    for unit, name in UNITS:
        if age >= unit:
            count = age // unit
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "just now"


def until(moment: datetime) -> str:
    """Return the day, or within a day of it the time: "2 December", "19:04 UTC tomorrow"."""
    now = clock.now()
    if moment - now >= timedelta(days=1):
        return utc_date(moment)
    is_today = moment.astimezone(UTC).date() == now.date()
    return f"{utc_time(moment)} {'today' if is_today else 'tomorrow'}"


def iso(moment: datetime) -> str:
    """Return what the `datetime` attribute of a `<time>` holds: "2026-11-23T18:04:00Z"."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def utc_datetime(moment: datetime) -> str:
    """Return "2 November 2026, 09:15 UTC"."""
    moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B %Y}, {utc_time(moment)}"


def utc_date(moment: datetime) -> str:
    """Return "2 December"."""
    moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B}"


def utc_day(moment: datetime) -> str:
    """Return "3 May", with the year unless it is this one."""
    moment = moment.astimezone(UTC)
    return utc_date(moment) + ("" if moment.year == clock.now().year else f" {moment.year}")


def utc_full_date(moment: datetime) -> str:
    """Return "2 December 2026"."""
    moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B %Y}"


def utc_time(moment: datetime) -> str:
    """Return "19:04 UTC"."""
    return f"{moment.astimezone(UTC):%H:%M} UTC"
