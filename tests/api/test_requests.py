"""The ground rules of requests: what is read, what is refused, and that a refusal changes nothing."""

import io
import json
import re
import socket
import time
import uuid

import pytest
import requests
from sqlalchemy import select, update

from authsite import clock, database, throttling
from authsite.database.models import OutgoingMail, User, UserSession
from tests import services
from tests.api.conftest import (
    EMAIL,
    V1,
    bearer,
    count,
    fields,
    is_live,
    problem,
    register,
    row_of,
    session_id,
    try_login,
)
from tests.factories import NEW_PASSWORD, PASSWORD

KIB = 1024
REGISTRATION = {
    "email": "new@example.com",
    "password": PASSWORD,
    "first_name": "New",
    "last_name": "Person",
    "phone_number": "+44 20 7946 0958",
}
SQL = ["' OR '1'='1", "'; DROP TABLE users; --", '" OR ""="\\', "%_$1:x{0}"]
# Every route that reads JSON, with a body that it would take.
BODIES = {
    ("POST", "/auth/register"): REGISTRATION,
    ("POST", "/auth/login"): {"email": EMAIL, "password": PASSWORD},
    ("POST", "/auth/refresh"): {"refresh_token": "x"},
    ("PATCH", "/users/me"): {
        "first_name": "Changed",
        "last_name": "Changed",
        "phone_number": "+442079460999",
    },
    ("PATCH", "/users/me/password"): {"current_password": PASSWORD, "new_password": NEW_PASSWORD},
    ("POST", "/auth/password-reset/request"): {"email": EMAIL},
    ("POST", "/auth/password-reset/confirm"): {"token": "x", "new_password": NEW_PASSWORD},
    ("POST", "/auth/logout"): {"refresh_token": "x"},
    ("PATCH", "/sessions/{id}"): {"device_name": "Changed"},
}
ANSWERS = {200, 201, 400, 401, 403, 409, 422}
FIELDS = [(route, field) for route, body in BODIES.items() for field in body]
# Any text logs out, and whatever is long enough is a new password.
REFUSING = [
    (route, field)
    for route, field in FIELDS
    if route != ("POST", "/auth/logout") and route != ("PATCH", "/users/me/password")
] + [(("PATCH", "/users/me/password"), "current_password")]


@pytest.fixture
def app(make_app):
    """These tables are long: no rate is limited here."""
    return make_app(RATELIMIT_ENABLED="0")


@pytest.fixture
def send(client, held):
    """Send a body to a route as the signed-in user."""

    def send(route, data, content_type="application/json", **more):
        method, path = route
        return client.open(
            V1 + path.format(id=session_id(held)),
            method=method,
            data=data,
            content_type=content_type,
            headers=bearer(held) | more.pop("headers", {}),
            **more,
        )

    return send


@pytest.fixture
def send_with(app, send):
    """Send a route's body with another value in one member; wrong passwords are not added up."""

    def send_with(route, field, value):
        with app.app_context():
            throttling.forget(EMAIL)
        return send(route, json.dumps(BODIES[route] | {field: value}))

    return send_with


@pytest.fixture
def refused(app, client, held, send):
    """Send one body to all routes; each refuses it in the same way, and nothing has changed."""

    def facts():
        with app.app_context():
            return (
                [tuple(row) for row in database.rows(select(User))],
                count(app, UserSession),
                count(app, OutgoingMail),
            )

    def check(status, code, make, content_type="application/json", **more):
        before = facts()
        for route, body in BODIES.items():
            found = problem(send(route, make(body), content_type, **more), status, code)
            assert found["instance"] == V1 + route[1].format(id=session_id(held))
        assert facts() == before
        assert is_live(client, held)

    return check


# Content types


def test_json_is_read_only_when_it_is_called_so(refused, subtests):
    """AP-02: a page of another origin can send text/plain without asking first."""
    for content_type in (
        None,
        "",
        "text/plain",
        "text/plain;charset=UTF-8",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json-patch+json",
        "json",
    ):
        with subtests.test(content_type):
            refused(415, "unsupported_media_type", json.dumps, content_type)


