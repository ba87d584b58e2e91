"""Whatever bytes and whatever JSON come in the place of a passkey's answer: refused, and at a bounded cost.

Attestations, keys, authenticator data and client data are real ones, changed: the parser of the library goes
far into them. PASSKEY_BYTES_EXAMPLES says how many are tried.
"""

import json
import os
import uuid

import pytest
from fido2 import cbor
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st

from authsite import clock, database
from authsite.database.models import Passkey, SpentToken, UserSession
from authsite.passkeys import challenges
from tests.api.conftest import V1, bearer, log_in, session_id
from tests.api.test_passkeys import add, sign_in
from tests.authenticator import Authenticator, decoded, encoded

REFUSALS = {400, 401, 413, 422}
# What the library may be handed in all, in bytes, for one answer: it copies what is left at each value.
MOST_IN_ATTESTATION, MOST_IN_ASSERTION = 8192**2, 1024**2
EXAMPLES = os.environ.get("PASSKEY_BYTES_EXAMPLES")
TRIED = settings(
    max_examples=int(EXAMPLES or "60"),
    derandomize=not EXAMPLES,  # by chance only by hand
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# CBOR as nobody should write it

HEAD = st.builds(
    lambda kind, more, argument: bytes([kind << 5 | more]) + argument,
    st.integers(0, 7),
    st.integers(0, 31),
    st.sampled_from([b"", b"\0", b"\xff", b"\xff" * 2, b"\xff" * 4, b"\xff" * 8, b"\0" * 8]),
)
LEAF = st.one_of(
    HEAD,
    st.binary(max_size=40),
    st.integers(-(2**64), 2**64 - 1).map(cbor.encode),
    st.sampled_from([b"\xc2\x58\x40" + b"\xff" * 64, b"\xf6", b"\xf7", b"\xfb" + b"\x7f" * 8]),
    st.sampled_from(["fmt", "none", "packed", "attStmt", "authData", 1, 3, -1, -2, -3]).map(
        cbor.encode
    ),
)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda each: bytes([0x80 + len(each)]) + b"".join(each)),
        st.lists(inner, max_size=4).map(lambda each: b"\x9f" + b"".join(each) + b"\xff"),
        st.lists(inner, max_size=4).map(lambda each: b"\xbf" + b"".join(each) + b"\xff"),
        st.lists(inner, max_size=3).map(
            lambda each: bytes([0xA0 + len(each)]) + b"".join(each * 2)
        ),
        inner.map(lambda each: b"\xd8\x20" + each),
    ),
    max_leaves=6,
)
# Deep, or many: as long as the form takes, and longer.
LONG = st.builds(
    lambda each, times, head: head(each, times),
    st.sampled_from(
        [b"\x81", b"\xa1\x00", b"\xa1", b"\xd8\x20", b"\x9f", b"\x00", b"\x60", b"\xf5"]
    ),
    st.sampled_from([25, 900, 4000, 8100, 20_000, 70_000]),
    st.sampled_from(
        [
            lambda each, times: each * times,
            lambda each, times: b"\x99" + min(times, 65535).to_bytes(2) + each * times,
            lambda each, times: b"\x59" + min(times, 65535).to_bytes(2) + each * times,
        ]
    ),
)
JUNK = st.one_of(VALUE, LONG)
# Signatures differ in length from one time to the next: a place is drawn without looking.
PLACE = st.integers(0, 4095)


