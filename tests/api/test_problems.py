"""Problems: one shape for every error, with the status, code and header fields that belong to it."""

from datetime import timedelta

import psycopg
import pytest
import time_machine
from sqlalchemy import text, update

from authsite import clock, create_app, database, errors
from authsite.crypto import tokens
from authsite.database.models import User
from authsite.web import problems
from tests import services
from tests.api.conftest import (
    EMAIL,
    PROBLEM_MEMBERS,
    V1,
    bearer,
    is_live,
    log_in,
    problem,
    refresh,
    register,
    session_id,
    try_login,
)
from tests.factories import NEW_PASSWORD, PASSWORD

CODES = {
    "invalid_credentials",
    "inactive_account",
    "not_authenticated",
    "token_expired",
    "token_invalid",
    "session_revoked",
    "forbidden",
    "email_taken",
    "validation_error",
    "malformed_request",
    "unsupported_media_type",
    "payload_too_large",
    "not_found",
    "method_not_allowed",
    "rate_limited",
    "reset_token_invalid",
    "service_unavailable",
    "internal_error",
}
BAD_TOKEN = 'Bearer error="invalid_token"'
NOWHERE = f"postgresql://nobody:hunter2secret@{services.HOST}:1/nowhere"


@pytest.fixture
def faulty_client(make_app):
    """A client of an application with a route that has a bug."""

    def fail():
        raise RuntimeError("hunter2secret <b>")

    app = make_app(is_of_its_own=True)
    app.add_url_rule("/api/v1/fault", view_func=fail)
    return app.test_client()


def provoke(code, app, client, held, faulty_client):
    """Return a real answer with this code, its status, and what WWW-Authenticate belongs to it."""
    register(client, "grace@example.com")
    mine, theirs = bearer(held), session_id(log_in(client, "grace@example.com"))
    new = {"email": "new@example.com", "password": PASSWORD, "first_name": "New"}

    def inactive():
        with app.app_context():
            database.run(update(User).values(is_active=False))
        return try_login(client)

    def revoked():
        client.post(f"{V1}/auth/logout", headers=mine)
        return client.get(f"{V1}/auth/me", headers=mine)

    def limited():
        for _ in range(11):
            answer = client.post(f"{V1}/auth/logout", json={"refresh_token": 5}, headers=mine)
        return answer

    def expired_access():
        with time_machine.travel(clock.now() + timedelta(minutes=16), tick=False):
            return client.get(f"{V1}/auth/me", headers=mine)

    def unavailable():
        away = create_app({"DATABASE_URL": NOWHERE, "SECRET_KEY": services.SECRET_KEY})
        return away.test_client().get(f"{V1}/auth/me", headers=mine)

    ways = {
        "invalid_credentials": (401, "Bearer", lambda: try_login(client, password="wrong one")),
        "inactive_account": (401, "Bearer", inactive),
        "not_authenticated": (401, "Bearer", lambda: client.get(f"{V1}/auth/me")),
        "token_expired": (401, BAD_TOKEN, expired_access),
        "token_invalid": (401, BAD_TOKEN, lambda: refresh(client, "x")),
        "session_revoked": (401, BAD_TOKEN, revoked),
        "forbidden": (
            403,
            None,
            lambda: client.delete(f"{V1}/sessions/{theirs}", headers=mine),
        ),
        "email_taken": (
            409,
            None,
            lambda: client.post(f"{V1}/auth/register", json=new | {"email": EMAIL}),
        ),
        "validation_error": (
            422,
            None,
            lambda: client.patch(f"{V1}/users/me", json={"first_name": ""}, headers=mine),
        ),
        "malformed_request": (
            400,
            None,
            lambda: client.post(f"{V1}/auth/login", data="{", content_type="application/json"),
        ),
        "unsupported_media_type": (
            415,
            None,
            lambda: client.post(f"{V1}/auth/login", data="{}", content_type="text/plain"),
        ),
        "payload_too_large": (
            413,
            None,
            lambda: client.post(f"{V1}/auth/login", json={"email": "x" * 70_000}),
        ),
        "not_found": (404, None, lambda: client.get(f"{V1}/nowhere")),
        "method_not_allowed": (405, None, lambda: client.get(f"{V1}/auth/login")),
        "rate_limited": (429, None, limited),
        "reset_token_invalid": (
            400,
            None,
            lambda: client.post(
                f"{V1}/auth/password-reset/confirm",
                json={"token": "x", "new_password": NEW_PASSWORD},
            ),
        ),
        "service_unavailable": (503, None, unavailable),
        "internal_error": (500, None, lambda: faulty_client.get(f"{V1}/fault")),
    }
    assert ways.keys() == CODES
    status, challenge, way = ways[code]
    return status, challenge, way()


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_comes_in_the_one_shape(faulty_client, app, client, held, code):
    """AP-04, TK-13"""
    status, challenge, answer = provoke(code, app, client, held, faulty_client)
    found = problem(answer, status, code)
    assert found.keys() == PROBLEM_MEMBERS
    assert found["instance"] == answer.request.path
    assert found["type"] == f"http://localhost:5000/api/v1/docs#{code}"
    assert isinstance(found["title"], str)
    assert found["title"]
    assert len(found["errors"]) == 1
    assert answer.headers.get("WWW-Authenticate") == challenge
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    assert ("Allow" in answer.headers) == (status == 405)
    assert ("Retry-After" in answer.headers) == (status in {429, 503})


