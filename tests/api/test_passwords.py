"""Passwords: change, ask for a reset, reset."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from authsite import accounts, clock, database, passwords, sessions
from authsite.crypto import hashing
from authsite.database.models import OutgoingMail, PasswordReset, User
from authsite.mail import outbox
from tests import services
from tests.api.conftest import (
    EMAIL,
    OTHER_EMAIL,
    V1,
    bearer,
    count,
    fields,
    is_live,
    log_in,
    problem,
    refresh,
    register,
    reset_token_from_outbox,
    row_of,
    session_id,
    try_login,
)
from tests.factories import NEW_PASSWORD, PASSWORD

REQUESTED = "If your email is registered, you will receive a password reset link shortly"
RESET = "Password has been reset successfully. You can now log in with your new password."
BAD_LINK = "Invalid or expired password reset token"


def change(client, held, current=PASSWORD, new=NEW_PASSWORD):
    return client.patch(
        f"{V1}/users/me/password",
        json={"current_password": current, "new_password": new},
        headers=bearer(held),
    )


def request_reset(client, email=EMAIL, **how):
    return client.post(f"{V1}/auth/password-reset/request", json={"email": email}, **how)


def confirm(client, token, new=NEW_PASSWORD):
    return client.post(
        f"{V1}/auth/password-reset/confirm", json={"token": token, "new_password": new}
    )


@pytest.fixture
def link(app, client, user):
    """The token of a reset link for Ada."""
    assert request_reset(client).status_code == 200
    return reset_token_from_outbox(app)


def is_unchanged(client):
    return (
        try_login(client, address="192.0.2.200").status_code == 200
        and try_login(client, password=NEW_PASSWORD, address="192.0.2.201").status_code == 401
    )


# Change


def test_changing_the_password_ends_all_other_sessions(app, client, held):
    """PW-13, SE-13"""
    other = log_in(client)
    answer = change(client, held)
    assert answer.status_code == 200
    given = answer.get_json()
    assert (given["success"], given["message"]) == (True, "Password changed successfully")
    assert answer.headers["Cache-Control"] == "no-store"
    assert is_live(client, held)
    assert is_live(client, given)
    assert session_id(given) == session_id(held)
    assert not is_live(client, other)
    assert refresh(client, other["refresh_token"]).status_code == 401
    assert row_of(app, other).end_reason == "password_changed"
    assert try_login(client).status_code == 401
    assert try_login(client, password=NEW_PASSWORD).status_code == 200


def test_a_refresh_token_copied_before_the_change_is_worthless_after_it(app, client, held):
    """PW-13: also one that had just been changed for another, inside the grace."""
    copied = held["refresh_token"]
    newer = refresh(client, copied).get_json()
    given = change(client, newer).get_json()
    after = refresh(client, given["refresh_token"])
    assert after.status_code == 200
    for old in (newer["refresh_token"], copied):
        assert refresh(client, old).status_code == 401
    assert row_of(app, held).end_reason == "reuse_detected"


def test_changing_the_password_leaves_other_users_alone(client, held, stranger):
    assert change(client, held).status_code == 200
    assert is_live(client, stranger)


def test_changing_the_password_makes_reset_links_worthless_and_tells_the_owner(
    app, client, held, link
):
    """RS-03"""
    mails = count(app, OutgoingMail)
    assert change(client, held).status_code == 200
    problem(confirm(client, link, "yet another password"), 400, "reset_token_invalid", BAD_LINK)
    assert count(app, OutgoingMail) == mails + 1


def test_a_wrong_current_password_changes_nothing(client, held):
    """PW-13"""
    other = log_in(client)
    found = problem(
        change(client, held, current="wrong password"),
        403,
        "invalid_credentials",
        "Current password is incorrect",
    )
    assert fields(found) == ["current_password"]
    assert is_live(client, other)
    assert is_unchanged(client)


def test_a_new_password_is_held_to_the_same_policy(client, held, subtests):
    """PW-11"""
    other = log_in(client)
    for new, why in (
        ("seven77", "Password must be at least 8 characters"),
        ("x1" * 65, "Password must be 128 characters or fewer"),
        (
            "password1",
            "This password is on a list of commonly used passwords. Choose a different one",
        ),
        (EMAIL, "Password must not be your email address or the name of this site"),
        (PASSWORD, "New password must be different from the current one"),
    ):
        with subtests.test(new):
            answer = change(client, held, new=new)
            assert fields(problem(answer, 422, "validation_error", why)) == ["new_password"]
    assert is_live(client, other)
    assert try_login(client).status_code == 200


def test_of_two_changes_at_once_one_counts(app, client, held):
    """PW-13: the loser verified a password that is no longer the account's."""
    devices = [held, log_in(client)]
    news = ["first new password", "second new password"]
    statuses = [None, None]
    start = threading.Barrier(2)

    def run(number):
        start.wait()
        statuses[number] = change(app.test_client(), devices[number], new=news[number]).status_code

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 401, 403}
    winner = statuses.index(200)
    assert try_login(client, password=news[winner]).status_code == 200
    assert try_login(client, password=news[1 - winner]).status_code == 401


