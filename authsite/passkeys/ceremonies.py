"""The two ceremonies of WebAuthn: what a browser is asked for, and what is demanded of its answer.

fido2 reads the bytes and checks what the standard's core demands; beside it stands what it leaves to us. It
is imported where it is first needed: a worker in which nobody uses a passkey does without its 4 MB.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import orjson
from flask import current_app

from .. import events
from ..database import Row
from ..database.models import MAX_CREDENTIAL_ID, Account
from ..errors import InvalidInput, PasskeyInvalid, PasskeysUnavailable
from . import challenges

if TYPE_CHECKING:
    from fido2.server import Fido2Server
    from fido2.webauthn import AuthenticationResponse, AuthenticatorData, RegistrationResponse

# ES256, EdDSA, RS256: what authenticators of today have, best first (RFC 9053 §2, RFC 8812 §2).
ALGORITHMS = (-7, -8, -257)
TRANSPORTS = ("ble", "hybrid", "internal", "nfc", "smart-card", "usb")
# Of each part as long as an honest one can be: the library takes time in the square of the length. 48 KB of
# small numbers took it 104 ms, 8 KB 2 ms.
MAX_ATTESTATION = 8 * 1024
MAX_CLIENT_DATA = 4 * 1024
MAX_AUTHENTICATOR_DATA = 1024
MAX_SIGNATURE = 1024
MAX_USER_HANDLE = 64
NOT_READABLE = "This is not what a passkey answers"
_BASE64URL = re.compile("[A-Za-z0-9_-]*")
T = TypeVar("T")


class Registration(NamedTuple):
    """A new passkey's answer, read and not yet judged."""

    challenge: bytes
    credential_id: bytes
    transports: str
    response: "RegistrationResponse"


class Assertion(NamedTuple):
    """A passkey's signature, read and not yet judged."""

    challenge: bytes
    credential_id: bytes
    user_handle: bytes | None
    response: "AuthenticationResponse"


def are_available() -> bool:
    """Return whether the site has a name; passkeys are bound to one, and an address is none."""
    return current_app.config["PASSKEY_RP_ID"] is not None


def rp_id() -> str:
    """Return the name that passkeys are bound to; raise PasskeysUnavailable."""
    name: str | None = current_app.config["PASSKEY_RP_ID"]
    if name is None:
        raise PasskeysUnavailable
    return name


def creation_options(account: Account, known: Sequence[Row], *, audience: str) -> dict[str, Any]:
    """Return PublicKeyCredentialCreationOptionsJSON for a passkey beside those that are known."""
    return {
        "rp": {"id": rp_id(), "name": current_app.config["SITE_NAME"]},
        "user": {
            # Stable and nobody's name; what is derived from SECRET_KEY would change with it.
            "id": encoded(account.id.bytes),
            "name": account.email,
            "displayName": account.first_name,
        },
        "challenge": challenges.new(audience),
        "pubKeyCredParams": [{"type": "public-key", "alg": each} for each in ALGORITHMS],
        "timeout": _milliseconds(),
        "excludeCredentials": [_descriptor(each) for each in known],
        "authenticatorSelection": {
            "residentKey": "required",
            "requireResidentKey": True,
            "userVerification": "required",
        },
        "attestation": "none",
    }


def request_options(known: Sequence[Row], *, audience: str) -> dict[str, Any]:
    """Return PublicKeyCredentialRequestOptionsJSON for one of these, for any where there are none."""
    return {
        "challenge": challenges.new(audience),
        "timeout": _milliseconds(),
        "rpId": rp_id(),
        "allowCredentials": [_descriptor(each) for each in known],
        "userVerification": "required",
    }


def read_registration(text: str) -> Registration:
    """Return the RegistrationResponseJSON that a text holds; raise InvalidInput for what is none."""
    from fido2.webauthn import RegistrationResponse

    members, response = _members(text)
    parts = {
        "clientDataJSON": _bytes(response, "clientDataJSON", most=MAX_CLIENT_DATA),
        "attestationObject": _bytes(response, "attestationObject", most=MAX_ATTESTATION),
    }
    raw_id = _bytes(members, "rawId", most=MAX_CREDENTIAL_ID)
    read = _reading(lambda: RegistrationResponse.from_dict(_json(raw_id, parts)))
    challenge = _challenge(read.response.client_data)
    return Registration(challenge, raw_id, _transports(response), read)


