"""What is a proof of a browser's key, and what is not."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from authsite.crypto import proofs
from tests.factories import BrowserKey

KEY = BrowserKey()
OTHER = BrowserKey()
FIRST = KEY.proof("a challenge", is_first=True)
HEADER = {"alg": "ES256", "typ": "dbsc+jwt", "jwk": KEY.jwk}
CLAIMS = {"jti": "a challenge"}


def resigned(part: int, text: str) -> str:
    """Return the proof with another text in one of its parts, which nobody has signed."""
    parts = FIRST.split(".")
    parts[part] = text
    return ".".join(parts)


def with_jwk(**members) -> str:
    return KEY.signed(HEADER | {"jwk": KEY.jwk | members}, CLAIMS)


def turned(coordinate: str) -> str:
    """Return a coordinate with its last bit turned: a point beside the curve."""
    data = urlsafe_b64decode(coordinate + "=")
    return urlsafe_b64encode(data[:-1] + bytes([data[-1] ^ 1])).decode().rstrip("=")


def test_a_first_proof_brings_its_key_and_the_next_ones_are_by_that_key():
    said = proofs.read(FIRST)
    assert (said.challenge, len(said.key)) == ("a challenge", proofs.KEY_BYTES)
    assert proofs.read(KEY.proof("another"), said.key) == ("another", said.key)


def test_a_proof_may_be_bare_or_a_string_of_structured_fields():
    assert proofs.read(f'"{FIRST}"') == proofs.read(FIRST)


def test_a_key_in_a_later_proof_is_not_looked_at():
    known = proofs.read(FIRST).key
    assert proofs.read(FIRST, known).key == known
    with pytest.raises(proofs.InvalidProof):
        proofs.read(OTHER.proof("a challenge", is_first=True), known)


def test_signatures_of_other_makers_are_read_alike():
    """By PyJWT, which does not know our reader."""
    pem = json.dumps(KEY.jwk | {"d": urlsafe_b64encode(_secret(KEY)).decode().rstrip("=")})
    private = jwt.PyJWK.from_json(pem).key
    made = jwt.encode(CLAIMS, private, "ES256", headers={"typ": "dbsc+jwt", "jwk": KEY.jwk})
    assert proofs.read(made) == proofs.read(FIRST)


def _secret(key: BrowserKey) -> bytes:
    return key._private.private_numbers().private_value.to_bytes(32)


RSA = jwt.encode(
    CLAIMS,
    rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "RS256",
    headers={"typ": "dbsc+jwt"},
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("a.b", id="two parts"),
        pytest.param(f"{FIRST}.{FIRST}", id="six parts"),
        pytest.param(f'"{FIRST}', id="half a pair of quotes"),
        pytest.param(f"{FIRST} ", id="a blank behind"),
        pytest.param(FIRST.replace(".", "é.", 1), id="beyond ASCII"),
        pytest.param(FIRST + "A" * proofs.MAX_PROOF, id="too long"),
        pytest.param(resigned(0, "e30"), id="an empty header"),
        pytest.param(resigned(1, "W10"), id="claims in a list"),
        pytest.param(resigned(1, "eyJqdGkiOiJ4In0"), id="other claims"),
        pytest.param(resigned(0, "AAAA"), id="no JSON"),
        pytest.param(resigned(2, "AAAA"), id="a short signature"),
        pytest.param(resigned(2, "A" * 86), id="a signature of zeros"),
        pytest.param(resigned(2, "_" * 86), id="a signature beyond the group"),
        pytest.param(KEY.signed(["ES256"], CLAIMS), id="header in a list"),
        pytest.param(KEY.signed(HEADER | {"alg": "none"}, CLAIMS), id="alg none"),
        pytest.param(KEY.signed(HEADER | {"alg": "HS256"}, CLAIMS), id="alg HS256"),
        pytest.param(RSA, id="RS256"),
        pytest.param(KEY.signed(HEADER | {"typ": "JWT"}, CLAIMS), id="another type"),
        pytest.param(KEY.signed(HEADER, {}), id="no challenge"),
        pytest.param(KEY.signed(HEADER, {"jti": ["a challenge"]}), id="challenge in a list"),
        pytest.param(KEY.proof("a challenge"), id="no key"),
        pytest.param(KEY.signed(HEADER | {"jwk": "P-256"}, CLAIMS), id="key no object"),
        pytest.param(OTHER.signed(HEADER, CLAIMS), id="signed with another key"),
        pytest.param(with_jwk(crv="P-384"), id="another curve"),
        pytest.param(with_jwk(kty="RSA"), id="another kind of key"),
        pytest.param(with_jwk(x=7), id="a number for a coordinate"),
        pytest.param(with_jwk(x="é"), id="a coordinate beyond ASCII"),
        pytest.param(with_jwk(x="AAAA"), id="a short coordinate"),
        pytest.param(with_jwk(x="A" * 43, y="A" * 43), id="the origin"),
        pytest.param(with_jwk(y=turned(KEY.jwk["y"])), id="a point beside the curve"),
        pytest.param(KEY.signed(HEADER | {"x": "[" * 1500}, CLAIMS), id="a long header"),
    ],
)
def test_all_else_is_no_proof(text):
    with pytest.raises(proofs.InvalidProof):
        proofs.read(text)


def test_a_deep_header_is_refused_like_any_other():
    deep = urlsafe_b64encode(b"[" * 1200).decode().rstrip("=")
    with pytest.raises(proofs.InvalidProof):
        proofs.read(f"{deep}.e30.AAAA")
