"""A software authenticator: what a browser and a passkey answer, and what they never would."""

import hashlib
import json
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from fido2 import cbor
from fido2.cose import ES256, RS256, CoseKey, EdDSA

ORIGIN = "http://localhost:5000"
UP, UV, BE, BS, AT, ED = 0x01, 0x04, 0x08, 0x10, 0x40, 0x80


class Authenticator:
    """Holds one passkey; synced ones may be backed up, and do not count."""

    def __init__(self, *, algorithm: str = "ES256", is_synced: bool = True) -> None:
        self.credential_id = secrets.token_bytes(32)
        self.user_handle: bytes | None = None
        self.count = 0 if is_synced else 1
        self.flags = UP | UV | (BE | BS if is_synced else 0)
        self.is_synced = is_synced
        self._algorithm = algorithm
        self._private: Any = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
        }[algorithm]()

    @property
    def public_key(self) -> CoseKey:
        kind = {"ES256": ES256, "EdDSA": EdDSA, "RS256": RS256}[self._algorithm]
        return kind.from_cryptography_key(self._private.public_key())

    def make(self, options: dict[str, Any], **changed: Any) -> dict[str, Any]:
        """Return the RegistrationResponseJSON for these options."""
        self.user_handle = decoded(options["user"]["id"])
        attested = changed.pop("attested", None) or self.attested(changed.pop("public_key", None))
        data = self._data(options["rp"]["id"], AT, changed) + attested
        statement = {"fmt": "none", "attStmt": {}, "authData": data}
        attestation = changed.pop("attestation", None) or cbor.encode(statement)
        response = {
            "clientDataJSON": encoded(client_data("webauthn.create", options, changed)),
            "attestationObject": encoded(attestation),
            "transports": ["internal", "hybrid", "carrier-pigeon"],
        }
        return self._credential(response, changed)

    def attested(self, public_key: Any = None) -> bytes:
        key = cbor.encode(self.public_key if public_key is None else public_key)
        return bytes(16) + struct.pack(">H", len(self.credential_id)) + self.credential_id + key

    def sign(self, options: dict[str, Any], **changed: Any) -> dict[str, Any]:
        """Return the AuthenticationResponseJSON for these options."""
        self.count = changed.pop("count", self.count + (not self.is_synced))
        data = changed.pop("data", None) or self._data(options["rpId"], 0, changed)
        collected = client_data("webauthn.get", options, changed)
        signature = self._sign(data + hashlib.sha256(collected).digest())
        handle = changed.pop("user_handle", self.user_handle)
        response = {
            "clientDataJSON": encoded(collected),
            "authenticatorData": encoded(data),
            "signature": encoded(changed.pop("signature", signature)),
            "userHandle": handle if handle is None else encoded(handle),
        }
        return self._credential(response, changed)

    def _data(self, rp_id: str, more: int, changed: dict[str, Any]) -> bytes:
        rp_id, flags = changed.pop("rp_id", rp_id), changed.pop("flags", self.flags) | more
        return hashlib.sha256(rp_id.encode()).digest() + struct.pack(">BI", flags, self.count)

    def _credential(self, response: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
        named = changed.pop("named", encoded(self.credential_id))
        assert not changed, changed
        return {
            "id": named,
            "rawId": named,
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": response,
        }

    def _sign(self, message: bytes) -> bytes:
        if self._algorithm == "ES256":
            return self._private.sign(message, ec.ECDSA(hashes.SHA256()))
        if self._algorithm == "RS256":
            return self._private.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self._private.sign(message)


def client_data(kind: str, options: dict[str, Any], changed: dict[str, Any]) -> bytes:
    members = {
        "type": kind,
        "challenge": options["challenge"],
        "origin": changed.pop("origin", ORIGIN),
        "crossOrigin": False,
    } | changed.pop("client_data", {})
    return json.dumps({name: each for name, each in members.items() if each is not ...}).encode()


def encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
