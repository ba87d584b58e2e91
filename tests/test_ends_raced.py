"""Reports, deletions and copies of an account, each race of them: as in test_lives_raced.py."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from authsite import accounts, clock, database, deletions
from authsite.crypto import tokens
from authsite.database import Base
from authsite.database.models import OutgoingEvent, OutgoingMail, User, UserSession
from authsite.errors import AuthsiteError, TooManyAttempts
from tests import factories, services
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.racing import Ask, api
from tests.test_lives_raced import (
    TAKES_AWAY,
    Person,
    address,
    asks_for,
    change_of_password,
    confirms,
    count,
    each_has_its_own_address,
    events,
    has_no_way_in,
    held_by,
    is_undone,
    link_to,
    live,
    mails,
    person,
    signs_in,
    undo_path,
    waiting,
)

pytestmark = [pytest.mark.site, pytest.mark.slow]

ROUNDS = services.rounds(3)


# "This wasn't me" (LIFE 8.3)


def report_path(kind: str, who: Person) -> str:
    """Return the link of the mail that told of this person's session, or of the last password."""
    of = str(who.held.session_id)
    if kind == "password":
        changed_at = select(User.password_changed_at).where(User.id == who.account.id)
        of = database.row(changed_at)[0].isoformat()
    return f"/not-me?token={tokens.sign('not_me', f'{kind}:{who.account.id}:{of}')}"


def is_closed(who: Person) -> bool:
    """Return whether no new browser gets in with the right password."""
    try:
        accounts.authenticate(address(who), PASSWORD)
    except TooManyAttempts:
        return True
    return False


def works(track, answer) -> bool:
    """Return whether the access token of an answer, if it has one, lets in."""
    if answer.status != 200:
        return False
    return track.ask(api("GET", "/auth/me", bearer=answer.json()["access_token"])).status == 200


def test_a_report_pressed_by_many_acts_once(track):
    for number in range(ROUNDS):
        thief = person(number)
        press = track.form(report_path("session", thief))
        answers = track.race(*[press()] * 4)

        assert {each.status for each in answers} == {303}
        assert events(thief.account, "not_me_reported") == 1
        assert mails("password_reset") == number + 1
        assert live(thief) == 0
        assert is_closed(thief)


@pytest.mark.parametrize("kind", ["session", "password"])
def test_of_those_who_type_the_address_one_ends_everything(track, kind):
    for number in range(ROUNDS):
        thief = person(number)
        type_it = track.form(report_path(kind, thief))
        answers = track.race(*[type_it(email=address(thief))] * 4)

        assert sorted(each.status for each in answers) == [303, 410, 410, 410]
        assert events(thief.account, "not_me_reported") == 1
        assert mails("password_reset") == number + 1
        assert has_no_way_in(thief)


def test_a_report_while_the_address_is_changed_closes_the_one_that_the_account_has(track):
    """Read before the row is locked, the address may be one that was just given up."""
    for number in range(ROUNDS):
        thief = person(number)
        press, link = track.form(report_path("session", thief)), link_to(thief, thief.chain[1])
        reported, confirmed = track.race(press(), confirms(thief, link))

        assert reported.status == 303
        assert confirmed.code in ("done", "email_token_invalid", "session_revoked")
        assert is_closed(thief)
        assert waiting(thief) is None
        assert mails("password_reset") == number + 1


def test_a_thief_who_signs_himself_out_at_that_moment_is_kept_out_all_the_same(track):
    """As one who refreshes, asks for another address, and proves the password once more."""
    for number in range(ROUNDS):
        thief = person(number)
        press = track.form(report_path("session", thief))
        reported, left, refreshed, asked, proved = track.race(
            press(),
            api("POST", "/auth/logout", bearer=thief.bearer),
            thief.refreshes(),
            asks_for(thief, thief.chain[1]),
            api("POST", "/auth/step-up", bearer=thief.bearer, password=PASSWORD),
        )

        assert reported.status == 303
        assert {each.status for each in (left, refreshed, asked, proved)} <= {200, 202, 401, 429}
        assert not any(works(track, each) for each in (refreshed, proved))
        assert (live(thief), waiting(thief), is_closed(thief)) == (0, None, True)
        assert mails("password_reset") == number + 1


