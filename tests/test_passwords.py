"""Passwords: changed with the old one, reset with a link, set by an operator."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from authsite import accounts, clock, database, passwords, sessions
from authsite.crypto import tokens
from authsite.database.models import OutgoingMail, PasswordReset, User
from authsite.errors import (
    InvalidCredentials,
    ResetTokenInvalid,
    SessionRevoked,
    UnknownAccount,
    WeakPassword,
    WrongCurrentPassword,
)
from authsite.mail import outbox
from tests import factories
from tests.factories import NEW_PASSWORD, PASSWORD

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NO_DEVICE = {"device_name": None, "ip_address": None}


@pytest.fixture(autouse=True)
def _at_noon(app_context, time_machine):
    time_machine.move_to(NOON, tick=False)


@pytest.fixture
def ada():
    return factories.account()


def ask(email: str = "ada@example.com") -> str | None:
    """Ask for a link and return it, or None if none was made."""
    before = set(resets())
    passwords.request_reset(email, device_name="Firefox on Linux", ip_address="203.0.113.7")
    made = set(resets()) - before
    return tokens.sign("reset", made.pop()) if made else None


def resets() -> list[str]:
    return [row.id for row in database.rows(select(PasswordReset.id))]


def mails() -> list[str]:
    return [row.name for row in database.rows(select(OutgoingMail.name).order_by(OutgoingMail.id))]


def told_of_devices() -> list[tuple[int, bool]]:
    """Return, of each notice of another password, how many devices it says were signed out."""
    notices = database.rows(
        select(OutgoingMail.facts).where(OutgoingMail.name == "password_changed")
    )
    return [(row.facts["signed_out"], row.facts["has_kept_own"]) for row in notices]


def session_of(account, password: str = PASSWORD) -> sessions.Resumed:
    held = factories.grant(account, password=password)
    return sessions.resume_api(held.session_id, account.id)


def opens(password: str, email: str = "ada@example.com") -> bool:
    try:
        accounts.authenticate(email, password)
    except InvalidCredentials:
        return False
    return True


# Asking for a link


def test_asking_mails_the_account_and_changes_nothing_else(ada):
    """RS-06, RS-08: whoever asks, sessions and password stay as they are."""
    session = session_of(ada)
    ask()

    assert mails() == ["password_reset"]
    assert opens(PASSWORD)
    assert sessions.resume_api(session.id, ada.id).id == session.id


@pytest.mark.parametrize("email", ["nobody@example.com", "closed@example.com"])
def test_nobody_is_mailed_where_there_is_no_open_account(ada, email):
    """RS-04: and the caller learns nothing of it."""
    accounts.deactivate(factories.account("closed@example.com").email)

    assert ask(email) is None
    assert (resets(), mails()) == ([], [])


def test_a_look_alike_address_gets_nobodys_link():
    """RS-07: the Kelvin sign lower-cases to a k."""
    factories.account("kate@example.com")

    assert ask("\u212aate@example.com") is None
    assert mails() == []


@pytest.mark.parametrize("typed", ["ADA@example.com", " ada@EXAMPLE.com "])
def test_the_case_of_the_address_does_not_matter(ada, typed):
    """AP-11."""
    assert ask(typed) is not None


def test_an_account_gets_three_mails_an_hour(ada, time_machine):
    """RS-12: silently; and the account itself is never locked by it."""
    for minute in range(6):
        time_machine.move_to(NOON + timedelta(minutes=minute), tick=False)
        ask()
    assert mails() == ["password_reset"] * 3

    assert opens(PASSWORD)
    time_machine.move_to(NOON + timedelta(minutes=60, seconds=1), tick=False)
    assert ask() is not None


def test_requests_at_once_keep_the_limit_and_leave_one_link(ada, app):
    """RS-12, RS-03: each counts those before it and ends their links."""
    barrier = threading.Barrier(8)

    def request() -> None:
        with app.app_context():
            barrier.wait()
            passwords.request_reset(ada.email, device_name="curl", ip_address=None)

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(resets()) == len(mails()) == 3
    assert len(database.rows(select(PasswordReset.id).where(PasswordReset.ended_at.is_(None)))) == 1


def test_a_copy_of_the_database_resets_no_password(ada):
    """RS-01: neither the request's row nor the waiting mail holds what the link holds."""
    link = ask()
    [reset_id] = resets()
    stored = str(database.rows(select(OutgoingMail))) + str(database.rows(select(PasswordReset)))

    assert link not in stored
    assert ada.email not in str(database.rows(select(OutgoingMail)))
    with pytest.raises(ResetTokenInvalid):
        passwords.reset(reset_id, NEW_PASSWORD, **NO_DEVICE)
    assert not opens(NEW_PASSWORD)


def test_ids_of_requests_cannot_be_guessed(ada):
    """RS-01: at least 128 random bits."""
    ask()

    assert len(resets()[0]) == 32


# Using a link


