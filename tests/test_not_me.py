"""\"This wasn't me\": what the link in a mail can do, and what a robot cannot do with it."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from authsite import accounts, clock, database, email_changes, not_me, passwords, sessions
from authsite.crypto import tokens
from authsite.database.models import EmailChange, OutgoingMail, PasswordReset, User, UserSession
from authsite.errors import (
    EmailTokenInvalid,
    InvalidCredentials,
    InvalidInput,
    SessionRevoked,
    TooManyAttempts,
)
from tests import factories
from tests.factories import NEW_PASSWORD, PASSWORD

KNOWN = "a-browser-that-she-has-"
FROM = {"device_name": "Chrome on Windows", "ip_address": "203.0.113.7"}


@pytest.fixture(autouse=True)
def _current(app_context):
    """Verbs need the application, not a request."""


@pytest.fixture
def ada():
    account = factories.account(is_verified=True)
    factories.grant(account, entrance="page", device_id=KNOWN)
    return account


@pytest.fixture
def thief(ada):
    return factories.grant(ada)


def link(kind: str, account, of) -> str:
    return tokens.sign("not_me", f"{kind}:{account.id}:{of}")


def password_link(account) -> str:
    changed_at = database.row(select(User.password_changed_at).where(User.id == account.id))[0]
    return link("password", account, changed_at.isoformat())


def names() -> list[str]:
    return [row.name for row in database.rows(select(OutgoingMail.name).order_by(OutgoingMail.id))]


def what_the_resets_follow() -> list[str | None]:
    found = database.rows(select(OutgoingMail.facts).where(OutgoingMail.name == "password_reset"))
    return [row.facts["after"] for row in found]


def reset_mails() -> int:
    return names().count("password_reset")


def is_live(held) -> bool:
    statement = select(func.count()).where(
        UserSession.id == held.session_id, UserSession.ended_at.is_(None)
    )
    return database.row(statement)[0] == 1


def reset(account) -> None:
    statement = select(PasswordReset.id).where(PasswordReset.ended_at.is_(None))
    token = tokens.reset_link(account.id, database.row(statement).id)
    passwords.reset(token, NEW_PASSWORD, device_name=None, ip_address=None)


def test_the_button_ends_that_session_and_mails_a_reset(ada, thief):
    assert not_me.end_session(link("session", ada, thief.session_id), **FROM)
    assert what_the_resets_follow() == ["one"]

    assert not is_live(thief)
    assert len(sessions.active_for(ada.id)) == 1
    assert sessions.recently_ended_for(ada.id)[0].end_reason == "not_me"
    assert reset_mails() == 1


def test_until_the_reset_only_browsers_that_she_has_used_before_sign_in(ada, thief):
    not_me.end_session(link("session", ada, thief.session_id), **FROM)
    for browser in (None, "another-browser-of-him"):
        with pytest.raises(TooManyAttempts):
            accounts.authenticate(ada.email, PASSWORD, browser=browser)
    assert accounts.authenticate(ada.email, PASSWORD, browser=KNOWN).account == ada
    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ada.email, PASSWORD)
    reset(ada)

    assert accounts.authenticate(ada.email, NEW_PASSWORD).account.id == ada.id


def test_waiting_does_not_open_it(ada, thief, time_machine):
    not_me.end_session(link("session", ada, thief.session_id), **FROM)
    time_machine.move_to(clock.now() + timedelta(days=2))
    with pytest.raises(TooManyAttempts) as refused:
        accounts.authenticate(ada.email, PASSWORD)

    assert "Reset your password" in refused.value.message


def test_the_browser_that_was_reported_is_not_one_that_she_has_used(ada):
    held = factories.grant(ada, entrance="page", device_id="the-browser-of-the-thi")
    not_me.end_session(link("session", ada, held.session_id), **FROM)

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ada.email, PASSWORD, browser="the-browser-of-the-thi")


def test_nor_is_it_by_what_it_signed_in_before_or_since(ada):
    """Its mail names the first sign-in; the second was no new device any more."""
    browser = {"entrance": "page", "device_id": "the-browser-of-the-thi"}
    reported = factories.grant(ada, **browser)
    later = factories.grant(ada, **browser)
    assert not is_live(reported)
    assert is_live(later)
    other = factories.grant(ada, entrance="page", device_id="one-more-that-she-has")
    not_me.end_session(link("session", ada, reported.session_id), **FROM)

    assert not is_live(later)
    assert is_live(other)
    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ada.email, PASSWORD, browser="the-browser-of-the-thi")
    assert accounts.authenticate(ada.email, PASSWORD, browser=KNOWN).account == ada


def test_an_attempt_under_way_does_not_open_what_was_closed(ada, thief):
    """He has typed the right password while she pressed the button."""
    from authsite import throttling

    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, "wrong password")
    with throttling.attempt(ada.email) as attempt:
        not_me.end_session(link("session", ada, thief.session_id), **FROM)
        attempt.succeeded()

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ada.email, PASSWORD)


@pytest.mark.parametrize("is_cleared", [False, True])
def test_a_thief_who_signs_himself_out_first_is_locked_out_all_the_same(ada, thief, is_cleared):
    """LIFE §8.3: also if he clears his own rows away."""
    sessions.end(ada.id, thief.session_id, reason="logged_out")
    if is_cleared:
        sessions.delete_own_dead(ada.id)
    token = link("session", ada, thief.session_id)
    assert not_me.end_session(token, **FROM)
    with pytest.raises(TooManyAttempts):
        accounts.authenticate(ada.email, PASSWORD)

    assert reset_mails() == 1
    assert not_me.find(token).is_made


def test_a_second_report_does_nothing(ada, thief):
    token = link("session", ada, thief.session_id)
    assert not_me.end_session(token, **FROM)
    reset(ada)
    held = factories.grant(ada, password=NEW_PASSWORD)
    assert not not_me.end_session(token, **FROM)

    assert is_live(held)
    assert accounts.authenticate(ada.email, NEW_PASSWORD).account.id == ada.id
    assert reset_mails() == 1


@pytest.mark.parametrize("kind", ["session", "reuse", "password"])
def test_the_typed_address_ends_everything(ada, thief, kind):
    token = password_link(ada) if kind == "password" else link(kind, ada, thief.session_id)
    not_me.end_everything(token, " ADA@example.com", **FROM)
    assert what_the_resets_follow() == ["everything"]

    assert not sessions.active_for(ada.id)
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, PASSWORD)
    assert reset_mails() == 1
    reset(ada)
    assert accounts.authenticate(ada.email, NEW_PASSWORD).account.id == ada.id


@pytest.mark.parametrize("kind", ["session", "reuse", "password"])
@pytest.mark.parametrize("typed", ["", "x", "grace@example.com"])
def test_without_the_address_nothing_of_it_happens(ada, thief, kind, typed):
    token = password_link(ada) if kind == "password" else link(kind, ada, thief.session_id)
    with pytest.raises(InvalidInput):
        not_me.end_everything(token, typed, **FROM)

    assert is_live(thief)
    assert accounts.authenticate(ada.email, PASSWORD)
    assert reset_mails() == 0


@pytest.mark.parametrize("kind", ["session", "password"])
def test_everything_ends_once_by_one_link(ada, thief, kind):
    """The reset mails such a link again: whoever presses buttons would go round in circles."""
    token = password_link(ada) if kind == "password" else link(kind, ada, thief.session_id)
    not_me.end_everything(token, ada.email, **FROM)
    reset(ada)
    with pytest.raises(EmailTokenInvalid):
        not_me.end_everything(token, ada.email, **FROM)

    assert accounts.authenticate(ada.email, NEW_PASSWORD)
    assert reset_mails() == 1


@pytest.mark.parametrize("act", ["end_session", "find"])
def test_a_link_of_a_password_ends_with_that_password_and_is_none_of_a_session(ada, thief, act):
    token = password_link(ada)
    if act == "end_session":
        with pytest.raises(EmailTokenInvalid):
            not_me.end_session(token, **FROM)
        assert is_live(thief)
        return
    passwords.set_by_operator(ada.email, NEW_PASSWORD)
    with pytest.raises(EmailTokenInvalid):
        not_me.find(token)


def test_a_link_works_for_seven_days(ada, thief, time_machine):
    token = link("session", ada, thief.session_id)
    time_machine.move_to(clock.now() + timedelta(days=7, seconds=2))
    with pytest.raises(EmailTokenInvalid):
        not_me.end_session(token, **FROM)

    assert is_live(thief)


def test_no_other_token_reports_anything(ada, thief):
    """RS-11."""
    named = f"session:{ada.id}:{thief.session_id}"
    for token in ["", "x", named, tokens.sign("verify_email", named)]:
        with pytest.raises(EmailTokenInvalid):
            not_me.end_session(token, **FROM)

    assert is_live(thief)


def test_a_link_ends_no_session_of_anybody_else(ada, thief):
    """It names whose session it is: another's is not found."""
    grace = factories.account("grace@example.com")
    not_me.end_session(link("session", grace, thief.session_id), **FROM)

    assert is_live(thief)