# Brought about beside the tests of what they are about.
ELSEWHERE = {
    *("mfa_required", "invalid_code", "mfa_token_invalid", "setup_token_invalid", "no_second_step"),
    *("already_replaced", "email_token_invalid", "invalid_client"),
    *("insufficient_user_authentication", "email_not_verified"),
    *("passkey_invalid", "passkey_exists", "too_many_passkeys", "passkeys_unavailable"),
}


def test_no_failure_has_a_code_beside_those_of_the_contract():
    """AP-04"""
    known = {failure.code for failure in problems.STATUSES}
    known |= {code for code, _detail in problems.CODES.values()}
    assert known == CODES | ELSEWHERE
    assert errors.AuthsiteError.code in CODES


# Addresses and methods


def test_an_unknown_address_is_not_found_with_a_token_or_without(client, held, subtests):
    """AP-03, AP-04"""
    for path in (
        "/api/",
        "/api/v1",
        "/api/v1/",
        "/api/v1/nowhere",
        "/api/v2/auth/me",
        "/api/v1/auth/me/",
        "/api/v1//auth/me",
        "/api/v1/auth//me",
        "/api/v1/AUTH/ME",
        "/api/v1/auth/me%00",
        "/api/v1/auth/me%20",
        "/api/v1/auth/me;x=y",
        "/api/v1/auth/../auth/me",
        "/api/v1/%2e%2e/auth/me",
        "/api/v1/auth%2F%2Fme",
        "/api/v1/<script>alert(1)</script>",
        "/api/v1/%ff%fe",
        "/api/v1/\u202e",
        "/api/" + "x" * 5000,
    ):
        with subtests.test(ascii(path[:32])):
            for headers in ({}, bearer(held), {"Authorization": "x"}, {"Accept": "text/html"}):
                answer = client.get(path, headers=headers)
                problem(answer, 404, "not_found", "Nothing was found at this address")


def test_a_percent_encoded_address_is_the_same_address(client, held):
    answer = client.get("/api/v1/auth/%6d%65", headers=bearer(held))
    assert answer.status_code == 200