def test_a_link_sets_the_password_and_ends_every_session(ada):
    """SE-13, RS-10: the owner is told, and is not signed in by it."""
    held = [factories.grant(ada), factories.grant(ada, entrance="page")]
    link = ask()
    account = passwords.reset(link, NEW_PASSWORD, device_name="curl", ip_address="203.0.113.7")

    assert account == ada
    assert opens(NEW_PASSWORD)
    assert not opens(PASSWORD)
    assert not sessions.active_for(ada.id)
    assert told_of_devices() == [(2, False)]
    with pytest.raises(SessionRevoked):
        sessions.resume_api(held[0].session_id, ada.id)
    with pytest.raises(SessionRevoked):
        sessions.resume_page(held[1].session_id, held[1].user_id, held[1].cookie_secret)
    reasons = {row.end_reason for row in sessions.recently_ended_for(ada.id)}
    assert reasons == {"password_reset"}
    assert "password_changed" in mails()


def test_a_link_works_once(ada):
    """RS-02, RS-03."""
    link = ask()
    passwords.reset(link, NEW_PASSWORD, **NO_DEVICE)
    with pytest.raises(ResetTokenInvalid):
        passwords.reset(link, "yet another four words", **NO_DEVICE)

    assert opens(NEW_PASSWORD)
    assert not opens("yet another four words")


def test_looking_at_a_link_uses_nothing_up(ada):
    """RS-08: mail scanners open every link."""
    link = ask()
    for _ in range(3):
        assert passwords.find_reset(link)[1] == ada

    passwords.reset(link, NEW_PASSWORD, **NO_DEVICE)


@pytest.mark.parametrize(("minutes", "is_good"), [(59, True), (60, False), (600, False)])
def test_a_link_lives_for_an_hour(ada, time_machine, minutes, is_good):
    """RS-01."""
    link = ask()
    time_machine.move_to(NOON + timedelta(minutes=minutes), tick=False)

    if is_good:
        assert passwords.find_reset(link)[1] == ada
    else:
        with pytest.raises(ResetTokenInvalid):
            passwords.reset(link, NEW_PASSWORD, **NO_DEVICE)
        assert opens(PASSWORD)


def delete_account(account) -> None:
    database.run(User.__table__.delete().where(User.id == account.id))


OVERTAKEN_BY = {
    "a newer request": lambda ada: ask(),
    "a change of the password": lambda ada: passwords.change(
        session_of(ada), PASSWORD, "a third set of words", ip_address=None
    ),
    "an operator's password": lambda ada: passwords.set_by_operator(
        ada.email, "a third set of words"
    ),
    "the end of the account": lambda ada: accounts.deactivate(ada.email),
    "its deletion": delete_account,
}


@pytest.mark.parametrize("overtake", OVERTAKEN_BY)
def test_a_link_dies_when_it_is_overtaken(ada, overtake):
    """RS-03, RS-09: one refusal for all of them."""
    link = ask()
    OVERTAKEN_BY[overtake](ada)

    with pytest.raises(ResetTokenInvalid) as refused:
        passwords.reset(link, NEW_PASSWORD, **NO_DEVICE)
    assert refused.value.message == "Invalid or expired password reset token"
    with pytest.raises(ResetTokenInvalid):
        passwords.find_reset(link)
    assert not opens(NEW_PASSWORD)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\x00", "\ud800", "é" * 5000])
def test_what_is_no_link_is_refused_like_a_used_one(ada, token):
    """RS-09, PW-08."""
    with pytest.raises(ResetTokenInvalid):
        passwords.reset(token, NEW_PASSWORD, **NO_DEVICE)


def test_a_signed_id_of_another_purpose_is_no_link(ada):
    """TK-05."""
    ask()
    with pytest.raises(ResetTokenInvalid):
        passwords.reset(tokens.sign("cookie", resets()[0]), NEW_PASSWORD, **NO_DEVICE)


@pytest.mark.parametrize("password", ["short", "password1", "ada@example.com", "a\x00 long one"])
def test_a_weak_password_leaves_the_link_good(ada, password):
    """PW-11."""
    session = session_of(ada)
    link = ask()
    with pytest.raises(WeakPassword) as refused:
        passwords.reset(link, password, **NO_DEVICE)

    assert refused.value.field == "new_password"
    assert opens(PASSWORD)
    assert sessions.resume_api(session.id, ada.id)
    assert passwords.find_reset(link)[1] == ada


def test_a_failure_in_the_middle_of_a_reset_undoes_all_of_it(ada, monkeypatch):
    """RS-02: the password is written before the link is used up, in one transaction."""
    session = session_of(ada)
    link = ask()
    queued = mails()

    def fail(_mail):
        raise RuntimeError

    monkeypatch.setattr(outbox, "queue", fail)
    with pytest.raises(RuntimeError):
        passwords.reset(link, NEW_PASSWORD, **NO_DEVICE)

    assert opens(PASSWORD)
    assert not opens(NEW_PASSWORD)
    assert sessions.resume_api(session.id, ada.id)
    assert passwords.find_reset(link)[1] == ada
    assert mails() == queued


# Changing a known password


