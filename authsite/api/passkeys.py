"""Passkeys: sign in by one, and what there is of them."""

import uuid
from typing import Any

from flask import Blueprint, Response

from .. import database, passkeys, spelling
from ..errors import PasskeyNotFound
from ..web import authentication, limits
from ..web.forms import CredentialForm, NewPasskeyForm, PasskeyNameForm
from . import answers

blueprint = Blueprint("passkeys", __name__)

# A client of the API has no cookie that its challenge could be bound to: it is short-lived and works once.
AUDIENCE = "api"


@blueprint.post("/auth/passkey/options")
@authentication.public
@limits.passkey_options
def passkey_sign_in_options() -> dict[str, Any]:
    """Return what a passkey has to sign to sign its owner in."""
    return {"publicKey": passkeys.sign_in_options(AUDIENCE)}


@blueprint.post("/auth/login/passkey")
@authentication.public
@limits.login
def login_with_passkey() -> Response:
    """Sign a device in by a passkey alone."""
    form = CredentialForm.from_json()
    grant = passkeys.sign_in(
        form.credential.data or "",
        audience=AUDIENCE,
        client=authentication.client(),
        entrance="api",
    )
    return answers.issued_tokens(grant)


@blueprint.get("/users/me/passkeys")
@limits.read_passkeys
def list_passkeys() -> dict[str, Any]:
    """Return the user's passkeys, oldest first."""
    found = passkeys.of(authentication.current_session().account.id)
    return {"passkeys": [_shown(each) for each in found]}


@blueprint.post("/users/me/passkeys/options")
@limits.begin_passkey
@authentication.step_up_required
def passkey_creation_options() -> dict[str, Any]:
    """Return what a browser needs to make a passkey."""
    caller = authentication.current_session()
    return {"publicKey": passkeys.creation_options(caller.account, caller.id)}


@blueprint.post("/users/me/passkeys")
@limits.add_passkey
@authentication.step_up_required
def add_passkey() -> tuple[dict[str, Any], int]:
    """Keep a passkey that was made by these options."""
    caller, form = authentication.current_session(), NewPasskeyForm.from_json()
    added = passkeys.add(
        caller.account.id,
        caller.id,
        form.credential.data or "",
        name=form.name.data or None,
        is_api=True,
    )
    return _shown(added), 201


@blueprint.patch("/users/me/passkeys/<passkey_id>")
@limits.change_passkey
def rename_passkey(passkey_id: str) -> dict[str, Any]:
    """Give a passkey another name."""
    form, caller = PasskeyNameForm.from_json(), authentication.current_session()
    return _shown(passkeys.rename(caller.account.id, _parse_id(passkey_id), form.name.data or ""))


@blueprint.delete("/users/me/passkeys/<passkey_id>")
@limits.change_passkey
@authentication.step_up_required
def remove_passkey(passkey_id: str) -> dict[str, Any]:
    """Take a passkey away."""
    caller = authentication.current_session()
    passkeys.remove(caller.account.id, caller.id, _parse_id(passkey_id))
    return answers.message("Passkey removed")


def _shown(passkey: database.Row) -> dict[str, Any]:
    members = ("id", "name", "created_at", "last_used_at", "is_backed_up")
    return {name: getattr(passkey, name) for name in members} | {
        "transports": passkey.transports.split()
    }


def _parse_id(text: str) -> uuid.UUID:
    """Return the id in its one canonical spelling; anything else is no passkey's."""
    parsed = spelling.canonical_id(text)
    if parsed is None:
        raise PasskeyNotFound
    return parsed
