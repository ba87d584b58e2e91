"""Wrong passwords are counted by address, exactly, whichever way and from wherever they come."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from authsite import accounts, clock, database, passwords, sessions, spelling, throttling
from authsite.crypto import tokens
from authsite.database.models import SignInFailures
from authsite.errors import InvalidCredentials, TooManyAttempts, WrongCurrentPassword
from tests import factories

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ADA, NOBODY = "ada@example.com", "nobody@example.com"


@pytest.fixture(autouse=True)
def _at_noon(app_context, time_machine):
    time_machine.move_to(NOON, tick=False)


@pytest.fixture
def ada():
    return factories.account(ADA)


def fail(email: str = ADA, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(InvalidCredentials):
            accounts.authenticate(email, "wrong password")


def counted(email: str = ADA) -> tuple[int, int] | None:
    """Return (recent, consecutive) of an address, or None where nothing is on its account."""
    table = SignInFailures.__table__
    row = database.row(table.select().where(table.c.key == throttling.key_for(email)))
    return row and (row.recent, row.consecutive)


@pytest.mark.parametrize("email", [ADA, NOBODY])
def test_the_eleventh_attempt_is_refused_even_with_the_right_password(ada, email):
    """LT-04: whether or not there is such an account."""
    fail(email, times=10)

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(email, factories.PASSWORD)
    assert counted(email) == (10, 10)


def test_a_refused_attempt_does_not_lengthen_the_lock(ada, time_machine):
    """LT-04: the window ends when it ends, however many go on trying."""
    fail(times=10)
    time_machine.move_to(NOON + timedelta(minutes=14, seconds=59), tick=False)
    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ADA, factories.PASSWORD)
    time_machine.move_to(NOON + timedelta(minutes=15), tick=False)

    assert accounts.authenticate(ADA, factories.PASSWORD).account == ada


def test_the_refusal_tells_when_to_come_back(ada, time_machine):
    """LT-12: in whole seconds, and it is true."""
    fail(times=10)
    time_machine.move_to(NOON + timedelta(minutes=5, milliseconds=300), tick=False)
    with pytest.raises(TooManyAttempts) as refused:
        accounts.authenticate(ADA, factories.PASSWORD)
    assert 599 <= refused.value.retry_after <= 601

    time_machine.move_to(clock.now() + timedelta(seconds=refused.value.retry_after), tick=False)
    assert accounts.authenticate(ADA, factories.PASSWORD).account == ada


def test_a_quiet_address_writes_nothing(ada):
    """A right password without wrong ones before it costs no row."""
    accounts.authenticate(ADA, factories.PASSWORD)

    assert counted() is None


def test_one_wrong_password_is_forgotten_with_the_right_one(ada):
    fail()
    accounts.authenticate(ADA, factories.PASSWORD)
    assert counted() in {None, (1, 0)}
    for _ in range(20):
        accounts.authenticate(ADA, factories.PASSWORD)

    assert counted() in {None, (1, 0)}


def test_the_owners_sign_in_hands_a_guesser_no_new_guesses(ada):
    """LT-04: a success inside the window leaves the wrong ones on the count."""
    fail(times=6)
    accounts.authenticate(ADA, factories.PASSWORD)
    fail(times=4)

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ADA, factories.PASSWORD)


def test_right_passwords_are_not_counted(ada):
    """LT-04: however often the owner signs in, nine wrong ones leave room for a tenth."""
    fail(times=9)
    for _ in range(15):
        accounts.authenticate(ADA, factories.PASSWORD)
    fail()

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ADA, factories.PASSWORD)


def test_a_new_window_begins_with_its_first_wrong_password(ada, time_machine):
    fail(times=9)
    time_machine.move_to(NOON + timedelta(minutes=15), tick=False)
    fail()

    assert counted() == (1, 10)


def test_accounts_do_not_share_a_counter(ada):
    """LT-07."""
    other = factories.account("grace@example.com")
    fail(times=10)

    assert accounts.authenticate("grace@example.com", factories.PASSWORD).account == other
    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ADA, factories.PASSWORD)


@pytest.mark.parametrize(
    "typed",
    [
        "ADA@example.com",
        "Ada@Example.Com",
        " ada@example.com ",
        "ａda@example.com",
        "ada＠example.com",
    ],
)
def test_spellings_that_look_alike_share_one_counter(typed):
    """LT-08: full-width letters and case."""
    assert throttling.key_for(typed) == throttling.key_for(ADA)


def test_the_kelvin_sign_shares_the_counter_but_not_the_account():
    """LT-08, RS-07: folding is for the key only."""
    kelvin = "\u212aate@example.com"

    assert throttling.key_for(kelvin) == throttling.key_for("kate@example.com")
    assert spelling.canonical_email(kelvin) != "kate@example.com"


def test_the_current_password_counts_with_the_sign_ins(ada):
    """LT-09: a stolen session is no place to guess from."""
    held = factories.grant(ada)
    session = sessions.resume_api(held.session_id, ada.id)
    fail(times=5)
    for _ in range(5):
        with pytest.raises(WrongCurrentPassword):
            passwords.change(session, "wrong password", factories.NEW_PASSWORD, ip_address=None)

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ADA, factories.PASSWORD)
    with pytest.raises(TooManyAttempts):
        passwords.change(session, factories.PASSWORD, factories.NEW_PASSWORD, ip_address=None)


def test_a_lock_leaves_open_sessions_alone(ada):
    """LT-13."""
    held = factories.grant(ada)
    fail(times=10)

    assert sessions.resume_api(held.session_id, ada.id).account == ada
    assert sessions.rotate(held.session_id, ada.id, held.jti).session_id == held.session_id


def test_a_reset_opens_a_locked_account(ada):
    """LT-13, RS-10: asking is never locked, and the new password works at once."""
    fail(times=10)
    passwords.request_reset(ADA, device_name="curl", ip_address=None)
    link = tokens.sign("reset", database.row(database.db.text("SELECT id FROM password_resets")).id)
    passwords.reset(link, factories.NEW_PASSWORD, device_name=None, ip_address=None)

    assert accounts.authenticate(ADA, factories.NEW_PASSWORD).account.id == ada.id


def test_a_hundred_wrong_passwords_in_a_row_leave_only_the_reset(ada, time_machine):
    """LT-05: windows pass, the hundred stays, and it stands in the database."""
    for window in range(10):
        time_machine.move_to(NOON + window * timedelta(minutes=15), tick=False)
        fail(times=10)
    time_machine.move_to(NOON + timedelta(days=400), tick=False)
    with pytest.raises(TooManyAttempts, match="Reset your password to sign in again"):
        accounts.authenticate(ADA, factories.PASSWORD)
    assert counted() == (10, 100)

    throttling.forget(ADA)
    assert accounts.authenticate(ADA, factories.PASSWORD).account == ada


def test_a_right_password_ends_the_run_towards_the_hundred(ada, time_machine):
    """LT-05: consecutive means without a right one between them."""
    fail(times=9)
    accounts.authenticate(ADA, factories.PASSWORD)
    assert counted() == (9, 0)
    time_machine.move_to(NOON + timedelta(minutes=15), tick=False)
    fail()

    assert counted() == (1, 1)


def test_a_fault_inside_counts_as_wrong(ada):
    """A crash must not be a way to guess for nothing."""
    with pytest.raises(RuntimeError), throttling.attempt(ADA):
        raise RuntimeError

    assert counted() == (1, 1)


def test_attempts_at_once_cannot_pass_the_limit_together(ada, app):
    """LT-06: each takes its place in the count before it is evaluated."""
    fail()  # from the second on, the address is known to have failures
    evaluated, refused, barrier = [], [], threading.Barrier(20)

    def guess() -> None:
        with app.app_context():
            barrier.wait()
            try:
                with throttling.attempt(ADA):
                    evaluated.append(True)
            except TooManyAttempts:
                refused.append(True)

    threads = [threading.Thread(target=guess) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(evaluated), len(refused)) == (9, 11)
    assert counted() == (10, 10)


def test_stale_counters_are_deleted_and_those_near_the_hundred_stay(ada, time_machine):
    """LT-05: the clean-up must not hand out a fresh hundred."""
    fail(NOBODY)
    fail(times=10)
    time_machine.move_to(NOON + timedelta(days=31), tick=False)
    fail("new@example.com")

    assert list(throttling.delete_stale(clock.now() - timedelta(days=1))) == [1]
    assert counted(NOBODY) is None
    assert counted() == (10, 10)
    assert counted("new@example.com") == (1, 1)


def test_the_table_does_not_tell_which_addresses_were_tried(ada):
    """The key is a digest with a secret."""
    fail()
    row = database.row(SignInFailures.__table__.select())

    assert b"ada" not in row.key
    assert len(row.key) == 32


def signed_in_browser(ada, device_id: str) -> None:
    factories.grant(ada, entrance="page", device_id=device_id)


def test_a_stranger_cannot_lock_the_owner_out_of_a_browser_that_is_known(ada):
    """LT-04: the browser's own count takes over where that of the address is full."""
    signed_in_browser(ada, "the-cookie-of-adas-browser")
    fail(times=10)

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ADA, factories.PASSWORD, browser="another-cookie")
    known = accounts.authenticate(ADA, factories.PASSWORD, browser="the-cookie-of-adas-browser")
    assert known.account == ada
    assert counted() == (10, 10)


def test_a_known_browser_has_ten_guesses_of_its_own_and_no_more(ada):
    """LT-04"""
    signed_in_browser(ada, "the-cookie-of-adas-browser")
    fail(times=10)
    for _ in range(10):
        with pytest.raises(InvalidCredentials):
            accounts.authenticate(ADA, "wrong password", browser="the-cookie-of-adas-browser")

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ADA, factories.PASSWORD, browser="the-cookie-of-adas-browser")


def test_a_device_id_that_an_api_client_gave_itself_makes_no_known_browser(ada):
    """LT-04: anybody may send any X-Device-Id."""
    factories.grant(ada, entrance="api", device_id="a-label")
    fail(times=10)

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ADA, factories.PASSWORD, browser="a-label")


def test_a_browser_that_is_known_to_one_account_is_a_stranger_to_another(ada):
    """LT-04"""
    signed_in_browser(ada, "the-cookie-of-adas-browser")
    factories.account("grace@example.com")
    fail("grace@example.com", times=10)

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(
            "grace@example.com", factories.PASSWORD, browser="the-cookie-of-adas-browser"
        )
