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
from authsite.database.models import AccountEvent, OutgoingMail, User
from authsite.errors import (
    AuthsiteError,
    InvalidCredentials,
)
from tests import factories, services
from tests.test_races import at_once

pytestmark = pytest.mark.site

ROUNDS = services.rounds(15)


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