def test_a_change_ends_all_other_sessions_and_links(ada):
    """PW-13, SE-13: the caller's own goes on, and the owner is told."""
    own, other = session_of(ada), session_of(ada)
    link = ask()
    passwords.change(own, PASSWORD, NEW_PASSWORD, ip_address="203.0.113.7")

    assert opens(NEW_PASSWORD)
    assert not opens(PASSWORD)
    assert [row.id for row in sessions.active_for(ada.id)] == [own.id]
    [ended] = sessions.recently_ended_for(ada.id)
    assert (ended.id, ended.end_reason) == (other.id, "password_changed")
    assert ended.ended_from == own.device_name
    assert told_of_devices() == [(1, True)]
    with pytest.raises(ResetTokenInvalid):
        passwords.find_reset(link)


@pytest.mark.parametrize(
    ("current", "new", "refusal"),
    [
        ("wrong password", NEW_PASSWORD, WrongCurrentPassword),
        (PASSWORD.upper(), NEW_PASSWORD, WrongCurrentPassword),
        ("", NEW_PASSWORD, WrongCurrentPassword),
        (PASSWORD, "short", WeakPassword),
        (PASSWORD, "password1", WeakPassword),
        (PASSWORD, "ada@example.com", WeakPassword),
        (PASSWORD, PASSWORD, WeakPassword),
        (PASSWORD, "half a surrogate \ud800", WeakPassword),
    ],
)
def test_a_refused_change_changes_nothing(ada, current, new, refusal):
    """PW-13, PW-11, PW-08."""
    own, other = session_of(ada), session_of(ada)
    before = database.row(select(User.password_hash, User.password_changed_at))
    with pytest.raises(refusal):
        passwords.change(own, current, new, ip_address=None)

    assert database.row(select(User.password_hash, User.password_changed_at)) == before
    assert {row.id for row in sessions.active_for(ada.id)} == {own.id, other.id}
    assert "password_changed" not in mails()


def test_the_same_password_typed_on_another_keyboard_is_no_new_one(ada):
    """PW-11."""
    composed, decomposed = "d\u00e9j\u00e0 vu again", "de\u0301ja\u0300 vu again"
    passwords.change(session_of(ada), PASSWORD, composed, ip_address=None)

    with pytest.raises(WeakPassword):
        passwords.change(session_of(ada, composed), composed, decomposed, ip_address=None)


def test_a_change_does_not_overwrite_one_that_came_between(ada, monkeypatch):
    """SE-08: the password that was verified is no longer the one that is replaced."""
    own = session_of(ada)
    real_hash = passwords.hashing.hash_password

    def hash_late(password: str) -> str:
        monkeypatch.setattr(passwords.hashing, "hash_password", real_hash)
        passwords.set_by_operator(ada.email, "set by the operator")
        return real_hash(password)

    monkeypatch.setattr(passwords.hashing, "hash_password", hash_late)
    database.run(update(User), {"password_changed_at": NOON - timedelta(seconds=1)})
    with pytest.raises(WrongCurrentPassword):
        passwords.change(own, PASSWORD, NEW_PASSWORD, ip_address=None)

    assert opens("set by the operator")
    assert not opens(NEW_PASSWORD)


# The operator's


def test_an_operators_password_ends_every_session_and_link(ada):
    """SE-13: at the command line too (CVE-2024-45033 forgot that path)."""
    session = session_of(ada)
    link = ask()
    passwords.set_by_operator("ADA@example.com", NEW_PASSWORD)

    assert opens(NEW_PASSWORD)
    with pytest.raises(SessionRevoked):
        sessions.resume_api(session.id, ada.id)
    with pytest.raises(ResetTokenInvalid):
        passwords.find_reset(link)
    assert "password_changed" in mails()


@pytest.mark.parametrize("password", ["short", "password1", "ada@example.com", "\ud800" * 9])
def test_an_operator_is_held_to_the_policy(ada, password):
    """PW-11, DP-13."""
    with pytest.raises(WeakPassword):
        passwords.set_by_operator(ada.email, password)

    assert opens(PASSWORD)


def test_an_operator_cannot_set_a_password_of_nobody():
    with pytest.raises(UnknownAccount):
        passwords.set_by_operator("nobody@example.com", NEW_PASSWORD)


def test_old_requests_are_deleted_and_live_ones_stay(ada, time_machine):
    """PR-01."""
    ask()
    time_machine.move_to(NOON + timedelta(days=40), tick=False)
    link = ask()

    assert list(passwords.delete_dead_resets(clock.now() - timedelta(days=30))) == [1]
    assert passwords.find_reset(link)[1] == ada


def test_nothing_that_is_secret_is_logged(ada, caplog):
    """LG-01, RS-14."""
    link = ask()
    passwords.reset(link, NEW_PASSWORD, **NO_DEVICE)
    with pytest.raises(WrongCurrentPassword):
        passwords.change(
            session_of(ada, NEW_PASSWORD), "a wrong current one", PASSWORD, ip_address=None
        )

    logged = " ".join(str(vars(record)) for record in caplog.records)
    for secret in (link, *resets(), NEW_PASSWORD, PASSWORD, "a wrong current one", ada.email):
        assert secret not in logged
