"""Registering where addresses are confirmed first: a claim, and what makes it an account."""

from datetime import timedelta

import pytest
from sqlalchemy import delete, func, insert, select

from authsite import accounts, addresses, clock, database, passwords, registrations, sessions
from authsite.crypto import tokens
from authsite.database.models import OutgoingMail, PasswordReset, Registration, User, UserEmail
from authsite.errors import (
    EmailNotVerified,
    EmailTaken,
    EmailTokenInvalid,
    InactiveAccount,
    InvalidCredentials,
    WeakPassword,
    WrongCurrentPassword,
)
from authsite.mail import outbox
from tests import factories, services
from tests.factories import NEW_PASSWORD, PASSWORD

# Its keys and statements are others where the tables are spread.
EMAIL = "ada@example.com"


@pytest.fixture
def app(make_app, mailbox):
    return make_app(
        EMAIL_VERIFICATION="required", MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)
    )


@pytest.fixture(autouse=True)
def _current(app_context):
    """Verbs need the application, not a request."""


def claim(email: str = EMAIL, password: str = PASSWORD) -> str:
    return registrations.claim(
        email=email,
        password=password,
        first_name="Ada",
        device_name="curl",
        ip_address="203.0.113.7",
    )


def link_for(claim_id: str) -> str:
    return tokens.sign("registration", claim_id)


def how_many(model) -> int:
    return database.row(select(func.count()).select_from(model))[0]


def test_a_claim_is_no_account(mailbox):
    claim()
    assert (how_many(User), how_many(UserEmail), how_many(Registration)) == (0, 0, 1)
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(EMAIL, PASSWORD)
    passwords.request_reset(EMAIL, device_name="curl", ip_address=None)

    assert outbox.deliver() == (1, 0)
    assert mailbox.subjects == ["Finish creating your authsite account"]


def test_the_mailed_link_and_the_password_make_it_one(mailbox):
    claim("Ada@Example.com")
    outbox.deliver()
    token = mailbox.token("/register/confirm")
    confirmed = registrations.confirm(token, password=PASSWORD)

    assert confirmed.account.email == EMAIL
    assert confirmed.account.email_verified_at is not None
    assert accounts.authenticate(EMAIL, PASSWORD).account == confirmed.account
    assert how_many(Registration) == 0
    with pytest.raises(EmailTokenInvalid):
        registrations.confirm(token, password=PASSWORD)


def test_the_link_alone_makes_none():
    """LIFE §0.2: whoever only reads the mailbox has not chosen the password."""
    token = link_for(claim())
    for proof in ({}, {"password": ""}, {"password": "not it"}, {"own_claim": "another"}):
        with pytest.raises(WrongCurrentPassword):
            registrations.confirm(token, **proof)

    assert how_many(User) == 0
    assert registrations.confirm(token, password=PASSWORD)


def test_the_browser_that_registered_needs_no_password():
    claim_id = claim()

    assert registrations.confirm(link_for(claim_id), own_claim=claim_id).account.email == EMAIL


def test_claims_live_side_by_side_and_each_takes_its_own_password():
    """LIFE §8.1: a stranger's claim neither blocks the owner's nor gets its password into his account."""
    strangers, own = claim(password="the password of a stranger"), claim()
    with pytest.raises(WrongCurrentPassword):
        registrations.confirm(link_for(strangers), password=PASSWORD)
    ada = registrations.confirm(link_for(own), password=PASSWORD).account
    with pytest.raises(EmailTokenInvalid):
        registrations.confirm(link_for(strangers), password="the password of a stranger")

    assert accounts.authenticate(EMAIL, PASSWORD).account == ada
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(EMAIL, "the password of a stranger")


def test_an_address_taken_meanwhile_is_refused_and_the_account_untouched():
    token = link_for(claim())
    factories.account(password=NEW_PASSWORD, is_verified=True)
    with pytest.raises(EmailTaken):
        registrations.confirm(token, password=PASSWORD)

    assert how_many(User) == 1
    assert accounts.authenticate(EMAIL, NEW_PASSWORD)


def test_a_link_works_for_24_hours(time_machine):
    token = link_for(claim())
    time_machine.move_to(clock.now() + timedelta(hours=24, seconds=2))
    with pytest.raises(EmailTokenInvalid):
        registrations.confirm(token, password=PASSWORD)

    assert how_many(User) == 0


def test_no_other_token_makes_an_account():
    """RS-11."""
    claim_id = claim()
    for token in ["", claim_id, tokens.sign("reset", claim_id), tokens.sign("registration", "x")]:
        with pytest.raises(EmailTokenInvalid):
            registrations.confirm(token, own_claim=claim_id)

    assert how_many(User) == 0


@pytest.mark.parametrize("password", ["short", "password1", EMAIL])
def test_a_weak_password_makes_no_claim(password):
    with pytest.raises(WeakPassword):
        claim(password=password)

    assert (how_many(Registration), how_many(OutgoingMail)) == (0, 0)


def test_at_most_three_mails_go_to_an_address_in_an_hour(time_machine):
    """AP-22: nor do more than three claims lie there."""
    time_machine.move_to(clock.now(), tick=False)
    for _ in range(5):
        claim()
    assert (how_many(Registration), how_many(OutgoingMail)) == (3, 3)
    time_machine.shift(timedelta(hours=1, seconds=1))
    claim()

    assert (how_many(Registration), how_many(OutgoingMail)) == (4, 4)


