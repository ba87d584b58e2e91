"""What has to be done once a day and by nobody in particular: what is over is deleted.

A chore goes by short batches, so that whoever does it can turn to something else in between. Any number of
processes may do the same one: each skips the rows that another holds. Nothing depends on its having been
done.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from flask import current_app

from . import (
    accounts,
    activity,
    clock,
    database,
    deletions,
    email_changes,
    events,
    passwords,
    registrations,
    sessions,
    throttling,
)
from .database import faults
from .mail import quotas
from .second_steps import pending

KEEP = timedelta(days=30)
ADOPT_FROM = timedelta(days=30)
# Not at once: a process that dies soon after its start, and is started again, shall not do it each time.
FIRST_AFTER_SECONDS = (180, 600)
EVERY = timedelta(days=1)
AFTER_A_FAULT = timedelta(hours=1)


class Chore(NamedTuple):
    """A name, and what deletes everything that was over before a moment, one short batch at each step."""

    name: str
    batches: Callable[[datetime], Iterator[int]]


class Rota:
    """When the chores of this process are due, and how far the present run has come."""

    def __init__(
        self, chores: Callable[[], list[Chore]] | None = None, *, every: timedelta = EVERY
    ) -> None:
        self._chores, self._every = chores or (lambda: CHORES), every
        # With jitter, as many processes may start together.
        first_after = random.uniform(*FIRST_AFTER_SECONDS)  # noqa: S311
        self._due_at = clock.now() + timedelta(seconds=first_after)
        self._run: Iterator[bool] | None = None

    def turn(self) -> bool:
        """Do one batch if a run is due; return whether another is due at once."""
        if self._run is None:
            if clock.now() < self._due_at:
                return False
            self._run = self._all_batches()
        if not next(self._run, False):
            self._run = None
        return self._run is not None

    def _all_batches(self) -> Iterator[bool]:
        """Do every chore, whatever becomes of the others; then say once what was done."""
        before, started = clock.now() - KEEP, time.monotonic()
        deleted: Counter[str] = Counter()
        failed: dict[str, str] = {}
        for chore in self._chores():
            try:
                for count in chore.batches(before):
                    deleted[chore.name] += count
                    yield True
            except Exception as error:
                failed[chore.name] = faults.describe(error)
                yield True
        self._due_at = clock.now() + (AFTER_A_FAULT if failed else self._every)
        if self._every < EVERY and not failed and not deleted.total():
            return  # each hour that nothing was to be done is no news
        outcome = "error" if failed else "success"
        events.record(
            "cleanup",
            outcome=outcome,
            deleted=deleted.total(),
            chores=dict(+deleted),
            failed=failed,
            seconds=round(time.monotonic() - started, 3),
        )


def _dead_sessions(before: datetime) -> Iterator[int]:
    largest = database.LARGEST_BATCH
    return (found for _, found in sessions.delete_dead(before, batch_size=largest))


def _old_activity(_before: datetime) -> Iterator[int]:
    keep = timedelta(days=current_app.config["ACTIVITY_KEEP_DAYS"])
    return activity.delete_old(clock.now() - keep, batch_size=database.LARGEST_BATCH)


def _adopt(_before: datetime) -> Iterator[int]:
    """List the addresses that the release before did not, once; nothing is deleted by it."""
    accounts.adopt(since=clock.now() - ADOPT_FROM)
    yield 0


BESIDE_SESSIONS = [
    Chore("password_resets", passwords.delete_dead_resets),
    Chore("sign_in_failures", throttling.delete_stale),
    Chore("registrations", lambda _before: registrations.delete_expired()),
    Chore("email_changes", email_changes.delete_dead),
    Chore("given_up_emails", lambda _before: accounts.delete_given_up()),
    Chore("trusted_browsers", lambda _before: sessions.delete_expired_trusts()),
    Chore("mail_quotas", lambda _before: quotas.delete_over()),
    Chore("spent_tokens", lambda _before: pending.delete_spent()),
    Chore("adopted", _adopt),
]
# A day was named to the owner: it shall not be the next one.
EVERY_HOUR = timedelta(hours=1)
HOURLY = [Chore("accounts", lambda _before: deletions.delete_due())]
CHORES = [
    Chore("sessions", _dead_sessions),
    *BESIDE_SESSIONS,
    Chore("account_events", _old_activity),
]
