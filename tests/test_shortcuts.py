"""What is asked most: answered below Flask, and exactly as Flask's views would answer."""

import base64
import hashlib
from datetime import timedelta

import pytest
from flask import Flask
from limits.storage import MemoryStorage
from sqlalchemy.exc import OperationalError

from authsite import clock, sessions, shortcuts
from authsite.web.limit_store import Store
from tests.api.conftest import V1
from tests.factories import PASSWORD

OWN = "https://accounts.example.com"
WIKI = "https://wiki.example.com"
ASKED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "wiki.example.com"}
SECRET = "s-" + "1" * 41
BASIC = {"Authorization": "Basic " + base64.b64encode(f"billing:{SECRET}".encode()).decode()}


@pytest.fixture
def app(make_app):
    return make_app(
        PUBLIC_BASE_URL=OWN,
        FORWARD_AUTH_ORIGINS=WIKI,
        TRUSTED_PROXY_HOPS="1",
        CORS_ORIGINS=WIKI,
        SERVICE_CLIENTS=f"billing:{hashlib.sha256(SECRET.encode()).hexdigest()}",
    )


@pytest.fixture
def client(app):
    return app.test_client(use_cookies=False)


@pytest.fixture
def token(app, client):
    registration = {"email": "ada@example.com", "password": PASSWORD, "first_name": "Ada"}
    assert client.post(f"{V1}/auth/register", json=registration, base_url=OWN).status_code == 201
    answer = client.post(
        f"{V1}/auth/login", json={"email": "ada@example.com", "password": PASSWORD}, base_url=OWN
    )
    return answer.get_json()["access_token"]


@pytest.fixture
def without_flask(monkeypatch):
    """From now on Flask answers nothing."""

    def answer(*_):
        raise AssertionError("Flask was asked")

    return lambda: monkeypatch.setattr(Flask, "full_dispatch_request", answer)


def introspect(client, token, **how):
    how = {"data": {"token": token}, "headers": BASIC} | how
    return client.post(f"{V1}/auth/introspect", **{"base_url": OWN} | how)


def forward_auth(client, token, path="/forward-auth", **headers):
    sent = ASKED | {"Authorization": f"Bearer {token}"} | headers
    return client.get(path, headers=sent, base_url=OWN)


@pytest.mark.parametrize("path", ["/forward-auth", "/auth-request"])
def test_a_good_credential_is_answered_below_flask_by_one_statement(
    client, token, without_flask, sent_statements, path
):
    forward_auth(client, token)  # the first use of a token is noted
    without_flask()
    with sent_statements() as sent:
        answer = forward_auth(client, token, path)

    assert answer.status_code == 200
    assert len(sent) == 1


def test_a_good_token_is_introspected_below_flask_by_one_statement(
    client, token, without_flask, sent_statements
):
    introspect(client, token)
    without_flask()
    with sent_statements() as sent:
        answer = introspect(client, token)

    assert (answer.status_code, answer.get_json()["active"]) == (200, True)
    assert len(sent) == 1


