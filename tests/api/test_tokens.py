"""Tokens: what opens the API, and everything that only looks as if it should."""

import base64
import hashlib
import hmac
import json
import uuid
from datetime import timedelta

import jwt
import pytest
from sqlalchemy import update

from authsite import clock, database
from authsite.crypto import tokens
from authsite.database.models import User, UserSession
from tests import services
from tests.api.conftest import (
    EMAIL,
    V1,
    bearer,
    claims,
    header,
    is_live,
    log_in,
    problem,
    refresh,
    register,
    reset_token_from_outbox,
    session_id,
    try_login,
)
from tests.factories import NEW_PASSWORD

ACCESS_KEY = tokens.derived_key(services.SECRET_KEY, "authsite:access")
REFRESH_KEY = tokens.derived_key(services.SECRET_KEY, "authsite:refresh")
BAD = 'Bearer error="invalid_token"'


@pytest.fixture
def app(make_app):
    """These tables are long: no rate is limited here."""
    return make_app(RATELIMIT_ENABLED="0")


def encode(value):
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def forge(held, *, head=None, body=None, key=ACCESS_KEY, name="access_token", hash_name="sha256"):
    """Return the token with other members, signed by whoever holds `key`; None takes a member away."""
    parts = []
    for part, changes in ((header(held[name]), head or {}), (claims(held[name]), body or {})):
        merged = part | changes
        parts.append(encode({k: v for k, v in merged.items() if v is not None}))
    signature = hmac.digest(key, ".".join(parts).encode(), hash_name)
    return ".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=").decode()])


def me(client, token, scheme="Bearer "):
    return client.get(f"{V1}/auth/me", headers={"Authorization": f"{scheme}{token}"})


def refused(client, token):
    """Hold both entrances to the refusal of this text, as access token and as refresh token."""
    answer = me(client, token)
    problem(answer, 401, "token_invalid", "Invalid access token")
    assert answer.headers["WWW-Authenticate"] == BAD
    answer = refresh(client, token)
    problem(answer, 401, "token_invalid", "Invalid refresh token")
    assert answer.headers["WWW-Authenticate"] == BAD


# What a token is


def test_tokens_hold_exactly_the_claims_of_the_contract(client, user, held):
    """TK-01, TK-09"""
    for name, typ, audience in (
        ("access_token", "at+jwt", "authsite:access"),
        ("refresh_token", "rt+jwt", "authsite:refresh"),
    ):
        found = claims(held[name])
        proof = {"auth_time"} if name == "access_token" else set()
        assert found.keys() == {"iss", "sub", "sid", "jti", "iat", "exp", "aud"} | proof
        assert header(held[name]).keys() == {"alg", "kid", "typ"}
        assert header(held[name])["alg"] == "HS256"
        assert (header(held[name])["typ"], found["aud"]) == (typ, audience)
        assert found["sub"] == user["id"]
        assert str(uuid.UUID(found["sid"])) == found["sid"]
        assert isinstance(found["iat"], int)
        assert isinstance(found["exp"], int)
        assert abs(found["iat"] - clock.now().timestamp()) < 60
    access, refreshing = claims(held["access_token"]), claims(held["refresh_token"])
    assert access["exp"] - access["iat"] == 900
    assert refreshing["exp"] - refreshing["iat"] == 7 * 24 * 3600
    assert access["sid"] == refreshing["sid"]


def test_token_ids_are_random_and_never_the_same(client, user):
    """TK-15"""
    held = [log_in(client) for _ in range(5)]
    ids = {claims(each[name])["jti"] for each in held for name in ("access_token", "refresh_token")}
    assert len(ids) == 10
    assert all(len(base64.urlsafe_b64decode(each + "==")) == 16 for each in ids)


def test_each_kind_of_token_has_a_key_of_its_own(held):
    """TK-05, TK-07: neither is signed with the secret itself."""
    access, refreshing = held["access_token"], held["refresh_token"]
    options = {"verify_aud": False}
    for token, key in ((access, ACCESS_KEY), (refreshing, REFRESH_KEY)):
        assert len(key) == 32
        jwt.decode(token, key, algorithms=["HS256"], options=options)
    secret = hashlib.sha256(services.SECRET_KEY.encode()).digest()
    for token, key in (
        (access, REFRESH_KEY),
        (refreshing, ACCESS_KEY),
        (access, services.SECRET_KEY),
        (access, secret),
    ):
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(token, key, algorithms=["HS256"], options=options)


def test_a_token_made_with_the_key_opens_what_it_names(client, held):
    """The forger of these tests can forge: what it is refused for is the change, not the clumsiness."""
    assert me(client, forge(held)).status_code == 200
    forged = forge(held, key=REFRESH_KEY, name="refresh_token")
    assert refresh(client, forged).status_code == 200


# Forged headers