def test_another_method_is_refused_with_those_that_are_allowed(client, held, subtests):
    """AP-03"""
    methods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "FOO"}
    for path, allowed in (
        ("/auth/register", "OPTIONS, POST"),
        ("/auth/login", "OPTIONS, POST"),
        ("/auth/login/oauth", "OPTIONS, POST"),
        ("/auth/refresh", "OPTIONS, POST"),
        ("/auth/logout", "OPTIONS, POST"),
        ("/auth/logout-all", "OPTIONS, POST"),
        ("/auth/password-reset/request", "OPTIONS, POST"),
        ("/auth/password-reset/confirm", "OPTIONS, POST"),
        ("/auth/me", "GET, HEAD, OPTIONS"),
        ("/users/me", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/users/me/password", "OPTIONS, PATCH"),
        ("/sessions/me/others", "DELETE, OPTIONS"),
        ("/sessions/me/expired", "DELETE, OPTIONS"),
        ("/sessions/01a214d4-cd34-7186-85d0-746df2491260", "DELETE, OPTIONS, PATCH"),
    ):
        with subtests.test(path):
            for method in methods - set(allowed.split(", ")):
                answer = client.open(V1 + path, method=method, headers=bearer(held))
                assert answer.status_code == 405
                assert answer.headers["Allow"] == allowed
                if method != "HEAD":
                    problem(answer, 405, "method_not_allowed")
    assert is_live(client, held)


def test_trace_gives_nothing_of_the_request_back(client, held):
    """AP-03"""
    answer = client.open(f"{V1}/auth/me", method="TRACE", headers=bearer(held))
    problem(answer, 405, "method_not_allowed")
    assert held["access_token"] not in answer.text


def test_head_is_get_without_the_body(client, held):
    """AP-03"""
    for path in ("/auth/me", "/users/me", "/sessions/me"):
        get = client.get(V1 + path, headers=bearer(held))
        head = client.head(V1 + path, headers=bearer(held))
        assert (head.status_code, head.data) == (200, b"")
        assert head.content_type == get.content_type
        assert head.headers["Content-Length"] == get.headers["Content-Length"]
        assert client.head(V1 + path).status_code == 401


def test_options_tells_the_methods_without_a_token_and_does_nothing(client, held):
    for path, allowed in (
        ("/users/me", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/auth/logout", "OPTIONS, POST"),
    ):
        for headers in ({}, bearer(held)):
            answer = client.options(V1 + path, headers=headers)
            assert (answer.status_code, answer.data) == (200, b"")
            assert sorted(answer.allow) == allowed.split(", ")
    assert is_live(client, held)


# Faults


def test_a_fault_of_ours_tells_its_id_and_nothing_else(faulty_client):
    """AP-04, AP-17"""
    answer = faulty_client.get(f"{V1}/fault")
    found = problem(answer, 500, "internal_error", "There is a problem with the service")
    assert answer.headers["X-Request-Id"] == found["request_id"]
    for secret in ("hunter2secret", "RuntimeError", "Traceback", ".py"):
        assert secret not in answer.text


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_without_its_database_the_api_is_unavailable_and_says_no_more(kind, tmp_path):
    """FA-01, SE-01: no tokens either."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    url = NOWHERE if kind == "postgresql" else f"sqlite:///{folder}/authsite.db"
    app = create_app(
        {"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY, "RATELIMIT_ENABLED": "0"}
    )
    folder.rmdir()  # it was there at the start
    client = app.test_client()
    with app.app_context():
        named = {"user_id": database.uuid7(clock.now()), "session_id": database.uuid7(clock.now())}
        token = tokens.access_token(**named, issued_at=clock.now())
    headers = {"Authorization": f"Bearer {token}"}
    requests = [
        ("GET", "/auth/me", {"headers": headers}),
        ("GET", "/sessions/me", {"headers": headers}),
        ("POST", "/auth/logout", {"headers": headers}),
        ("POST", "/auth/login", {"json": {"email": EMAIL, "password": PASSWORD}}),
        ("POST", "/auth/login/oauth", {"data": {"username": EMAIL, "password": PASSWORD}}),
        (
            "POST",
            "/auth/register",
            {"json": {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"}},
        ),
        ("POST", "/auth/password-reset/request", {"json": {"email": EMAIL}}),
    ]
    for method, path, how in requests:
        answer = client.open(V1 + path, method=method, **how)
        found = problem(
            answer,
            503,
            "service_unavailable",
            "The service is unavailable. Try again later.",
        )
        assert int(answer.headers["Retry-After"]) >= 1
        assert found.keys() >= PROBLEM_MEMBERS
        for secret in ("hunter2secret", "psycopg", "sqlite", "nowhere", "access_token"):
            assert secret not in answer.text
    # What needs no database goes on.
    problem(client.get(f"{V1}/auth/me"), 401, "not_authenticated")
    problem(refresh(client, "x"), 401, "token_invalid")
    with app.app_context():
        database.engine().dispose()


def test_a_database_that_hung_up_costs_no_request(empty_postgresql_url):
    """FA-01: as after its restart; the connections in the pool are dead and nobody has noticed."""
    app = create_app({"DATABASE_URL": empty_postgresql_url, "SECRET_KEY": services.SECRET_KEY})
    # No thread that delivers may still hold a connection when the test is over.
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    client = app.test_client()
    register(client)
    held = log_in(client)
    with psycopg.connect(empty_postgresql_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert is_live(client, held)
    with app.app_context():
        assert database.row(text("SELECT 1")) is not None
        database.engine().dispose()


@pytest.mark.postgresql
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_can_only_be_read_answers_reads_and_503_to_writes(make_app, database_url):
    """FA-01: as after a failover to a replica. Nobody is signed out, nothing is half-written."""
    client = make_app().test_client()
    register(client)
    held = log_in(client)
    read_only = make_app(
        DATABASE_URL=f"{database_url}?options=-c%20default_transaction_read_only%3Don"
    ).test_client()

    assert read_only.get(f"{V1}/auth/me", headers=bearer(held)).status_code == 200
    for answer in (
        refresh(read_only, held["refresh_token"]),
        try_login(read_only),
        read_only.post(f"{V1}/auth/logout", headers=bearer(held)),
    ):
        problem(answer, 503, "service_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    assert refresh(client, held["refresh_token"]).status_code == 200