def test_a_session_that_was_reported_opens_nothing(ada, thief):
    not_me.end_session(link("session", ada, thief.session_id), **FROM)
    with pytest.raises(SessionRevoked):
        sessions.resume_api(thief.session_id, ada.id)


# A thief who has changed the address since


def change_address(account, email) -> None:
    held = factories.grant(account)
    session = sessions.resume_api(held.session_id, account.id)
    email_changes.request(session, email, ip_address=None)
    waits = select(EmailChange.id).where(EmailChange.confirmed_at.is_(None))
    token = tokens.sign("change_email", f"{account.id.hex}.{database.row(waits).id}")
    email_changes.confirm(account.id, token)


def test_the_address_of_the_mail_ends_everything_and_is_given_back(ada, thief):
    """LIFE §0.4: the mail went to it; a reset to the thief's own would help nobody else."""
    of_mail = link("session", ada, thief.session_id)
    change_address(ada, "thief@example.com")
    not_me.end_everything(of_mail, ada.email, **FROM)

    assert accounts.find_by_email(ada.email).id == ada.id
    assert not is_live(thief)
    assert sessions.active_for(ada.id) == []
    for email in (ada.email, "thief@example.com"):
        with pytest.raises(InvalidCredentials):
            accounts.authenticate(email, PASSWORD)
    assert names()[-1] == "password_reset"


def test_an_address_that_nothing_leads_back_to_ends_nothing(make_app):
    with make_app(EMAIL_UNDO_DAYS="0").app_context():
        ada = factories.account(is_verified=True)
        thief = factories.grant(ada)
        change_address(ada, "thief@example.com")
        for typed in (ada.email, "x@example.com"):
            with pytest.raises(InvalidInput):
                not_me.end_everything(link("session", ada, thief.session_id), typed, **FROM)

        assert is_live(thief)