def test_who_is_signed_out_while_the_password_is_looked_at_changes_nothing(
    client, held, monkeypatch
):
    """SE-08: the request was let in before."""
    look = passwords.confirm

    def slowly(account, password, **how):
        seen = look(account, password, **how)
        sessions.end_all(account.id, reason="revoked")
        return seen

    monkeypatch.setattr(passwords, "confirm", slowly)
    problem(change(client, held), 401, "session_revoked")
    assert try_login(client, password=NEW_PASSWORD).status_code == 401
    assert try_login(client).status_code == 200


# Ask for a reset


def test_asking_for_a_link_answers_alike_whoever_is_asked_for(app, client, user):
    """RS-04: known, unknown, inactive, and beyond the hourly mails."""
    register(client, OTHER_EMAIL)
    with app.app_context():
        accounts.deactivate(OTHER_EMAIL)
    headers = {"X-Request-Id": "0123456789-0123456789"}
    asked = [EMAIL, "nobody@example.com", OTHER_EMAIL, EMAIL, EMAIL, EMAIL]
    answers = [
        request_reset(
            client, email, headers=headers, environ_base={"REMOTE_ADDR": f"192.0.2.{number}"}
        )
        for number, email in enumerate(asked)
    ]
    assert answers[0].status_code == 200
    assert answers[0].get_json() == {"success": True, "message": REQUESTED}
    seen = [
        (a.status_code, a.data, [pair for pair in a.headers if pair[0] != "RateLimit"])
        for a in answers
    ]
    assert all(each == seen[0] for each in seen)
    assert count(app, PasswordReset) == count(app, OutgoingMail) == 3


def test_an_hour_later_an_account_gets_mails_again(app, client, user, time_machine):
    """RS-12"""
    time_machine.move_to(clock.now(), tick=False)
    for _ in range(5):
        request_reset(client)
        time_machine.shift(60)
    assert count(app, PasswordReset) == 3
    time_machine.shift(timedelta(hours=1))
    request_reset(client)
    assert count(app, PasswordReset) == 4


def test_asking_for_links_never_locks_the_account_nor_ends_sessions(client, held):
    """RS-12, LT-13"""
    for _ in range(5):
        request_reset(client)
    assert is_live(client, held)
    assert try_login(client).status_code == 200


def test_a_link_goes_to_one_address_or_nowhere(app, client, user, subtests):
    """RS-06"""
    emails = [
        [EMAIL],
        [EMAIL, OTHER_EMAIL],
        {"email": EMAIL},
        f"{EMAIL},{OTHER_EMAIL}",
        f"{EMAIL}\r\nBcc: {OTHER_EMAIL}",
        f"{EMAIL} {OTHER_EMAIL}",
        None,
        "",
    ]
    for number, email in enumerate(emails):
        with subtests.test(email):
            where = {"REMOTE_ADDR": f"192.0.2.{number}"}
            answer = request_reset(client, email, environ_base=where)
            assert fields(problem(answer, 422, "validation_error")) == ["email"]
    assert count(app, OutgoingMail) == 0


def test_an_address_given_twice_is_refused(app, client, user):
    """RS-06, AP-09"""
    answer = client.post(
        f"{V1}/auth/password-reset/request",
        data=f'{{"email": "{EMAIL}", "email": "{OTHER_EMAIL}"}}',
        content_type="application/json",
    )
    problem(answer, 400, "malformed_request")
    assert count(app, OutgoingMail) == 0


def test_an_address_that_only_looks_the_same_gets_no_link(app, client):
    """RS-07: the Kelvin sign lower-cases to k."""
    register(client, "kate@example.com")
    request_reset(client, "\u212aate@example.com")
    assert count(app, OutgoingMail) == 0


# Reset


def test_a_reset_sets_the_password_once_and_ends_every_session(app, client, link):
    """RS-02, RS-10, SE-13"""
    held = log_in(client)
    answer = confirm(client, link)
    assert answer.status_code == 200
    assert answer.get_json() == {"success": True, "message": RESET}
    assert not is_live(client, held)
    assert refresh(client, held["refresh_token"]).status_code == 401
    assert row_of(app, held).end_reason == "password_reset"
    assert try_login(client).status_code == 401
    assert try_login(client, password=NEW_PASSWORD).status_code == 200
    problem(confirm(client, link, "a third good password"), 400, "reset_token_invalid", BAD_LINK)
    assert try_login(client, password=NEW_PASSWORD).status_code == 200