@st.composite
def edited(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return these bytes with pieces cut out, put in, and put in their place."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(PLACE) % (len(whole) + 1)
        cut = draw(st.integers(0, 8) | PLACE)
        whole = whole[:at] + draw(JUNK) + whole[at + cut :]
    return whole


def statement(draw: st.DrawFn, auth_data: bytes) -> bytes:
    """Return an attestation whose members are other ones, or twice there, or as they should be."""
    members = [
        (cbor.encode("fmt"), draw(st.just(cbor.encode("none")) | JUNK)),
        (cbor.encode("attStmt"), draw(st.just(b"\xa0") | JUNK)),
        (cbor.encode("authData"), draw(st.just(cbor.encode(auth_data)) | JUNK)),
    ]
    members = draw(st.lists(st.sampled_from(members), max_size=5) | st.permutations(members))
    return bytes([0xA0 + len(members)]) + b"".join(name + each for name, each in members)


# JSON as nobody should write it

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**400, -(10**4000), 1e308, float("nan"), float("inf")]),
        st.text(max_size=40),
        st.sampled_from(["", "=", "A", "AA==", "A" * 9000, "A" * 70_000, "\0", "\ud800", "🔑"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
) | st.sampled_from([15, 31, 33, 150]).map(lambda depth: json.loads("[" * depth + "]" * depth))
PIECES = [b"{", b"[" * 40, b'{"":' * 9000, b'"', b"\\", b"\\ud800", b"\xff", b"9" * 5000]
PARTS = (
    *("id", "rawId", "type", "response", "clientExtensionResults", "authenticatorAttachment"),
    *("clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"),
    "transports",
)


def put(credential: dict, name: str, value: object) -> None:
    inside = credential["response"]
    (inside if name in inside and isinstance(inside, dict) else credential)[name] = value


@st.composite
def spelled(draw: st.DrawFn, credential: dict) -> dict:
    """Return an answer with members of other types, and Base64url that is none."""
    made = credential | {"response": dict(credential["response"])}
    for name in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)):
        if not isinstance(made["response"], dict):
            break
        text = made["response"].get(name) or made.get(name)
        odd = st.sampled_from(["{}=", "{}==", "{}A", " {}", "{}\n", "+{}", "{}/", "{}" * 3, "{}\0"])
        as_text = odd.map(lambda form, text=text: form.replace("{}", str(text)))
        put(made, name, draw(JSON | as_text))
    return made


@st.composite
def sent(draw: st.DrawFn, credential: dict) -> bytes:
    """Return the body of a request: whole, cut, or with pieces of something else."""
    body = {"credential": draw(st.just(credential) | spelled(credential))}
    text = json.dumps(body).encode()
    if draw(st.integers(0, 4)):
        return text
    at = draw(PLACE) % (len(text) + 1)
    piece = draw(st.sampled_from(PIECES))
    return text[:at] + piece + text[at + draw(st.integers(0, 20)) :]


@pytest.fixture
def work(monkeypatch):
    """The bytes that the library has been handed so far, at each value that it read of them."""
    handed, decode_from = [0], cbor.decode_from

    def counted(data):
        handed[0] += len(data)
        return decode_from(data)

    monkeypatch.setattr(cbor, "decode_from", counted)
    return handed


@pytest.fixture
def client(app, time_machine):
    """A client that is not limited, and whose token is fresh however long it takes."""
    time_machine.move_to(clock.now(), tick=False)
    app.config["RATELIMIT_ENABLED"] = False
    return app.test_client()


def rows(app) -> tuple[list, ...]:
    with app.app_context():
        return tuple(
            database.rows(table.__table__.select()) for table in (Passkey, SpentToken, UserSession)
        )


def is_original(body: bytes, credential: dict) -> bool:
    """Whether the parts that are signed, and the signature, are the bytes that they were."""
    response = json.loads(body)["credential"]["response"]
    names = ("clientDataJSON", "authenticatorData", "signature")
    return all(decoded(response[name]) == decoded(credential["response"][name]) for name in names)


