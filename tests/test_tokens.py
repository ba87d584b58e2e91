"""Tokens by themselves: one key for each purpose, and nothing else opens them."""

import json
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from authsite.crypto import tokens
from authsite.errors import RefreshTokenExpired, RefreshTokenInvalid, TokenExpired, TokenInvalid
from tests import services

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLD, NEW = "the-old-secret-0123456789abcdefgh", "the-new-secret-0123456789abcdefgh"
USER, SESSION, JTI = uuid.uuid4(), uuid.uuid4(), tokens.new_jti()
INVALID = {tokens.ACCESS: TokenInvalid, tokens.REFRESH: RefreshTokenInvalid}


@pytest.fixture
def database_url(sqlite_url):
    """One database is enough: tokens read none."""
    return sqlite_url


@pytest.fixture(autouse=True)
def _at_noon(app_context, time_machine):
    time_machine.move_to(NOW, tick=False)


def access() -> str:
    return tokens.access_token(user_id=USER, session_id=SESSION, issued_at=NOW)


def refresh(**changed) -> str:
    values = {"jti": JTI, "issued_at": NOW, "expires_at": NOW + timedelta(days=7)} | changed
    return tokens.refresh_token(user_id=USER, session_id=SESSION, **values)


def segments(token: str) -> list:
    """Return a token's header and payload, decoded by hand."""
    return [json.loads(urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]]


def test_a_refresh_token_reads_as_what_was_written():
    issued_at = int(NOW.timestamp())
    written = (USER, SESSION, JTI, issued_at, issued_at + 7 * 24 * 3600, None)
    assert tokens.read(refresh(), tokens.REFRESH) == written


def test_an_access_token_names_user_and_session_and_lives_for_15_minutes():
    """TK-01, TK-09: the registered claims and the session's id, nothing about the person."""
    header, payload = segments(access())

    assert header["typ"] == "at+jwt"
    assert payload == {
        "iss": "authsite",
        "aud": "authsite:access",
        "sub": str(USER),
        "sid": str(SESSION),
        "jti": payload["jti"],
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 900,
    }


def test_every_purpose_has_a_key_of_its_own():
    """TK-05, TK-07: access, refresh, reset link, throttle and key id share no key."""
    purposes = ["authsite:access", "authsite:refresh", "reset", "throttle", "kid"]
    keys = {tokens.derived_key(services.SECRET_KEY, purpose) for purpose in purposes}

    assert len(keys) == len(purposes)
    assert all(len(key) == 32 for key in keys)
    assert services.SECRET_KEY.encode() not in keys


def test_the_derivation_is_hkdf():
    """TK-07: the vector of an independent implementation of RFC 5869."""
    other = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"authsite reset")

    assert tokens.derived_key(NEW, "reset") == other.derive(NEW.encode())


@pytest.mark.parametrize(
    ("make", "purpose"),
    [
        (refresh, tokens.ACCESS),
        (access, tokens.REFRESH),
        (lambda: tokens.sign("reset", str(SESSION)), tokens.ACCESS),
        (lambda: tokens.sign("reset", str(SESSION)), tokens.REFRESH),
    ],
)
def test_no_token_passes_for_another_kind(make, purpose):
    """TK-05."""
    with pytest.raises(INVALID[purpose]):
        tokens.read(make(), purpose)


@pytest.mark.parametrize("other", [tokens.ACCESS, tokens.REFRESH])
def test_audience_and_key_are_both_needed(other):
    """TK-05: the right key with the wrong audience is refused as well."""
    purpose = tokens.ACCESS if other is tokens.REFRESH else tokens.REFRESH
    header, payload = segments(access() if purpose is tokens.ACCESS else refresh())
    key = tokens.derived_key(services.SECRET_KEY, purpose.audience)
    forged = jwt.encode(payload | {"aud": other.audience}, key, headers=header)

    with pytest.raises(INVALID[purpose]):
        tokens.read(forged, purpose)


