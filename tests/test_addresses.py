"""Addresses: whose one is, decided in one place."""

from datetime import timedelta

import pytest
from sqlalchemy import delete, func, insert, select, update

from authsite import accounts, clock, database, passwords
from authsite.database.models import OutgoingMail, User, UserEmail
from authsite.errors import EmailTaken, InvalidCredentials, UnknownAccount
from tests import factories

EMAILS = UserEmail.__table__
OLD = "ada.old@example.com"


@pytest.fixture(autouse=True)
def _current(app_context):
    """Verbs need the application, not a request."""


@pytest.fixture
def ada():
    return factories.account()


def holders() -> dict:
    return {row.email: row.user_id for row in database.rows(select(EMAILS))}


def how_many(model) -> int:
    return database.row(select(func.count()).select_from(model))[0]


def made_by_the_release_before(email: str = "ada@example.com"):
    """Return an account without a row in user_emails."""
    account = factories.account(email)
    database.run(delete(UserEmail).where(UserEmail.user_id == account.id))
    return account


def keep(account, email: str, until) -> None:
    database.run(insert(UserEmail), {"email": email, "user_id": account.id, "kept_until": until})


def test_a_new_account_holds_its_address(ada):
    assert holders() == {ada.email: ada.id}


def test_an_address_that_is_kept_for_its_owner_is_taken(ada):
    """And the refused registration leaves nothing."""
    keep(ada, OLD, clock.now() + timedelta(days=7))
    with pytest.raises(EmailTaken):
        factories.account(OLD)

    assert how_many(User) == 1
    assert holders()[OLD] == ada.id


def test_an_address_is_free_once_it_is_kept_no_longer(ada):
    keep(ada, OLD, clock.now() - timedelta(seconds=1))
    grace = factories.account(OLD)

    assert holders() == {ada.email: ada.id, OLD: grace.id}
    assert accounts.authenticate(OLD, factories.PASSWORD).account == grace


def test_a_kept_address_signs_nobody_in_and_resets_nothing(ada):
    """It was given up; it only cannot be another's yet."""
    keep(ada, OLD, clock.now() + timedelta(days=7))
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(OLD, factories.PASSWORD)
    passwords.request_reset(OLD, device_name="curl", ip_address=None)

    assert how_many(OutgoingMail) == 0


def test_its_owner_takes_a_kept_address_again(ada):
    keep(ada, OLD, clock.now() + timedelta(days=7))

    assert accounts.take_email(ada.id, OLD)
    assert not accounts.take_email(factories.account("grace@example.com").id, OLD)
    assert database.row(select(EMAILS).where(EMAILS.c.email == OLD))[1:] == (ada.id, None)


def test_an_account_of_the_release_before_is_listed_when_it_signs_in():
    ada = made_by_the_release_before()
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, "wrong password")
    assert holders() == {}
    assert accounts.authenticate(ada.email, factories.PASSWORD).account == ada

    assert holders() == {ada.email: ada.id}


def test_an_account_of_the_release_before_keeps_its_address_from_others():
    ada = made_by_the_release_before()
    with pytest.raises(EmailTaken):
        factories.account(ada.email)

    assert accounts.find_by_email(ada.email) == ada


def test_the_clean_up_lists_what_the_release_before_did_not(app):
    ada, grace = made_by_the_release_before(), factories.account("grace@example.com")
    assert app.test_cli_runner().invoke(args=["cleanup-sessions"]).exit_code == 0

    assert holders() == {ada.email: ada.id, grace.email: grace.id}
    assert accounts.adopt(since=clock.now() - timedelta(days=1)) == 0


def test_an_account_is_found_by_the_address_that_it_holds_not_by_the_one_that_it_shows(ada):
    """The table decides: what is shown may lag behind."""
    database.run(update(User).where(User.id == ada.id), {"email": "shown@example.com"})
    database.run(update(UserEmail), {"email": "held@example.com"})

    assert accounts.find_by_email("held@example.com").id == ada.id
    with pytest.raises(UnknownAccount):
        accounts.find_by_email(OLD)
