"""Moments in words."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import time_machine

from authsite.web import times

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=-5), "just now"),  # another machine's clock
        (timedelta(0), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(minutes=59, seconds=59), "59 minutes ago"),
        (timedelta(hours=1), "1 hour ago"),
        (timedelta(hours=23, minutes=59), "23 hours ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=29, hours=23), "29 days ago"),
        (timedelta(days=30), "26 October 2026, 12:00 UTC"),
    ],
)
def test_a_moment_is_told_by_its_age_for_thirty_days_and_then_by_its_date(age, text):
    with time_machine.travel(NOW, tick=False):
        assert times.ago(NOW - age) == text


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (timedelta(hours=7, minutes=4), "19:04 UTC today"),
        (timedelta(hours=23, minutes=59), "11:59 UTC tomorrow"),
        (timedelta(days=7), "2 December"),
    ],
)
def test_an_end_within_a_day_is_told_by_its_time_and_a_later_one_by_its_day(ahead, text):
    with time_machine.travel(NOW, tick=False):
        assert times.until(NOW + ahead) == text


@pytest.mark.parametrize(("year", "text"), [(2026, "1 November"), (2025, "1 November 2025")])
def test_a_day_has_its_year_unless_it_is_this_one(year, text):
    with time_machine.travel(NOW, tick=False):
        assert times.utc_day(datetime(year, 11, 1, tzinfo=UTC)) == text


def test_every_moment_is_told_in_utc():
    moment = datetime(2026, 11, 2, 1, 15, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert times.utc_datetime(moment) == "1 November 2026, 19:45 UTC"
    assert times.utc_date(moment) == "1 November"
    assert times.utc_time(moment) == "19:45 UTC"
    assert times.iso(moment) == "2026-11-01T19:45:00Z"
