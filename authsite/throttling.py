"""How many wrong passwords an address has had, counted in the database and so for every process.

Ten in fifteen minutes, whichever way they came; then nothing is evaluated until the window has passed or
the password has been reset. A hundred without one right between them, and only a reset helps (NIST SP
800-63B-4 §3.2.2). Addresses without an account are counted alike. A browser that has signed in to the
account before gets a count of its own when that of the address is full: a stranger cannot lock the owner out.

A quiet address costs no write. Once one wrong password is on its account, each further attempt takes its
place in the count *before* it is evaluated and gives it back when it was right, so that any number of
attempts at once cannot pass the limit together.
"""

import math
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import (
    and_,
    bindparam,
    case,
    delete,
    exists,
    literal_column,
    or_,
    select,
    update,
)

from . import activity, clock, database, events, spelling
from .crypto import tokens
from .database.models import SignInFailures
from .errors import InvalidCode, TooManyAttempts

WINDOW = timedelta(minutes=15)
MAX_RECENT = 10
MAX_CONSECUTIVE = 100
CLOSED = 10 * MAX_CONSECUTIVE  # an attempt that was under way does not open it again
MAIL_WINDOW = timedelta(hours=1)
MAX_MAILS = 3
ONLY_A_RESET_HELPS = "Too many attempts. Reset your password to sign in again."


class Most(NamedTuple):
    """How many wrong ones a count may hold: in one window, and without a right one between them."""

    recent: int
    consecutive: int


PASSWORDS = Most(MAX_RECENT, MAX_CONSECUTIVE)
# Of 10⁶ codes three are right at a time: 50 tries find one in 0.015 % of all cases.
SECOND_STEPS = Most(5, 50)
ONLY_ANOTHER_WAY_HELPS = (
    "Too many wrong codes. Use a passkey, or ask the operator of this site for help."
)


class Attempt:
    """One evaluation of a password or a code; it counts as wrong unless it is told otherwise."""

    is_right = False

    def __init__(self, user_id: uuid.UUID | None, *, of: str = activity.SIGN_IN) -> None:
        self._user_id = user_id
        self._of = of

    def note(self, recent: int) -> None:
        """Write a wrong one into the account's activity, once it has been counted and made so many."""
        user_id = self._user_id or uuid.UUID(int=0)
        most = SECOND_STEPS if self._of == activity.SECOND_STEP else PASSWORDS
        activity.record_failure(user_id, has_filled=recent >= most.recent, of=self._of)

    def succeeded(self) -> None:
        self.is_right = True


@contextmanager
def attempt(
    email: str,
    *,
    has_failures: bool = True,
    known_browser: str | None = None,
    user_id: uuid.UUID | None = None,
) -> Iterator[Attempt]:
    """Evaluate one password in the block, or raise TooManyAttempts before it begins.

    `has_failures` is what HAS_FAILURES told of the address; not knowing costs a write. `known_browser` is
    the device id of a browser that has signed in to this account. `user_id` is for the log.
    """
    now = clock.now()
    key, recent = None, 0
    if has_failures:
        key, recent = _counter_with_room(email, known_browser, now, user_id)
    this = Attempt(user_id)
    try:
        yield this
    finally:
        if key is None and not this.is_right:
            recent = _add(key_for(email), now)
        elif key is not None and this.is_right:
            # Nothing else on the count: the address is quiet again. Else the run of wrong ones is over.
            database.run(_FORGET_ONLY_ONE, {"counter": key}) or database.run(
                _GIVE_BACK, {"counter": key}
            )
        if not this.is_right:
            this.note(recent)


@contextmanager
def second_step(user_id: uuid.UUID) -> Iterator[Attempt]:
    """Evaluate one code of an account in the block, or raise TooManyAttempts before it begins.

    It is counted before it is evaluated. A stranger cannot fill the count: the step is reached with the
    password only. A right password does not clear it, a right second step does.
    """
    now = clock.now()
    key = tokens.keyed_digest("second step", str(user_id))
    recent = _add(key, now, up_to=SECOND_STEPS)
    if not recent:
        events.record("second_step", outcome="lockout", user_id=user_id)
        raise _too_many(key, now, SECOND_STEPS, ONLY_ANOTHER_WAY_HELPS)
    this = Attempt(user_id, of=activity.SECOND_STEP)
    try:
        yield this
    except InvalidCode:
        this.note(recent)
        raise
    if this.is_right:
        database.run(_FORGET, {"counter": key})


def wrong_second_steps(user_id: uuid.UUID) -> int:
    """Return how many wrong codes stand on the account's count."""
    found = database.row(_FAILURES, {"counter": tokens.keyed_digest("second step", str(user_id))})
    return found.consecutive if found else 0


def forget_second_step(user_id: uuid.UUID) -> None:
    """Start an account's count of wrong codes afresh."""
    database.run(_FORGET, {"counter": tokens.keyed_digest("second step", str(user_id))})


def key_for(email: str, known_browser: str | None = None) -> bytes:
    """Return the counter of an address; all spellings of it that look alike share one."""
    address = unicodedata.normalize("NFKC", spelling.canonical_email(email)).casefold()
    if known_browser is None:
        return tokens.keyed_digest("throttle", address)
    return tokens.keyed_digest("throttle browser", f"{known_browser} {address}")


def forget(email: str) -> None:
    """Start the address afresh, after its password has been reset."""
    database.run(_FORGET, {"counter": key_for(email)})


def forget_browsers(emails: Iterable[str], browsers: Iterable[str]) -> None:
    """Forget the counts that browsers, named by their device ids, have of their own for these addresses."""
    keys = [key_for(email, browser) for email in emails for browser in browsers]
    if keys:
        database.run(delete(SignInFailures).where(SignInFailures.key.in_(keys)))