def test_no_other_algorithm_is_taken(client, held, subtests):
    """TK-02"""
    others = ["none", "None", "NONE", "nOnE", "HS384", "HS512", "RS256", "ES256", "", None, 5]
    for alg in (*others, ["HS256"], {}):
        hash_name = {"HS384": "sha384", "HS512": "sha512"}.get(str(alg), "sha256")
        for key, name in ((ACCESS_KEY, "access_token"), (REFRESH_KEY, "refresh_token")):
            with subtests.test(alg=alg, name=name):
                token = forge(held, head={"alg": alg}, key=key, name=name, hash_name=hash_name)
                refused(client, token)
                unsigned = token.rpartition(".")[0]
                refused(client, f"{unsigned}.")
                refused(client, unsigned)


def test_no_other_header_is_taken_even_with_the_right_key(client, held, subtests):
    """TK-03, TK-04"""
    for head in (
        {"kid": None},
        {"kid": ""},
        {"kid": "unknown"},
        {"kid": 5},
        {"kid": ["x"]},
        {"kid": "../../../../dev/null"},
        {"kid": "' UNION SELECT 'x' --"},
        {"jku": "http://127.0.0.1:9/keys"},
        {"x5u": "http://127.0.0.1:9/keys"},
        {"jwk": {"kty": "oct", "k": encode("x" * 32)}},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"], "exp": 1},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"typ": None},
        {"typ": "JWT"},
        {"typ": "AT+JWT"},
        {"cty": "JWT"},
        {"zip": "DEF"},
    ):
        with subtests.test(head):
            refused(client, forge(held, head=head))
            refused(client, forge(held, head=head, key=REFRESH_KEY, name="refresh_token"))


def test_the_key_cannot_be_brought_along(client, held):
    """TK-03"""
    key = b"x" * 32
    head = {"jwk": {"kty": "oct", "alg": "HS256", "k": encode("x" * 32)}}
    refused(client, forge(held, head=head, key=key))
    for key in (b"", b"secret", services.SECRET_KEY.encode()):
        refused(client, forge(held, key=key))


# Forged claims


def test_a_token_with_a_claim_missing_or_wrong_is_refused_even_with_the_right_key(
    client, held, subtests
):
    """TK-01, TK-05"""
    for body in (
        *({name: None} for name in ("iss", "sub", "sid", "jti", "iat", "exp", "aud")),
        {"iss": "somebody"},
        {"aud": "authsite"},
        {"aud": "authsite:reset"},
        {"aud": []},
        {"sub": 5},
        {"sub": "x"},
        {"sub": "' OR 1=1 --"},
        {"sid": 5},
        {"sid": "x"},
        {"sid": ["x"]},
        {"sid": "\ud800"},
        {"jti": 5},
        {"exp": "tomorrow"},
        {"exp": 1e400},
        {"iat": "today"},
        {"iat": 99_999_999_999},
        {"nbf": 99_999_999_999},
    ):
        with subtests.test(ascii(body)):
            refused(client, forge(held, body=body))
            refused(client, forge(held, body=body, key=REFRESH_KEY, name="refresh_token"))


def test_a_token_names_its_own_users_session_or_nothing(client, held, stranger):
    for body in (
        {"sub": claims(stranger["access_token"])["sub"]},
        {"sid": session_id(stranger)},
        {"sid": str(uuid.uuid4())},
        {"sub": str(uuid.uuid4())},
    ):
        problem(me(client, forge(held, body=body)), 401, "session_revoked")
        token = forge(held, body=body, key=REFRESH_KEY, name="refresh_token")
        problem(refresh(client, token), 401, "session_revoked")
    assert is_live(client, held)
    assert is_live(client, stranger)


def test_a_changed_payload_needs_another_signature(client, held, stranger):
    head, _, signature = held["access_token"].split(".")
    refused(client, ".".join([head, stranger["access_token"].split(".")[1], signature]))


# Kinds of tokens


def test_neither_kind_of_token_passes_for_the_other(client, held):
    """TK-05"""
    answer = me(client, held["refresh_token"])
    problem(answer, 401, "token_invalid", "Invalid access token")
    assert answer.headers["WWW-Authenticate"] == BAD
    problem(refresh(client, held["access_token"]), 401, "token_invalid", "Invalid refresh token")
    # Nor with the other's name on it.
    typ = {"typ": "at+jwt"}
    forged = forge(held, head=typ, body={"aud": "authsite:access"}, key=REFRESH_KEY)
    refused(client, forged)


def test_no_other_signed_thing_of_ours_passes_for_a_token(app, client, held):
    """TK-05"""
    client.post(f"{V1}/auth/password-reset/request", json={"email": EMAIL})
    refused(client, reset_token_from_outbox(app))
    with app.app_context():
        refused(client, tokens.sign("csrf", "x"))
        refused(client, tokens.sign("authsite:access", held["access_token"]))


