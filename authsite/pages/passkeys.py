"""Passkeys on pages: list, add, rename, remove. Only adding needs a script: the browser has no other way."""

from typing import Any

from flask import Blueprint, redirect
from flask.typing import ResponseReturnValue

from .. import database, passkeys
from ..errors import InvalidInput, PasskeyExists, PasskeyNotFound, PasskeyRefused, TooManyPasskeys
from ..web import authentication, limits
from ..web.forms import AddPasskeyForm, ConfirmingForm, PasskeyNameForm
from . import answers, step_up

blueprint = Blueprint("passkeys", __name__)

PASSKEYS = "/account/passkeys"
REFUSED = "That passkey cannot be added. Try again"


@blueprint.get("/account/passkeys")
@authentication.login_required
@limits.read_passkeys
def show_passkeys() -> ResponseReturnValue:
    """List one's passkeys, and offer to add one to who is known freshly."""
    return _passkeys_page(step_up.prepared(AddPasskeyForm()))


@blueprint.post("/account/passkeys")
@authentication.login_required
@limits.add_passkey
def add_passkey() -> ResponseReturnValue:
    """Keep a passkey that this browser's owner has made, or confirm first who it is."""
    form, caller = step_up.prepared(AddPasskeyForm()), authentication.current_session()
    if not form.validate() or not step_up.confirmed(form):
        return _passkeys_page(form)
    if not form.credential.data or not passkeys.are_available():
        return redirect(PASSKEYS, 303)
    try:
        added = passkeys.add(
            caller.account.id, caller.id, form.credential.data, name=None, is_api=False
        )
    except (PasskeyRefused, InvalidInput):
        form.refuse(None, REFUSED)
    except (PasskeyExists, TooManyPasskeys) as refusal:
        form.refuse(None, refusal.message)
    else:
        return answers.done(f"Passkey added: {added.name}.", PASSKEYS)
    return _passkeys_page(form)


@blueprint.get("/account/passkeys/<passkey_id>/rename")
@authentication.login_required
@limits.read_passkeys
def show_rename(passkey_id: str) -> ResponseReturnValue:
    """Show the form for another name."""
    passkey = _find(passkey_id)
    form = PasskeyNameForm(data={"name": passkey.name})
    return answers.page("passkeys/rename.html", form=form, passkey=passkey)


@blueprint.post("/account/passkeys/<passkey_id>/rename")
@authentication.login_required
@limits.change_passkey
def rename(passkey_id: str) -> ResponseReturnValue:
    """Give a passkey another name."""
    form, passkey = PasskeyNameForm(), _find(passkey_id)
    if not form.validate():
        return answers.page("passkeys/rename.html", form=form, passkey=passkey)
    renamed = passkeys.rename(passkey.user_id, passkey.id, form.name.data or "")
    return answers.done(f"The name is now {renamed.name}.", PASSKEYS)


@blueprint.get("/account/passkeys/<passkey_id>/remove")
@authentication.login_required
@limits.read_passkeys
def show_remove(passkey_id: str) -> ResponseReturnValue:
    """Ask whether a passkey shall go, and say what follows."""
    passkey = _find(passkey_id)
    return _removal_page(step_up.prepared(ConfirmingForm()), passkey)


@blueprint.post("/account/passkeys/<passkey_id>/remove")
@authentication.login_required
@limits.change_passkey
def remove(passkey_id: str) -> ResponseReturnValue:
    """Take a passkey away."""
    passkey, caller = _find(passkey_id), authentication.current_session()
    form = step_up.prepared(ConfirmingForm())
    if not form.validate() or not step_up.confirmed(form):
        return _removal_page(form, passkey)
    is_turned_off = passkeys.remove(caller.account.id, caller.id, passkey.id)
    more = " Two-step sign-in is off." if is_turned_off else ""
    return answers.done(f"Passkey removed: {passkey.name}.{more}", PASSKEYS)


@blueprint.errorhandler(PasskeyNotFound)
def tell_that_it_is_gone(_: PasskeyNotFound) -> ResponseReturnValue:
    """Lead back to the list: another device was faster."""
    return answers.told("That passkey has been removed already.", PASSKEYS)


def _find(passkey_id: str) -> database.Row:
    """Return one's own passkey; raise PasskeyNotFound for unknown, foreign and malformed ids alike."""
    own = passkeys.of(authentication.current_session().account.id)
    found = next((each for each in own if str(each.id) == passkey_id), None)
    if found is None:
        raise PasskeyNotFound
    return found


def _passkeys_page(form: AddPasskeyForm) -> ResponseReturnValue:
    caller = authentication.current_session()
    known, only_at = passkeys.of(caller.account.id), answers.own_origin_if_elsewhere()
    can_add, is_full = passkeys.are_available() and not only_at, len(known) >= passkeys.MOST
    more: dict[str, Any] = {}
    if can_add:
        more["accepted"] = passkeys.accepted(caller.account.id, known)
        if not form.asks_for_proof and not is_full:
            more["passkey_options"] = passkeys.creation_options(caller.account, caller.id)
    return answers.page(
        "passkeys/passkeys.html",
        form=form,
        passkeys=known,
        is_available=passkeys.are_available(),
        only_at=only_at,
        can_add=can_add,
        is_full=is_full,
        **more,
    )


def _removal_page(form: ConfirmingForm, passkey: database.Row) -> ResponseReturnValue:
    is_on = authentication.current_session().two_step_since is not None
    turns_off = is_on and passkeys.is_only_factor(passkey)
    return answers.page("passkeys/remove.html", form=form, passkey=passkey, turns_off=turns_off)