def read_assertion(text: str) -> Assertion:
    """Return the AuthenticationResponseJSON that a text holds; raise InvalidInput for what is none."""
    from fido2.webauthn import AuthenticationResponse

    members, response = _members(text)
    parts = {
        "clientDataJSON": _bytes(response, "clientDataJSON", most=MAX_CLIENT_DATA),
        "authenticatorData": _bytes(response, "authenticatorData", most=MAX_AUTHENTICATOR_DATA),
        "signature": _bytes(response, "signature", most=MAX_SIGNATURE),
    }
    raw_id = _bytes(members, "rawId", most=MAX_CREDENTIAL_ID)
    has_handle = response.get("userHandle") is not None
    handle = _bytes(response, "userHandle", most=MAX_USER_HANDLE) if has_handle else None
    read = _reading(lambda: AuthenticationResponse.from_dict(_json(raw_id, parts)))
    return Assertion(_challenge(read.response.client_data), raw_id, handle, read)


def verify_registration(registration: Registration, *, is_api: bool) -> dict[str, Any]:
    """Return what is kept of a new passkey; raise PasskeyInvalid for one that cannot be one."""
    made = _judging(
        lambda: _server(is_api=is_api).register_complete(
            _state(registration.challenge), registration.response
        )
    )
    _require_own_page(registration.response.response.client_data._data)
    kept = made.credential_data
    if kept is None or kept.credential_id != registration.credential_id:
        raise PasskeyInvalid
    _require_usable(kept.public_key)
    return {
        "credential_id": kept.credential_id,
        "public_key": _encoded_key(kept.public_key),
        "sign_count": made.counter,
        "aaguid": bytes(kept.aaguid),
        "transports": registration.transports,
        **_backup(made),
    }


def verify_assertion(assertion: Assertion, passkey: Row, *, is_api: bool) -> dict[str, Any]:
    """Return what changes of a passkey by its use; raise PasskeyInvalid for a signature that is not its.

    The counter of one that stays on its device must grow (§6.1.1); of one that is copied each copy counts for
    itself, and it is only told. It never goes back.
    """
    handle = assertion.user_handle
    if handle is not None and handle != passkey.user_id.bytes:
        raise PasskeyInvalid
    _judging(
        lambda: _server(is_api=is_api).authenticate_complete(
            _state(assertion.challenge), [_credential(passkey)], assertion.response
        )
    )
    _require_own_page(assertion.response.response.client_data._data)
    made = assertion.response.response.authenticator_data
    backup = _backup(made)
    if backup["is_backup_eligible"] != passkey.is_backup_eligible:
        raise PasskeyInvalid
    if (made.counter or passkey.sign_count) and made.counter <= passkey.sign_count:
        facts = {"user_id": passkey.user_id, "passkey_id": passkey.id}
        is_refused = not passkey.is_backup_eligible
        events.record("passkey_counter", outcome="refused" if is_refused else "success", **facts)
        if is_refused:
            raise PasskeyInvalid
    highest = max(made.counter, passkey.sign_count)
    return {"count": highest, "backed_up": backup["is_backed_up"]}


def encoded(data: bytes) -> str:
    """Return bytes as WebAuthn's JSON has them: Base64url without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def _milliseconds() -> int:
    return int(challenges.LIFETIME.total_seconds()) * 1000


def _descriptor(passkey: Row) -> dict[str, Any]:
    descriptor = {"type": "public-key", "id": encoded(passkey.credential_id)}
    return descriptor | ({"transports": passkey.transports.split()} if passkey.transports else {})


def _members(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the members of a PublicKeyCredential's JSON and of its response."""
    try:
        members = orjson.loads(text)
    except ValueError:
        raise _unreadable() from None
    response = members.get("response") if isinstance(members, dict) else None
    if not isinstance(response, dict) or members.get("type") != "public-key":
        raise _unreadable()
    if members.get("id") != members.get("rawId"):
        raise _unreadable()
    return members, response


def _bytes(members: Mapping[str, Any], name: str, *, most: int) -> bytes:
    text = members.get(name)
    if not isinstance(text, str) or not text or len(text) > most * 4 // 3 + 2:
        raise _unreadable()
    try:
        # The library passes over what is no Base64: one answer would have many spellings.
        if not _BASE64URL.fullmatch(text):
            raise ValueError
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise _unreadable() from None