# Malformed


def test_what_is_malformed_is_refused_not_a_fault(client, subtests):
    """TK-10"""
    for token in (
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b.c.d",
        "eyJhbGciOiJub25lIn0..",
        "x" * 4000,
        "é",
        "\x01",
        "🐎",
        "null",
        "undefined",
        "[object Object]",
        "' OR 1=1 --",
        "%00",
        f"{encode('[' * 2000)}.{encode({})}.x",
        f"{encode({})}.{encode('[' * 1000)}.x",
    ):
        with subtests.test(ascii(token[:16])):
            answer = refresh(client, token)
            problem(answer, 401, "token_invalid", "Invalid refresh token")
            as_sent = f"Bearer {token}".encode().decode("latin-1")
            answer = client.get(f"{V1}/auth/me", environ_base={"HTTP_AUTHORIZATION": as_sent})
            problem(answer, 401, "token_invalid", "Invalid access token")


@pytest.mark.parametrize("length", [5000, 1_000_000])
def test_a_huge_token_is_refused_not_a_fault(client, held, length):
    """TK-10"""
    for part in range(3):
        parts = held["access_token"].split(".")
        parts[part] += "A" * length
        problem(me(client, ".".join(parts)), 401, "token_invalid")
        answer = refresh(client, ".".join(parts))
        assert answer.status_code == (422 if length < 64 * 1024 else 413)
    assert is_live(client, held)


def test_nul_in_a_token_is_refused_not_a_fault(client, held):
    """TK-10"""
    answer = client.get(
        f"{V1}/auth/me",
        environ_base={"HTTP_AUTHORIZATION": f"Bearer {held['access_token']}\x00"},
    )
    problem(answer, 401, "token_invalid")


