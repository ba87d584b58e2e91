"""Activity: each act leaves one event, nothing else does, and only its owner reads it."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, insert, select

from authsite import accounts, activity, clock, database, passwords, throttling
from authsite.database.models import EVENT_KINDS, AccountEvent, User
from authsite.errors import EmailTaken
from tests import factories
from tests.api.conftest import (
    EMAIL,
    OTHER_EMAIL,
    V1,
    bearer,
    log_in,
    problem,
    refresh,
    reset_token_from_outbox,
    session_id,
    try_login,
)
from tests.factories import NEW_PASSWORD, PASSWORD


def feed(client, held, **query):
    answer = client.get(f"{V1}/users/me/activity", headers=bearer(held), query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def kinds(client, held):
    """Return the kinds of all events, oldest first."""
    # Ids of one millisecond have no order of their own.
    events = sorted(feed(client, held, limit=100)["events"], key=lambda each: each["created_at"])
    return [event["kind"] for event in events]


def event_count(app, email=EMAIL):
    with app.app_context():
        owner = accounts.find_by_email(email)
        statement = select(func.count()).where(AccountEvent.user_id == owner.id)
        return database.rows(statement)[0][0]


def test_a_sign_in_is_told_with_its_device_and_session(client, user):
    held = log_in(client, headers={"User-Agent": "curl/8.5.0"}, address="203.0.113.7")
    (event,) = feed(client, held, kind="signed_in")["events"]
    (registered,) = feed(client, held, kind="registered")["events"]
    assert event == {
        "id": event["id"],
        "kind": "signed_in",
        "created_at": event["created_at"],
        "session_id": session_id(held),
        "device_name": "curl",
        "ip_address": "203.0.113.7",
        "location_country": None,
        "target": None,
        "is_current": True,
    }
    assert (registered["kind"], registered["session_id"]) == ("registered", None)
    assert registered["is_current"] is False


def test_a_device_that_is_signed_out_from_another_is_told_with_both(client, held):
    other = log_in(client, headers={"User-Agent": "curl/8.5.0"})
    client.delete(f"{V1}/sessions/{session_id(other)}", headers=bearer(held))
    (event,) = feed(client, held, kind="device_signed_out")["events"]
    assert (event["kind"], event["target"]) == ("device_signed_out", "curl")
    assert (event["session_id"], event["is_current"]) == (session_id(held), True)
    before = len(kinds(client, held))
    client.delete(f"{V1}/sessions/{session_id(other)}", headers=bearer(held))
    assert len(kinds(client, held)) == before


def test_every_act_of_the_api_leaves_its_event(client, held):
    mine = bearer(held)
    client.patch(f"{V1}/users/me", json={"first_name": "Augusta"}, headers=mine)
    client.post(f"{V1}/auth/logout", headers=bearer(log_in(client)))
    log_in(client)
    client.delete(f"{V1}/sessions/me/others", headers=mine)
    (event,) = feed(client, held, kind="devices_signed_out")["events"]
    assert event["target"] == "1 device"
    changed = client.patch(
        f"{V1}/users/me/password",
        json={"current_password": PASSWORD, "new_password": NEW_PASSWORD},
        headers=mine,
    )
    client.post(f"{V1}/auth/password-reset/request", json={"email": EMAIL})
    assert kinds(client, changed.get_json()) == [
        *("registered", "signed_in", "details_changed"),
        *("signed_in", "signed_out", "signed_in", "devices_signed_out"),
        *("password_changed", "password_reset_requested"),
    ]
    token = reset_token_from_outbox(client.application)
    body = {"token": token, "new_password": PASSWORD}
    assert client.post(f"{V1}/auth/password-reset/confirm", json=body).status_code == 200
    again = log_in(client)
    assert kinds(client, again)[-3:] == ["email_verified", "password_reset", "signed_in"]
    client.post(f"{V1}/auth/logout-all", headers=bearer(again))
    assert kinds(client, log_in(client))[-2:] == ["devices_signed_out", "signed_in"]


def test_reading_and_refreshing_leave_nothing(client, held):
    """LIFE 8.4: no rotations, reads, touches."""
    before = event_count(client.application)
    for path in ("/auth/me", "/sessions/me", "/users/me/activity"):
        client.get(f"{V1}{path}", headers=bearer(held))
    assert refresh(client, held["refresh_token"]).status_code == 200
    assert event_count(client.application) == before


def test_a_copied_refresh_token_is_told(client, held, time_machine):
    """SE-07"""
    successor = refresh(client, held["refresh_token"]).get_json()
    refresh(client, successor["refresh_token"])
    time_machine.move_to(clock.now() + timedelta(minutes=5), tick=False)
    problem(refresh(client, held["refresh_token"]), 401, "session_revoked")
    time_machine.shift(1)
    other = log_in(client)
    assert kinds(client, other)[-2:] == ["refresh_reused", "signed_in"]


def test_an_act_that_is_undone_leaves_no_event(app_context, monkeypatch):
    """No act without its event, and no event without its act."""
    ada = factories.account()
    monkeypatch.setattr(accounts, "send_verification", lambda account: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        factories.account("grace@example.com")
    monkeypatch.undo()
    with pytest.raises(EmailTaken):
        factories.account()
    assert [row.user_id for row in database.rows(select(AccountEvent.user_id))] == [ada.id]


def test_an_event_that_cannot_be_written_undoes_its_act(app_context, monkeypatch):
    ada = factories.account()
    monkeypatch.setattr(activity, "record", lambda *_arguments, **_more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        accounts.deactivate(ada.email)
    assert accounts.find_by_email(ada.email).is_active


# Failures


def test_failures_tell_where_from_and_the_tenth_that_it_blocked(client, user):
    """LT-04, LIFE 8.4: what was typed is not kept."""
    for number in range(11):
        try_login(client, password="a wrong one", address=f"203.0.113.{number}")
    with client.application.app_context():
        owner = accounts.find_by_email(EMAIL)
        events, _ = activity.feed(owner.id, limit=100)
        throttling.forget(EMAIL)
    events = sorted(events, key=lambda each: each.created_at)
    failures = [each for each in events if each.kind != "registered"]
    assert [each.kind for each in failures] == ["sign_in_failed"] * 9 + ["sign_in_blocked"]
    assert failures[0].ip_address == "203.0.113.0"
    assert not any("a wrong one" in str(each) for each in events)


def test_wrong_passwords_of_a_change_are_failures_too(client, held):
    """LT-09"""
    body = {"current_password": "wrong", "new_password": NEW_PASSWORD}
    client.patch(f"{V1}/users/me/password", json=body, headers=bearer(held))
    (event,) = feed(client, held, kind="sign_in_failed")["events"]
    assert event["session_id"] is None


def test_an_address_without_an_account_leaves_nothing(client, user):
    try_login(client, "nobody@example.com")
    with client.application.app_context():
        found = database.rows(select(AccountEvent.kind))
    assert [row.kind for row in found] == ["registered"]


def test_at_most_fifty_failures_a_day_are_kept(app_context):
    ada = factories.account()
    for _ in range(53):
        activity.record_failure(ada.id, has_filled=False)
    events, _ = activity.feed(ada.id, limit=100, kind="sign_in_failed")
    assert len(events) == 50


def test_the_day_passes_and_failures_are_told_again(app_context, time_machine):
    ada = factories.account()
    for _ in range(50):
        activity.record_failure(ada.id, has_filled=False)
    time_machine.move_to(clock.now() + timedelta(days=1, seconds=1), tick=False)
    activity.record_failure(ada.id, has_filled=False)
    events, _ = activity.feed(ada.id, limit=100, kind="sign_in_failed")
    assert len(events) == 51


# The operator


def test_the_operators_acts_name_no_device(app_context):
    ada = factories.account()
    accounts.deactivate(ada.email)
    accounts.activate(ada.email)
    passwords.set_by_operator(ada.email, NEW_PASSWORD)
    events, _ = activity.feed(ada.id, limit=100)
    assert {each.kind for each in events} == {
        *("registered", "deactivated", "activated", "password_set")
    }
    for each in events:
        assert (each.session_id, each.device_name, each.ip_address) == (None, None, None)


# The feed


def many(app, count, email=EMAIL):
    with app.app_context(), database.transaction():
        owner = accounts.find_by_email(email)
        moment = clock.now() - timedelta(days=1)
        made = [
            {
                "id": database.uuid7(moment + timedelta(seconds=number)),
                "user_id": owner.id,
                "kind": EVENT_KINDS[number % len(EVENT_KINDS)],
                "created_at": moment + timedelta(seconds=number),
            }
            for number in range(count)
        ]
        database.run(insert(AccountEvent), made)
    return made


def test_the_feed_leads_through_all_events_once_and_ends(client, held):
    many(client.application, 130)
    seen, before = [], None
    while True:
        page = feed(client, held, **({"before": before} if before else {}))
        seen += [event["id"] for event in page["events"]]
        before = page["next"]
        if before is None:
            break
        assert len(page["events"]) == 50
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 132


def test_a_foreign_position_shows_no_foreign_event(client, held, stranger):
    many(client.application, 3, OTHER_EMAIL)
    theirs = feed(client, stranger)["events"]
    shown = feed(client, held, before=theirs[0]["id"])["events"]
    assert not {event["id"] for event in theirs} & {event["id"] for event in shown}


def test_one_kind_can_be_asked_for(client, held):
    assert [each["kind"] for each in feed(client, held, kind="registered")["events"]] == [
        "registered"
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("limit", text) for text in ("0", "101", "-1", "x", "", "1e2", "²", "9" * 5000)),
        *(("before", text) for text in ("", "x", "0" * 5000, "\x00")),
        *(("kind", text) for text in ("", "x", "\ud800", "signed_in\x00")),
    ],
)
def test_what_cannot_be_read_of_the_query_is_named(client, held, name, value):
    answer = client.get(
        f"{V1}/users/me/activity",
        headers=bearer(held),
        query_string={name: value.encode(errors="surrogatepass")},
    )
    found = problem(answer, 422, "validation_error")
    assert [error["field"] for error in found["errors"]] == [name]


def test_a_page_of_the_feed_is_one_statement_more(client, held, sent_statements):
    """LIFE section 3"""
    many(client.application, 60)
    with sent_statements() as sent:
        feed(client, held)
    assert [statement.split()[0] for statement in sent] == ["SELECT", "SELECT"]


# Retention


def test_cleaning_up_takes_what_is_old_and_nothing_else(app, client, user):
    made = many(app, 40)
    border = made[25]["created_at"]
    with app.app_context():
        assert activity.count_before(border) == 25
        assert sum(activity.delete_old(border, batch_size=10)) == 25
        left = {row.id for row in database.rows(select(AccountEvent.id))}
    assert {each["id"] for each in made[25:]} <= left
    assert len(left) == 16


def test_the_command_keeps_ninety_days_unless_it_is_told_otherwise(app, client, held, time_machine):
    run = app.test_cli_runner().invoke
    time_machine.move_to(clock.now() + timedelta(days=89), tick=False)
    assert run(args=["cleanup-activity"]).stdout == "Deleted 0 events.\n"
    time_machine.move_to(clock.now() + timedelta(days=2), tick=False)
    assert run(args=["cleanup-activity", "--dry-run"]).stdout == "Would delete 2 events.\n"
    assert json.loads(run(args=["cleanup-activity", "--json"]).stdout)["deleted"] == 2
    assert event_count(app) == 0


def test_events_go_with_their_account(app, client, held):
    with app.app_context():
        database.run(delete(User))
        assert database.rows(select(AccountEvent.id)) == []
