"""Passkeys: what a signature has to be, what it is good for, and that it is good once."""

import json
import struct
import uuid
from datetime import timedelta

import pytest
from fido2 import cbor
from sqlalchemy import func, select, update

from authsite import accounts, clock, database, passkeys, second_steps, sessions, throttling
from authsite.database.models import (
    AccountEvent,
    OutgoingMail,
    Passkey,
    SpentToken,
    TrustedBrowser,
    User,
    UserSession,
)
from authsite.errors import (
    EmailNotVerified,
    InactiveAccount,
    InvalidCode,
    InvalidInput,
    MfaTokenInvalid,
    PasskeyExists,
    PasskeyInvalid,
    PasskeyNotFound,
    PasskeyRefused,
    PasskeySignInExpired,
    PasskeysUnavailable,
    SecondStepRequired,
    TooManyPasskeys,
    UnknownPasskey,
)
from authsite.passkeys import adding, ceremonies
from authsite.second_steps import pending
from tests import factories
from tests.authenticator import AT, BE, BS, ED, UP, UV, Authenticator, encoded
from tests.factories import PASSWORD, turn_on
from tests.test_races import at_once

CLIENT = sessions.Client(ip_address="203.0.113.7", user_agent="curl/8")
BROWSER = "the value of this browser's cookie"


@pytest.fixture
def ada(app_context, time_machine):
    time_machine.move_to("2026-03-01T12:00:00Z", tick=False)
    return factories.account()


@pytest.fixture
def key(ada):
    """Ada's passkey, in her password manager."""
    return add(ada)[0]


@pytest.fixture
def token(ada):
    """Ada's passkey on a stick that counts."""
    return add(ada, Authenticator(is_synced=False))[0]


def add(owner, made=None, *, name=None, session_id=None, **changed):
    made, session_id = made or Authenticator(), session_id or factories.live_session(owner.id)
    options = passkeys.creation_options(owner, session_id)
    credential = json.dumps(made.make(options, **changed))
    return made, passkeys.add(owner.id, session_id, credential, name=name, is_api=True)


def sign_in(key, *, options=None, entrance="api", audience=BROWSER, **changed):
    options = options or passkeys.sign_in_options(BROWSER)
    credential = json.dumps(key.sign(options, **changed))
    return passkeys.sign_in(credential, audience=audience, client=CLIENT, entrance=entrance)


def count(table) -> int:
    return database.rows(select(func.count()).select_from(table))[0][0]


def row_of(key):
    [row] = [
        each
        for each in database.rows(select(*Passkey.__table__.c))
        if each.credential_id == key.credential_id
    ]
    return row


def mails(owner) -> list[str]:
    """In no order: the clock stands still."""
    query = select(OutgoingMail).where(OutgoingMail.user_id == owner.id)
    columns = query.with_only_columns(OutgoingMail.name, OutgoingMail.facts)
    found = database.rows(columns)
    return [f"{each.name} {each.facts.get('what', '')}".strip() for each in found]


def kinds(owner) -> list[tuple[str, str | None]]:
    """In no order: the clock stands still."""
    query = select(AccountEvent.kind, AccountEvent.target).where(AccountEvent.user_id == owner.id)
    found = database.rows(query)
    return [tuple(each) for each in found if each.kind.startswith(("passkey", "two_step"))]


# a passkey is made


def test_what_a_browser_is_asked_to_make(ada, key):
    """A discoverable one that knows its user, for a name, without attestation; not one there is already."""
    options = passkeys.creation_options(ada, uuid.UUID(int=7))
    assert options["rp"] == {"id": "localhost", "name": "authsite"}
    assert options["user"]["name"] == "ada@example.com"
    assert [each["alg"] for each in options["pubKeyCredParams"]] == [-7, -8, -257]
    assert options["attestation"] == "none"
    assert options["authenticatorSelection"] == {
        "residentKey": "required",
        "requireResidentKey": True,
        "userVerification": "required",
    }
    [known] = options["excludeCredentials"]
    assert known["id"] == encoded(key.credential_id)
    assert known["transports"] == ["hybrid", "internal"]


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
def test_a_passkey_of_each_kind_is_kept_and_signs_in(ada, algorithm):
    key, row = add(ada, Authenticator(algorithm=algorithm), name="Blue key")
    assert (row.name, row.is_backup_eligible, row.is_backed_up) == ("Blue key", True, True)
    assert row.transports == "hybrid internal"
    held = sign_in(key)
    assert held.user_id == ada.id
    assert row_of(key).last_used_at == clock.now()


