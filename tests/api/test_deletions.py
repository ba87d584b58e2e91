"""Deleting one's account over the API: with fresh proof, all devices at once, and with days to keep it."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from authsite import clock, database
from authsite.database.models import User, UserSession
from tests.api.conftest import (
    EMAIL,
    V1,
    bearer,
    count,
    is_live,
    is_moment,
    log_in,
    problem,
    refresh,
    register,
    try_login,
)
from tests.factories import PASSWORD

WEEK = timedelta(days=7)


def delete(client, held):
    return client.delete(f"{V1}/users/me", headers=bearer(held))


def delete_after(app):
    with app.app_context():
        return database.row(select(User.delete_after).where(User.email == EMAIL))[0]


def test_the_bearer_and_every_other_session_is_dead_with_the_answer(app, client, held):
    """SE-14"""
    other = log_in(client)
    answer = delete(client, held)
    body = answer.get_json()
    assert answer.status_code == 200
    assert (body["success"], body["message"]) == (True, "Account will be deleted")
    assert is_moment(body["delete_after"])
    assert body["delete_after"] == clock.rfc3339(delete_after(app))

    for each in (held, other):
        assert not is_live(client, each)
        problem(refresh(client, each["refresh_token"]), 401, "session_revoked")
    problem(delete(client, held), 401, "session_revoked")


@pytest.mark.parametrize("path", ["/auth/login", "/auth/login/oauth"])
def test_signing_in_meanwhile_tells_the_day(client, held, time_machine, path):
    """LT-01: after the right password only; another gets the bytes that it always gets."""
    time_machine.move_to("2030-11-26T18:04:00Z", tick=False)
    delete(client, log_in(client))
    words = (
        "This account will be deleted on 3 December 2030. To keep it, open the link in our email"
    )
    if path.endswith("oauth"):
        body = {"data": {"username": EMAIL, "password": PASSWORD}}
    else:
        body = {"json": {"email": EMAIL, "password": PASSWORD}}
    found = problem(client.post(V1 + path, **body), 401, "inactive_account", words)
    assert found.get("error", "invalid_grant") == "invalid_grant"

    nobody = try_login(client, "nobody@example.com", "wrong password").get_json()
    wrong = try_login(client, password="wrong password").get_json()
    for each in (nobody, wrong):
        each.pop("request_id")
    assert nobody == wrong


def test_it_wants_fresh_proof_and_does_nothing_without(app, client, held, time_machine):
    """ASVS 7.5.3"""
    time_machine.move_to(clock.now() + timedelta(minutes=11), tick=False)
    found = problem(delete(client, held), 401, "insufficient_user_authentication")
    assert found["max_age"] == 600
    assert delete_after(app) is None
    assert is_live(client, held)

    confirmed = client.post(
        f"{V1}/auth/step-up", json={"password": PASSWORD}, headers=bearer(held)
    ).get_json()
    assert delete(client, confirmed).status_code == 200


def test_a_refreshed_token_is_not_enough(app, client, held):
    refreshed = refresh(client, held["refresh_token"]).get_json()
    problem(delete(client, refreshed), 401, "insufficient_user_authentication")
    assert delete_after(app) is None


def test_a_cookie_deletes_nothing(app, client, held):
    """CONTRACT 1: the API never reads it."""
    client.set_cookie("authsite", "anything")
    problem(client.delete(f"{V1}/users/me"), 401, "not_authenticated")
    assert delete_after(app) is None


def test_without_days_to_wait_everything_is_gone_with_the_answer(make_app):
    app = make_app(ACCOUNT_DELETION_DAYS="0")
    client = app.test_client()
    user = register(client)
    answer = delete(client, log_in(client))
    assert answer.get_json() == {
        "success": True,
        "message": "Account deleted",
        "delete_after": None,
    }
    assert (count(app, User), count(app, UserSession)) == (0, 0)
    problem(try_login(client), 401, "invalid_credentials")
    assert register(client)["id"] != user["id"]


def test_another_is_not_touched(app, client, held, stranger):
    delete(client, held)
    assert is_live(client, stranger)
    with app.app_context():
        closed = database.rows(select(User.email).where(User.delete_after.is_not(None)))
        assert [row.email for row in closed] == [EMAIL]