def test_a_reset_signs_nobody_in(client, link):
    """RS-10"""
    answer = confirm(client, link)
    assert answer.get_json().keys() == {"success", "message"}
    assert "Set-Cookie" not in answer.headers


def test_a_reset_opens_an_account_that_wrong_passwords_had_closed(client, link):
    """RS-10, LT-13"""
    for number in range(10):
        try_login(client, password="wrong password", address=f"192.0.2.{number}")
    problem(try_login(client), 429, "rate_limited")
    assert confirm(client, link).status_code == 200
    assert try_login(client, password=NEW_PASSWORD).status_code == 200


@pytest.mark.parametrize(
    "case",
    [
        "unknown",
        "tampered",
        "expired",
        "superseded",
        "inactive user",
        "deleted user",
        "no such row",
        "an access token",
    ],
)
def test_every_bad_link_has_the_same_answer(app, client, link, time_machine, case):
    """RS-09, RS-03"""
    token = link
    with app.app_context():
        if case == "unknown":
            token = "nonsense"
        elif case == "tampered":
            token = link[:-2] + ("AA" if link[-2:] != "AA" else "BB")
        elif case == "inactive user":
            database.run(update(User).values(is_active=False))
        elif case == "deleted user":
            database.run(delete(User))
        elif case == "no such row":
            database.run(delete(PasswordReset))
    if case == "an access token":
        token = log_in(client)["access_token"]
    if case == "superseded":
        request_reset(client)
    if case == "expired":
        time_machine.move_to(clock.now() + timedelta(minutes=60, seconds=1))
    headers = {"X-Request-Id": "0123456789-0123456789"}
    answer = client.post(
        f"{V1}/auth/password-reset/confirm",
        json={"token": token, "new_password": NEW_PASSWORD},
        headers=headers,
    )
    problem(answer, 400, "reset_token_invalid", BAD_LINK)
    assert fields(answer.get_json()) == [None]
    with app.app_context():
        for stored in database.rows(select(User.password_hash)):
            assert not hashing.is_correct(NEW_PASSWORD, stored[0])


def test_a_reset_needs_its_token_in_the_same_request(client, link):
    """RS-11"""
    for members in ({}, {"token": None}, {"token": 5}, {"token": ["x"]}):
        body = {"new_password": NEW_PASSWORD} | members
        answer = client.post(f"{V1}/auth/password-reset/confirm", json=body)
        assert fields(problem(answer, 422, "validation_error")) == ["token"]
    assert is_unchanged(client)


def test_a_weak_password_leaves_the_link_good(client, link):
    """PW-11"""
    for new in ("short", "password1", EMAIL):
        found = problem(confirm(client, link, new), 422, "validation_error")
        assert fields(found) == ["new_password"]
    assert is_unchanged(client)
    assert confirm(client, link).status_code == 200


def test_of_two_uses_of_a_link_at_once_one_counts(app, client, link):
    """RS-02"""
    news = ["first new password", "second new password"]
    statuses = [None, None]
    start = threading.Barrier(2)

    def run(number):
        start.wait()
        statuses[number] = confirm(app.test_client(), link, news[number]).status_code

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 400]
    winner = statuses.index(200)
    assert try_login(client, password=news[winner]).status_code == 200
    assert try_login(client, password=news[1 - winner]).status_code == 401


def test_neither_database_nor_outbox_holds_a_working_link(app, client, link):
    """RS-01"""
    with app.app_context():
        stored = str(database.rows(select(OutgoingMail.facts))) + str(
            database.rows(select(PasswordReset.id))
        )
        [reset_id] = [row[0] for row in database.rows(select(PasswordReset.id))]
    assert link not in stored
    problem(confirm(client, reset_id), 400, "reset_token_invalid", BAD_LINK)


def test_the_mailed_link_leads_to_the_page_that_an_app_has_for_it(make_app, mailbox):
    """PRODUCTS §5: what stands behind `?token=` there is good at this API, once."""
    server = {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(mailbox.port)}
    app = make_app(RESET_PASSWORD_URL="https://app.example/reset", **server)
    client = app.test_client()
    register(client)
    request_reset(client)
    with app.app_context():
        assert outbox.deliver() == (1, 0)
    token = mailbox.token("https://app.example/reset")

    assert "/reset-password" not in mailbox.text()
    assert confirm(client, token).get_json()["message"] == RESET
    assert try_login(client, password=NEW_PASSWORD).status_code == 200
    problem(confirm(client, token), 400, "reset_token_invalid", BAD_LINK)
