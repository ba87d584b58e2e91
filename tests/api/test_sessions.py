"""Sessions: list, rename, revoke, log out."""

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import update

from authsite import clock, database
from authsite.crypto import tokens
from authsite.database.models import UserSession
from tests.api.conftest import (
    OTHER_EMAIL,
    V1,
    bearer,
    claims,
    count,
    fields,
    is_live,
    is_moment,
    log_in,
    problem,
    refresh,
    register,
    row_of,
    session_id,
)

SESSION_MEMBERS = {
    "id",
    "device_name",
    "device_id",
    "ip_address",
    "location_city",
    "location_country",
    "last_used_at",
    "created_at",
    "expires_at",
    "is_current",
    "aal",
    "amr",
    "authenticated_at",
    "browser",
    "os",
    "device_type",
}
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/124.0.0.0 Safari/537.36"
)
MALFORMED_IDS = [
    "1",
    "0",
    "-1",
    "me",
    "others",
    "' or 1=1--",
    "%27%20or%201=1--",
    "null",
    "..",
    "x" * 5000,
]


def list_sessions(client, held):
    answer = client.get(f"{V1}/sessions/me", headers=bearer(held))
    assert answer.status_code == 200
    assert answer.get_json().keys() == {"sessions", "total"}
    return answer.get_json()["sessions"]


def log_out(client, held, **members):
    body = {"json": members} if members else {}
    return client.post(f"{V1}/auth/logout", headers=bearer(held), **body)


def revoke(client, held, which):
    return client.delete(f"{V1}/sessions/{which}", headers=bearer(held))


def rename(client, held, which, name="Kitchen tablet"):
    return client.patch(f"{V1}/sessions/{which}", json={"device_name": name}, headers=bearer(held))


# List


def test_the_list_shows_own_live_sessions_and_what_a_person_may_know_of_them(client, user):
    """SE-16, AP-19"""
    held = log_in(client, headers={"User-Agent": CHROME, "X-Device-Id": "desk-1"})
    answer = client.get(f"{V1}/sessions/me", headers=bearer(held)).get_json()
    assert answer["total"] == 1
    [session] = answer["sessions"]
    assert session.keys() == SESSION_MEMBERS
    assert session["id"] == session_id(held)
    assert (session["device_name"], session["browser"]) == ("Chrome on Windows", "Chrome")
    assert (session["os"], session["device_type"]) == ("Windows", "desktop")
    assert (session["device_id"], session["ip_address"]) == ("desk-1", "127.0.0.1")
    assert session["location_city"] is None
    assert session["location_country"] is None
    assert all(is_moment(session[name]) for name in ("last_used_at", "created_at", "expires_at"))


def test_the_list_holds_no_token_and_nothing_of_other_users(client, user, stranger):
    """SE-16"""
    held = log_in(client)
    text = client.get(f"{V1}/sessions/me", headers=bearer(held)).text
    for secret in (held["refresh_token"], claims(held["refresh_token"])["jti"]):
        assert secret not in text
    assert session_id(stranger) not in text
    assert OTHER_EMAIL not in text


def test_exactly_the_asking_session_is_current(client, user):
    """SE-15"""
    devices = [log_in(client) for _ in range(3)]
    for held in devices:
        current = [each["id"] for each in list_sessions(client, held) if each["is_current"]]
        assert current == [session_id(held)]


def test_the_list_is_ordered_by_last_use(client, user, time_machine):
    """SE-16, SE-20"""
    now = clock.now()
    time_machine.move_to(now, tick=False)
    devices = []
    for _ in range(3):
        devices.append(log_in(client))
        time_machine.shift(10)
    time_machine.shift(120)
    refresh(client, devices[0]["refresh_token"])
    time_machine.shift(10)
    order = [each["id"] for each in list_sessions(client, devices[1])]
    assert order == [session_id(devices[number]) for number in (1, 0, 2)]


def test_sessions_that_ended_or_expired_are_not_listed(app, client, user, time_machine):
    """SE-16"""
    time_machine.move_to(clock.now(), tick=False)
    log_in(client)
    time_machine.shift(timedelta(days=4))
    ended, held = log_in(client), log_in(client)
    log_out(client, ended)
    time_machine.shift(timedelta(days=3, minutes=1))
    fresh = refresh(client, held["refresh_token"]).get_json()
    assert [each["id"] for each in list_sessions(client, fresh)] == [session_id(held)]


def test_use_is_noted_at_most_once_a_minute_and_never_goes_back(app, client, held, time_machine):
    """SE-20"""
    began = row_of(app, held).last_used_at
    time_machine.move_to(clock.now() + timedelta(seconds=55), tick=False)
    assert is_live(client, held)
    assert row_of(app, held).last_used_at == began
    time_machine.shift(10)
    assert is_live(client, held)
    later = row_of(app, held).last_used_at
    assert str(later) > str(began)
    time_machine.shift(-30)
    assert is_live(client, held)
    assert row_of(app, held).last_used_at == later


