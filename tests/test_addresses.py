"""Addresses: whose one is, decided in one place."""

from datetime import timedelta

import pytest
from sqlalchemy import delete, func, insert, select, update

from authsite import accounts, addresses, clock, database, passwords
from authsite.crypto import tokens
from authsite.database.models import OutgoingMail, PasswordReset, User, UserEmail
from authsite.errors import EmailTaken, EmailTokenInvalid, InvalidCredentials, UnknownAccount
from authsite.mail import outbox
from tests import factories, services

EMAILS = UserEmail.__table__
OLD = "ada.old@example.com"
# Where the tables are spread all addresses have been listed: that of an account is looked up nowhere else.
on_one_machine = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


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


@on_one_machine
def test_an_account_of_the_release_before_is_listed_when_it_signs_in():
    ada = made_by_the_release_before()
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, "wrong password")
    assert holders() == {}
    assert accounts.authenticate(ada.email, factories.PASSWORD).account == ada

    assert holders() == {ada.email: ada.id}


@on_one_machine
def test_an_account_of_the_release_before_keeps_its_address_from_others():
    ada = made_by_the_release_before()
    with pytest.raises(EmailTaken):
        factories.account(ada.email)

    assert accounts.find_by_email(ada.email) == ada


@on_one_machine
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


# Whether its owner reads the mail of an address


@pytest.fixture
def optional(make_app, mailbox):
    """The current application sends links to confirm addresses, and this is what has arrived."""
    app = make_app(
        EMAIL_VERIFICATION="optional", MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)
    )
    with app.app_context():
        yield mailbox


def link_for(account, *, email: str | None = None) -> str:
    return tokens.sign("verify_email", f"{account.id}:{email or account.email}")


def is_verified(account) -> bool:
    statement = select(User.email_verified_at).where(User.id == account.id)
    return database.row(statement).email_verified_at is not None


def test_a_new_account_is_mailed_a_link_that_confirms_its_address_once(optional):
    ada = factories.account()
    assert not is_verified(ada)
    assert outbox.deliver() == (1, 0)
    token = optional.token("/verify-email")
    assert addresses.find_unverified(token) == ada
    verified = addresses.verify(ada.id, token)

    assert verified.email_verified_at is not None
    assert is_verified(ada)
    with pytest.raises(EmailTokenInvalid):
        addresses.verify(ada.id, token)
    with pytest.raises(EmailTokenInvalid):
        addresses.find_unverified(token)


@pytest.mark.usefixtures("optional")
def test_a_refused_registration_mails_nothing():
    factories.account()
    with pytest.raises(EmailTaken):
        factories.account()

    assert how_many(OutgoingMail) == 1


def test_nothing_is_mailed_where_the_site_wants_no_confirmation(ada):
    addresses.request_verification(ada)

    assert how_many(OutgoingMail) == 0


def test_a_link_confirms_no_other_account(ada):
    """LIFE §0.2: whoever is sent the link of a stranger's account cannot use it up or bless anything."""
    grace = factories.account("grace@example.com")
    with pytest.raises(EmailTokenInvalid):
        addresses.verify(grace.id, link_for(ada))

    assert not is_verified(grace)
    assert addresses.verify(ada.id, link_for(ada)).email_verified_at


def test_a_link_confirms_only_the_address_that_it_was_sent_to(ada):
    """LIFE §0.4: it holds the address; that the account has another one now makes it worthless."""
    database.run(update(User), {"email": "other@example.com"})
    with pytest.raises(EmailTokenInvalid):
        addresses.verify(ada.id, link_for(ada))

    assert not is_verified(ada)


@pytest.mark.parametrize("age", [timedelta(hours=23), timedelta(hours=24, seconds=2)])
def test_a_link_works_for_24_hours(ada, time_machine, age):
    token = link_for(ada)
    time_machine.move_to(clock.now() + age)
    if age < timedelta(hours=24):
        assert addresses.verify(ada.id, token)
        return
    with pytest.raises(EmailTokenInvalid):
        addresses.verify(ada.id, token)
    assert not is_verified(ada)


