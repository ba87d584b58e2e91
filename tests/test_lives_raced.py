"""An account's life, each race of it: the two workers of a running site, on SQLite and on PostgreSQL.

Through the API, and where only a page does it by the page's form; what is left is looked at from this
process, a third on the same database.
"""

from collections import Counter
from typing import NamedTuple

import pytest
from sqlalchemy import func, select

from authsite import accounts, clock, database, email_changes, passwords, registrations, sessions
from authsite.crypto import tokens
from authsite.database.models import (
    Account,
    AccountEvent,
    EmailChange,
    OutgoingMail,
    PasswordReset,
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
    """Sign in on one more device, and return its access token."""
    return factories.fresh_access_token(factories.grant(account))


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


# Change of address (LIFE 8.2)


class Person(NamedTuple):
    """An account of its own for each round, a device that has just signed in, and addresses to go to."""

    account: Account
    held: sessions.Grant
    chain: list[str]

    @property
    def bearer(self) -> str:
        return factories.fresh_access_token(self.held)

    def resumed(self) -> sessions.Resumed:
        return sessions.resume_api(self.held.session_id, self.account.id)

    def signs_in(self, email: str) -> Ask:
        return api("POST", "/auth/login", email=email, password=PASSWORD)

    def refreshes(self) -> Ask:
        return api("POST", "/auth/refresh", refresh_token=factories.refresh_token(self.held))


def person(number: int, *, changes: int = 0) -> Person:
    """Return somebody whose address has been changed so often, each time confirmed."""
    chain = [f"{name}{number}@example.com" for name in ("one", "two", "three")]
    account = factories.account(chain[0], is_verified=True)
    made = Person(account, factories.grant(account), chain)
    for to in chain[1 : changes + 1]:
        email_changes.confirm(account.id, link_to(made, to))
    return made


def link_to(who: Person, email: str) -> str:
    """Ask for this address, and return the token of the link that confirms it."""
    assert email_changes.request(who.resumed(), email, ip_address=None)
    return tokens.sign("change_email", _named(who, EmailChange.new_email == email))


def undo_path(who: Person, step: int = 0) -> str:
    """Return the link that leads back to this address of the chain."""
    named = _named(who, EmailChange.old_email == who.chain[step])
    return f"/undo-email?token={tokens.sign('undo_email', named)}"


def _named(who: Person, which) -> str:
    (row,) = database.rows(
        select(EmailChange.id).where(EmailChange.user_id == who.account.id, which)
    )
    return f"{who.account.id.hex}.{row.id}"


def confirms(who: Person, token: str) -> Ask:
    return api("POST", "/users/me/email/confirm", bearer=who.bearer, token=token)


def asks_for(who: Person, email: str) -> Ask:
    return api("POST", "/users/me/email", bearer=who.bearer, email=email)


def address(who: Person) -> str:
    return accounts.find_by_id(who.account.id).email


def held_by(who: Person) -> dict:
    """Return the addresses of the account, and until when those are kept that it gave up."""
    rows = database.rows(select(UserEmail.__table__).where(UserEmail.user_id == who.account.id))
    return {row.email: row.kept_until for row in rows}


def waiting(who: Person) -> str | None:
    found = email_changes.find_waiting(who.account.id)
    return found and found.new_email


def live(who: Person) -> int:
    return len(sessions.active_for(who.account.id))


def has_no_way_in(who: Person) -> bool:
    """Return whether there is no session and neither password lets in."""
    return live(who) == 0 and not any(
        signs_in(address(who), password) for password in (PASSWORD, NEW_PASSWORD)
    )


def is_undone(who: Person) -> bool:
    """Return whether the first address is back, alone, and nobody is in."""
    return (address(who), held_by(who), waiting(who), live(who)) == (
        who.chain[0],
        {who.chain[0]: None},
        None,
        0,
    )


def test_one_link_that_changes_an_address_does_so_once(track):
    for number in range(ROUNDS):
        ada = person(number)
        link = link_to(ada, ada.chain[1])
        answers = track.race(*[confirms(ada, link)] * 6)

        assert Counter(codes(answers)) == {"done": 1, "email_token_invalid": 5}
        assert events(ada.account, "email_changed") == 1
        assert mails("email_changed") == number + 1
        assert address(ada) == ada.chain[1]


def test_an_address_that_four_want_at_once_gets_one_owner(track):
    """Two confirm their change to it, one confirms its claim, one registers, and the operator makes it."""
    for number in range(ROUNDS):
        wanted = f"wanted{number}@example.com"
        ada, grace = person(2 * number), person(2 * number + 1)
        new = {"email": wanted, "password": PASSWORD, "first_name": "Eve"}
        answers = track.race(
            confirms(ada, link_to(ada, wanted)),
            confirms(grace, link_to(grace, wanted)),
            confirms_claim(claim(wanted)),
            api("POST", "/auth/register", **new),
            lambda wanted=wanted: factories.account(wanted, is_verified=True),
        )
        refused = [
            each.code == "email_taken" if isinstance(each, Answer) else isinstance(each, EmailTaken)
            for each in answers
        ]

        assert refused.count(False) == 1, answers
        assert count(User, User.email == wanted) == count(UserEmail, UserEmail.email == wanted) == 1
        assert [address(ada) == wanted, address(grace) == wanted] == [
            not each for each in refused[:2]
        ]
    assert each_has_its_own_address()


def test_an_address_confirmed_while_somebody_registers_it_has_one_owner(track):
    for number in range(2 * ROUNDS):
        ada = person(number)
        wanted, link = ada.chain[1], link_to(ada, ada.chain[1])
        other = (
            confirms_claim(claim(wanted))
            if number % 2
            else api("POST", "/auth/register", email=wanted, password=PASSWORD, first_name="Eve")
        )
        answers = track.race(confirms(ada, link), other)

        assert codes(answers) == ["done", "email_taken"]
        assert (address(ada) == wanted) == (answers[0].code == "done")
        assert count(User, User.email == wanted) == 1
    assert each_has_its_own_address()


def test_two_who_want_each_others_address_keep_their_own(track):
    for number in range(ROUNDS):
        ada, grace = person(2 * number), person(2 * number + 1)
        answers = track.race(
            confirms(ada, link_to(ada, grace.chain[0])),
            confirms(grace, link_to(grace, ada.chain[0])),
        )

        assert codes(answers) == ["email_taken"] * 2
        assert (address(ada), address(grace)) == (ada.chain[0], grace.chain[0])


def test_of_two_wishes_one_waits(track):
    for number in range(ROUNDS):
        ada = person(number)
        answers = track.race(*(asks_for(ada, to) for to in ada.chain[1:]))
        still = (EmailChange.user_id == ada.account.id, EmailChange.ended_at.is_(None))

        assert [each.status for each in answers] == [202, 202]
        assert waiting(ada) in ada.chain[1:]
        assert count(EmailChange, *still) == 1


def test_wishes_are_no_more_than_three_in_an_hour(track):
    """AP-22: a count read first would let all of them pass; the answers do not tell."""
    for number in range(ROUNDS):
        ada = person(number)
        answers = track.race(*(asks_for(ada, f"{to}new{number}@example.com") for to in range(8)))

        assert {(each.status, each.text) for each in answers} == {(202, answers[0].text)}
        assert mails("change_email") == 3 * (number + 1)


def test_an_undo_wins_over_a_second_change_and_over_whoever_is_in(track):
    """The thief confirms his next change, signs in and refreshes; the owner is last."""
    for number in range(ROUNDS):
        ada = person(number, changes=1)
        undo = track.form(undo_path(ada))
        further = link_to(ada, ada.chain[2])
        undone, confirmed, refreshed, signed_in = track.race(
            undo(email=ada.chain[0]),
            confirms(ada, further),
            ada.refreshes(),
            ada.signs_in(ada.chain[1]),
        )

        assert (undone.status, undone.headers["Location"]) == (303, "/login")
        assert confirmed.code in ("done", "email_token_invalid", "session_revoked")
        assert refreshed.status in (200, 401)
        assert signed_in.status in (200, 401)
        assert is_undone(ada)
        assert has_no_way_in(ada)
        assert mails("password_reset") == number + 1


def test_a_wish_that_comes_while_a_change_is_undone_does_not_outlive_it(track):
    for number in range(ROUNDS):
        ada = person(number, changes=1)
        undo = track.form(undo_path(ada))
        undone, asked = track.race(undo(email=ada.chain[0]), asks_for(ada, ada.chain[2]))

        assert undone.status == 303
        assert asked.status in (202, 401)
        assert is_undone(ada)


def test_of_two_steps_undone_the_earlier_one_has_the_last_word(track):
    for number in range(ROUNDS):
        ada = person(number, changes=2)
        first, second = (track.form(undo_path(ada, step)) for step in (0, 1))
        undone, later = track.race(first(email=ada.chain[0]), second(email=ada.chain[1]))

        assert undone.status == 303
        assert later.status in (303, 410)
        assert is_undone(ada)


def test_one_undo_link_works_once(track):
    for number in range(ROUNDS):
        ada = person(number, changes=1)
        undo = track.form(undo_path(ada))
        answers = track.race(*[undo(email=ada.chain[0])] * 4)

        assert sorted(each.status for each in answers) == [303, 410, 410, 410]
        assert mails("password_reset") == number + 1
        assert events(ada.account, "email_change_undone") == 1
        assert is_undone(ada)


def test_a_password_changed_while_a_change_is_undone_is_worth_nothing(track):
    """Nor is the session that it leaves, nor another sign-in."""
    for number in range(ROUNDS):
        ada = person(number, changes=1)
        undo = track.form(undo_path(ada))
        new = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        undone, changed = track.race(
            undo(email=ada.chain[0]),
            api("PATCH", "/users/me/password", bearer=ada.bearer, **new),
        )

        assert undone.status == 303
        assert changed.code in ("done", "invalid_credentials", "session_revoked")
        assert is_undone(ada)
        assert has_no_way_in(ada)


def test_of_a_change_of_address_and_a_reset_one_is_done(track):
    """Each ends the other's link: a thief's change does not outlive the reset, nor a reset the change."""
    for number in range(ROUNDS):
        ada = person(number)
        link, reset = link_to(ada, ada.chain[1]), reset_link(ada.account)
        confirmed, is_reset = track.race(confirms(ada, link), resets(reset))

        assert codes([confirmed, is_reset]) in (
            ["done", "email_token_invalid"],
            ["done", "reset_token_invalid"],
            ["done", "session_revoked"],
        )
        assert address(ada) == ada.chain[confirmed.code == "done"]
        assert signs_in(address(ada), NEW_PASSWORD) == (is_reset.code == "done")
        assert waiting(ada) is None


def reset_link(account: Account) -> str:
    passwords.request_reset(account.email, **FROM)
    waits = (PasswordReset.user_id == account.id, PasswordReset.ended_at.is_(None))
    (row,) = database.rows(select(PasswordReset.id).where(*waits))
    return tokens.reset_link(account.id, row.id)


def resets(token: str) -> Ask:
    path = "/auth/password-reset/confirm"
    return api("POST", path, token=token, new_password=NEW_PASSWORD)


def change_of_password(ada: Person) -> Ask:
    """Sign in on another device, and change the password there."""
    new = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    return api("PATCH", "/users/me/password", bearer=bearer_of(ada.account), **new)


# What another device, or the mailbox, does to whoever is in with the session of a `Person`.
TAKES_AWAY = {
    "reset": lambda ada: resets(reset_link(ada.account)),
    "change of password": change_of_password,
    "that session revoked": lambda ada: api(
        "DELETE", f"/sessions/{ada.held.session_id}", bearer=bearer_of(ada.account)
    ),
    "all others ended": lambda ada: api(
        "DELETE", "/sessions/me/others", bearer=bearer_of(ada.account)
    ),
    "all ended": lambda ada: api("POST", "/auth/logout-all", bearer=bearer_of(ada.account)),
}


@pytest.mark.parametrize("how", TAKES_AWAY)
def test_a_wish_that_comes_while_its_session_is_ended_does_not_outlive_it(track, how):
    for number in range(ROUNDS):
        ada = person(number)
        asked, taken = track.race(asks_for(ada, ada.chain[1]), TAKES_AWAY[how](ada))

        assert asked.code in ("done", "session_revoked")
        assert taken.status in (200, 204)
        assert waiting(ada) is None


def test_all_that_can_be_done_to_an_account_at_once_ends_without_a_fault(track):
    """LD-01: none waits for ever for another, and the owner who takes back is last."""
    for number in range(ROUNDS):
        ada = person(number, changes=1)
        undo = track.form(undo_path(ada))
        further, token = link_to(ada, ada.chain[2]), bearer_of(accounts.find_by_id(ada.account.id))
        undone, *_ = track.race(
            undo(email=ada.chain[0]),
            confirms(ada, further),
            api("DELETE", "/users/me/email", bearer=token),
            api("DELETE", f"/sessions/{ada.held.session_id}", bearer=token),
            api("DELETE", "/sessions/me/others", bearer=token),
            api("POST", "/auth/logout-all", bearer=token),
            asks_for(ada, ada.chain[0]),
            api("POST", "/auth/password-reset/request", email=ada.chain[1]),
            api("PATCH", "/users/me", bearer=token, first_name="Augusta"),
            lambda: list(email_changes.delete_dead(clock.now())),
        )

        assert undone.status == 303
        assert is_undone(ada)
    assert each_has_its_own_address()