def test_the_list_is_one_select(client, held, sent_statements):
    """LD-03: the caller's own session is one of them."""
    for _ in range(3):
        log_in(client)
    with sent_statements() as sent:
        assert len(list_sessions(client, held)) == 4
    assert [statement.split()[0] for statement in sent] == ["SELECT"]


def test_the_first_look_in_a_minute_shows_itself_as_the_latest_use(client, held, time_machine):
    """SE-15, SE-20"""
    log_in(client)
    time_machine.move_to(clock.now() + timedelta(seconds=61), tick=False)
    first, second = list_sessions(client, held)
    assert (first["is_current"], second["is_current"]) == (True, False)
    assert first["last_used_at"] > second["last_used_at"]


# Rename


def test_a_session_takes_the_name_that_its_user_gives_and_forgets_it_again(client, user):
    held = log_in(client, headers={"User-Agent": CHROME})
    answer = rename(client, held, session_id(held), "  Kitchen\u202e tablet ")
    assert answer.status_code == 200
    assert answer.get_json().keys() == SESSION_MEMBERS
    assert answer.get_json()["device_name"] == "Kitchen tablet"
    assert answer.get_json()["is_current"] is True
    assert list_sessions(client, held) == [answer.get_json()]
    answer = rename(client, held, session_id(held), None)
    assert (answer.status_code, answer.get_json()["device_name"]) == (200, "Chrome on Windows")


def test_another_session_of_the_user_can_be_renamed(client, held):
    other = log_in(client)
    answer = rename(client, held, session_id(other), "x" * 64)
    assert (answer.status_code, answer.get_json()["is_current"]) == (200, False)
    assert answer.get_json()["device_name"] == "x" * 64


def test_a_name_that_cannot_be_is_refused(client, held, subtests):
    before = list_sessions(client, held)
    for members in ({}, *({"device_name": name} for name in ("", " ", "x" * 65, 5, []))):
        with subtests.test(members):
            answer = client.patch(
                f"{V1}/sessions/{session_id(held)}", json=members, headers=bearer(held)
            )
            assert fields(problem(answer, 422, "validation_error")) == ["device_name"]
    assert list_sessions(client, held) == before


def test_nothing_but_an_id_names_a_session(make_app, subtests):
    """AP-14, SE-17"""
    client = make_app(RATELIMIT_ENABLED="0").test_client()
    register(client)
    held = log_in(client)
    for which in MALFORMED_IDS:
        with subtests.test(which[:40]):
            problem(rename(client, held, which), 404, "not_found")
            problem(revoke(client, held, which), 404, "not_found")
    assert is_live(client, held)


def test_an_id_has_one_spelling(make_app, subtests):
    """AP-14: what a parser of UUIDs would also take names nothing, though such a session exists."""
    client = make_app(RATELIMIT_ENABLED="0").test_client()
    register(client)
    held, other = log_in(client), log_in(client)
    named = session_id(other)
    full_width = named.replace("0", "%EF%BC%90", 1)
    for which in (
        f"{{{named}}}",
        f"urn:uuid:{named}",
        named.replace("-", ""),
        f"{named}%00",
        f"{named}%20",
        full_width,
    ):
        with subtests.test(which):
            problem(rename(client, held, which), 404, "not_found")
            problem(revoke(client, held, which), 404, "not_found")
    assert is_live(client, other)


def test_an_unknown_id_is_not_found(client, held):
    """AP-14, SE-17"""
    for which in (uuid.uuid4(), uuid.UUID(int=0), uuid.UUID(int=(1 << 128) - 1)):
        problem(rename(client, held, which), 404, "not_found")
        problem(revoke(client, held, which), 404, "not_found")


def test_somebody_elses_session_can_be_neither_renamed_nor_revoked(client, held, stranger):
    """AP-14, SE-17"""
    theirs = session_id(stranger)
    before = list_sessions(client, stranger)
    problem(rename(client, held, theirs), 403, "forbidden")
    for which in (theirs, theirs.upper()):
        problem(
            revoke(client, held, which), 403, "forbidden", "You can only revoke your own sessions"
        )
    assert is_live(client, stranger)
    assert list_sessions(client, stranger) == before


def test_an_ended_session_cannot_be_renamed(client, held):
    other = log_in(client)
    log_out(client, other)
    problem(rename(client, held, session_id(other)), 404, "not_found")


# Revoke