def _json(raw_id: bytes, response: Mapping[str, bytes]) -> dict[str, Any]:
    spelled = {name: encoded(part) for name, part in response.items()}
    return {"rawId": encoded(raw_id), "type": "public-key", "response": spelled}


def _challenge(client_data: Any) -> bytes:
    """Return the challenge that was signed, of which the library has seen to it that it is there."""
    members = client_data._data
    if not all(isinstance(members.get(name), str) for name in ("type", "challenge", "origin")):
        raise _unreadable()
    return bytes(client_data.challenge)


def _transports(response: Mapping[str, Any]) -> str:
    """Return which of the known ways a browser has named; the rest is nobody's."""
    named = response.get("transports")
    return " ".join(each for each in TRANSPORTS if isinstance(named, list) and each in named)


def _reading(read: Callable[[], T]) -> T:
    try:
        return read()
    except Exception:  # whatever a parser makes of a stranger's bytes: there is no list of it
        raise _unreadable() from None


def _judging(judge: Callable[[], T]) -> T:
    try:
        return judge()
    except Exception:  # as above: keys and signatures are a stranger's as well
        raise PasskeyInvalid from None


def _unreadable() -> InvalidInput:
    return InvalidInput([("credential", NOT_READABLE)])


def _server(*, is_api: bool) -> "Fido2Server":
    from fido2.server import Fido2Server
    from fido2.webauthn import PublicKeyCredentialRpEntity

    origins = _origins(is_api=is_api)
    entity = PublicKeyCredentialRpEntity(id=rp_id(), name=current_app.config["SITE_NAME"])
    return Fido2Server(entity, verify_origin=lambda origin: origin in origins)


def _origins(*, is_api: bool) -> frozenset[str]:
    """Return whose pages may have asked: our own, and for the API those of our name that it is open to."""
    parts = urlsplit(current_app.config["PUBLIC_BASE_URL"])
    own = f"{parts.scheme}://{parts.netloc}"
    listed = current_app.config["CORS_ORIGINS"] if is_api else ()
    return frozenset({own, *(each for each in listed if _is_inside(each))})


def _is_inside(origin: str) -> bool:
    host = urlsplit(origin).hostname or ""
    return host == rp_id() or host.endswith(f".{rp_id()}")


def _state(challenge: bytes) -> dict[str, Any]:
    """Return what the library has to compare; whether the challenge is ours was seen before."""
    from fido2.webauthn import UserVerificationRequirement

    required = UserVerificationRequirement.REQUIRED
    return {"challenge": encoded(challenge), "user_verification": required}


def _require_own_page(client_data: Mapping[str, Any]) -> None:
    """Raise PasskeyInvalid where the page that asked was shown inside another site's (§5.8.1)."""
    if client_data.get("crossOrigin") not in (None, False) or "topOrigin" in client_data:
        raise PasskeyInvalid


def _require_usable(public_key: Any) -> None:
    """Raise PasskeyInvalid unless the key is of an algorithm that was asked for, and can be verified with."""
    from cryptography.exceptions import InvalidSignature

    if public_key.ALGORITHM not in ALGORITHMS:
        raise PasskeyInvalid
    try:
        public_key.verify(b"", b"")
    except InvalidSignature:
        return
    except Exception:  # a point beside the curve, a member that lacks
        raise PasskeyInvalid from None
    raise PasskeyInvalid


def _backup(made: "AuthenticatorData") -> dict[str, bool]:
    """Return whether it may be copied and is; raise PasskeyInvalid for one that is and may not (§6.1.3)."""
    is_eligible, is_backed_up = made.is_backup_eligible(), made.is_backed_up()
    if is_backed_up and not is_eligible:
        raise PasskeyInvalid
    return {"is_backup_eligible": is_eligible, "is_backed_up": is_backed_up}


def _encoded_key(public_key: Any) -> bytes:
    from fido2 import cbor

    return cbor.encode(public_key)


def _credential(passkey: Row) -> Any:
    from fido2 import cbor
    from fido2.cose import CoseKey
    from fido2.webauthn import AttestedCredentialData

    key = CoseKey.parse(cbor.decode(passkey.public_key))  # type: ignore[arg-type]
    return AttestedCredentialData.create(passkey.aaguid, passkey.credential_id, key)