def test_who_signs_in_or_changes_the_password_while_everything_ends_is_out(track):
    for number in range(ROUNDS):
        thief = person(number)
        type_it = track.form(report_path("session", thief))
        reported, changed, *signed_in = track.race(
            type_it(email=address(thief)),
            change_of_password(thief),
            *[thief.signs_in(address(thief))] * 2,
        )

        assert reported.status == 303
        assert changed.code in ("done", "invalid_credentials", "session_revoked")
        assert {each.status for each in signed_in} <= {200, 401}
        assert has_no_way_in(thief)
        assert mails("password_reset") == number + 1


# Deletion and copies (LIFE 8.6)


def deletes(who: Person) -> Ask:
    return api("DELETE", "/users/me", bearer=who.bearer)


def keep_path(who: Person) -> str:
    value = f"{who.account.id}:{state(who).delete_after.isoformat()}"
    return f"/keep-account?token={tokens.sign('keep_account', value)}"


def state(who: Person) -> database.Row | None:
    columns = (User.is_active, User.delete_after)
    return database.row(select(*columns).where(User.id == who.account.id))


def close(who: Person) -> None:
    """Ask for the account's deletion, by its own session."""
    assert deletions.request(who.resumed(), ip_address=None)


def delete_now(who: Person):
    """Return what the operator's `delete-user --now` does."""
    return lambda: deletions.request_by_operator(address(who), is_at_once=True)


def what_is_left(who: Person) -> list[str]:
    """Return the tables that hold a row of the account, but for what tells the products that it is gone."""
    named = [table for table in Base.metadata.sorted_tables if "user_id" in table.c]
    return [
        table.name
        for table in [*named, User.__table__]
        if table is not OutgoingEvent.__table__
        and count(table, table.c.get("user_id", table.c.get("id")) == who.account.id)
    ]


def test_a_sign_in_that_races_a_deletion_leaves_no_session(track):
    """SE-14: whichever comes first, the row that it wrote has ended or was never written."""
    for number in range(ROUNDS):
        ada = person(number)
        deleted, signed_in, refreshed = track.race(
            deletes(ada), ada.signs_in(address(ada)), ada.refreshes()
        )

        assert deleted.code == "done"
        assert {each.status for each in (signed_in, refreshed)} <= {200, 401, 403}
        assert not any(works(track, each) for each in (signed_in, refreshed))
        assert live(ada) == 0
        assert not state(ada).is_active


def test_of_two_devices_that_ask_for_the_deletion_one_does(track):
    for number in range(ROUNDS):
        ada = person(number)
        other = Person(ada.account, factories.grant(ada.account), ada.chain)
        answers = track.race(deletes(ada), deletes(other))

        assert sorted(each.code for each in answers) == ["done", "session_revoked"]
        assert mails("deletion_scheduled") == events(ada.account, "deletion_requested") + number


def test_of_two_uses_of_the_link_one_keeps_the_account(track):
    for number in range(ROUNDS):
        ada = person(number)
        close(ada)
        keep = track.form(keep_path(ada))
        answers = track.race(*[keep(email=address(ada), choice="keep_and_reset")] * 2)

        assert sorted(each.status for each in answers) == [303, 410]
        assert (state(ada).is_active, state(ada).delete_after) == (True, None)
        assert mails("password_reset") == events(ada.account, "deletion_cancelled") + number
        assert has_no_way_in(ada)


@pytest.mark.parametrize("how", TAKES_AWAY)
def test_who_is_shown_out_at_that_moment_deletes_nothing_or_has_done_it_before(track, how):
    """A thief whose session the owner ends: the request comes before, and is mailed, or not at all."""
    for number in range(ROUNDS):
        thief, before = person(number), mails("deletion_scheduled")
        deleted, taken = track.race(deletes(thief), TAKES_AWAY[how](thief))
        own = (UserSession.user_id == thief.account.id, UserSession.id == thief.held.session_id)
        (reason,) = database.row(select(UserSession.end_reason).where(*own))

        assert deleted.code in ("done", "session_revoked")
        assert "done" in (deleted.code, taken.code)
        # Had something else ended his session before, he asked in one that was over.
        assert (reason == "account_deleted") == (deleted.code == "done")
        assert state(thief).is_active == (deleted.code != "done")
        assert mails("deletion_scheduled") - before == (deleted.code == "done")


def test_an_undo_wins_over_a_deletion(track):
    for number in range(ROUNDS):
        ada = person(number, changes=1)
        undo = track.form(undo_path(ada))
        undone, deleted = track.race(undo(email=ada.chain[0]), deletes(ada))

        assert undone.status == 303
        assert deleted.code in ("done", "session_revoked")
        assert (state(ada).is_active, state(ada).delete_after) == (True, None)
        assert is_undone(ada)