def test_a_revoked_session_is_dead_on_its_next_request(app, client, user):
    """SE-02, SE-17"""
    held, other = log_in(client), log_in(client, headers={"User-Agent": CHROME})
    answer = revoke(client, held, session_id(other))
    assert answer.status_code == 200
    assert answer.get_json() == {"success": True, "message": "Session revoked: Chrome on Windows"}
    problem(
        client.get(f"{V1}/auth/me", headers=bearer(other)),
        401,
        "session_revoked",
        "Session has been revoked. Please log in again.",
    )
    problem(
        refresh(client, other["refresh_token"]),
        401,
        "session_revoked",
        "Session has been revoked. Please log in again.",
    )
    assert is_live(client, held)
    assert row_of(app, other).end_reason == "revoked"


def test_revoking_twice_is_as_good_as_once(app, client, user):
    """SE-17"""
    held, other = log_in(client), log_in(client, headers={"User-Agent": CHROME})
    answers = [revoke(client, held, session_id(other)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].data == answers[1].data
    log_out(client, held, refresh_token=other["refresh_token"])
    assert row_of(app, other).end_reason == "revoked"


def test_revoking_names_the_device_as_its_user_does(client, held):
    other = log_in(client)
    rename(client, held, session_id(other), "Kitchen tablet")
    answer = revoke(client, held, session_id(other))
    assert answer.get_json()["message"] == "Session revoked: Kitchen tablet"


def test_an_id_in_capitals_names_the_same_session(client, held):
    """AP-14"""
    other = log_in(client)
    assert revoke(client, held, session_id(other).upper()).status_code == 200
    assert not is_live(client, other)


def test_revoking_ones_own_session_logs_out(client, held):
    """SE-17"""
    assert revoke(client, held, session_id(held)).status_code == 200
    assert not is_live(client, held)


# Log out


def test_logging_out_ends_the_asking_session_and_no_other(make_app, subtests):
    """SE-11"""
    app = make_app(RATELIMIT_ENABLED="0")
    client = app.test_client()
    register(client)
    other = log_in(client)
    for body in (
        {},
        {"data": b""},
        {"data": b"", "content_type": "application/json"},
        {"data": b"", "content_type": "text/plain"},
        {"json": {}},
        {"json": {"refresh_token": None}},
        {"json": {"refresh_token": ""}},
        {"json": {"refresh_token": "garbage"}},
        {"json": {"refresh_token": "a.b.c"}},
        {"json": {"refresh_token": "x" * 20_000}},
        {"json": {"token": "unknown member"}},
    ):
        with subtests.test(ascii(body)[:60]):
            held = log_in(client)
            answer = client.post(f"{V1}/auth/logout", headers=bearer(held), **body)
            assert answer.status_code == 200
            assert answer.get_json() == {"success": True, "message": "Logged out successfully"}
            assert not is_live(client, held)
            assert refresh(client, held["refresh_token"]).status_code == 401
            assert row_of(app, held).end_reason == "logged_out"
    assert is_live(client, other)


def test_logging_out_with_ones_own_access_token_ends_the_asking_session(client, held):
    """SE-11: an access token is no refresh token, so it names nothing."""
    other = log_in(client)
    assert log_out(client, held, refresh_token=other["access_token"]).status_code == 200
    assert not is_live(client, held)
    assert is_live(client, other)


def test_logging_out_with_ones_own_refresh_token_ends_the_session_that_it_names(client, held):
    """SE-11"""
    other = log_in(client)
    assert log_out(client, held, refresh_token=other["refresh_token"]).status_code == 200
    assert not is_live(client, other)
    assert is_live(client, held)
    assert log_out(client, held, refresh_token=held["refresh_token"]).status_code == 200
    assert not is_live(client, held)


def test_logging_out_takes_a_refresh_token_that_has_expired(app, client, held, time_machine):
    """SE-11"""
    time_machine.move_to(clock.now() + timedelta(days=8))
    later = log_in(client)
    with app.app_context():
        # As if it had been refreshed elsewhere: the token has expired, the session has not.
        database.run(update(UserSession).values(expires_at=clock.now() + timedelta(days=1)))
    assert log_out(client, later, refresh_token=held["refresh_token"]).status_code == 200
    assert row_of(app, held).end_reason == "logged_out"
    assert is_live(client, later)


def test_logging_out_takes_a_refresh_token_that_has_been_changed_for_its_successor(
    app, client, held
):
    other = log_in(client)
    new = refresh(client, other["refresh_token"]).get_json()
    assert log_out(client, held, refresh_token=other["refresh_token"]).status_code == 200
    assert not is_live(client, new)
    assert row_of(app, other).end_reason == "logged_out"


def test_logging_out_a_session_again_changes_nothing_and_succeeds(app, client, held):
    """SE-11"""
    other = log_in(client)
    for _ in range(2):
        answer = log_out(client, held, refresh_token=other["refresh_token"])
        assert answer.status_code == 200
        assert answer.get_json()["message"] == "Logged out successfully"
    assert is_live(client, held)


def test_logging_out_a_session_whose_row_is_gone_succeeds(client, held):
    """SE-11, RFC 7009 section 2.2"""
    other = log_in(client)
    log_out(client, other)
    client.delete(f"{V1}/sessions/me/expired", headers=bearer(held))
    assert log_out(client, held, refresh_token=other["refresh_token"]).status_code == 200


def test_another_users_refresh_token_logs_nobody_out(client, held, stranger):
    """SE-11"""
    problem(
        log_out(client, held, refresh_token=stranger["refresh_token"]),
        403,
        "forbidden",
        "You can only logout your own sessions",
    )
    assert is_live(client, held)
    assert is_live(client, stranger)


def test_logging_out_with_what_is_no_text_is_refused(client, held, subtests):
    for token in ("5", "true", '["x"]', '{"x": "y"}', r'"\u0000"', r'"\ud800"'):
        with subtests.test(token):
            answer = client.post(
                f"{V1}/auth/logout",
                data=f'{{"refresh_token": {token}}}',
                content_type="application/json",
                headers=bearer(held),
            )
            assert fields(problem(answer, 422, "validation_error")) == ["refresh_token"]
    assert is_live(client, held)


def test_logging_out_needs_the_bearer_token(client, held):
    answer = client.post(f"{V1}/auth/logout", json={"refresh_token": held["refresh_token"]})
    problem(answer, 401, "not_authenticated")
    assert is_live(client, held)


@pytest.mark.parametrize("sessions", [1, 3])
def test_logging_out_everywhere_ends_all_sessions_the_own_included(
    client, held, sessions, stranger
):
    """SE-12"""
    devices = [held] + [log_in(client) for _ in range(sessions - 1)]
    answer = client.post(f"{V1}/auth/logout-all", headers=bearer(held))
    assert answer.status_code == 200
    assert answer.get_json() == {
        "success": True,
        "message": f"Successfully logged out from all devices ({sessions} sessions terminated)",
    }
    assert not any(is_live(client, each) for each in devices)
    assert all(refresh(client, each["refresh_token"]).status_code == 401 for each in devices)
    assert is_live(client, stranger)


def test_signing_out_the_others_keeps_the_asking_session(app, client, held, stranger):
    others = [log_in(client) for _ in range(2)]
    for ended in (2, 0):
        answer = client.delete(f"{V1}/sessions/me/others", headers=bearer(held))
        assert answer.status_code == 200
        assert answer.get_json() == {
            "success": True,
            "message": f"Signed out of {ended} other devices",
        }
    assert is_live(client, held)
    assert not any(is_live(client, each) for each in others)
    assert row_of(app, others[0]).end_reason == "revoked"
    assert is_live(client, stranger)


def test_the_clean_up_takes_own_expired_and_ended_rows_only(app, client, user, time_machine):
    """PR-02"""
    log_in(client)
    register(client, OTHER_EMAIL)
    log_in(client, OTHER_EMAIL)
    time_machine.move_to(clock.now() + timedelta(days=8), tick=False)
    log_out(client, log_in(client))
    held, other = log_in(client), log_in(client)
    for taken in (2, 0):
        answer = client.delete(f"{V1}/sessions/me/expired", headers=bearer(held))
        assert answer.status_code == 200
        assert answer.get_json() == {
            "success": True,
            "message": f"Cleaned up {taken} expired sessions",
        }
    assert count(app, UserSession) == 3
    assert is_live(client, held)
    assert is_live(client, other)


# Cookies


def test_a_cookie_opens_nothing_and_none_is_set(client, held):
    """SE-22"""
    client.set_cookie("authsite", held["access_token"])
    client.set_cookie("access_token", held["access_token"])
    answer = client.get(f"{V1}/auth/me")
    problem(answer, 401, "not_authenticated")
    assert "Set-Cookie" not in answer.headers
    answer = client.get(f"{V1}/auth/me", headers=bearer(held))
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers


def test_a_cookie_of_a_page_is_not_the_refresh_token_of_its_session(app, client, held):
    """TK-05: a browser's session has no refresh token, so none can be made to pass for it."""
    with app.app_context():
        row = row_of(app, held)
        database.run(update(UserSession).values(refresh_jti=None, cookie_digest=b"x" * 32))
        made = tokens.refresh_token(
            user_id=uuid.UUID(str(row.user_id)),
            session_id=uuid.UUID(session_id(held)),
            jti=row.refresh_jti,
            issued_at=clock.now(),
            expires_at=clock.now() + timedelta(days=1),
        )
    problem(refresh(client, made), 401, "session_revoked")
    assert not is_live(client, held)
