"""Changes of address over the API: who may ask, what it answers, and what it does not tell."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from authsite import clock, database
from authsite.database.models import AccountEvent, EmailChange, OutgoingMail
from tests.api.conftest import (
    EMAIL,
    OTHER_EMAIL,
    V1,
    bearer,
    change_token,
    count,
    fields,
    is_live,
    is_moment,
    log_in,
    problem,
    refresh,
    session_id,
    try_login,
)
from tests.factories import PASSWORD

NEW = "ada.lovelace@example.com"
LINK = "Invalid or expired email confirmation link"
ASKED = {"success": True, "message": "Check your new email address to confirm the change"}


def ask(client, held, email=NEW):
    return client.post(f"{V1}/users/me/email", json={"email": email}, headers=bearer(held))


def confirm(client, held, token):
    path = f"{V1}/users/me/email/confirm"
    return client.post(path, json={"token": token}, headers=bearer(held))


def state(client, held):
    return client.get(f"{V1}/users/me/email", headers=bearer(held)).get_json()


def test_an_address_is_changed_by_the_link_that_went_to_it(app, client, held):
    answer = ask(client, held)
    assert (answer.status_code, answer.get_json()) == (202, ASKED)
    waits = state(client, held)
    assert (waits["email"], waits["pending_email"]) == (EMAIL, NEW)
    assert is_moment(waits["pending_expires_at"])
    answer = confirm(client, held, change_token(app))

    assert answer.status_code == 200
    assert (answer.get_json()["email"], answer.get_json()["email_verified"]) == (NEW, True)
    assert state(client, held) == {
        "email": NEW,
        "email_verified": True,
        "pending_email": None,
        "pending_expires_at": None,
    }
    assert try_login(client, NEW).status_code == 200
    problem(try_login(client, EMAIL), 401, "invalid_credentials")
    problem(confirm(client, held, change_token(app)), 400, "email_token_invalid", LINK)


def test_asking_needs_a_fresh_proof(client, held, time_machine, app):
    """LIFE §8.5: the body is not looked at before."""
    time_machine.move_to(clock.now() + timedelta(minutes=10, seconds=1))
    stale = ask(client, held, "nonsense")
    assert problem(stale, 401, "insufficient_user_authentication")["max_age"] == 600
    assert count(app, EmailChange) == 0
    refreshed = refresh(client, held["refresh_token"]).get_json()
    problem(ask(client, refreshed), 401, "insufficient_user_authentication")
    body = {"password": PASSWORD}
    fresh = client.post(f"{V1}/auth/step-up", json=body, headers=bearer(refreshed)).get_json()

    assert ask(client, fresh).status_code == 202


def test_the_answer_does_not_tell_whether_the_address_is_free(app, client, held, stranger):
    """LIFE §8.2: the same bytes and the same statements for both, and the same mail waits."""
    free, taken = ask(client, held, "free@example.com"), ask(client, held, OTHER_EMAIL)

    assert (free.status_code, free.data) == (taken.status_code, taken.data)
    assert {*free.headers.keys()} == {*taken.headers.keys()}
    with app.app_context():
        found = [row.name for row in database.rows(select(OutgoingMail.name))]
    assert found == ["change_email"] * 2


def test_known_and_unknown_addresses_cost_the_same_statements(
    client, held, stranger, sent_statements
):
    runs = []
    for email in ("free@example.com", OTHER_EMAIL):
        with sent_statements() as sent:
            assert ask(client, held, email).status_code == 202
        runs.append(sent)

    assert runs[0] == runs[1]
    assert not any("user_emails" in each for each in runs[0])


def test_a_change_to_an_address_of_another_is_409_when_it_is_confirmed(app, client, held, stranger):
    ask(client, held, OTHER_EMAIL)
    taken = confirm(client, held, change_token(app))
    found = problem(taken, 409, "email_taken", "User with this email already exists")

    assert fields(found) == ["email"]
    assert state(client, held)["email"] == EMAIL
    assert state(client, stranger)["email"] == OTHER_EMAIL


def test_a_strangers_link_changes_nothing(app, client, held, stranger):
    """LIFE §0.2"""
    ask(client, held)
    problem(confirm(client, stranger, change_token(app)), 400, "email_token_invalid", LINK)
    problem(
        confirm(client, held, change_token(app, "undo_email")), 400, "email_token_invalid", LINK
    )

    assert (state(client, held)["email"], state(client, stranger)["email"]) == (EMAIL, OTHER_EMAIL)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"email": EMAIL}, "This is already your email address"),
        ({"email": EMAIL.upper()}, "This is already your email address"),
        ({"email": "nonsense"}, "Enter an email address in the correct format"),
        ({"email": ""}, "Enter your email address"),
        ({"email": None}, "This must be text"),
        ({"email": [NEW, OTHER_EMAIL]}, "This must be text"),
        ({"email": f"{NEW},{OTHER_EMAIL}"}, "Enter an email address in the correct format"),
        ({"email": f"{NEW}\r\nBcc: {OTHER_EMAIL}"}, "Enter an email address in the correct format"),
        ({}, "Enter your email address"),
    ],
)
def test_what_is_no_new_address_is_refused(app, client, held, body, message):
    """RS-06"""
    answer = client.post(f"{V1}/users/me/email", json=body, headers=bearer(held))
    found = problem(answer, 422, "validation_error")

    assert fields(found) == ["email"]
    assert found["detail"].startswith(message)
    assert (count(app, EmailChange), count(app, OutgoingMail)) == (0, 0)


def test_cancelling_is_answered_alike_whether_or_not_there_was_one(app, client, held):
    ask(client, held)
    cancel = lambda: client.delete(f"{V1}/users/me/email", headers=bearer(held))  # noqa: E731
    answers = [cancel(), cancel()]

    assert [each.get_json() for each in answers] == [
        {"success": True, "message": "Change of email address cancelled"}
    ] * 2
    assert state(client, held)["pending_email"] is None
    problem(confirm(client, held, change_token(app)), 400, "email_token_invalid", LINK)


def test_of_more_than_three_in_an_hour_nothing_is_told_and_nothing_comes(make_app):
    client = (app := make_app(RATELIMIT_ENABLED="0")).test_client()
    body = {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"}
    assert client.post(f"{V1}/auth/register", json=body).status_code == 201
    held = log_in(client)
    answers = [ask(client, held, f"new{number}@example.com") for number in range(5)]

    assert {answer.data for answer in answers} == {answers[0].data}
    assert count(app, OutgoingMail) == 3
    assert state(client, held)["pending_email"] == "new2@example.com"


def test_the_other_sessions_stay_and_both_see_what_happened(app, client, held):
    other = log_in(client)
    ask(client, held)
    confirm(client, held, change_token(app))

    assert is_live(client, other)
    events = client.get(f"{V1}/users/me/activity", headers=bearer(other)).get_json()["events"]
    assert [(each["kind"], each["target"]) for each in events[:2]] == [
        ("email_changed", "a•••@example.com"),
        ("email_change_requested", "a•••@example.com"),
    ]
    with app.app_context():
        by = {row.session_id for row in database.rows(select(AccountEvent.session_id))}
    assert None in by  # the registration's; the others name the session that acted
    assert len(by) == 3


def test_reading_ones_address_is_two_statements(client, held, sent_statements):
    ask(client, held)
    with sent_statements() as sent:
        assert state(client, held)["pending_email"] == NEW

    assert len(sent) == 2


def test_a_device_that_is_signed_out_takes_the_change_that_it_asked_for_along(app, client, held):
    """LIFE §8.2: a thief's wish does not outlive the session that its owner takes from him."""
    ask(client, held)
    token, owner = change_token(app), log_in(client)
    client.delete(f"{V1}/sessions/{session_id(held)}", headers=bearer(owner))

    assert state(client, owner)["pending_email"] is None
    problem(confirm(client, owner, token), 400, "email_token_invalid", LINK)
