"""Deleting an account, raced against all that crosses it: real connections, and for two workers processes."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, text, update

from authsite import accounts, activity, clock, database, deletions, sessions
from authsite.crypto import tokens
from authsite.database.models import AccountEvent, OutgoingMail, User, UserSession
from authsite.errors import (
    AccountBeingDeleted,
    AuthsiteError,
    EmailTokenInvalid,
    InvalidCredentials,
    SessionRevoked,
)
from tests import factories, services
from tests.factories import PASSWORD
from tests.test_races import at_once

pytestmark = pytest.mark.site

ROUNDS = services.rounds(15)
FROM = {"device_name": "curl", "ip_address": None}


@pytest.fixture(autouse=True)
def _current(app_context):
    """Verbs need the application, not a request."""


def account(number: int):
    return factories.account(f"ada{number}@example.com", is_verified=True)


def resumed(owner):
    held = factories.grant(owner)
    return held, sessions.resume_api(held.session_id, owner.id)


def ask(session):
    return deletions.request(session, ip_address=None)


def state(owner):
    return database.row(select(User.is_active, User.delete_after).where(User.id == owner.id))


def mails(name: str) -> int:
    found = select(func.count()).select_from(OutgoingMail).where(OutgoingMail.name == name)
    return database.row(found)[0]


def live_sessions(owner) -> int:
    live = (UserSession.user_id == owner.id, UserSession.ended_at.is_(None))
    return database.row(select(func.count()).select_from(UserSession).where(*live))[0]


@pytest.mark.slow
def test_a_sign_in_that_races_it_leaves_no_session(app):
    """SE-14: whichever comes first, the row that it wrote has ended or was never written."""
    outcomes = set()
    for number in range(ROUNDS):
        owner = account(number)
        _, session = resumed(owner)
        authenticated = accounts.authenticate(owner.email, PASSWORD)

        def sign_in(known=authenticated):
            return sessions.start(
                known.account,
                password_changed_at=known.password_changed_at,
                client=sessions.Client(),
                entrance="api",
            )

        answers = at_once(app, sign_in, lambda of=session: ask(of))
        outcomes.add(isinstance(answers[0], InvalidCredentials))
        assert live_sessions(owner) == 0
        with pytest.raises(AccountBeingDeleted):
            accounts.authenticate(owner.email, PASSWORD)
    assert outcomes  # either order may come; each leaves nothing


@pytest.mark.slow
def test_a_refresh_that_races_it_gives_out_nothing_that_works(app):
    for number in range(ROUNDS):
        owner = account(number)
        held, session = resumed(owner)

        def refresh(held=held, owner=owner):
            return sessions.rotate(held.session_id, owner.id, held.jti)

        answer = at_once(app, refresh, lambda of=session: ask(of))[0]
        assert live_sessions(owner) == 0
        if not isinstance(answer, AuthsiteError):
            with pytest.raises(SessionRevoked):
                sessions.rotate(held.session_id, owner.id, answer.jti)


@pytest.mark.slow
def test_of_two_devices_that_ask_at_once_one_does(app):
    for number in range(ROUNDS):
        owner = account(number)
        (_, one), (_, other) = resumed(owner), resumed(owner)
        answers = at_once(app, lambda of=one: ask(of), lambda of=other: ask(of))
        refused = [each for each in answers if isinstance(each, SessionRevoked)]
        assert len(refused) == 1
        assert mails("deletion_scheduled") == number + 1


@pytest.mark.slow
def test_of_two_uses_of_the_link_one_keeps_the_account(app):
    for number in range(ROUNDS):
        owner = account(number)
        after = ask(resumed(owner)[1])
        link = tokens.sign("keep_account", f"{owner.id}:{after.isoformat()}")

        def keep(link=link, owner=owner):
            return deletions.keep(link, owner.email, is_reset=True, **FROM)

        answers = at_once(app, keep, keep)
        assert [type(each) for each in answers].count(EmailTokenInvalid) == 1
        assert state(owner).is_active
        assert mails("password_reset") == number + 1


@pytest.mark.slow
def test_who_is_shown_out_at_that_moment_deletes_nothing_or_has_done_it_before(app):
    """A thief whose session the owner ends: the request comes before, and is mailed, or not at all."""
    for number in range(ROUNDS):
        owner = account(number)
        _, session = resumed(owner)

        def show_out(owner=owner):
            with database.transaction():  # as a change of password does: the user's row first
                database.run(update(User).where(User.id == owner.id).values(updated_at=clock.now()))
                return sessions.end_all(owner.id, reason="password_changed")

        before = mails("deletion_scheduled")
        answers = at_once(app, show_out, lambda of=session: ask(of))
        is_refused = isinstance(answers[1], SessionRevoked)
        assert is_refused == state(owner).is_active
        assert is_refused == (answers[0] == 1)
        assert mails("deletion_scheduled") - before == (0 if is_refused else 1)


@pytest.mark.slow
def test_an_operator_who_opens_it_as_it_falls_due_keeps_all_or_comes_too_late(app):
    for number in range(ROUNDS):
        owner = account(number)
        ask(resumed(owner)[1])
        due = {"delete_after": clock.now() - timedelta(seconds=1)}
        database.run(update(User).where(User.id == owner.id).values(due))
        answers = at_once(
            app,
            lambda owner=owner: accounts.activate(owner.email),
            lambda: sum(deletions.delete_due()),
        )
        is_open = not isinstance(answers[0], AuthsiteError)
        assert is_open == (state(owner) is not None)
        assert answers[1] == (0 if is_open else 1)
        if is_open:
            assert state(owner) == (True, None)


@pytest.mark.slow
def test_a_wrong_password_while_the_rows_go_is_told_alike_and_leaves_nothing(app):
    """No fault of ours is shown for it: its user has gone between the look and the note."""
    for number in range(ROUNDS):
        owner = account(number)

        def guess(owner=owner):
            return accounts.authenticate(owner.email, "not her password")

        answers = at_once(
            app,
            guess,
            lambda owner=owner: deletions.request_by_operator(owner.email, is_at_once=True),
            guess,
        )
        assert isinstance(answers[0], InvalidCredentials)
        assert isinstance(answers[2], InvalidCredentials)
        assert state(owner) is None
    assert database.row(select(func.count()).select_from(AccountEvent))[0] == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_refers_to_a_user_who_goes_meanwhile_waits_and_is_not_written(app):
    """The failure is held up by the deletion's lock, and then finds nobody, instead of failing."""
    owner = account(0)
    with database.transactional_engine().connect() as other:
        other.execute(select(User).where(User.id == owner.id).with_for_update())
        with ThreadPoolExecutor(1) as pool:

            def guess():
                with app.app_context():
                    accounts.authenticate(owner.email, "not her password")

            guessed = pool.submit(guess)
            services.wait_until(waits_for_a_lock, seconds=20)
            other.execute(delete(User).where(User.id == owner.id))
            other.commit()
            assert isinstance(guessed.exception(timeout=20), InvalidCredentials)
    assert database.row(select(func.count()).select_from(AccountEvent))[0] == 0