@pytest.mark.slow
def test_no_bytes_in_the_place_of_a_new_passkey_are_a_fault(app, client, user, work):
    """AP-07, AP-23: none is kept but one that can be read again, and the work for any is bounded."""
    held, made, kinds = log_in(client), Authenticator(), set()
    before = rows(app)
    headers = bearer(held) | {"Content-Type": "application/json"}
    asked = client.post(f"{V1}/users/me/passkeys/options", headers=bearer(held)).get_json()
    options = asked["publicKey"]

    @TRIED
    @given(st.data())
    def send(data):
        with app.app_context():
            options["challenge"] = challenges.new(f"add {uuid.UUID(session_id(held))}")
        how = data.draw(st.sampled_from(["key", "bytes", "members", "client data", "json"]))
        changed = {"attested": data.draw(edited(made.attested()))} if how == "key" else {}
        credential = made.make(options, **changed)
        attestation = decoded(credential["response"]["attestationObject"])
        if how == "bytes":
            put(credential, "attestationObject", encoded(data.draw(edited(attestation))))
        elif how == "members":
            auth_data = cbor.decode(attestation)["authData"]
            put(credential, "attestationObject", encoded(statement(data.draw, auth_data)))
        elif how == "client data":
            client_data = decoded(credential["response"]["clientDataJSON"])
            put(credential, "clientDataJSON", encoded(data.draw(edited(client_data))))
        body = json.dumps({"credential": credential}).encode()
        body = data.draw(sent(credential)) if how == "json" else body
        work[0] = 0
        answer = client.post(f"{V1}/users/me/passkeys", data=body, headers=headers)

        target(float(work[0]))
        assert work[0] <= MOST_IN_ATTESTATION
        kinds.add(answer.status_code)
        if answer.status_code == 201:
            assert sign_in(client, made).status_code in {200, 401}
            forget(app, held)
        else:
            assert answer.status_code in REFUSALS, answer.text
            assert answer.mimetype == "application/problem+json"
        assert rows(app) == before

    send()
    assert {201, 422} <= kinds, "some are good"


@pytest.mark.slow
def test_no_bytes_in_the_place_of_a_signature_are_a_fault(app, client, user, work):
    """AP-07, AP-23: what is signed opens a session as it was signed, or not at all."""
    held, kinds = log_in(client), set()
    key, _ = add(client, held)
    forget(app, held, keeps_passkeys=True)
    before = [rows(app)]
    options = client.post(f"{V1}/auth/passkey/options").get_json()["publicKey"]

    @TRIED
    @given(st.data())
    def send(data):
        with app.app_context():
            options["challenge"] = challenges.new("sign in api")
        how = data.draw(
            st.sampled_from(["signed", "authenticatorData", "signature", "clientDataJSON", "json"])
        )
        credential = original = key.sign(options)
        if how == "signed":
            auth_data = decoded(original["response"]["authenticatorData"])
            flags = bytes([data.draw(st.integers(0, 255))])
            tail = data.draw(st.just(b"") | JUNK)
            credential = original = key.sign(
                options, data=auth_data[:32] + flags + auth_data[33:] + tail
            )
        elif how != "json":
            part = data.draw(edited(decoded(original["response"][how])))
            credential = original | {"response": original["response"] | {how: encoded(part)}}
        body = json.dumps({"credential": credential}).encode()
        body = data.draw(sent(credential)) if how == "json" else body
        work[0] = 0
        answer = client.post(f"{V1}/auth/login/passkey", data=body, content_type="application/json")

        target(float(work[0]))
        assert work[0] <= MOST_IN_ASSERTION
        kinds.add(answer.status_code)
        if answer.status_code == 200:
            assert is_original(body, original)
            forget(app, held, keeps_passkeys=True)
            before[0] = rows(app)
        else:
            assert answer.status_code in REFUSALS, answer.text
            assert answer.mimetype == "application/problem+json"
            assert rows(app) == before[0]

    send()
    assert {200, 401, 422} <= kinds, "some are good"


def forget(app, held, *, keeps_passkeys: bool = False) -> None:
    """Have everything as it was before a passkey was made or signed in."""
    with app.app_context():
        if not keeps_passkeys:
            database.run(Passkey.__table__.delete())
        database.run(SpentToken.__table__.delete())
        own = UserSession.id != uuid.UUID(session_id(held))
        database.run(UserSession.__table__.delete().where(own))
