"""Register, log in, refresh, who am I, details."""

import itertools
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from werkzeug.security import generate_password_hash

from authsite import accounts, clock, database, errors, sessions
from authsite.crypto import hashing
from authsite.database.models import OutgoingMail, User, UserSession
from tests.api.conftest import (
    EMAIL,
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
    try_login,
)
from tests.factories import PASSWORD

USER_MEMBERS = [
    "id",
    "email",
    "email_verified",
    "first_name",
    "last_name",
    "phone_number",
    "is_active",
    "is_superuser",
    "created_at",
    "updated_at",
]


_networks = itertools.count()


def try_register(client, **members):
    """Register from an address of one's own, so that no rate is in the way."""
    body = {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"} | members
    return client.post(
        f"{V1}/auth/register",
        json={name: value for name, value in body.items() if value is not ...},
        environ_base={"REMOTE_ADDR": f"2001:db8:0:{next(_networks):x}::1"},
    )


def oauth(client, **members):
    return client.post(
        f"{V1}/auth/login/oauth",
        data=members,
        content_type="application/x-www-form-urlencoded",
    )


def deactivate(app, email=EMAIL):
    with app.app_context():
        accounts.deactivate(email)


# Register


def test_registering_answers_the_whole_user_and_nothing_else(client):
    """AP-19"""
    answer = try_register(client, last_name="Lovelace", phone_number="+44 20 7946 0958")
    assert answer.status_code == 201
    assert answer.content_type == "application/json"
    user = answer.get_json()
    assert list(user) == USER_MEMBERS
    assert user["email"] == EMAIL
    assert (user["first_name"], user["last_name"]) == ("Ada", "Lovelace")
    assert user["phone_number"] == "+442079460958"
    assert (user["is_active"], user["is_superuser"]) == (True, False)
    assert is_moment(user["created_at"])
    assert is_moment(user["updated_at"])


def test_optional_members_may_be_left_out_null_or_empty(client):
    for number, value in enumerate((..., None, "")):
        answer = try_register(
            client, email=f"ada{number}@example.com", last_name=value, phone_number=value
        )
        assert answer.status_code == 201, value
        assert answer.get_json()["last_name"] is None
        assert answer.get_json()["phone_number"] is None


def test_registering_signs_nobody_in(app, client):
    register(client)
    assert count(app, UserSession) == 0


@pytest.mark.parametrize("spelling", ["ada@example.com", "ADA@EXAMPLE.COM", " Ada@Example.com "])
def test_one_address_has_one_account_however_it_is_spelled(app, client, spelling):
    """AP-11"""
    register(client, "Ada@example.com")
    answer = try_register(client, email=spelling, password="some other good words")
    found = problem(answer, 409, "email_taken", "User with this email already exists")
    assert fields(found) == ["email"]
    assert count(app, User) == 1
    assert try_login(client, password="some other good words").status_code == 401


def test_a_weak_password_is_refused_with_the_reason(app, client, subtests):
    """PW-01, PW-02, PW-04, PW-05"""
    for password, why in (
        ("", "Enter a password"),
        ("seven77", "Password must be at least 8 characters"),
        ("🐎🐎🐎🔋🔋🔋🐴", "Password must be at least 8 characters"),
        ("x1" * 64 + "y", "Password must be 128 characters or fewer"),
        (
            "PassWord1",
            "This password is on a list of commonly used passwords. Choose a different one",
        ),
        (EMAIL, "Password must not be your email address or the name of this site"),
        ("authsite", "Password must not be your email address or the name of this site"),
    ):
        with subtests.test(password):
            answer = try_register(client, password=password)
            assert fields(problem(answer, 422, "validation_error", why)) == ["password"]
    assert count(app, User) == 0


def test_a_good_password_is_taken_as_it_is(client, subtests):
    """PW-01, PW-02, PW-03, PW-06"""
    good = ("eight-8!", "x1" * 64, " leading and trailing ", "пароль-пароль")
    for number, password in enumerate(good):
        with subtests.test(password):
            email, address = f"ada{number}@example.com", f"192.0.2.{number}"
            assert try_register(client, email=email, password=password).status_code == 201
            assert try_login(client, email, password, address=address).status_code == 200
            for altered in (password.strip()[:-1], password.swapcase() + " ", password + "\u200b"):
                assert try_login(client, email, altered, address=address).status_code == 401


def test_a_password_is_the_same_composed_or_decomposed(client):
    """PW-07"""
    register(client, password="cafe\u0301 au lait")
    assert try_login(client, password="caf\u00e9 au lait").status_code == 200


def test_what_is_not_one_address_is_refused(app, client, subtests):
    """RS-06, RS-07, AP-11"""
    for email in (
        "",
        "ada",
        "ada@",
        "@example.com",
        "a b@example.com",
        "ada@example.com,grace@example.com",
        "ada@example.com\r\nBcc: grace@example.com",
        "\uff41da@example.com",
        "\u212aate@example.com",
        "x" * 250 + "@example.com",
    ):
        with subtests.test(ascii(email[:30])):
            answer = try_register(client, email=email)
            assert fields(problem(answer, 422, "validation_error")) == ["email"]
    assert count(app, User) == 0


def test_every_member_at_fault_is_named(client):
    answer = client.post(f"{V1}/auth/register", json={"last_name": 5})
    found = problem(answer, 422, "validation_error", "Check the fields named in errors")
    assert sorted(fields(found)) == ["email", "first_name", "last_name", "password"]


# Log in


def test_logging_in_answers_tokens_that_must_not_be_stored(client, user):
    """TK-01, TK-14"""
    answer = try_login(client)
    assert answer.status_code == 200
    held = answer.get_json()
    assert list(held) == ["access_token", "refresh_token", "token_type", "expires_in"]
    assert held["token_type"] == "bearer"
    assert held["expires_in"] == 900
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Pragma"] == "no-cache"


def test_logging_in_writes_the_session_that_the_tokens_name(app, client, user):
    """SE-01, SE-10"""
    held = log_in(client, headers={"X-Device-Id": "phone-1", "User-Agent": "curl/8.5.0"})
    row = row_of(app, held)
    assert row.refresh_jti == claims(held["refresh_token"])["jti"]
    assert (row.entrance, row.device_id, row.device_name) == ("api", "phone-1", "curl")
    assert row.ip_address == "127.0.0.1"
    assert count(app, UserSession) == 1
    again = log_in(client, headers={"User-Agent": "curl/8.5.0"})
    assert session_id(again) != session_id(held)


def test_the_address_signs_in_however_its_letters_are_cased(client, user):
    """AP-11"""
    assert try_login(client, "  ADA@Example.COM ").status_code == 200


def test_a_failed_sign_in_does_not_tell_whether_the_account_exists(app, client, user):
    """LT-01: wrong password, unknown, deleted, and inactive with a wrong password."""
    register(client, OTHER_EMAIL)
    deactivate(app, OTHER_EMAIL)
    headers = {"X-Request-Id": "0123456789-0123456789"}
    asked = [
        (EMAIL, "wrong password"),
        ("nobody@example.com", PASSWORD),
        (OTHER_EMAIL, "wrong one"),
    ]
    answers = [
        try_login(client, email, password, headers=headers, address=f"192.0.2.{number}")
        for number, (email, password) in enumerate(asked)
    ]
    problem(answers[0], 401, "invalid_credentials", "Invalid email or password")
    assert len({answer.data for answer in answers}) == 1
    # The seconds until the limit starts afresh may tick between two of them.
    kept = [[pair for pair in answer.headers if pair[0] != "RateLimit"] for answer in answers]
    assert kept[0] == kept[1] == kept[2]
    assert count(app, UserSession) == 0


def test_only_the_right_password_learns_that_the_account_is_inactive(app, client, user):
    """LT-01"""
    deactivate(app)
    problem(try_login(client), 401, "inactive_account", "User account is inactive")
    assert count(app, UserSession) == 0


def test_a_password_changed_while_it_was_being_verified_gives_no_session(app, client, user):
    """SE-01, SE-08: the session is only written while the password that was verified is the current one."""
    with app.app_context():
        authenticated = accounts.authenticate(EMAIL, PASSWORD)
        database.run(update(User).values(password_changed_at=clock.now() + timedelta(seconds=1)))
        with pytest.raises(errors.InvalidCredentials):
            sessions.start(
                authenticated.account,
                password_changed_at=authenticated.password_changed_at,
                client=sessions.Client(),
                entrance="api",
            )
    assert count(app, UserSession) == 0


def test_an_older_hash_is_renewed_by_signing_in(app, client, user):
    """PW-09, PW-10"""
    with app.app_context():
        old = generate_password_hash(PASSWORD, method="pbkdf2:sha256:1000")
        database.run(update(User).values(password_hash=old))
    assert try_login(client, password="not that one").status_code == 401
    log_in(client)
    with app.app_context():
        stored = database.rows(select(User.password_hash))[0][0]
        assert stored.startswith("$argon2id$")
        assert not hashing.is_outdated(stored)
    log_in(client)


def test_a_device_takes_over_from_its_own_older_session(app, client, user):
    phone = {"X-Device-Id": "phone-1"}
    first, other = log_in(client, headers=phone), log_in(client, headers={"X-Device-Id": "phone-2"})
    second = log_in(client, headers=phone)
    assert not is_live(client, first)
    assert is_live(client, second)
    assert is_live(client, other)
    assert row_of(app, first).end_reason == "replaced"


def test_the_device_id_of_another_user_takes_over_nothing(client, held):
    register(client, OTHER_EMAIL)
    phone = {"X-Device-Id": "phone-1"}
    mine = log_in(client, headers=phone)
    log_in(client, OTHER_EMAIL, headers=phone)
    assert is_live(client, mine)


def test_the_owner_is_mailed_about_a_second_device_not_about_the_first(app, client, user):
    """LT-16"""
    log_in(client, headers={"User-Agent": "curl/8.5.0"})
    assert count(app, OutgoingMail) == 0
    log_in(client, headers={"User-Agent": "HTTPie/3.2.2"})
    assert count(app, OutgoingMail) == 1


def test_beyond_the_cap_the_least_recently_used_session_ends(make_app):
    """SE-19"""
    app = make_app(MAX_SESSIONS_PER_USER="2")
    client = app.test_client()
    register(client)
    first, second, third = (log_in(client) for _ in range(3))
    assert [is_live(client, each) for each in (first, second, third)] == [False, True, True]
    assert row_of(app, first).end_reason == "evicted"


# OAuth's password grant


@pytest.mark.parametrize(
    "more", [{}, {"grant_type": "password"}, {"grant_type": ""}, {"scope": "admin everything"}]
)
def test_the_password_grant_answers_the_same_tokens(app, client, user, more):
    """AP-18"""
    answer = oauth(client, username=EMAIL, password=PASSWORD, **more)
    assert answer.status_code == 200
    held = answer.get_json()
    assert list(held) == ["access_token", "refresh_token", "token_type", "expires_in"]
    assert answer.headers["Cache-Control"] == "no-store"
    me = client.get(f"{V1}/auth/me", headers=bearer(held)).get_json()
    assert me["is_superuser"] is False
    assert row_of(app, held).entrance == "oauth"


@pytest.mark.parametrize("agent", ["", "Mozilla/5.0"])
def test_an_unknown_client_of_the_password_grant_is_called_api_client(client, user, agent):
    answer = client.post(
        f"{V1}/auth/login/oauth",
        data={"username": EMAIL, "password": PASSWORD},
        headers={"User-Agent": agent},
    )
    [session] = client.get(f"{V1}/sessions/me", headers=bearer(answer.get_json())).get_json()[
        "sessions"
    ]
    assert session["device_name"] == "API Client"


def test_a_wrong_password_is_an_invalid_grant(app, client, user):
    found = problem(
        oauth(client, username=EMAIL, password="wrong password"),
        401,
        "invalid_credentials",
        "Invalid email or password",
    )
    assert found["error"] == "invalid_grant"
    assert found["error_description"] == "Invalid email or password"
    assert count(app, UserSession) == 0


def test_an_inactive_account_is_an_invalid_grant(app, client, user):
    deactivate(app)
    answer = oauth(client, username=EMAIL, password=PASSWORD)
    found = problem(answer, 401, "inactive_account", "User account is inactive")
    assert found["error"] == "invalid_grant"


def test_another_grant_type_is_unsupported_whatever_else_is_sent(app, client, user, subtests):
    """AP-18"""
    for members in (
        {"username": EMAIL, "password": PASSWORD, "grant_type": "authorization_code"},
        {"username": EMAIL, "password": PASSWORD, "grant_type": "PASSWORD"},
        {"grant_type": "client_credentials"},
    ):
        with subtests.test(members):
            answer = oauth(client, **members)
            assert answer.status_code == 400
            assert answer.get_json()["error"] == "unsupported_grant_type"
            said = answer.get_json()["error_description"]
            assert said == "The grant type must be password or refresh_token"
    assert count(app, UserSession) == 0


def test_the_refresh_grant_is_the_same_rotation(app, client, held):
    """RFC 6749 §6: a used token ends the session by this way too."""
    answer = oauth(client, grant_type="refresh_token", refresh_token=held["refresh_token"])
    assert answer.status_code == 200
    new = answer.get_json()
    assert list(new) == ["access_token", "refresh_token", "token_type", "expires_in"]
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    assert session_id(new) == session_id(held)
    assert count(app, UserSession) == 1
    # Its own password and name would be another grant's: they are not looked at.
    newer = oauth(
        client,
        grant_type="refresh_token",
        refresh_token=new["refresh_token"],
        username=EMAIL,
        password="wrong password",
    ).get_json()
    assert is_live(client, newer)
    answer = oauth(client, grant_type="refresh_token", refresh_token=held["refresh_token"])
    assert problem(answer, 401, "session_revoked")["error"] == "invalid_grant"
    assert not is_live(client, newer)
    assert row_of(app, newer).end_reason == "reuse_detected"


def test_what_is_no_refresh_token_is_an_invalid_grant(app, client, held, subtests):
    """Nor does an access token, or a password beside it, refresh or sign in."""
    for token in ("x", held["access_token"], "a.b.c", "\N{SNOWMAN}" * 9):
        with subtests.test(token[:9]):
            members = {"grant_type": "refresh_token", "refresh_token": token}
            answer = oauth(client, **members, username=EMAIL, password=PASSWORD)
            assert problem(answer, 401, "token_invalid")["error"] == "invalid_grant"
    for members in ({}, {"refresh_token": ""}, {"refresh_token": "x" * 4097}):
        answer = oauth(client, grant_type="refresh_token", **members)
        assert problem(answer, 422, "validation_error")["error"] == "invalid_request"
    query = f"{V1}/auth/login/oauth?refresh_token={held['refresh_token']}"
    answer = client.post(query, data={"grant_type": "refresh_token"})
    problem(answer, 400, "malformed_request")
    assert count(app, UserSession) == 1
    assert is_live(client, held)


def test_a_missing_field_of_the_grant_is_an_invalid_request(client):
    for members in ({}, {"username": EMAIL}, {"password": PASSWORD}):
        found = problem(oauth(client, **members), 422, "validation_error")
        assert found["error"] == "invalid_request"


def test_credentials_in_the_query_string_are_refused(app, client, user):
    """AP-18"""
    for name in ("username", "password", "grant_type", "client_id"):
        answer = client.post(
            f"{V1}/auth/login/oauth?{name}=password",
            data={"username": EMAIL, "password": PASSWORD},
        )
        assert problem(answer, 400, "malformed_request")["error"] == "invalid_request"
    assert count(app, UserSession) == 0


def test_credentials_only_in_the_query_string_sign_nobody_in(app, client, user):
    """AP-18"""
    for path in ("login/oauth", "login"):
        answer = client.post(
            f"{V1}/auth/{path}", query_string={"username": EMAIL, "password": PASSWORD}
        )
        assert answer.status_code in {400, 415}
    assert count(app, UserSession) == 0


def test_a_field_of_the_grant_may_stand_once(app, client, user):
    """AP-09"""
    answer = client.post(
        f"{V1}/auth/login/oauth",
        data=f"username=nobody@example.com&username={EMAIL}&password=three+random+words",
        content_type="application/x-www-form-urlencoded",
    )
    problem(answer, 400, "malformed_request")
    assert count(app, UserSession) == 0


# Refresh


def test_refreshing_answers_new_tokens_of_the_same_session(app, client, held):
    answer = refresh(client, held["refresh_token"])
    assert answer.status_code == 200
    new = answer.get_json()
    assert list(new) == ["access_token", "refresh_token", "token_type", "expires_in"]
    assert (new["token_type"], new["expires_in"]) == ("bearer", 900)
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    assert claims(new["refresh_token"])["jti"] != claims(held["refresh_token"])["jti"]
    assert session_id(new) == session_id(held)
    assert row_of(app, new).refresh_jti == claims(new["refresh_token"])["jti"]
    assert is_live(client, new)


def test_a_client_that_lost_the_answer_gets_the_same_successor_again(client, held, time_machine):
    """SE-06"""
    time_machine.move_to(clock.now(), tick=False)
    first = refresh(client, held["refresh_token"]).get_json()
    time_machine.shift(29)
    again = refresh(client, held["refresh_token"]).get_json()
    assert again["refresh_token"] == first["refresh_token"]
    assert refresh(client, again["refresh_token"]).status_code == 200


def test_many_at_once_all_end_with_the_one_live_token(app, client, held):
    """SE-03"""
    answers = []
    start = threading.Barrier(8)

    def run():
        start.wait()
        answers.append(refresh(app.test_client(), held["refresh_token"]))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    [successor] = {answer.get_json()["refresh_token"] for answer in answers}
    assert refresh(client, successor).status_code == 200


@pytest.mark.parametrize("case", ["after the grace", "successor was used"])
def test_a_copied_refresh_token_ends_its_session_and_no_other(
    app, client, held, time_machine, case
):
    """SE-04, SE-06"""
    time_machine.move_to(clock.now(), tick=False)
    other = log_in(client)
    new = refresh(client, held["refresh_token"]).get_json()
    if case == "after the grace":
        assert is_live(client, new)
        time_machine.shift(31)
    else:
        new = refresh(client, new["refresh_token"]).get_json()
    problem(
        refresh(client, held["refresh_token"]),
        401,
        "session_revoked",
        "Session has been revoked. Please log in again.",
    )
    assert row_of(app, held).end_reason == "reuse_detected"
    assert not is_live(client, new)
    assert refresh(client, new["refresh_token"]).status_code == 401
    assert is_live(client, other)
    with app.app_context():
        mails = [row.name for row in database.rows(select(OutgoingMail.name))]
    assert mails.count("token_reuse") == 1


def test_two_generations_back_revokes_even_inside_the_grace(app, client, held):
    """SE-05"""
    current = held
    for _ in range(2):
        current = refresh(client, current["refresh_token"]).get_json()
    problem(refresh(client, held["refresh_token"]), 401, "session_revoked")
    assert not is_live(client, current)


def test_without_a_grace_the_second_use_revokes(make_app):
    """SE-04"""
    client = make_app(REFRESH_GRACE_SECONDS="0").test_client()
    register(client)
    held = log_in(client)
    assert refresh(client, held["refresh_token"]).status_code == 200
    problem(refresh(client, held["refresh_token"]), 401, "session_revoked")


def test_an_expired_refresh_token_says_so(client, held, time_machine):
    """SE-09"""
    time_machine.move_to(clock.now() + timedelta(days=7, seconds=11), tick=False)
    problem(
        refresh(client, held["refresh_token"]),
        401,
        "token_expired",
        "Refresh token has expired. Please log in again.",
    )


def test_refreshing_moves_the_idle_clock_but_not_the_absolute_one(app, client, held, time_machine):
    """SE-09, TK-01"""
    began = clock.now()
    time_machine.move_to(began, tick=False)
    current = held
    for _day in range(6, 30, 6):
        time_machine.shift(timedelta(days=6))
        current = refresh(client, current["refresh_token"]).get_json()
        lifetime = claims(current["refresh_token"])["exp"] - clock.now().timestamp()
        assert lifetime <= timedelta(days=7).total_seconds()
    last = claims(current["refresh_token"])["exp"] - began.timestamp()
    assert abs(last - timedelta(days=30).total_seconds()) < 5
    time_machine.move_to(began + timedelta(days=30, seconds=11), tick=False)
    problem(refresh(client, current["refresh_token"]), 401, "token_expired")


def test_what_is_no_refresh_token_is_invalid(client):
    for token in ("x", "..", "a.b.c", "null", "Bearer x"):
        problem(refresh(client, token), 401, "token_invalid", "Invalid refresh token")


def test_deactivation_kills_both_tokens_at_once(app, client, held):
    """SE-14"""
    deactivate(app)
    problem(client.get(f"{V1}/auth/me", headers=bearer(held)), 401, "session_revoked")
    problem(refresh(client, held["refresh_token"]), 401, "session_revoked")


# Who am I, details


@pytest.mark.parametrize("path", ["/auth/me", "/users/me"])
def test_the_account_behind_the_token_is_shown(client, user, held, path):
    """AP-19"""
    answer = client.get(f"{V1}{path}", headers=bearer(held))
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.get_json() == user


def test_only_what_is_named_is_changed(client, user, held):
    answer = client.patch(
        f"{V1}/users/me", json={"last_name": "  Byron\u202e\n Lovelace "}, headers=bearer(held)
    )
    assert answer.status_code == 200
    changed = answer.get_json()
    assert changed["last_name"] == "Byron Lovelace"
    assert changed["updated_at"] > user["updated_at"]
    for name in set(USER_MEMBERS) - {"last_name", "updated_at"}:
        assert changed[name] == user[name]
    assert client.get(f"{V1}/auth/me", headers=bearer(held)).get_json() == changed


@pytest.mark.parametrize("nothing", [None, ""])
def test_optional_details_can_be_forgotten(client, nothing):
    register(client, last_name="Lovelace", phone_number="+44 20 7946 0958")
    headers = bearer(log_in(client))
    for name in ("last_name", "phone_number"):
        answer = client.patch(f"{V1}/users/me", json={name: nothing}, headers=headers)
        assert answer.status_code == 200
        assert answer.get_json()[name] is None


def test_a_change_that_names_nothing_changes_no_detail(client, user, held):
    answer = client.patch(f"{V1}/users/me", json={}, headers=bearer(held))
    assert answer.status_code == 200
    assert answer.get_json() | {"updated_at": user["updated_at"]} == user


def test_a_detail_that_cannot_be_is_refused_and_changes_nothing(client, user, held, subtests):
    for members, field in (
        ({"first_name": None}, "first_name"),
        ({"first_name": ""}, "first_name"),
        ({"first_name": " \t\u200b "}, "first_name"),
        ({"first_name": "x" * 101}, "first_name"),
        ({"last_name": "x" * 101}, "last_name"),
        ({"last_name": 5}, "last_name"),
        ({"phone_number": "call me"}, "phone_number"),
        ({"phone_number": "1" * 33}, "phone_number"),
    ):
        with subtests.test(members):
            body = {"last_name": "Changed", "first_name": "Changed"} | members
            answer = client.patch(f"{V1}/users/me", json=body, headers=bearer(held))
            assert fields(problem(answer, 422, "validation_error")) == [field]
    assert client.get(f"{V1}/auth/me", headers=bearer(held)).get_json() == user


def test_names_of_one_and_of_a_hundred_characters_are_taken(client, held):
    for name in ("A", "x" * 100, "ß" * 100, "🐎" * 100):
        answer = client.patch(f"{V1}/users/me", json={"first_name": name}, headers=bearer(held))
        assert answer.get_json()["first_name"] == name


# How many statements a request may cost


def test_who_am_i_is_one_select(client, held, sent_statements):
    """LD-03"""
    with sent_statements() as sent:
        assert is_live(client, held)
    assert [statement.split()[0] for statement in sent] == ["SELECT"]


def test_a_refresh_is_one_statement(client, held, sent_statements):
    """LD-03"""
    with sent_statements() as sent:
        assert refresh(client, held["refresh_token"]).status_code == 200
    assert [statement.split()[0] for statement in sent] == ["UPDATE"]


@pytest.mark.parametrize("case", ["converged", "ended", "expired", "inactive", "unknown"])
def test_a_refresh_that_does_not_rotate_is_at_most_two_statements(
    app, client, held, sent_statements, time_machine, case
):
    if case == "converged":
        refresh(client, held["refresh_token"])
    elif case == "ended":
        client.post(f"{V1}/auth/logout", headers=bearer(held))
    elif case == "expired":
        time_machine.move_to(clock.now() + timedelta(days=8))
    elif case == "inactive":
        with app.app_context():
            database.run(update(User).values(is_active=False))
    token = "x" if case == "unknown" else held["refresh_token"]
    with sent_statements() as sent:
        assert refresh(client, token).status_code == (200 if case == "converged" else 401)
    assert len(sent) <= 2, sent


def test_a_login_is_five_statements_and_a_new_device_one_more(client, user, sent_statements):
    """LD-03: the fifth is the event, the sixth the notice."""
    for device, most in (("a", 5), ("b", 6)):
        headers = {"X-Device-Id": device}
        with sent_statements() as sent:
            assert try_login(client, headers=headers).status_code == 200
        assert len(sent) <= most + looked_up_first(client), sent


def looked_up_first(client) -> int:
    """Return how many statements more find whose an address is: where Citus is, it lies elsewhere."""
    return int(client.application.extensions["has_citus"])


def test_a_failed_login_is_four_statements_known_or_not(client, user, sent_statements):
    """LT-02"""
    for email in (EMAIL, "nobody@example.com"):
        with sent_statements() as sent:
            assert try_login(client, email, "wrong password").status_code == 401
        assert len(sent) == 4 + looked_up_first(client), sent