@pytest.mark.parametrize("make", [access, refresh])
def test_a_token_has_one_spelling(make):
    """TK-10: no letter changed, none added, none left out, not even bits that base64 drops."""
    token, purpose = make(), tokens.ACCESS if make is access else tokens.REFRESH
    changed = {
        token[:place] + letter + token[place + 1 :]
        for place in range(len(token))
        for letter in "AB-_.=+/ \n\x00é"
    }
    cut = {token[:place] + token[place + 1 :] for place in range(len(token))}
    longer = {token + tail for tail in ("=", "==", ".", "\n", " ", "A", "." + token)}

    for each in (changed | cut | longer | {f" {token}", f"={token}"}) - {token}:
        with pytest.raises(INVALID[purpose]):
            tokens.read(each, purpose)
    assert tokens.read(token, purpose).session_id == SESSION


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "sid", "jti", "iat", "exp"])
def test_every_claim_is_required(claim):
    """TK-01: signed with our own key, but one claim short."""
    header, payload = segments(access())
    del payload[claim]
    key = tokens.derived_key(services.SECRET_KEY, tokens.ACCESS.audience)

    with pytest.raises(TokenInvalid):
        tokens.read(jwt.encode(payload, key, headers=header), tokens.ACCESS)


@pytest.mark.parametrize(
    "changed",
    [{"iss": "other"}, {"sub": "7"}, {"sid": "x"}, {"sid": 7}, {"jti": 7}, {"jti": None}],
)
def test_claims_of_the_wrong_kind_are_refused(changed):
    """TK-10."""
    header, payload = segments(access())
    key = tokens.derived_key(services.SECRET_KEY, tokens.ACCESS.audience)
    # PyJWT writes no such claims: the token is put together by hand.
    body = ".".join(
        urlsafe_b64encode(json.dumps(part, separators=(",", ":")).encode()).rstrip(b"=").decode()
        for part in (header, payload | changed)
    )
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        body.encode(), key
    )
    token = f"{access().partition('.')[0]}.{body.partition('.')[2]}."
    token += urlsafe_b64encode(signature).rstrip(b"=").decode()

    with pytest.raises(TokenInvalid):
        tokens.read(token, tokens.ACCESS)


@pytest.mark.parametrize(
    ("seconds", "is_good"), [(0, True), (899, True), (909, True), (911, False), (100_000, False)]
)
def test_an_access_token_ends_with_its_15_minutes(time_machine, seconds, is_good):
    """TK-06: with at most ten seconds for clocks that differ."""
    token = access()
    time_machine.move_to(NOW + timedelta(seconds=seconds), tick=False)

    if is_good:
        assert tokens.read(token, tokens.ACCESS).session_id == SESSION
    else:
        with pytest.raises(TokenExpired):
            tokens.read(token, tokens.ACCESS)


def test_a_token_from_the_future_is_refused():
    """TK-06."""
    token = tokens.access_token(
        user_id=USER, session_id=SESSION, issued_at=NOW + timedelta(seconds=61)
    )

    with pytest.raises(TokenInvalid):
        tokens.read(token, tokens.ACCESS)


def test_an_expired_refresh_token_can_still_be_read_to_log_out(time_machine):
    """SE-11."""
    token = refresh()
    time_machine.move_to(NOW + timedelta(days=8), tick=False)

    with pytest.raises(RefreshTokenExpired):
        tokens.read(token, tokens.REFRESH)
    assert tokens.read(token, tokens.REFRESH, even_expired=True).session_id == SESSION