def failures(email: str) -> int:
    """Return how many wrong passwords in a row are on the count of the address."""
    found = database.row(_CONSECUTIVE, {"counter": key_for(email)})
    return found.consecutive if found else 0


def has_failures(counter: bytes) -> bool:
    """Return whether anything is on a count."""
    return database.row(_FAILURES, {"counter": counter}) is not None


def close(email: str) -> None:
    """Have only a reset open the address again; browsers that have signed in to it before are spared."""
    full = {
        "recent": MAX_RECENT,
        "window_ends_at": clock.now() + WINDOW,
        "consecutive": CLOSED,
    }
    insert = database.upsert(SignInFailures)
    closing = insert.values(key=key_for(email), **full)
    database.run(closing.on_conflict_do_update(index_elements=[SignInFailures.key], set_=full))


def keep_closed(email: str, new_email: str) -> None:
    """Have what only a reset opens stay so when its account goes by another address."""
    if failures(email) >= CLOSED:
        close(new_email)


def may_mail(name: str, whom: str) -> bool:
    """Count a mail of this name to `whom` and return True; return False if that were too many of them.

    There are at most MAX_MAILS in any hour: each that is counted begins the hour anew.
    """
    now = clock.now()
    insert = database.upsert(SignInFailures)
    is_over = SignInFailures.window_ends_at <= now
    counted = insert.values(
        key=tokens.keyed_digest(f"mail {name}", whom),
        recent=1,
        window_ends_at=now + MAIL_WINDOW,
        consecutive=0,
    ).on_conflict_do_update(
        index_elements=[SignInFailures.key],
        set_={
            "recent": case((is_over, 1), else_=SignInFailures.recent + 1),
            "window_ends_at": now + MAIL_WINDOW,
        },
        where=or_(is_over, SignInFailures.recent < MAX_MAILS),
    )
    return database.row(counted.returning(SignInFailures.recent)) is not None


def delete_stale(before: datetime) -> Iterator[int]:
    """Delete counters whose window ended before, but those near the lifelong limit, in short transactions.

    Without a run of wrong ones, as of mails, the end of the window is enough: no row says as much. Yield how
    many in each.
    """
    # Written out, as it stands in the index: a plan that is kept cannot know what a parameter will be.
    has_no_run = SignInFailures.consecutive == literal_column("0")
    is_stale = or_(
        and_(SignInFailures.window_ends_at < before, SignInFailures.consecutive < MAX_RECENT),
        and_(SignInFailures.window_ends_at < clock.now(), has_no_run),
    )
    yield from database.delete_in_batches(SignInFailures.key, is_stale)


def _counter_with_room(
    email: str, known_browser: str | None, now: datetime, user_id: uuid.UUID | None
) -> tuple[bytes, int]:
    """Put the attempt on a count that is not full; return it and what it holds, or raise TooManyAttempts."""
    key = key_for(email)
    if recent := _add(key, now, up_to=PASSWORDS):
        return key, recent
    if known_browser is not None:
        key = key_for(email, known_browser)
        if recent := _add(key, now, up_to=PASSWORDS):
            return key, recent
    events.record("lockout", outcome="refused", user_id=user_id)
    raise _too_many(key, now, PASSWORDS, ONLY_A_RESET_HELPS)


def _too_many(key: bytes, now: datetime, most: Most, for_good: str) -> TooManyAttempts:
    """Return the refusal of a count that is full: until its window has passed, or `for_good`."""
    failures = database.row(_FAILURES, {"counter": key})
    if failures is not None and failures.consecutive >= most.consecutive:
        return TooManyAttempts(int(WINDOW.total_seconds()), for_good)
    ends_at = failures.window_ends_at if failures else now
    return TooManyAttempts(math.ceil((ends_at - now).total_seconds()))


def _add(key: bytes, now: datetime, *, up_to: Most | None = None) -> int:
    """Add one wrong one and return how many the window holds then; with `up_to` 0 where that is too many."""
    insert = database.upsert(SignInFailures)
    is_over = SignInFailures.window_ends_at <= now
    is_allowed = up_to and and_(
        or_(is_over, SignInFailures.recent < up_to.recent),
        SignInFailures.consecutive < up_to.consecutive,
    )
    added = insert.values(key=key, recent=1, window_ends_at=now + WINDOW, consecutive=1)
    added = added.on_conflict_do_update(
        index_elements=[SignInFailures.key],
        set_={
            "recent": case((is_over, 1), else_=SignInFailures.recent + 1),
            "window_ends_at": case((is_over, now + WINDOW), else_=SignInFailures.window_ends_at),
            "consecutive": SignInFailures.consecutive + 1,
        },
        where=is_allowed,
    )
    row = database.row(added.returning(SignInFailures.recent))
    return row.recent if row else 0


# Whether anything is on the count of bindparam `counter`, to be read along with the account.
HAS_FAILURES = exists().where(SignInFailures.key == bindparam("counter"))

_KEY = SignInFailures.key == bindparam("counter")
_FAILURES = select(SignInFailures.consecutive, SignInFailures.window_ends_at).where(_KEY)
# A right password ends the run of wrong ones, but leaves those of this window on the count: an owner who
# signs in must not hand a guesser ten more guesses.
_GIVE_BACK = (
    update(SignInFailures)
    .where(_KEY, SignInFailures.consecutive < CLOSED)
    .values(recent=SignInFailures.recent - 1, consecutive=0)
)
_CONSECUTIVE = select(SignInFailures.consecutive).where(_KEY)
_FORGET = delete(SignInFailures).where(_KEY)
_FORGET_ONLY_ONE = _FORGET.where(SignInFailures.recent <= 1)