def test_no_other_token_confirms_an_address(ada):
    """RS-11: each purpose has a key of its own."""
    named = f"{ada.id}:{ada.email}"
    for token in ["", "x", named, tokens.sign("reset", named), f"{link_for(ada)}x"]:
        with pytest.raises(EmailTokenInvalid):
            addresses.verify(ada.id, token)

    assert not is_verified(ada)


def test_the_link_of_a_closed_account_confirms_nothing(ada):
    accounts.deactivate(ada.email)
    with pytest.raises(EmailTokenInvalid):
        addresses.verify(ada.id, link_for(ada))

    assert not is_verified(ada)


def test_at_most_three_links_go_to_an_account_in_an_hour(optional, time_machine):
    """AP-22: the first is that of the sign-up; of one too many nobody is told."""
    time_machine.move_to(clock.now(), tick=False)
    ada = factories.account()
    for _ in range(5):
        addresses.request_verification(ada)
    assert how_many(OutgoingMail) == 3
    time_machine.shift(timedelta(hours=1, seconds=1))
    addresses.request_verification(ada)

    assert how_many(OutgoingMail) == 4
    grace = factories.account("grace@example.com")
    addresses.request_verification(grace)
    assert how_many(OutgoingMail) == 6


def test_a_link_that_is_no_longer_needed_is_not_mailed(optional):
    ada = factories.account()
    addresses.verify(ada.id, link_for(ada))
    outbox.deliver()

    assert (outbox.depth(), optional.messages) == (0, [])


def test_no_mail_calls_its_reader_by_a_name_before_the_address_is_confirmed(optional):
    """AP-22: whoever types a stranger's address and a message as the name reaches nobody with it."""
    ada = factories.account(first_name="win a prize at evil example")
    outbox.deliver()
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    outbox.deliver()
    assert len(optional.messages) == 2
    assert not any("prize" in str(message) for message in optional.messages)
    addresses.verify(ada.id, link_for(ada))
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    outbox.deliver()

    assert "Hello win a prize" in optional.text()


def test_a_reset_by_the_mailed_link_confirms_the_address(ada):
    """LIFE §8.1: it is the same proof."""
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    token = tokens.sign("reset", database.row(select(PasswordReset.id)).id)
    passwords.reset(token, factories.NEW_PASSWORD, device_name=None, ip_address=None)

    assert is_verified(ada)


def test_a_reset_that_fails_confirms_nothing(ada):
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    token = tokens.sign("reset", database.row(select(PasswordReset.id)).id)
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    with pytest.raises(Exception, match="Invalid or expired"):
        passwords.reset(token, factories.NEW_PASSWORD, device_name=None, ip_address=None)

    assert not is_verified(ada)


def test_a_password_set_by_the_operator_confirms_nothing(ada):
    """LIFE §8.1: only the mailed link does."""
    passwords.set_by_operator(ada.email, factories.NEW_PASSWORD)

    assert not is_verified(ada)


def test_the_operator_confirms_an_address(app, ada):
    runner = app.test_cli_runner()
    assert runner.invoke(args=["verify-email", "ADA@example.com"]).exit_code == 0
    assert is_verified(ada)
    first = accounts.find_by_email(ada.email).email_verified_at
    assert runner.invoke(args=["verify-email", ada.email]).exit_code == 0

    assert accounts.find_by_email(ada.email).email_verified_at == first
    assert runner.invoke(args=["verify-email", "nobody@example.com"]).exit_code == 1


@pytest.mark.usefixtures("optional")
@pytest.mark.parametrize(("options", "mails"), [([], 1), (["--verified"], 0)])
def test_the_operator_makes_an_account_whose_address_is_confirmed_or_not(app, options, mails):
    runner = app.test_cli_runner()
    arguments = ["create-user", "eve@example.com", *options]
    assert runner.invoke(args=arguments, input=f"{factories.PASSWORD}\n").exit_code == 0

    assert is_verified(accounts.find_by_email("eve@example.com")) == bool(options)
    assert how_many(OutgoingMail) == mails