@pytest.mark.parametrize("rotated", [False, True])
def test_tokens_of_a_former_secret_are_good_while_it_is_a_fallback(make_app, rotated):
    """TK-08: dropping the former secret ends its tokens, and only those."""
    with make_app(SECRET_KEY=OLD).app_context():
        old_access, old_link = access(), tokens.sign("reset", "id")
    fallbacks = {"SECRET_KEY_FALLBACKS": f"unrelated-{OLD}, {OLD}"} if rotated else {}
    with make_app(SECRET_KEY=NEW, **fallbacks).app_context():
        new_access = access()
        assert tokens.read(new_access, tokens.ACCESS).session_id == SESSION
        if rotated:
            assert tokens.read(old_access, tokens.ACCESS).session_id == SESSION
            assert tokens.unsign("reset", old_link, max_age=timedelta(hours=1)) == "id"
        else:
            with pytest.raises(TokenInvalid):
                tokens.read(old_access, tokens.ACCESS)
            assert tokens.unsign("reset", old_link, max_age=timedelta(hours=1)) is None


def test_the_newest_secret_signs(make_app):
    """TK-08: CVE-2025-47278 was the other way round."""
    with make_app(SECRET_KEY=NEW, SECRET_KEY_FALLBACKS=OLD).app_context():
        token, link = access(), tokens.sign("reset", "id")
    with make_app(SECRET_KEY=NEW).app_context():
        assert tokens.read(token, tokens.ACCESS).session_id == SESSION
        assert tokens.unsign("reset", link, max_age=timedelta(hours=1)) == "id"


def test_the_key_id_says_nothing_of_the_secret():
    """TK-07: it is a digest of a key that signs nothing."""
    header, _ = segments(access())

    assert header["kid"] not in services.SECRET_KEY
    assert header == segments(access())[0]


def test_ids_of_tokens_are_128_random_bits():
    """TK-15."""
    ids = {tokens.new_jti() for _ in range(1000)}

    assert len(ids) == 1000
    assert {len(urlsafe_b64decode(each + "==")) for each in ids} == {16}


def test_a_signed_value_is_good_for_its_purpose_and_its_time(time_machine):
    """RS-01: an hour, and not a minute more."""
    link = tokens.sign("reset", "id")

    assert tokens.unsign("reset", link, max_age=timedelta(hours=1)) == "id"
    assert tokens.unsign("cookie", link, max_age=timedelta(hours=1)) is None
    time_machine.move_to(NOW + timedelta(minutes=60, seconds=1), tick=False)
    assert tokens.unsign("reset", link, max_age=timedelta(hours=1)) is None


@pytest.mark.parametrize("before", ["", ".", "("])
@pytest.mark.parametrize("value", ["id", "the same again " * 20])
def test_a_signed_value_is_read_whether_or_not_it_was_compressed(value, before):
    """RS-02: a dot in front belongs to a compressed one, and is punctuation before any other."""
    text = tokens.sign("reset", value)
    assert text.startswith(".") == (value != "id")

    assert tokens.unsign("reset", f"{before}{text}", max_age=timedelta(hours=1)) == value


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b.c", "\x00", "\ud800", "é", "A" * 100_000, "WyJ4Il0.aaaa.bbbb"],
)
def test_what_was_not_signed_here_names_nothing(text):
    """TK-10, RS-09: whatever it is, without an exception."""
    assert tokens.unsign("reset", text, max_age=timedelta(hours=1)) is None
    for purpose, refusal in INVALID.items():
        with pytest.raises(refusal):
            tokens.read(text, purpose)


def test_a_changed_letter_breaks_a_signed_value():
    link = tokens.sign("reset", "id")
    changed = link[:-2] + ("A" if link[-2] != "A" else "B") + link[-1]

    assert tokens.unsign("reset", changed, max_age=timedelta(hours=1)) is None


def test_a_digest_cannot_be_computed_without_the_secret(make_app):
    """LT-05: the table of failures does not tell which addresses were tried."""
    with make_app(SECRET_KEY=OLD).app_context():
        first = tokens.keyed_digest("throttle", "ada@example.com")
        assert first == tokens.keyed_digest("throttle", "ada@example.com")
        assert first != tokens.keyed_digest("other", "ada@example.com")
    with make_app(SECRET_KEY=NEW).app_context():
        assert first != tokens.keyed_digest("throttle", "ada@example.com")
