"""An account's life, each race of it: the two workers of a running site, on SQLite and on PostgreSQL.

Through the API, and where only a page does it by the page's form; what is left is looked at from this
process, a third on the same database.
"""

from collections import Counter

import pytest
from sqlalchemy import func, select

from authsite import accounts, database, registrations
from authsite.crypto import tokens
from authsite.database.models import (
    AccountEvent,
    OutgoingMail,
    Registration,
    User,
    UserEmail,
)
from authsite.errors import EmailTaken, InvalidCredentials
from tests import factories, services
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.racing import Answer, Ask, api

pytestmark = [pytest.mark.site, pytest.mark.slow]

ROUNDS = services.rounds(3)
FROM = {"device_name": "curl", "ip_address": None}


def count(table, *where) -> int:
    return database.row(select(func.count()).select_from(table).where(*where))[0]


def mails(name: str) -> int:
    return count(OutgoingMail, OutgoingMail.name == name)


def events(account, kind: str) -> int:
    return count(AccountEvent, AccountEvent.user_id == account.id, AccountEvent.kind == kind)


def codes(answers: list[Answer]) -> list[str]:
    return sorted(each.code for each in answers)


def signs_in(email: str, password: str) -> bool:
    try:
        accounts.authenticate(email, password)
    except InvalidCredentials:
        return False
    return True


def each_has_its_own_address() -> bool:
    """Return whether what users show and what is listed as theirs is the same, and each held by one."""
    shown = {(row.id, row.email) for row in database.rows(select(User.id, User.email))}
    listed = {
        (row.user_id, row.email)
        for row in database.rows(select(UserEmail.__table__))
        if row.kept_until is None
    }
    return shown == listed


# Registration and confirmation (LIFE 8.1)


def claim(email: str, password: str = PASSWORD) -> str:
    """Claim an address, and return the token of the link."""
    claim_id = registrations.claim(email=email, password=password, first_name="Ada", **FROM)
    return tokens.sign("registration", claim_id)


def bearer_of(account) -> str:
    """Sign in, just now; return the access token."""
    held = factories.grant(account)
    return tokens.access_token(
        user_id=held.user_id,
        session_id=held.session_id,
        issued_at=held.issued_at,
        authenticated_at=held.authenticated_at,
    )


def confirms_claim(token: str, password: str = PASSWORD) -> Ask:
    return api("POST", "/auth/register/confirm", mode="required", token=token, password=password)


def test_one_link_used_by_twenty_makes_one_account(track):
    for number in range(ROUNDS):
        email = f"ada{number}@example.com"
        answers = track.race(*[confirms_claim(claim(email))] * 20)

        assert Counter(codes(answers)) == {"done": 1, "email_token_invalid": 19}
        assert count(User, User.email == email) == 1
        assert count(AccountEvent, AccountEvent.kind == "registered") == number + 1
    assert each_has_its_own_address()


def test_two_claims_of_one_address_make_one_account_with_the_winners_password(track):
    chosen = (PASSWORD, NEW_PASSWORD)
    for number in range(ROUNDS):
        email = f"ada{number}@example.com"
        links = [(claim(email, password), password) for password in chosen]
        answers = track.race(*(confirms_claim(*link) for link in links))

        assert codes(answers) == ["done", "email_token_invalid"]
        for password, answer in zip(chosen, answers, strict=True):
            assert signs_in(email, password) == (answer.code == "done")
    assert count(User) == ROUNDS
    assert count(Registration) == 0


def test_a_claim_confirmed_while_the_operator_makes_the_account_leaves_one(track):
    for number in range(ROUNDS):
        email = f"ada{number}@example.com"
        confirmed, made = track.race(
            confirms_claim(claim(email)),
            lambda email=email: factories.account(email, password=NEW_PASSWORD, is_verified=True),
        )
        is_made = not isinstance(made, EmailTaken)

        assert confirmed.code == ("email_taken" if is_made else "done")
        assert signs_in(email, NEW_PASSWORD) == is_made
        assert signs_in(email, PASSWORD) != is_made
    assert count(User) == ROUNDS
    assert each_has_its_own_address()


def test_registrations_of_one_address_make_one_account(track):
    """AP-12: the constraint decides, not a query before it."""
    for number in range(ROUNDS):
        details = {"email": f"ada{number}@example.com", "password": PASSWORD, "first_name": "Ada"}
        answers = track.race(*[api("POST", "/auth/register", **details)] * 20)

        assert Counter(each.status for each in answers) == {201: 1, 409: 19}
        assert count(User) == number + 1
    assert each_has_its_own_address()


def test_claims_of_one_address_are_no_more_than_three_in_an_hour(track):
    """AP-22: a count read first would let all of them pass; the answers do not tell."""
    for number in range(ROUNDS):
        details = {"email": f"ada{number}@example.com", "password": PASSWORD, "first_name": "Ada"}
        answers = track.race(*[api("POST", "/auth/register", mode="required", **details)] * 8)

        assert {(each.status, each.text) for each in answers} == {(202, answers[0].text)}
        assert count(Registration) == mails("registration") == 3 * (number + 1)


def test_links_to_confirm_an_address_are_no_more_than_three_in_an_hour(track):
    """AP-22"""
    for number in range(ROUNDS):
        bearer = bearer_of(factories.account(f"ada{number}@example.com"))
        path = "/users/me/email/verification"
        answers = track.race(*[api("POST", path, bearer=bearer, mode="required")] * 8)

        assert {(each.status, each.text) for each in answers} == {(200, answers[0].text)}
        assert mails("verify_email") == 3 * (number + 1)


def test_one_link_that_confirms_an_address_does_so_once(track):
    for number in range(ROUNDS):
        ada = factories.account(f"ada{number}@example.com")
        bearer, token = bearer_of(ada), tokens.sign("verify_email", f"{ada.id}:{ada.email}")
        answers = track.race(
            *[api("POST", "/users/me/email/verify", bearer=bearer, token=token)] * 6
        )

        assert Counter(codes(answers)) == {"done": 1, "email_token_invalid": 5}
        assert events(ada, "email_verified") == 1
