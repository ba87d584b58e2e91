"""Single acts on one account: the same verbs and rules as for pages and API."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import click
from flask import current_app

from .. import (
    accounts,
    activity,
    addresses,
    deletions,
    email_changes,
    events,
    exports,
    outboxes,
    passwords,
    second_steps,
    sessions,
    throttling,
)
from ..database.models import Account
from ..errors import EmailTaken, InactiveAccount, UnknownAccount
from ..mail import outbox, sending
from ..web import times
from ..web.forms import EmailForm, PersonForm
from .shell import blueprint, counted, on_account, reporting, with_password

SIGN_INS_SHOWN = 3


@blueprint.cli.command("create-user")
@click.argument("email")
@click.option("--first-name", default=None, help="Default: what stands before the @.")
@click.option("--superuser", is_flag=True, help="Marked so for products: it opens nothing here.")
@click.option("--verified", is_flag=True, help="The address is known to be its owner's.")
@reporting
def create_user(email: str, first_name: str | None, superuser: bool, verified: bool) -> None:
    """Create an account.

    The password is prompted for; where nobody sits at a terminal it is the first line of standard input.
    """
    with current_app.test_request_context():
        # What is wrong with these is said before a password is asked for.
        address = EmailForm.from_members({"email": email}).email.data or ""
        person = PersonForm.from_members(
            {"first_name": first_name or address.partition("@")[0]}
        ).first_name.data
    if accounts.find_id(address) != accounts.NOBODY:
        raise EmailTaken
    registered = with_password(
        lambda password: accounts.register(
            email=address,
            password=password,
            first_name=person or "",
            is_superuser=superuser,
            is_verified=verified,
        )
    )
    click.echo(f"Created {registered.account.email}.")


@on_account("verify-email")
def verify_email(email: str) -> None:
    """Confirm an account's address.

    For who cannot open the link, and is known to read its mail.
    """
    click.echo(f"Confirmed {addresses.verify_by_operator(email).email}.")


@blueprint.cli.command("change-email")
@click.argument("email", metavar="OLD")
@click.argument("new_email", metavar="NEW")
@reporting
def change_email(email: str, new_email: str) -> None:
    """Change an account's address.

    For an owner who cannot do it on the pages: be sure who asks. Both addresses are told by mail.

    Example: flask change-email ada@old.example ada@new.example
    """
    with current_app.test_request_context():
        form = EmailForm.from_members({"email": new_email})
    changed = email_changes.change_by_operator(email, form.email.data or "")
    click.echo(f"Changed {email} to {changed.email}.")


@on_account("deactivate-user")
def deactivate_user(email: str) -> None:
    """Close an account to sign-ins and end its sessions.

    Nothing is deleted; activate-user opens it again.
    """
    click.echo(f"Deactivated {accounts.deactivate(email).email}.")


@on_account("activate-user")
def activate_user(email: str) -> None:
    """Open an account to sign-ins again.

    One that was to be deleted is kept: it will not be deleted any more.
    """
    click.echo(f"Activated {accounts.activate(email).email}.")


@blueprint.cli.command("delete-user")
@click.argument("email")
@click.option(
    "--now", "is_at_once", is_flag=True, help="Delete it at once; nothing brings it back."
)
@reporting
def delete_user(email: str, is_at_once: bool) -> None:
    """Close an account, and delete it some days later.

    After ACCOUNT_DELETION_DAYS, by a worker or cleanup-accounts. Its owner is mailed a link to keep it;
    activate-user keeps it too.
    """
    account, delete_after = deletions.request_by_operator(email, is_at_once=is_at_once)
    if delete_after is None:
        click.echo(f"Deleted {account.email}.")
    else:
        click.echo(f"{account.email} will be deleted on {times.utc_full_date(delete_after)}.")


@on_account("set-password")
def set_password(email: str) -> None:
    """Set an account's password and end its sessions.

    It is prompted for; where nobody sits at a terminal it is the first line of standard input. Its owner is
    mailed that it has changed. Better is send-reset, which leaves the password to its owner.
    """
    account = accounts.find_by_email(email)
    with_password(lambda password: passwords.set_by_operator(account.email, password))
    click.echo(f"Changed the password of {account.email}. All its sessions ended.")


@on_account("send-reset")
def send_reset(email: str) -> None:
    """Mail the link to choose a new password. Say whether the mail server has taken it."""
    account = accounts.find_by_email(email)
    if not account.is_active:
        raise InactiveAccount
    failures: list[Exception] = []
    with outboxes.held_back():
        passwords.request_reset(account.email, device_name=None, ip_address=None, after="operator")
        sent, _ = outbox.deliver(to=account.id, on_failure=failures.append)
    if failures:
        due_at = outbox.next_due_at(account.id)
        again = f"The next try is at {times.iso(due_at)}." if due_at else "It is not tried again."
        raise click.ClickException(f"{sending.explain(failures[-1])} {again}")
    link = f"the link for {account.email}"
    # A worker that looks just then has been faster.
    click.echo(sending.taken(link) if sent else f"The worker sends {link}.")


@on_account("export-user")
def export_user(email: str) -> None:
    """Print all that is held of an account, as JSON.

    For whoever asked for it by letter: be sure who asks. Its owner is told by mail. Where it fails, what was
    printed is not all.

    Example: flask export-user ada@example.com > ada.json
    """
    with outboxes.put_off():
        for piece in exports.export_for_operator(email):
            click.echo(piece, nl=False)


@blueprint.cli.command("show-user")
@click.argument("email_or_id", metavar="EMAIL")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reporting
def show_user(email_or_id: str, as_json: bool) -> None:
    """Show an account.

    Its state, its second step, the wrong passwords and codes on its count, its sessions and last sign-ins. In
    EMAIL's place may stand the id that the log shows as user_id.
    """
    account = _find(email_or_id)
    delete_after = None if account.is_active else deletions.scheduled_for(account.id)
    two_step_since = second_steps.switch.on_since(account.id)
    second_step = second_steps.overview.of(account.id)
    facts: dict[str, Any] = {
        "id": str(account.id),
        "email": account.email,
        "first_name": account.first_name,
        "email_verified_at": account.email_verified_at and times.iso(account.email_verified_at),
        "created_at": times.iso(account.created_at),
        "is_active": account.is_active,
        "delete_after": delete_after and times.iso(delete_after),
        "is_superuser": account.is_superuser,
        "two_step_since": two_step_since and times.iso(two_step_since),
        "has_authenticator_app": second_step.app is not None,
        "passkeys": second_step.passkeys,
        "recovery_codes": second_step.recovery_codes_left,
        "wrong_passwords": throttling.failures(account.email),
        "wrong_codes": throttling.wrong_second_steps(account.id),
        "sessions": len(sessions.active_for(account.id)),
        "last_sign_ins": [
            {
                "created_at": times.iso(each.created_at),
                "device_name": each.device_name,
                "ip_address": each.ip_address,
            }
            for each in activity.feed(account.id, limit=SIGN_INS_SHOWN, kind="signed_in")[0]
        ],
    }
    for line in [json.dumps(facts)] if as_json else _lines(facts):
        click.echo(line)


@on_account("unlock")
def unlock(email: str) -> None:
    """Forget an account's wrong passwords and codes.

    Its owner may try again at once, and so may whoever guesses.
    """
    account = accounts.find_by_email(email)
    throttling.forget(account.email)
    throttling.forget_second_step(account.id)
    events.record("unlock", user_id=account.id)
    click.echo(f"Unlocked {account.email}.")


@on_account("revoke-sessions")
def revoke_sessions(email: str) -> None:
    """End every session of an account."""
    account = accounts.find_by_email(email)
    ended = sessions.end_all(account.id, reason="revoked")
    click.echo(f"Ended {counted(ended, 'session')} of {account.email}.")


def _find(email_or_id: str) -> Account:
    """Return the account of this address or id; raise UnknownAccount."""
    try:
        user_id = uuid.UUID(email_or_id)
    except ValueError:
        return accounts.find_by_email(email_or_id)
    try:
        return accounts.find_by_id(user_id)
    except UnknownAccount:
        raise UnknownAccount("No account has this id") from None


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield what `show_user` tells, for a person."""
    named = {
        "id": facts["id"],
        "email": facts["email"],
        "first name": facts["first_name"],
        "confirmed": facts["email_verified_at"] or "no",
        "created": facts["created_at"],
        "state": _state(facts),
        "superuser": "yes" if facts["is_superuser"] else "no",
        "two-step": f"on since {since}" if (since := facts["two_step_since"]) else "off",
        "app": "yes" if facts["has_authenticator_app"] else "no",
        "passkeys": facts["passkeys"],
        "recovery codes": facts["recovery_codes"],
        "wrong passwords": facts["wrong_passwords"],
        "wrong codes": facts["wrong_codes"],
        "sessions": facts["sessions"],
    }
    rows = list(named.items())
    for each in facts["last_sign_ins"]:
        by = f"{each['device_name'] or '-'}  {each['ip_address'] or '-'}"
        rows.append(("signed in", f"{each['created_at']}  {by}"))
    yield from (f"{name:16} {value}" for name, value in rows)


def _state(facts: dict[str, Any]) -> str:
    if facts["is_active"]:
        return "open"
    delete_after = facts["delete_after"]
    return f"to be deleted {delete_after}" if delete_after else "deactivated"