def waits_for_a_lock() -> bool:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    return database.row(waiting)[0] > 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_workers_delete_each_account_once(database_url):
    """FA-06: as processes; what both have done is what was due, with one mail each."""
    owners = [account(number) for number in range(10)]
    for owner in owners:
        factories.session_rows(owner, 5, age=timedelta(days=1))
        deletions.request_by_operator(owner.email)
    stays = account(99)
    due = {"delete_after": clock.now() - timedelta(seconds=1)}
    database.run(update(User).where(User.delete_after.is_not(None)).values(due))
    environ = os.environ | {"DATABASE_URL": database_url, "SECRET_KEY": services.SECRET_KEY}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "flask", "cleanup-accounts", "--batch-size", "2", "--json"],
            cwd=services.ROOT,
            env=environ | {"MAIL_SERVER": services.HOST, "MAIL_PORT": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [each.communicate(timeout=120)[0] for each in workers]

    assert [each.returncode for each in workers] == [0, 0]
    assert sum(json.loads(each)["accounts"] for each in outputs) == len(owners)
    assert database.row(select(func.count()).select_from(User))[0] == 1
    assert state(stays).is_active
    assert mails("account_deleted") == len(owners)


def test_a_request_whose_user_goes_meanwhile_is_told_that_it_is_signed_out(app, monkeypatch):
    """What it writes refers to nobody any longer: 401, as a moment later, and no fault of ours."""
    owner = account(0)
    held, _ = resumed(owner)
    changed = accounts.update_details

    def gone(user_id, changes):
        with database.transaction():
            database.run(delete(User).where(User.id == user_id))
        activity.record("details_changed", user_id)
        return changed(user_id, changes)

    monkeypatch.setattr(accounts, "update_details", gone)
    answer = app.test_client().patch(
        "/api/v1/users/me",
        json={"first_name": "Ada"},
        headers={"Authorization": f"Bearer {factories.access_token(held)}"},
    )
    assert (answer.status_code, answer.get_json()["errors"][0]["code"]) == (401, "session_revoked")