def test_a_compressed_body_is_refused_with_what_is_read(refused, send):
    """AP-02: and never unpacked, whatever it would become."""
    for coding in ("gzip", "GZIP", "br", "identity, gzip"):
        headers = {"Content-Encoding": coding}
        refused(415, "unsupported_media_type", json.dumps, headers=headers)
        answer = send(("POST", "/auth/login"), b"\x1f\x8b", headers=headers)
        assert answer.headers["Accept-Encoding"] == "identity"
    body = json.dumps(BODIES["POST", "/auth/login"])
    plain = send(("POST", "/auth/login"), body, headers={"Content-Encoding": "identity"})
    assert plain.status_code == 200


def test_a_json_body_may_begin_with_a_byte_order_mark(send):
    """RFC 8259 §8.1: one, which some programs of Windows write; two are no JSON."""
    body = json.dumps(BODIES["POST", "/auth/login"]).encode()
    mark = "\ufeff".encode()
    assert send(("POST", "/auth/login"), mark + body).status_code == 200
    problem(send(("POST", "/auth/login"), 2 * mark + body), 400, "malformed_request")


def test_all_times_have_one_form(app, client, held):
    """Also one that falls on a whole second: times sort as text."""
    with app.app_context():
        database.run(update(User).values(updated_at=clock.now().replace(microsecond=0)))
    found = client.get(f"{V1}/sessions/me", headers=bearer(held)).json["sessions"][0]
    found |= client.get(f"{V1}/users/me", headers=bearer(held)).json
    times = [value for name, value in found.items() if name.endswith("_at") and value]
    assert len(times) >= 4
    for each in times:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", each)


def test_the_content_type_may_have_parameters_and_capitals(send):
    """AP-02"""
    route = ("POST", "/auth/login")
    for content_type in (
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/json;x=y",
    ):
        assert send(route, json.dumps(BODIES[route]), content_type).status_code == 200


def test_the_oauth_form_is_read_only_when_it_is_called_so(app, client, user, subtests):
    """AP-02, AP-18"""
    for content_type in (None, "application/json", "text/plain", "multipart/form-data"):
        with subtests.test(content_type):
            answer = client.post(
                f"{V1}/auth/login/oauth",
                data=f"username={EMAIL}&password=three+random+words",
                content_type=content_type,
            )
            found = problem(answer, 415, "unsupported_media_type")
            assert found["error"] == "invalid_request"
    assert count(app, UserSession) == 0


def test_the_answer_is_json_whatever_is_accepted(client, held):
    """AP-03"""
    for accept in ("text/html", "image/png", "", "application/xml;q=1, */*;q=0"):
        answer = client.get(f"{V1}/auth/me", headers=bearer(held) | {"Accept": accept})
        assert (answer.status_code, answer.content_type) == (200, "application/json")
        answer = client.get(f"{V1}/auth/me", headers={"Accept": accept})
        problem(answer, 401, "not_authenticated")


# Size


def test_a_body_of_64_kib_is_read_and_one_byte_more_is_not(send, refused):
    """AP-06"""

    def padded(body, size):
        text = json.dumps(body)
        return text + " " * (size - len(text))

    answer = send(("POST", "/auth/login"), padded(BODIES["POST", "/auth/login"], 64 * KIB))
    assert answer.status_code == 200
    refused(413, "payload_too_large", lambda body: padded(body, 64 * KIB + 1))


def test_a_chunked_body_is_held_to_the_same_size(client, held):
    """AP-06: chunked, a body has no length to look at before it is read."""
    for method, path in BODIES:
        for size, status in ((64 * KIB + 1, 413), (1024 * KIB, 413)):
            answer = client.open(
                V1 + path.format(id=session_id(held)),
                method=method,
                input_stream=io.BytesIO(b" " * size),
                content_type="application/json",
                headers=bearer(held) | {"Transfer-Encoding": "chunked"},
                environ_overrides={"wsgi.input_terminated": True},
            )
            if answer.status_code != 429:
                problem(answer, status, "payload_too_large")
    assert is_live(client, held)