def test_at_most_ten_mails_a_day_go_to_an_address_that_somebody_claims(mailbox, time_machine):
    """AP-22: three an hour would be 72."""
    for _ in range(4):
        for _ in range(3):
            claim()
        outbox.deliver()
        time_machine.move_to(clock.now() + timedelta(hours=1, seconds=1))
    assert (len(mailbox.messages), outbox.depth()) == (10, 0)
    time_machine.move_to(clock.now() + timedelta(days=1))
    claim()
    outbox.deliver()

    assert len(mailbox.messages) == 11


def test_who_has_an_account_is_told_so_and_gets_no_link(mailbox):
    """Decided when it is sent: the account may be younger than the claim."""
    claim()
    factories.account(is_verified=True)
    assert outbox.deliver() == (1, 0)

    assert mailbox.subjects == ["You already have an account at authsite"]
    assert "token=" not in mailbox.text()
    assert mailbox.recipients == [[EMAIL]]


@pytest.mark.parametrize(("kept_for", "subject"), [(1, "already have"), (-1, "Finish creating")])
def test_an_address_that_is_kept_for_its_owner_counts_as_having_an_account(
    mailbox, kept_for, subject
):
    ada = factories.account("now@example.com", is_verified=True)
    until = clock.now() + timedelta(days=kept_for)
    database.run(insert(UserEmail), {"email": EMAIL, "user_id": ada.id, "kept_until": until})
    claim()
    outbox.deliver()

    assert subject in mailbox.subjects[0]


def test_a_mail_whose_claim_is_gone_is_not_sent(mailbox):
    one = claim()
    claim()
    registrations.confirm(link_for(one), password=PASSWORD)
    outbox.deliver()

    assert (mailbox.messages, outbox.depth()) == ([], 0)


def test_the_clean_up_takes_claims_that_expired(app, time_machine):
    claim("old@example.com")
    time_machine.move_to(clock.now() + timedelta(hours=24, seconds=2))
    claim()
    assert app.test_cli_runner().invoke(args=["cleanup-sessions"]).exit_code == 0

    assert [row.email for row in database.rows(select(Registration.email))] == [EMAIL]


# Signing in unverified


def unverified():
    """Return an account from before the site asked for confirmed addresses."""
    ada = factories.account()
    database.run(delete(OutgoingMail))
    return ada


def test_nobody_signs_in_unverified_and_the_right_password_is_mailed_a_link(mailbox):
    ada = unverified()
    with pytest.raises(EmailNotVerified):
        accounts.authenticate(EMAIL, PASSWORD)
    outbox.deliver()
    addresses.verify(ada.id, mailbox.token("/verify-email"))

    assert accounts.authenticate(EMAIL, PASSWORD).account.email_verified_at


def test_a_wrong_password_learns_nothing_of_it_and_mails_nothing():
    """LT-01."""
    unverified()
    refusals = set()
    for email in (EMAIL, "nobody@example.com"):
        with pytest.raises(InvalidCredentials) as refused:
            accounts.authenticate(email, "wrong password")
        refusals.add((type(refused.value), refused.value.message))

    assert len(refusals) == 1
    assert how_many(OutgoingMail) == 0


def test_sign_ins_mail_at_most_three_links_an_hour():
    """That of the registration, and two more."""
    unverified()
    for _ in range(5):
        with pytest.raises(EmailNotVerified):
            accounts.authenticate(EMAIL, PASSWORD)

    assert how_many(OutgoingMail) == 2


def test_a_closed_account_is_told_that_it_is_closed():
    unverified()
    accounts.deactivate(EMAIL)
    with pytest.raises(InactiveAccount):
        accounts.authenticate(EMAIL, PASSWORD)

    assert how_many(OutgoingMail) == 0


def test_an_open_session_stays_open(app):
    """Switching to `required` signs nobody out."""
    app.config["EMAIL_VERIFICATION"] = "optional"
    ada = unverified()
    held = factories.grant(ada)
    app.config["EMAIL_VERIFICATION"] = "required"

    assert sessions.resume_api(held.session_id, ada.id).account == ada


def test_a_reset_by_mail_lets_in():
    ada = unverified()
    passwords.request_reset(EMAIL, device_name="curl", ip_address=None)
    token = tokens.reset_link(ada.id, database.row(select(PasswordReset.id)).id)
    passwords.reset(token, NEW_PASSWORD, device_name=None, ip_address=None)

    assert accounts.authenticate(EMAIL, NEW_PASSWORD).account.id == ada.id


def test_a_claim_to_a_taken_address_runs_the_statements_of_any_other(sent_statements):
    """LIFE §3, LT-02: count, claim and mail; whether there is an account is not read."""
    factories.account(is_verified=True)
    runs = []
    for email in (EMAIL, "nobody@example.com"):
        with sent_statements() as sent:
            claim(email)
        runs.append([each for each in sent if each not in {"BEGIN", "COMMIT"}])

    assert runs[0] == runs[1]
    assert len(runs[0]) == 3, runs[0]
    assert not any("users" in each or "user_emails" in each for each in runs[0])