def test_an_account_is_not_deleted_before_a_change_confirmed_meanwhile_can_be_undone(track):
    for number in range(ROUNDS):
        ada = person(number)
        deleted, confirmed = track.race(deletes(ada), confirms(ada, link_to(ada, ada.chain[1])))
        kept_until = [each for each in held_by(ada).values() if each]

        assert deleted.code == "done"
        assert confirmed.code in ("done", "email_token_invalid", "session_revoked")
        assert len(kept_until) == (confirmed.code == "done")
        assert state(ada).delete_after >= max(kept_until, default=clock.now())


def test_an_undo_as_the_account_falls_due_keeps_all_or_comes_too_late(track):
    for number in range(ROUNDS):
        ada = person(number, changes=1)
        undo = track.form(undo_path(ada))
        close(ada)
        due = {"delete_after": clock.now() - timedelta(seconds=1)}
        database.run(update(User).where(User.id == ada.account.id).values(due))
        undone, gone = track.race(undo(email=ada.chain[0]), lambda: sum(deletions.delete_due()))

        assert (undone.status, gone) in ((303, 0), (410, 1))
        if undone.status == 303:
            assert is_undone(ada)
            assert (state(ada).is_active, state(ada).delete_after) == (True, None)
        else:
            assert what_is_left(ada) == []


def test_whatever_is_asked_while_the_rows_go_is_told_alike_and_leaves_nothing(track):
    """No fault of ours is shown for it: the user has gone between the look and what is written."""
    for number in range(ROUNDS):
        ada = person(number)
        wrong = api("POST", "/auth/login", email=address(ada), password="not her password")
        gone, *answers = track.race(
            delete_now(ada),
            wrong,
            ada.signs_in(address(ada)),
            ada.refreshes(),
            asks_for(ada, ada.chain[1]),
            deletes(ada),
            api("PATCH", "/users/me", bearer=ada.bearer, first_name="Augusta"),
            api("POST", "/auth/step-up", bearer=ada.bearer, password=PASSWORD),
            api("POST", "/auth/password-reset/request", email=address(ada)),
            wrong,
        )

        assert not isinstance(gone, AuthsiteError), gone
        assert {each.code for each in answers} <= {
            *("done", "session_revoked", "invalid_credentials", "inactive_account"),
        }
        assert {answers[0].code, answers[-1].code} == {"invalid_credentials"}
        assert not any(works(track, each) for each in (answers[1], answers[2], answers[6]))
        assert what_is_left(ada) == []


def test_who_registers_the_address_as_its_account_goes_has_it_whole_or_not(track):
    for number in range(ROUNDS):
        ada = person(number)
        new = {"email": ada.chain[0], "password": NEW_PASSWORD, "first_name": "Eve"}
        gone, *answers = track.race(delete_now(ada), *[api("POST", "/auth/register", **new)] * 2)
        codes = sorted(each.code for each in answers)

        assert not isinstance(gone, AuthsiteError), gone
        assert codes in (["email_taken"] * 2, ["done", "email_taken"])
        assert what_is_left(ada) == []
        assert signs_in(ada.chain[0], NEW_PASSWORD) == ("done" in codes)
    assert each_has_its_own_address()


MANY = 60


@pytest.mark.parametrize("how", ["in some days", "at once"])
def test_a_copy_of_an_account_that_goes_meanwhile_is_whole_or_cut(track, how):
    """A cut one is no valid JSON, so that nobody takes it for all there was."""
    for number in range(ROUNDS):
        ada = person(number)
        factories.session_rows(ada.account, MANY)
        ends = deletes(ada) if how == "in some days" else delete_now(ada)
        ended, copied = track.race(ends, api("GET", "/users/me/export", bearer=ada.bearer))

        assert not isinstance(ended, AuthsiteError), ended
        if copied.status == 200 and copied.is_whole:
            told = copied.json()
            assert told["counts"]["sessions"] == len(told["sessions"]) == MANY + 1
        elif not copied.is_whole:
            assert how == "at once"
            with pytest.raises(json.JSONDecodeError):
                copied.json()
        else:
            assert copied.code == "session_revoked"
        assert live(ada) == 0
        assert count(OutgoingMail, OutgoingMail.user_id == ada.account.id) == 0 or how != "at once"
        assert count(UserSession, UserSession.user_id == ada.account.id) in (0, MANY + 1)