def test_every_altered_character_of_the_signature_counts(client, held):
    head, payload, signature = held["access_token"].split(".")
    for position in (0, len(signature) // 2, len(signature) - 2):
        other = "A" if signature[position] != "A" else "B"
        altered = signature[:position] + other + signature[position + 1 :]
        problem(me(client, f"{head}.{payload}.{altered}"), 401, "token_invalid")


def test_a_token_in_another_spelling_dies_with_its_session(client, held):
    """TK-11: base64 can be written with padding, or with other unused bits at its end."""
    access, refreshing = held["access_token"], held["refresh_token"]
    spellings = ["{}=", "{}==", "{}\n", " {}", "{} "]
    client.post(f"{V1}/auth/logout", headers=bearer(held))
    for spelling in spellings:
        answer = client.get(
            f"{V1}/auth/me",
            environ_base={"HTTP_AUTHORIZATION": "Bearer " + spelling.format(access)},
        )
        assert answer.status_code == 401
        assert refresh(client, spelling.format(refreshing)).status_code == 401


# How it is sent


def test_the_scheme_is_read_whatever_its_case(client, held):
    """TK-13"""
    for scheme in ("Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer   "):
        assert me(client, held["access_token"], scheme).status_code == 200


def test_another_scheme_brings_no_credentials(client, held, subtests):
    """TK-13"""
    for scheme in ("", "Basic ", "Token ", "Bearer:", "Bearer,", "Bearer\t", "Bearer=", "Bearers "):
        with subtests.test(scheme):
            answer = me(client, held["access_token"], scheme)
            problem(answer, 401, "not_authenticated")
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_empty_token_is_a_bad_one(client):
    for written in ("Bearer", "Bearer ", "Bearer  "):
        answer = client.get(f"{V1}/auth/me", headers={"Authorization": written})
        problem(answer, 401, "token_invalid")


def test_two_tokens_are_none(client, held, stranger):
    """TK-12"""
    both = f"{held['access_token']}, Bearer {stranger['access_token']}"
    problem(me(client, both), 401, "token_invalid")
    problem(me(client, f"{held['access_token']} {stranger['access_token']}"), 401, "token_invalid")


def test_a_token_in_the_query_or_body_opens_nothing(client, held):
    """TK-12"""
    token = held["access_token"]
    for name in ("access_token", "token", "bearer", "jwt", "Authorization"):
        answer = client.get(f"{V1}/auth/me", query_string={name: token})
        problem(answer, 401, "not_authenticated")
        answer = client.post(f"{V1}/auth/logout", data={name: token})
        problem(answer, 401, "not_authenticated")
        answer = client.post(f"{V1}/auth/logout", json={name: token})
        problem(answer, 401, "not_authenticated")
    answer = client.get(f"{V1}/auth/me", headers={"X-Authorization": f"Bearer {token}"})
    problem(answer, 401, "not_authenticated")
    assert is_live(client, held)


def test_a_token_sent_in_two_ways_is_malformed(client, held):
    """TK-12: RFC 6750 section 2"""
    answer = client.get(
        f"{V1}/auth/me", query_string={"access_token": held["access_token"]}, headers=bearer(held)
    )
    problem(answer, 400, "malformed_request")


# Time


@pytest.mark.parametrize(("seconds", "status"), [(0, 200), (899, 200), (909, 200), (911, 401)])
def test_an_access_token_lives_fifteen_minutes(client, user, time_machine, seconds, status):
    """TK-01, TK-06: with ten seconds for clocks that differ."""
    time_machine.move_to(clock.now().replace(microsecond=0), tick=False)
    held = log_in(client)
    time_machine.shift(seconds)
    answer = me(client, held["access_token"])
    assert answer.status_code == status
    if status == 401:
        problem(answer, 401, "token_expired", "Access token has expired")
        assert answer.headers["WWW-Authenticate"] == BAD


@pytest.mark.parametrize(("ahead", "status"), [(12, 200), (59, 200), (62, 401)])
def test_a_token_from_the_future_is_refused(client, held, ahead, status):
    """TK-06"""
    moment = int(clock.now().timestamp()) + ahead
    assert me(client, forge(held, body={"iat": moment})).status_code == status


def test_a_refresh_token_lives_no_longer_than_its_session(client, user, time_machine):
    """SE-09: the leeway for clocks is no second life."""
    time_machine.move_to(clock.now().replace(microsecond=0), tick=False)
    held = log_in(client)
    time_machine.shift(timedelta(days=7, seconds=1))
    problem(refresh(client, held["refresh_token"]), 401, "token_expired")


def test_an_access_token_dies_with_its_session_row(app, client, held, time_machine):
    """SE-02"""
    with app.app_context():
        database.run(update(UserSession).values(expires_at=clock.now() - timedelta(seconds=1)))
    problem(me(client, held["access_token"]), 401, "session_revoked")


def test_an_access_token_dies_with_its_user(app, client, held):
    """SE-02, SE-14"""
    with app.app_context():
        database.run(update(User).values(is_active=False))
    problem(me(client, held["access_token"]), 401, "session_revoked")


def test_the_same_successor_is_the_same_token(client, held, time_machine):
    """SE-06: same jti, iat and exp."""
    time_machine.move_to(clock.now(), tick=False)
    first = refresh(client, held["refresh_token"]).get_json()
    time_machine.shift(20)
    again = refresh(client, held["refresh_token"]).get_json()
    assert claims(again["refresh_token"]) == claims(first["refresh_token"])
    assert is_live(client, again)
    assert claims(again["access_token"])["iat"] == claims(first["access_token"])["iat"] + 20


# Rotation of the secret

OLD_SECRET = "an-old-secret-0123456789abcdefghijklmnopqrstuvwxyz"
NEW_SECRET = "a-new-secret-0123456789abcdefghijklmnopqrstuvwxyz!"


def test_tokens_and_links_of_an_old_secret_go_on_until_it_is_dropped(make_app):
    """TK-08"""
    old = make_app(SECRET_KEY=OLD_SECRET)
    client = old.test_client()
    register(client)
    held, second = log_in(client), log_in(client)
    client.post(f"{V1}/auth/password-reset/request", json={"email": EMAIL})
    link = reset_token_from_outbox(old)

    dropped = make_app(SECRET_KEY=NEW_SECRET).test_client()
    problem(me(dropped, held["access_token"]), 401, "token_invalid")
    problem(refresh(dropped, held["refresh_token"]), 401, "token_invalid")
    body = {"token": link, "new_password": NEW_PASSWORD}
    answer = dropped.post(f"{V1}/auth/password-reset/confirm", json=body)
    problem(answer, 400, "reset_token_invalid")

    rotated = make_app(SECRET_KEY=NEW_SECRET, SECRET_KEY_FALLBACKS=f"{'y9x8w7v6' * 8},{OLD_SECRET}")
    client = rotated.test_client()
    assert is_live(client, held)
    renewed = refresh(client, held["refresh_token"]).get_json()
    assert header(renewed["refresh_token"])["kid"] != header(held["refresh_token"])["kid"]
    assert is_live(dropped, renewed)
    assert is_live(client, second)
    assert client.post(f"{V1}/auth/password-reset/confirm", json=body).status_code == 200
    assert try_login(client, password=NEW_PASSWORD).status_code == 200


def test_what_the_new_secret_signed_is_nothing_to_the_old_one(make_app):
    """TK-08: it is the newest secret that signs."""
    client = make_app(SECRET_KEY=NEW_SECRET, SECRET_KEY_FALLBACKS=OLD_SECRET).test_client()
    register(client)
    held = log_in(client)
    assert is_live(make_app(SECRET_KEY=NEW_SECRET).test_client(), held)
    problem(
        me(make_app(SECRET_KEY=OLD_SECRET).test_client(), held["access_token"]),
        401,
        "token_invalid",
    )