def test_a_new_passkey_is_told_to_its_owner_and_ends_nothing(ada):
    held = factories.grant(ada)
    _, row = add(ada, name="Blue key")
    assert kinds(ada) == [("passkey_added", row.name)]
    assert "passkey_changed added" in mails(ada)
    assert sessions.resume_api(held.session_id, ada.id)
    assert accounts.authenticate(ada.email, PASSWORD).two_step_since is None, "asked for nowhere"


def test_what_is_shown_for_a_passkey_writes_nothing(ada):
    before = count(SpentToken), count(Passkey)
    passkeys.creation_options(ada, uuid.UUID(int=7))
    passkeys.sign_in_options(BROWSER)
    assert (count(SpentToken), count(Passkey)) == before


OFF_THE_CURVE = {1: 2, 3: -7, -1: 1, -2: b"\1" * 32, -3: b"\1" * 32}
REFUSED_NEW = {
    "of another site's page": {"origin": "http://evil.example"},
    "of a page of ours on another port": {"origin": "http://localhost:5001"},
    "of a page below our name": {"origin": "http://app.localhost:5000"},
    "of a page inside another": {"client_data": {"crossOrigin": True}},
    "of a page that names its frame": {"client_data": {"topOrigin": "http://localhost:5000"}},
    "of another name": {"rp_id": "evil.example"},
    "of a signature in the place of a new one": {"client_data": {"type": "webauthn.get"}},
    "without its user verified": {"flags": UP | BE | BS},
    "without its user there": {"flags": UV | BE | BS},
    "backed up and never to be": {"flags": UP | UV | BS},
    "with another id than it says": {"named": encoded(b"another")},
    "with a point beside the curve": {"public_key": OFF_THE_CURVE},
    "with a key of half a kind": {"public_key": {1: 2, 3: -7}},
    "with an algorithm not asked for": {"public_key": OFF_THE_CURVE | {3: -47, -1: 8}},
    "with an algorithm nobody knows": {"public_key": {1: 2, 3: -70000}},
    "with a challenge that is nobody's": {"client_data": {"challenge": encoded(b"x" * 83)}},
}


@pytest.mark.parametrize("what", REFUSED_NEW)
def test_a_new_passkey_is_refused(ada, what):
    with pytest.raises(PasskeyRefused):
        add(ada, **REFUSED_NEW[what])
    assert (count(Passkey), count(SpentToken)) == (0, 0)
    assert mails(ada) == []


def test_a_challenge_makes_one_passkey_in_its_session_within_ten_minutes(ada, time_machine):
    here, there = factories.live_session(ada.id), factories.live_session(ada.id)
    options = passkeys.creation_options(ada, here)
    made = json.dumps(Authenticator().make(options))
    with pytest.raises(PasskeyRefused):
        passkeys.add(ada.id, there, made, name=None, is_api=True)
    time_machine.shift(timedelta(minutes=9, seconds=59))
    passkeys.add(ada.id, here, made, name=None, is_api=True)
    again = json.dumps(Authenticator().make(options))
    with pytest.raises(PasskeyRefused):
        passkeys.add(ada.id, here, again, name=None, is_api=True)
    fresh = passkeys.creation_options(ada, here)
    time_machine.shift(timedelta(minutes=10))
    late = json.dumps(Authenticator().make(fresh))
    with pytest.raises(PasskeyRefused):
        passkeys.add(ada.id, here, late, name=None, is_api=True)
    assert count(Passkey) == 1


def test_a_passkey_belongs_to_one_account(ada, key):
    eve = factories.account("eve@example.com")
    with pytest.raises(PasskeyExists):
        add(eve, key)
    with pytest.raises(PasskeyExists):
        add(ada, key)
    assert row_of(key).user_id == ada.id