def test_a_chunked_body_within_the_size_is_read(client, user):
    """AP-06"""
    answer = client.post(
        f"{V1}/auth/login",
        input_stream=io.BytesIO(json.dumps({"email": EMAIL, "password": PASSWORD}).encode()),
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.status_code == 200


@pytest.mark.site
def test_the_real_server_holds_a_chunked_body_to_the_same_size(site):
    """AP-06, DP-09: the whole answer arrives although the body was not read to its end."""
    for size, status in ((60 * KIB, 400), (70 * KIB, 413), (1024 * KIB, 413)):
        chunks = (b" " * KIB for _ in range(size // KIB))
        answer = requests.post(
            f"{site.url}{V1}/auth/login",
            data=chunks,
            headers={"Content-Type": "application/json"},
            timeout=10,
        )
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == status


@pytest.mark.site
@pytest.mark.parametrize("path", [f"{V1}/auth/login", f"{V1}/auth/login/oauth", "/login"])
@pytest.mark.parametrize("chunks", [b"zz\r\n{}\r\n", b"2\r\n{}XX0\r\n\r\n", b"5\r\n{}", b"-1\r\n"])
def test_wrong_chunks_are_the_clients_fault(site, path, chunks):
    """AP-06: the real server finds them while the body is read, with exceptions of its own."""
    is_json = path == f"{V1}/auth/login"
    kind = "application/json" if is_json else "application/x-www-form-urlencoded"
    with socket.create_connection((services.HOST, site.port), timeout=10) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {services.HOST}\r\nContent-Type: {kind}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
            + chunks
        )
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer or not path.startswith(V1)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_oauth_form_is_held_to_the_same_size(app, client, user, chunked):
    """AP-06"""
    body = f"username={EMAIL}&password=three+random+words&x=".encode() + b"x" * 64 * KIB
    more = {"data": body}
    if chunked:
        more = {
            "input_stream": io.BytesIO(body),
            "headers": {"Transfer-Encoding": "chunked"},
            "environ_overrides": {"wsgi.input_terminated": True},
        }
    answer = client.post(
        f"{V1}/auth/login/oauth", content_type="application/x-www-form-urlencoded", **more
    )
    problem(answer, 413, "payload_too_large")
    assert count(app, UserSession) == 0


# JSON


@pytest.mark.slow
def test_what_is_not_strict_json_is_malformed(refused, subtests):
    """AP-03, AP-07, AP-08, AP-09"""
    for text in (
        "{",
        "}",
        "email=ada",
        "{'email': 'x'}",
        '{"email": "x",}',
        '{"email": "x"} {"email": "y"}',
        '{"x": NaN}',
        '{"x": Infinity}',
        '{"x": -Infinity}',
        '{"x": 01}',
        '{"x": "\t"}',
        '{"x": "\\x"}',
        '{"x": ' + "9" * 5000 + "}",
        '{"x": 1, "x": 1}',
        '{"x": {"y": 1, "y": 2}}',
        "[" * 30_000,
        '{"x":' * 8000,
        '{"x": ' + "[" * 32 + "]" * 32 + "}",
        "\ufeff\ufeff{}",
    ):
        with subtests.test(ascii(text[:24])):
            refused(400, "malformed_request", lambda _body, text=text: text.encode())


def test_json_is_utf_8(refused, subtests):
    """AP-08"""
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        with subtests.test(encoding):
            refused(400, "malformed_request", lambda body, to=encoding: json.dumps(body).encode(to))


def test_bytes_that_are_not_utf_8_are_malformed(refused):
    """AP-08"""
    refused(400, "malformed_request", lambda _body: b'{"email": "\xff\xfe"}')


def test_no_body_is_malformed_where_one_is_needed(client, held, send):
    for route in BODIES:
        if route != ("POST", "/auth/logout"):
            problem(send(route, b""), 400, "malformed_request")


def test_what_is_json_but_no_object_is_invalid(refused, subtests):
    """AP-03, LT-15"""
    for text in ("null", "[]", '"text"', "5", "true", '[{"email": "x"}]'):
        with subtests.test(text):
            refused(422, "validation_error", lambda _body, text=text: text)


def test_a_member_given_twice_is_not_taken_by_either_value(app, client, user):
    """AP-09, RS-06"""
    answer = client.post(
        f"{V1}/auth/login",
        data=f'{{"email": "nobody@example.com", "email": "{EMAIL}", "password": "{PASSWORD}"}}',
        content_type="application/json",
    )
    problem(answer, 400, "malformed_request")
    assert count(app, UserSession) == 0


def test_nesting_as_deep_as_allowed_and_brackets_in_strings_are_read(client, user):
    """AP-07"""
    body = {"email": EMAIL, "password": PASSWORD, "x": "[{" * 500 + '\\"'}
    text = json.dumps(body)[:-1] + ', "y": ' + "[" * 31 + "]" * 31 + "}"
    answer = client.post(f"{V1}/auth/login", data=text, content_type="application/json")
    assert answer.status_code == 200


def test_no_body_takes_long_to_refuse(client, subtests):
    """DP-08: each of these once took a time that grows with the square of the body."""
    marks = "\u0315\u0327" * 15_000
    bodies = ['{"email":"' + '\\"' * 32_000, '"' * 65_000, "\\" * 65_000]
    bodies += [f'{{"{name}": "{marks}"}}' for name in ("first_name", "password", "email")]
    for body in bodies:
        with subtests.test(body[:20]):
            began = time.monotonic()
            answer = client.post(
                f"{V1}/auth/register", data=body.encode(), content_type="application/json"
            )
            assert answer.status_code in {400, 422}
            assert time.monotonic() - began < 3


# Members


@pytest.mark.slow
def test_a_member_of_the_wrong_type_is_named(client, held, send_with, subtests):
    """AP-10, LT-15"""
    for route, field in FIELDS:
        with subtests.test(route=route, field=field):
            for value in (123456789012345, 1.5, True, False, [], ["x"], {}, {"x": "y"}):
                answer = send_with(route, field, value)
                assert fields(problem(answer, 422, "validation_error")) == [field], value
    assert is_live(client, held)


def test_a_member_with_a_character_that_cannot_be_stored_is_named(
    client, held, send_with, subtests
):
    """PW-08"""
    for route, field in FIELDS:
        with subtests.test(route=route, field=field):
            for value in ("\u0000", "a\u0000b", "\ud800", "\udc00\ud800"):
                answer = send_with(route, field, value)
                assert fields(problem(answer, 422, "validation_error")) == [field], ascii(value)
    assert is_live(client, held)


@pytest.mark.slow
def test_a_member_of_any_length_is_refused_or_taken_whole(client, held, send_with, subtests):
    """AP-16"""
    for route, field in REFUSING:
        with subtests.test(route=route, field=field):
            for length in (1, 64, 65, 101, 256, 1000, 4097, 10_000, 60_000):
                answer = send_with(route, field, "1" * length)
                assert answer.status_code in ANSWERS, length
                if answer.status_code == 422:
                    assert fields(answer.get_json()) == [field]
                if answer.status_code in {200, 201} and field in answer.get_json():
                    assert answer.get_json()[field] == "1" * length
                assert answer.status_code == 422 or length < 5000
    assert is_live(client, held)


@pytest.mark.slow
def test_sql_in_a_member_is_text(client, held, send_with, subtests):
    """AP-15"""
    for route, field in REFUSING:
        with subtests.test(route=route, field=field):
            for sent in [value for sql in SQL for value in (sql, EMAIL + sql)]:
                assert send_with(route, field, sent).status_code in ANSWERS, sent
    for sql in SQL:
        assert try_login(client, password=sql).status_code == 401
    me = client.get(f"{V1}/auth/me", headers=bearer(held)).get_json()
    assert me["email"] == EMAIL
    assert try_login(client).status_code == 200


MASS = {
    "id": str(uuid.UUID(int=1)),
    "is_superuser": True,
    "is_active": False,
    "role": "admin",
    "roles": ["admin"],
    "password_hash": "x",
    "created_at": "2001-01-01T00:00:00Z",
    "updated_at": None,
    "deleted_at": 5,
    "user_id": str(uuid.UUID(int=1)),
    "password_changed_at": "2001-01-01T00:00:00Z",
    "remember": True,
    "csrf_token": ["x"],
    "__class__": {},
    "": "",
}


def test_registering_with_unknown_members_writes_none_of_them(app, client):
    """AP-13"""
    user = register(client, **MASS)
    assert user["id"] != MASS["id"]
    assert (user["is_superuser"], user["is_active"]) == (False, True)
    assert user["created_at"] > "2020"
    assert user.keys().isdisjoint({"role", "roles", "password_hash", "deleted_at"})
    assert try_login(client).status_code == 200


def test_changing_details_with_unknown_members_writes_none_of_them(client, user, held):
    """AP-13"""
    more = {"email": "other@example.com", "password": NEW_PASSWORD}
    answer = client.patch(
        f"{V1}/users/me", json=MASS | more | {"last_name": "New"}, headers=bearer(held)
    )
    assert answer.status_code == 200
    changed = answer.get_json()
    assert changed | {"updated_at": user["updated_at"], "last_name": None} == user
    assert try_login(client).status_code == 200


def test_renaming_with_unknown_members_writes_none_of_them(app, client, held):
    """AP-13"""
    before = row_of(app, held)
    more = {"expires_at": "2099-01-01T00:00:00Z", "ip_address": "192.0.2.1", "is_current": False}
    answer = client.patch(
        f"{V1}/sessions/{before.id}"
        if "-" in str(before.id)
        else f"{V1}/sessions/{session_id(held)}",
        json=MASS | more | {"device_name": "New"},
        headers=bearer(held),
    )
    assert answer.status_code == 200
    after = row_of(app, held)
    assert after.given_name == "New"
    assert before._mapping.items() - after._mapping.items() == {("given_name", None)}


def test_unknown_members_are_ignored_by_every_route(send):
    """AP-13"""
    statuses = {
        route: send(route, json.dumps(MASS | body)).status_code for route, body in BODIES.items()
    }
    assert statuses == {
        ("POST", "/auth/register"): 201,
        ("POST", "/auth/login"): 200,
        ("POST", "/auth/refresh"): 401,
        ("PATCH", "/users/me"): 200,
        ("PATCH", "/users/me/password"): 200,
        ("POST", "/auth/password-reset/request"): 200,
        ("POST", "/auth/password-reset/confirm"): 400,
        ("POST", "/auth/logout"): 200,
        ("PATCH", "/sessions/{id}"): 401,  # that logout has ended the session
    }


# Headers


@pytest.mark.parametrize("path", ["login", "login/oauth"])
def test_a_device_id_is_kept_as_it_is(app, client, user, path, subtests):
    for device_id in ("x", "~!", "my phone", "x" * 255, "<b>&\"'"):
        with subtests.test(device_id):
            answer = _sign_in(client, path, {"X-Device-Id": device_id})
            assert answer.status_code == 200
            assert row_of(app, answer.get_json()).device_id == device_id
            shown = client.get(f"{V1}/sessions/me", headers=bearer(answer.get_json())).get_json()
            assert shown["sessions"][0]["device_id"] == device_id


@pytest.mark.parametrize("path", ["login", "login/oauth"])
def test_a_device_id_that_cannot_be_is_refused_and_signs_nobody_in(
    app, client, user, path, subtests
):
    """SE-01, AP-16"""
    for device_id in ("", "x" * 256, "x" * 10_000, "é", "a\tb", "\x7f", "a\x00b"):
        with subtests.test(ascii(device_id)):
            answer = _sign_in(client, path, environ={"HTTP_X_DEVICE_ID": device_id})
            assert fields(problem(answer, 422, "validation_error")) == ["X-Device-Id"]
            assert count(app, UserSession) == 0


HEADERS = [
    "User-Agent",
    "X-Forwarded-For",
    "X-Real-Ip",
    "Forwarded",
    "X-Request-Id",
    "Accept-Language",
    "Origin",
    "Referer",
    "Cookie",
    "Sec-CH-UA",
    "Sec-CH-UA-Model",
    "Sec-CH-UA-Platform",
    "Sec-CH-UA-Platform-Version",
]


@pytest.mark.slow
@pytest.mark.parametrize("hops", ["0", "1"])
def test_no_header_costs_the_session_its_row(make_app, hops, subtests):
    """SE-01, AP-15, AP-16"""
    app = make_app(TRUSTED_PROXY_HOPS=hops, RATELIMIT_ENABLED="0", MAX_SESSIONS_PER_USER="1000")
    client = app.test_client()
    register(client)
    values = ["", "x" * 46, "x" * 10_000, "'; DROP TABLE users; --%s%n", "a\x00b\x1b[31m\xff\xfe"]
    values += [",", "::ffff:999.1.1.1"]
    for header in HEADERS:
        with subtests.test(header):
            for value in values:
                name = "HTTP_" + header.upper().replace("-", "_")
                answer = _sign_in(client, "login", environ={name: value})
                assert answer.status_code == 200, value
                row_of(app, answer.get_json())
    assert count(app, UserSession) == len(HEADERS) * len(values)


def test_an_over_long_user_agent_is_cut(app, client, user):
    """AP-16"""
    answer = _sign_in(client, "login", {"User-Agent": "x" * 10_000})
    assert row_of(app, answer.get_json()).user_agent == "x" * 512


def test_a_request_id_is_echoed(client):
    for given in ("0123456789-abcdefGHI", "x" * 200, str(uuid.uuid4())):
        answer = client.get(f"{V1}/auth/me", headers={"X-Request-Id": given})
        assert answer.headers["X-Request-Id"] == given
        assert answer.get_json()["request_id"] == given


def test_a_request_id_of_another_shape_is_replaced(client, subtests):
    """LG-02"""
    wrong = ["", "x" * 19, "x" * 201, "x" * 20 + "_", "x" * 20 + " ", "é" * 20, "<script>" * 4]
    for given in (*wrong, "x" * 20 + "\n"):
        with subtests.test(ascii(given)):
            answer = client.get(f"{V1}/auth/me", environ_base={"HTTP_X_REQUEST_ID": given})
            made = answer.headers["X-Request-Id"]
            assert str(uuid.UUID(made)) == made
            assert answer.headers.getlist("X-Request-Id") == [answer.get_json()["request_id"]]


def test_requests_without_an_id_get_different_ones(client):
    assert len({client.get(f"{V1}/auth/me").headers["X-Request-Id"] for _ in range(3)}) == 3


def test_the_method_of_a_request_cannot_be_overridden(client, held):
    answer = client.post(
        f"{V1}/sessions/{session_id(held)}",
        headers=bearer(held) | {"X-HTTP-Method-Override": "DELETE"},
        query_string={"_method": "DELETE"},
    )
    problem(answer, 405, "method_not_allowed")
    assert is_live(client, held)


def _sign_in(client, path, headers=None, environ=None):
    how = {"headers": headers, "environ_base": environ or {}}
    if path == "login":
        return client.post(f"{V1}/auth/login", json={"email": EMAIL, "password": PASSWORD}, **how)
    return client.post(
        f"{V1}/auth/login/oauth", data={"username": EMAIL, "password": PASSWORD}, **how
    )