QUESTIONS = {
    "a good bearer": ("/forward-auth", {}),
    "of nginx": ("/auth-request", {}),
    "of nginx, by its other header": (
        "/auth-request",
        {"X-Forwarded-Host": "", "X-Forwarded-Proto": "", "X-Original-URL": f"{WIKI}/a?b"},
    ),
    "that header, where it counts for nothing": (
        "/forward-auth",
        {"X-Forwarded-Host": "", "X-Original-URL": f"{WIKI}/a"},
    ),
    "of another product": ("/forward-auth", {"X-Forwarded-Host": "shop.example.com"}),
    "of no product": ("/forward-auth", {"X-Forwarded-Host": ""}),
    "of a socket": ("/forward-auth", {"X-Forwarded-Proto": "wss"}),
    "over http": ("/forward-auth", {"X-Forwarded-Proto": "http"}),
    "by the name of the product": ("/forward-auth", {"Host": "wiki.example.com"}),
    "by a name of nobody's": ("/forward-auth", {"Host": "evil.example.com"}),
    "with nothing": ("/forward-auth", {"Authorization": ""}),
    "with a bad bearer": ("/forward-auth", {"Authorization": "Bearer x"}),
    "with a bad bearer beside a cookie": (
        "/forward-auth",
        {"Authorization": "Bearer x", "Cookie": "authsite-app=x"},
    ),
    "with junk for a cookie": (
        "/forward-auth",
        {"Authorization": "", "Cookie": "authsite-app=\xe9"},
    ),
    "with too many cookies": ("/forward-auth", {"Cookie": "a=" + "x" * 9000}),
    "of a page": ("/forward-auth", {"Authorization": "", "Sec-Fetch-Mode": "navigate"}),
    "with a method in the query": ("/forward-auth?X-Forwarded-Host=evil", {}),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_a_proxy_is_told_is_what_flask_would_say(client, token, monkeypatch, question):
    path, more = QUESTIONS[question]
    same_on_both_ways(monkeypatch, lambda: forward_auth(client, token, path, **more))


BODIES = {
    "a good token": {},
    "with a hint": {"data": {"token": "TOKEN", "token_type_hint": "access_token"}},
    "escaped": {"data": "token=%54OKEN", "content_type": "application/x-www-form-urlencoded"},
    "twice": {"data": "token=TOKEN&token=x", "content_type": "application/x-www-form-urlencoded"},
    "with the secret": {"data": {"token": "TOKEN", "client_secret": SECRET}},
    "without a token": {"data": {"token_type_hint": "x"}},
    "in the query": {"query_string": {"token": "x"}},
    "as JSON": {"json": {"token": "TOKEN"}, "data": None},
    "with no type": {"data": b"token=TOKEN"},
    "nobody's token": {"data": {"token": "x"}},
    "of a foreign page": {"headers": BASIC | {"Origin": "https://evil.example.com"}},
    "with a wrong secret": {"headers": {"Authorization": "Basic YmlsbGluZzp4"}},
    "without a secret": {"headers": {}},
    "with half a secret": {"headers": {"Authorization": "Basic \xe9"}},
    "over http": {"base_url": OWN.replace("https", "http")},
    "too long": {"data": {"token": "x" * 70_000}},
    "with too many cookies": {"headers": BASIC | {"Cookie": "a=" + "x" * 9000}},
    "of a length with zeros before it": {"environ_overrides": {"CONTENT_LENGTH": "0000000000300"}},
    "by another name": {"base_url": "https://evil.example.com"},
}


@pytest.mark.parametrize("body", BODIES)
def test_what_a_service_is_told_is_what_flask_would_say(client, token, monkeypatch, body):
    how = {name: with_token(value, token) for name, value in BODIES[body].items()}
    same_on_both_ways(monkeypatch, lambda: introspect(client, token, **how))


def with_token(value, token):
    if isinstance(value, dict):
        return {name: each.replace("TOKEN", token) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.replace(b"TOKEN", token.encode())
    escaped = f"%{ord(token[0]):02x}{token[1:]}"
    return value and value.replace("%54OKEN", escaped).replace("TOKEN", token)


READS = [f"{V1}/auth/me", f"{V1}/users/me", f"{V1}/sessions/me"]


def read(client, path, token, *, method="GET", **how):
    sent = {"Authorization": f"Bearer {token}"} | how.pop("headers", {})
    return client.open(path, method=method, headers=sent, **{"base_url": OWN} | how)


@pytest.mark.parametrize("path", READS)
def test_who_and_where_one_is_signed_in_is_answered_below_flask_by_one_statement(
    client, token, without_flask, sent_statements, path
):
    read(client, path, token)
    without_flask()
    with sent_statements() as sent:
        answer = read(client, path, token)

    assert answer.status_code == 200
    assert len(sent) == 1


WAYS = {
    "plainly": {},
    "with other letters": {"headers": {"Authorization": "bEARER  TOKEN "}},
    "from a listed origin": {"headers": {"Origin": WIKI}},
    "from another origin": {"headers": {"Origin": "https://evil.example.com"}},
    "with a query": {"query_string": {"a": "b"}},
    "with the token in the query": {"query_string": {"access_token": "x"}},
    "with a body": {"json": {"a": "b"}},
    "with nothing": {"headers": {"Authorization": ""}},
    "with a secret": {"headers": BASIC},
    "with a bad token": {"headers": {"Authorization": "Bearer x"}},
    "with half a token": {"headers": {"Authorization": "Bearer \xe9"}},
    "with a cookie": {"headers": {"Cookie": "session=x"}},
    "with too many cookies": {"headers": {"Cookie": "a=" + "x" * 9000}},
    "for something else": {"headers": {"Accept": "text/html", "Range": "bytes=0-1"}},
    "with an id": {"headers": {"X-Request-Id": "a" * 20}},
    "over http": {"base_url": OWN.replace("https", "http")},
    "by another name": {"base_url": "https://evil.example.com"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", [READS[0], READS[2]])
def test_who_reads_is_told_what_flask_would_say(client, token, monkeypatch, path, way):
    how = {name: with_token(value, token) for name, value in WAYS[way].items()}
    same_on_both_ways(monkeypatch, lambda: read(client, path, token, **how))


@pytest.mark.parametrize("path", READS)
def test_a_read_is_logged_as_flask_would(client, token, monkeypatch, caplog, path):
    """LG-03"""

    def logged():
        caplog.clear()
        read(client, path, token)
        return [each.facts | {"milliseconds": None} for each in caplog.records]

    one = logged()
    monkeypatch.setattr(shortcuts, "ANSWERS", {})

    assert [each["event"] for each in one] == ["request"]
    assert one == logged()
    assert one[0]["session_id"]


@pytest.mark.parametrize(("path", "most"), [(READS[0], 60), (READS[2], 30)])
def test_reads_below_flask_count_and_are_refused_once(make_app, caplog, time_machine, path, most):
    """LT-03"""
    time_machine.move_to(clock.now(), tick=False)  # the minute does not end meanwhile
    client = make_app(PUBLIC_BASE_URL=OWN, REDIS_URL="").test_client(use_cookies=False)
    registration = {"email": "ada@example.com", "password": PASSWORD, "first_name": "Ada"}
    client.post(f"{V1}/auth/register", json=registration, base_url=OWN)
    given = client.post(f"{V1}/auth/login", json=registration, base_url=OWN).get_json()
    answers = [read(client, path, given["access_token"]) for _ in range(most + 2)]
    refused = [each for each in caplog.records if each.facts["event"] == "rate_limited"]

    assert [each.status_code for each in answers] == [200] * most + [429] * 2
    assert f";r={most - 1};" in answers[0].headers["RateLimit"]
    assert len(refused) == 2


class CountingStore(Store):
    """The store that one process has, and how often it was asked."""

    def __init__(self):
        super().__init__(MemoryStorage(), workers=1)
        self.asked = 0

    def hit(self, key, amount):
        self.asked += 1
        return super().hit(key, amount)


@pytest.mark.parametrize(("path", "most"), [(READS[0], 60), (READS[2], 30)])
def test_a_read_over_its_limit_is_looked_up_once_and_refused_as_by_flask(
    client, token, monkeypatch, sent_statements, caplog, time_machine, path, most
):
    """LT-03"""
    time_machine.move_to(clock.now(), tick=False)
    client.application.config["RATELIMIT_ENABLED"] = True
    store = CountingStore()
    monkeypatch.setitem(client.application.extensions, "limit_store", store)
    for _ in range(most):
        assert read(client, path, token).status_code == 200
    refusals, store.asked = [], 0
    for ways in (shortcuts.ANSWERS, {}):
        monkeypatch.setattr(shortcuts, "ANSWERS", ways)
        caplog.clear()
        with sent_statements() as sent:
            answer = read(client, path, token, headers={"Origin": WIKI})
        logged = [each.facts | {"milliseconds": None} for each in caplog.records]
        refusals.append((told(answer), answer.headers["RateLimit"], logged, len(sent)))

    assert refusals[0] == refusals[1]
    assert refusals[0][0][0] == 429
    assert [each["event"] for each in refusals[0][2]] == ["rate_limited", "request"]
    assert refusals[0][2][1]["session_id"]
    assert (refusals[0][3], store.asked) == (1, 2)


@pytest.mark.parametrize("path", READS)
def test_a_use_after_a_pause_is_noted_below_flask_and_tells_the_new_time(
    client, token, time_machine, path
):
    """SE-03"""
    time_machine.move_to(clock.now() + timedelta(minutes=2), tick=False)
    read(client, path, token)
    listed = read(client, READS[2], token).get_json()["sessions"]

    assert listed[0]["last_used_at"] == clock.rfc3339(clock.now())


def sign_in(client):
    asked = {"email": "ada@example.com", "password": PASSWORD}
    return client.post(f"{V1}/auth/login", json=asked, base_url=OWN).get_json()["refresh_token"]


def refresh(client, refresh_token, **how):
    body = f'{{"refresh_token": "{refresh_token}"}}'
    sent = {"data": body, "content_type": "application/json", "base_url": OWN} | how
    return client.post(f"{V1}/auth/refresh", **sent)


def test_a_token_is_changed_for_its_successor_below_flask_by_one_statement(
    client, token, without_flask, sent_statements
):
    """SE-04"""
    first = refresh(client, sign_in(client)).get_json()
    without_flask()
    with sent_statements() as sent:
        answer = refresh(client, first["refresh_token"])

    assert answer.status_code == 200
    assert len(sent) == 1
    successor = refresh(client, answer.get_json()["refresh_token"])
    assert read(client, READS[0], successor.get_json()["access_token"]).status_code == 200


REFRESHES = {
    "plainly": {},
    "as clients without spaces write it": {"data": b'{"refresh_token":"TOKEN"}'},
    "with a byte order mark": {"data": b'\xef\xbb\xbf{"refresh_token": "TOKEN"}'},
    "on lines of their own": {"data": b'{\n  "refresh_token": "TOKEN"\n}\n'},
    "escaped": {"data": b'{"refresh_token": "\\u0065TOKEN"}'},
    "twice": {"data": b'{"refresh_token": "x", "refresh_token": "TOKEN"}'},
    "beside something else": {"data": b'{"refresh_token": "TOKEN", "a": "b"}'},
    "in a list": {"data": b'["TOKEN"]'},
    "with a character behind it": {"data": b'{"refresh_token": "TOKEN"}x'},
    "with half a character": {"data": b'{"refresh_token": "TOKEN\xe9"}'},
    "nothing": {"data": b""},
    "a number": {"data": b'{"refresh_token": 1}'},
    "nobody's": {"data": b'{"refresh_token": "x"}'},
    "one that is too long": {"data": b'{"refresh_token": "' + b"x" * 5000 + b'"}'},
    "as a form": {
        "data": b"refresh_token=TOKEN",
        "content_type": "application/x-www-form-urlencoded",
    },
    "with a charset": {"content_type": "application/json; charset=utf-8"},
    "with another type": {"content_type": "text/plain"},
    "compressed": {"headers": {"Content-Encoding": "gzip"}},
    "from a listed origin": {"headers": {"Origin": WIKI}},
    "from another origin": {"headers": {"Origin": "https://evil.example.com"}},
    "with a bad bearer beside it": {"headers": {"Authorization": "Bearer x"}},
    "with a cookie": {"headers": {"Cookie": "session=x"}},
    "with a query": {"query_string": {"a": "b"}},
    "over http": {"base_url": OWN.replace("https", "http")},
    "by another name": {"base_url": "https://evil.example.com"},
    "of a length with zeros before it": {"environ_overrides": {"CONTENT_LENGTH": "0000000000300"}},
    "of a length that is none": {"environ_overrides": {"CONTENT_LENGTH": "x"}},
}


@pytest.mark.parametrize("way", REFRESHES)
def test_who_refreshes_is_told_what_flask_would_say(client, token, monkeypatch, way):
    """SE-04"""

    def ask():
        current = sign_in(client)
        how = {name: with_token(value, current) for name, value in REFRESHES[way].items()}
        return refresh(client, current, **how)

    ways, others = shortcuts.ANSWERS, []
    for each in (ways, {}):
        monkeypatch.setattr(shortcuts, "ANSWERS", each)
        answer = ask()
        status, headers, body = told(answer)
        headers.pop("Content-Length")  # of tokens, which hold the time
        if status == 200:
            names = list(answer.get_json())
            body = names, {name: body[name] for name in names if not name.endswith("_token")}
        others.append((status, headers, body))
    assert others[0] == others[1]


FATES = {
    "used before": lambda client, old: refresh(
        client, refresh(client, old).get_json()["refresh_token"]
    ),
    "signed out": lambda client, old: client.post(
        f"{V1}/auth/logout",
        headers={"Authorization": f"Bearer {refresh(client, old).get_json()['access_token']}"},
        base_url=OWN,
    ),
    "expired": lambda client, old: None,
}


@pytest.mark.parametrize("fate", FATES)
def test_a_refusal_below_flask_is_done_once_and_told_and_logged_as_by_flask(
    client, token, monkeypatch, caplog, time_machine, fate
):
    """SE-05, LG-03: theft is found by what a refresh changes, and found once."""
    refusals, ways = [], shortcuts.ANSWERS
    for each in (ways, {}):
        monkeypatch.setattr(shortcuts, "ANSWERS", each)
        time_machine.move_to(clock.now(), tick=False)
        old = sign_in(client)
        FATES[fate](client, old)
        time_machine.move_to(clock.now() + timedelta(days=400 if fate == "expired" else 1))
        caplog.clear()
        answer = refresh(client, old)
        logged = [
            each.facts | {"milliseconds": None, "session_id": None} for each in caplog.records
        ]
        refusals.append((told(answer), logged))

    assert refusals[0] == refusals[1]
    assert refusals[0][0][0] == 401


def test_refreshes_below_flask_count_by_session_and_are_refused_once(
    client, token, monkeypatch, caplog, time_machine
):
    """LT-03"""
    time_machine.move_to(clock.now(), tick=False)
    client.application.config["RATELIMIT_ENABLED"] = True
    store = CountingStore()
    monkeypatch.setitem(client.application.extensions, "limit_store", store)
    tokens, others = sign_in(client), sign_in(client)
    store.asked, statuses = 0, []
    for _ in range(31):
        answer = refresh(client, tokens)
        statuses.append(answer.status_code)
        tokens = (answer.get_json() or {}).get("refresh_token", tokens)

    assert statuses == [200] * 30 + [429]
    assert store.asked == 31
    assert [each.facts["event"] for each in caplog.records].count("rate_limited") == 1
    assert refresh(client, others).status_code == 200
    monkeypatch.setattr(shortcuts, "ANSWERS", {})
    assert refresh(client, tokens).status_code == 429, "by Flask it is the same count"


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "OPTIONS", "TRACE", "PROPFIND", "CONNECT"]
)
@pytest.mark.parametrize(
    "path",
    ["/forward-auth", f"{V1}/auth/introspect", f"{V1}/auth/refresh", READS[0], READS[2]],
)
def test_each_method_is_answered_as_flask_would(client, token, monkeypatch, path, method):
    is_service = path.endswith("introspect")
    sent = ASKED | (BASIC if is_service else {"Authorization": f"Bearer {token}"})
    same_on_both_ways(
        monkeypatch, lambda: client.open(path, method=method, headers=sent, base_url=OWN)
    )


def test_an_end_is_seen_by_the_next_question(client, token):
    """SE-03: nothing is remembered below Flask either."""
    assert forward_auth(client, token).status_code == 200
    assert all(read(client, path, token).status_code == 200 for path in READS)
    bearer = {"Authorization": f"Bearer {token}"}
    assert client.post(f"{V1}/auth/logout", headers=bearer, base_url=OWN).status_code == 200

    assert forward_auth(client, token).status_code == 401
    assert introspect(client, token).get_json() == {"active": False}
    assert all(read(client, path, token).status_code == 401 for path in READS)


def test_a_database_that_is_gone_is_asked_once_and_told_as_ever(client, token, monkeypatch):
    """FA-01: never "anonymous"."""
    asked = []

    def fail(*_, **__):
        asked.append(1)
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(sessions, "resume_api", fail)
    assert forward_auth(client, token).status_code == 503
    assert introspect(client, token).status_code == 503
    assert len(asked) == 2


def same_on_both_ways(monkeypatch, ask) -> None:
    """Ask as it is and once more without the shortcut; but for time, the answers are the same."""
    one = ask()
    monkeypatch.setattr(shortcuts, "ANSWERS", {})
    other = ask()

    assert told(one) == told(other)


def told(answer) -> tuple:
    headers = dict(answer.headers)
    for name in ("X-Request-Id", "Remote-Assertion", "RateLimit"):
        headers.pop(name, None)
    body = answer.get_json(silent=True) if answer.is_json or "problem" in answer.mimetype else None
    if isinstance(body, dict):
        body.pop("request_id", None)
    return answer.status_code, headers, body if body is not None else len(answer.data)