def test_there_are_twenty_at_most_also_of_two_added_at_once(app, ada, monkeypatch):
    monkeypatch.setattr(adding, "MOST", 2)
    add(ada)
    here = factories.live_session(ada.id)
    options = [passkeys.creation_options(ada, here) for _ in range(2)]
    made = [json.dumps(Authenticator().make(each)) for each in options]

    def adds(credential):
        return lambda: passkeys.add(ada.id, here, credential, name=None, is_api=True)

    answers = at_once(app, *map(adds, made))
    assert [type(each) for each in answers].count(TooManyPasskeys) == 1
    assert count(Passkey) == 2
    with pytest.raises(TooManyPasskeys):
        passkeys.creation_options(ada, uuid.UUID(int=7))


# what cannot be read


def deep(levels: int) -> bytes:
    return b"\x81" * levels + b"\x00"


UNREADABLE = {
    "nothing": "",
    "no JSON": "{",
    "a list": "[]",
    "an object without members": "{}",
    "nested beyond sense": "[" * 30_000,
    "no response": json.dumps({"id": "AA", "rawId": "AA", "type": "public-key"}),
    "a response that is text": json.dumps(
        {"id": "AA", "rawId": "AA", "type": "public-key", "response": "x"}
    ),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_is_no_answer_of_a_passkey_is_said_to_be_none(ada, what):
    with pytest.raises(InvalidInput):
        passkeys.add(ada.id, uuid.UUID(int=7), UNREADABLE[what], name=None, is_api=True)
    with pytest.raises(InvalidInput):
        passkeys.sign_in(UNREADABLE[what], audience=BROWSER, client=CLIENT, entrance="api")


BROKEN_NEW = {
    "CBOR that ends early": {"attestation": cbor.encode({"fmt": "none"})[:-2]},
    "CBOR with something after it": {"attestation": cbor.encode({"fmt": "none"}) + b"x"},
    "CBOR of another kind": {"attestation": cbor.encode([1, 2])},
    "CBOR without members": {"attestation": cbor.encode({})},
    "CBOR of 2^64 entries": {"attestation": b"\x9b" + b"\xff" * 8},
    "CBOR of no kind": {"attestation": b"\xc0\xff"},
    "CBOR deeper than the stack": {"attestation": deep(5000)},
    "more than there can be": {"attestation": bytes(8 * 1024 + 3)},
    "a key deeper than the stack": {
        "attested": bytes(16) + struct.pack(">H", 1) + b"x" + deep(5000)
    },
    "half a key": {"attested": bytes(16) + struct.pack(">H", 900) + b"x"},
    "a key that is a number": {"attested": bytes(16) + struct.pack(">H", 1) + b"x" + b"\x05"},
    "no key at all": {"attested": b"x"},
    "client data that is no JSON": {"client_data": {"challenge": ...}},
    "a challenge that is a number": {"client_data": {"challenge": 7}},
    "an origin that is a list": {"client_data": {"origin": ["http://localhost:5000"]}},
    "client data of 5 KB": {"client_data": {"x": "x" * 5000}},
    "an id that is no Base64": {"named": "!!!!"},
    "an id of 1024 bytes": {"named": encoded(bytes(1024 + 2))},
}


@pytest.mark.parametrize("what", BROKEN_NEW)
def test_a_new_passkey_that_cannot_be_read_is_no_fault_of_ours(ada, what):
    with pytest.raises(InvalidInput):
        add(ada, **BROKEN_NEW[what])
    assert count(Passkey) == 0


BROKEN = {
    "data that ends early": {"data": b"x" * 36},
    "data of 2 KB": {"data": b"x" * 2048},
    "extensions deeper than the stack": {
        "data": bytes(32) + struct.pack(">BI", UP | UV | ED, 0) + deep(900)
    },
    "a key in it, deeper than the stack": {
        "data": bytes(32) + struct.pack(">BI", UP | UV | AT, 0) + bytes(18) + deep(900)
    },
    "a signature of 2 KB": {"signature": bytes(2048)},
    "no signature": {"signature": b""},
    "a user of 65 bytes": {"user_handle": bytes(66)},
    "client data of 5 KB": {"client_data": {"x": "x" * 5000}},
    "a challenge that is a list": {"client_data": {"challenge": ["x"]}},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_signature_that_cannot_be_read_is_no_fault_of_ours(ada, key, what):
    before = count(UserSession)
    with pytest.raises(InvalidInput):
        sign_in(key, **BROKEN[what])
    assert (count(UserSession), count(SpentToken)) == (before, 1)


# signing in


def test_a_passkey_signs_in_alone_and_the_session_says_so(ada, key):
    turn_on(ada)
    held = sign_in(key)
    statement = select(UserSession.signed_in_with).where(UserSession.id == held.session_id)
    assert database.rows(statement)[0][0] == "passkey"
    assert sessions.ASSURANCE["passkey"] == (2, ["pop", "user", "mfa"])
    assert held.authenticated_at == clock.now()


def test_what_a_browser_is_asked_to_sign(app_context):
    options = passkeys.sign_in_options(BROWSER)
    assert options.pop("challenge") != passkeys.sign_in_options(BROWSER)["challenge"]
    assert options == {
        "timeout": 600_000,
        "rpId": "localhost",
        "allowCredentials": [],
        "userVerification": "required",
    }


REFUSED = {
    "for another site's page": {"origin": "http://evil.example"},
    "for a page on another port": {"origin": "http://localhost:5001"},
    "for a page below our name": {"origin": "http://app.localhost:5000"},
    "for a page inside another": {"client_data": {"crossOrigin": True}},
    "for a page that names its frame": {"client_data": {"topOrigin": "http://localhost:5000"}},
    "for another name": {"rp_id": "evil.example"},
    "of a new passkey in its place": {"client_data": {"type": "webauthn.create"}},
    "without its user verified": {"flags": UP | BE | BS},
    "without its user there": {"flags": UV | BE | BS},
    "by one that cannot be backed up any more": {"flags": UP | UV},
    "by one that is backed up and never was to be": {"flags": UP | UV | BS},
    "that is another's": {"signature": b"x" * 70},
    "without a user": {"user_handle": None},
    "of a user there is not": {"user_handle": bytes(16)},
    "of a user that is none": {"user_handle": b"x"},
    "by a credential that is not known": {"named": encoded(b"another")},
    "for another browser": {"audience": "another"},
    "for a challenge that is nobody's": {"client_data": {"challenge": encoded(b"x" * 83)}},
    "for a long challenge": {"client_data": {"challenge": encoded(b"x" * 200)}},
    "for a challenge beyond ASCII": {"client_data": {"challenge": encoded(b"\xff" * 83)}},
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_signature_is_refused(ada, key, what):
    """In the same words whatever was wrong; no session, nothing spent, the passkey as it was."""
    before = count(UserSession), count(SpentToken), row_of(key)
    with pytest.raises(UnknownPasskey) as refused:
        sign_in(key, **REFUSED[what])
    assert refused.value.message == "This passkey is not known here"
    assert (count(UserSession), count(SpentToken), row_of(key)) == before
    is_unknown = what.startswith(("of a user", "by a credential", "without a user"))
    # What it is set for is forgotten by its password manager.
    assert (refused.value.credential_id is not None) == is_unknown


def test_nobody_signs_in_with_another_users_passkey(ada, key):
    eve = factories.account("eve@example.com")
    hers, _ = add(eve)
    with pytest.raises(UnknownPasskey):
        sign_in(hers, user_handle=ada.id.bytes)
    with pytest.raises(UnknownPasskey):
        sign_in(hers, named=encoded(key.credential_id), user_handle=ada.id.bytes)
    assert sign_in(hers).user_id == eve.id


def test_a_signature_works_once(ada, key):
    options = passkeys.sign_in_options(BROWSER)
    credential = json.dumps(key.sign(options))
    how = {"audience": BROWSER, "client": CLIENT, "entrance": "api"}
    assert passkeys.sign_in(credential, **how)
    before = count(UserSession)
    with pytest.raises(UnknownPasskey):
        passkeys.sign_in(credential, **how)
    with pytest.raises(UnknownPasskey):
        sign_in(key, options=options)
    assert count(UserSession) == before


@pytest.mark.parametrize(("entrance", "minutes"), [("api", 10), ("page", 60)])
def test_a_challenge_is_good_for_ten_minutes_and_on_the_open_page_for_sixty(
    ada, key, time_machine, entrance, minutes
):
    options = [passkeys.sign_in_options(BROWSER) for _ in range(2)]
    time_machine.shift(timedelta(minutes=minutes) - timedelta(seconds=1))
    assert sign_in(key, options=options[0], entrance=entrance)
    before = count(UserSession)
    time_machine.shift(timedelta(seconds=1))
    with pytest.raises(PasskeySignInExpired):
        sign_in(key, options=options[1], entrance=entrance)
    assert count(UserSession) == before


def test_a_passkey_that_stays_on_its_device_counts_upwards_only(ada, token, caplog):
    assert sign_in(token)
    assert row_of(token).sign_count == 2
    for behind in (2, 1, 0):
        before = count(UserSession)
        with pytest.raises(UnknownPasskey):
            sign_in(token, count=behind)
        assert (count(UserSession), row_of(token).sign_count) == (before, 2)
    events = [each.facts for each in caplog.records if each.message == "passkey_counter"]
    assert [each["outcome"] for each in events] == ["refused"] * 3
    assert sign_in(token, count=9)
    assert row_of(token).sign_count == 9


def test_one_that_is_copied_may_fall_behind_and_the_highest_stays(ada, key, caplog):
    """Each copy counts for itself: a strict counter locks out whoever has two devices."""
    assert sign_in(key, count=5)
    assert sign_in(key, count=3)
    assert row_of(key).sign_count == 5
    events = [each.facts for each in caplog.records if each.message == "passkey_counter"]
    assert [each["outcome"] for each in events] == ["success"]


def test_whether_it_is_backed_up_is_kept_up_to_date(ada, key):
    assert row_of(key).is_backed_up
    sign_in(key, flags=UP | UV | BE)
    assert not row_of(key).is_backed_up


def test_a_closed_account_is_told_only_after_a_good_signature(ada, key):
    accounts.deactivate(ada.email)
    before = count(UserSession), count(SpentToken)
    with pytest.raises(UnknownPasskey):
        sign_in(key, signature=b"x" * 70)
    with pytest.raises(InactiveAccount):
        sign_in(key)
    assert (count(UserSession), count(SpentToken)) == before


def test_where_addresses_must_be_confirmed_a_passkey_is_no_way_around(ada, key, app):
    app.config["EMAIL_VERIFICATION"] = "required"
    before = count(UserSession)
    with pytest.raises(EmailNotVerified):
        sign_in(key)
    assert count(UserSession) == before
    assert "verify_email" in mails(ada)


def test_at_an_address_there_are_no_passkeys(make_app):
    with make_app(PUBLIC_BASE_URL="http://127.0.0.1:5000").app_context():
        ada = factories.account()
        for act in (
            lambda: passkeys.sign_in_options(BROWSER),
            lambda: passkeys.creation_options(ada, uuid.UUID(int=7)),
            lambda: passkeys.add(ada.id, uuid.UUID(int=7), "", name=None, is_api=True),
            lambda: passkeys.sign_in("", audience=BROWSER, client=CLIENT, entrance="api"),
        ):
            with pytest.raises(PasskeysUnavailable):
                act()


def test_pages_below_our_name_that_the_api_is_open_to_may_ask_too(make_app):
    app = make_app(
        PUBLIC_BASE_URL="https://accounts.example.com",
        PASSKEY_RP_ID="example.com",
        CORS_ORIGINS="https://app.example.com,https://example.org",
    )
    with app.app_context():
        ada = factories.account()
        key, _ = add(ada, origin="https://accounts.example.com")
        assert sign_in(key, origin="https://app.example.com")
        for origin, entrance in (
            ("https://app.example.com", "page"),
            ("https://example.org", "api"),
            ("https://other.example.com", "api"),
        ):
            with pytest.raises(UnknownPasskey):
                sign_in(key, origin=origin, entrance=entrance)


# after a password


def mfa_token(entrance="api") -> str:
    authenticated = accounts.authenticate("ada@example.com", PASSWORD)
    with pytest.raises(SecondStepRequired) as required:
        second_steps.require(authenticated, entrance=entrance)
    return required.value.mfa_token


def complete(key, token=None, *, options=None, **changed):
    waiting = pending.read(token or mfa_token(), is_page=False)
    how = {"purpose": "second step", "subject": waiting.jti}
    options = options or passkeys.options_of(waiting.user_id, **how)
    credential = json.dumps(key.sign(options, **changed))
    return passkeys.complete(waiting, credential, client=CLIENT)


def test_a_passkey_is_a_second_step(ada, key):
    turn_on(ada)
    authenticated = accounts.authenticate(ada.email, PASSWORD)
    with pytest.raises(SecondStepRequired) as required:
        second_steps.require(authenticated, entrance="api")
    assert required.value.methods == ["otp", "recovery_code", "webauthn"]
    held = complete(key, required.value.mfa_token).grant
    statement = select(UserSession.signed_in_with).where(UserSession.id == held.session_id)
    assert database.rows(statement)[0][0] == "password+passkey"


def test_at_the_second_step_nothing_but_the_users_own_passkey_will_do(ada, key):
    turn_on(ada)
    eve = factories.account("eve@example.com")
    hers, _ = add(eve)
    before = count(UserSession)
    for other, changed in (
        (hers, {}),
        (hers, {"user_handle": ada.id.bytes, "named": encoded(key.credential_id)}),
        (key, {"user_handle": eve.id.bytes}),
        (key, {"options": passkeys.sign_in_options(BROWSER)}),
        (key, {"flags": UP | BE | BS}),
    ):
        with pytest.raises(PasskeyInvalid):
            complete(other, **changed)
    token = mfa_token()
    other = pending.read(mfa_token(), is_page=False)
    how = {"purpose": "second step", "subject": other.jti}
    with pytest.raises(PasskeyInvalid):
        complete(key, token, options=passkeys.options_of(ada.id, **how))
    assert count(UserSession) == before
    # A key that does not say whose it is will do: the password has said it.
    assert complete(key, token, user_handle=None)


def test_codes_that_are_closed_leave_passkeys_open_and_a_passkey_opens_codes(ada, key):
    turn_on(ada)
    for _ in range(5):
        waiting = pending.read(mfa_token(), is_page=False)
        with pytest.raises(InvalidCode):
            second_steps.complete_with_code(waiting, "000000", client=CLIENT)
    assert complete(key)
    assert throttling.wrong_second_steps(ada.id) == 0


def test_a_pending_sign_in_gives_one_session_whichever_factor_is_shown(app, ada, key):
    """A good code and a good passkey at once: one of them signs in."""
    _phone, paper = turn_on(ada)
    token, code = mfa_token(), paper[0]
    before = count(UserSession)
    answers = at_once(
        app,
        lambda: complete(key, token),
        lambda: second_steps.complete_with_code(
            pending.read(token, is_page=False), code, client=CLIENT
        ),
    )
    assert [type(each) for each in answers].count(MfaTokenInvalid) == 1
    assert count(UserSession) == before + 1
    spent = second_steps.recovery.summary(ada.id).left == 9
    was_used = row_of(key).last_used_at is not None
    assert spent != was_used, "no factor is burnt without a session"


def test_one_signature_shown_twenty_times_at_once_signs_in_once(app, ada, key):
    options = passkeys.sign_in_options(BROWSER)
    credential = json.dumps(key.sign(options))
    how = {"audience": BROWSER, "client": CLIENT, "entrance": "api"}
    before = count(UserSession)
    answers = at_once(app, *[lambda: passkeys.sign_in(credential, **how)] * 20)
    assert [type(each) for each in answers].count(UnknownPasskey) == 19
    assert count(UserSession) == before + 1


def test_a_passkey_that_is_removed_while_it_signs_lets_nobody_in(ada, key, monkeypatch):
    """Between the look at the signature and the row of the session."""
    verify, elsewhere = ceremonies.verify_assertion, factories.live_session(ada.id)

    def slowly(*args, **how):
        found = verify(*args, **how)
        passkeys.remove(ada.id, elsewhere, row_of(key).id)
        return found

    monkeypatch.setattr(ceremonies, "verify_assertion", slowly)
    before = count(UserSession)
    with pytest.raises(UnknownPasskey):
        sign_in(key)
    assert (count(UserSession), count(Passkey)) == (before, 0)


def test_a_counter_that_moved_meanwhile_is_refused(ada, token, monkeypatch):
    """Two copies of a key that counts, at once: one of them."""
    verify = ceremonies.verify_assertion

    def slowly(*args, **how):
        found = verify(*args, **how)
        key = Passkey.user_id == ada.id
        database.run(update(Passkey).where(key).values(sign_count=50))
        return found

    monkeypatch.setattr(ceremonies, "verify_assertion", slowly)
    before = count(UserSession)
    with pytest.raises(UnknownPasskey):
        sign_in(token)
    assert (count(UserSession), row_of(token).sign_count) == (before, 50)


# what there is of them


def test_a_passkey_can_be_renamed_and_removed_by_its_owner_only(ada, key):
    eve, row = factories.account("eve@example.com"), row_of(key)
    assert passkeys.rename(ada.id, row.id, "Blue").name == "Blue"
    for act in (
        lambda: passkeys.rename(eve.id, row.id, "Hers"),
        lambda: passkeys.remove(eve.id, factories.live_session(eve.id), row.id),
        lambda: passkeys.rename(ada.id, uuid.UUID(int=9), "x"),
        lambda: passkeys.remove(ada.id, factories.live_session(ada.id), uuid.UUID(int=9)),
    ):
        with pytest.raises(PasskeyNotFound):
            act()
    assert [each.name for each in passkeys.of(ada.id)] == ["Blue"]
    assert not passkeys.remove(ada.id, factories.live_session(ada.id), row.id)
    assert passkeys.of(ada.id) == []
    assert ("passkey_removed", "Blue") in kinds(ada)
    assert "passkey_changed removed" in mails(ada)
    with pytest.raises(UnknownPasskey):
        sign_in(key)
    with pytest.raises(PasskeyNotFound):
        passkeys.remove(ada.id, factories.live_session(ada.id), row.id)


def test_removing_one_ends_the_trust_in_browsers(ada, key):
    turn_on(ada)
    sessions.trust(ada.id, device_id=None, device_name="Chrome on Windows", ip_address=None)
    passkeys.remove(ada.id, factories.live_session(ada.id), row_of(key).id)
    assert count(TrustedBrowser) == 0
    assert accounts.authenticate(ada.email, PASSWORD).two_step_since, "the app is still there"


def test_two_step_sign_in_can_be_of_passkeys_alone_and_is_off_with_the_last(ada, key):
    made = second_steps.switch.enable(ada.id, factories.live_session(ada.id))
    assert len(made.recovery_codes) == 10
    authenticated = accounts.authenticate(ada.email, PASSWORD)
    with pytest.raises(SecondStepRequired) as required:
        second_steps.require(authenticated, entrance="api")
    assert required.value.methods == ["recovery_code", "webauthn"]
    assert required.value.message == "Use your passkey or a recovery code to finish signing in"
    assert complete(key)
    _second, row = add(ada)
    assert not passkeys.remove(ada.id, factories.live_session(ada.id), row.id)
    assert passkeys.remove(ada.id, factories.live_session(ada.id), row_of(key).id)
    assert accounts.authenticate(ada.email, PASSWORD).two_step_since is None
    assert second_steps.recovery.summary(ada.id) is None
    assert kinds(ada).count(("two_step_off", None)) == 1
    assert kinds(ada).count(("passkey_removed", row.name)) == 2


def test_turning_it_on_with_a_passkey_is_told_once(ada, key):
    second_steps.switch.enable(ada.id, factories.live_session(ada.id))
    second_steps.switch.enable(ada.id, factories.live_session(ada.id))
    assert sorted(kind for kind, _ in kinds(ada)) == ["passkey_added", "two_step_on"]
    assert mails(ada).count("second_step_changed on") == 1


def test_app_and_last_passkey_gone_at_once_leave_nothing_on(app, ada):
    """Whichever comes last sees that it was the last."""
    for _ in range(5):
        _key, row = add(ada)
        turn_on(ada)
        at_once(
            app,
            lambda: second_steps.apps.remove(ada.id, factories.live_session(ada.id)),
            lambda row=row: passkeys.remove(ada.id, factories.live_session(ada.id), row.id),
        )
        assert count(Passkey) == 0
        [user] = database.rows(select(User.two_step_since).where(User.id == ada.id))
        assert user.two_step_since is None


def test_an_operator_may_take_them_too(ada, key):
    second_steps.switch.enable(ada.id, factories.live_session(ada.id))
    second_steps.operating.reset(ada.email)
    assert count(Passkey) == 1, "a passkey stays until it is asked for"
    assert accounts.authenticate(ada.email, PASSWORD).two_step_since is None
    second_steps.operating.reset(ada.email, and_passkeys=True)
    assert count(Passkey) == 0
    assert ("passkey_removed", "Passkey") in kinds(ada)
    assert "passkey_changed removed" in mails(ada)


def test_a_passkey_goes_with_its_account(ada, key):
    with database.transaction():
        database.run(User.__table__.delete().where(User.id == ada.id))
    assert count(Passkey) == 0
