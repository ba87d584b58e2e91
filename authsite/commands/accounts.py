"""Single acts on one account: the same verbs and rules as for pages and API."""

import sys
import uuid

import click
from flask import current_app

from .. import accounts, addresses, email_changes, events, exports, passwords, sessions, throttling
from ..web import times
from ..web.forms import EmailForm, RegisterForm
from .shell import blueprint, reporting


@blueprint.cli.command("create-user")
@click.argument("email")
@click.option("--first-name", default=None, help="Default: what stands before the @.")
@click.option("--superuser", is_flag=True)
@click.option("--verified", is_flag=True, help="The address is known to be its owner's.")
@reporting
def create_user(email: str, first_name: str | None, superuser: bool, verified: bool) -> None:
    """Create an account; the password is prompted for, or read from standard input."""
    with current_app.test_request_context():
        form = RegisterForm.from_members(
            {
                "email": email,
                "first_name": first_name or email.partition("@")[0],
                "password": _read_password(),
            }
        )
    registered = accounts.register(
        email=form.email.data or "",
        password=form.password.data or "",
        first_name=form.first_name.data or "",
        is_superuser=superuser,
        is_verified=verified,
    )
    click.echo(f"Created {registered.account.email}.")


@blueprint.cli.command("verify-email")
@click.argument("email")
@reporting
def verify_email(email: str) -> None:
    """Confirm the address of an account whose owner is known to read its mail."""
    click.echo(f"Confirmed {addresses.verify_by_operator(email).email}.")


@blueprint.cli.command("change-email")
@click.argument("email")
@click.argument("new_email")
@reporting
def change_email(email: str, new_email: str) -> None:
    """Change the address of an account whose owner is known, and tell both addresses."""
    with current_app.test_request_context():
        form = EmailForm.from_members({"email": new_email})
    changed = email_changes.change_by_operator(email, form.email.data or "")
    click.echo(f"Changed {email} to {changed.email}.")


@blueprint.cli.command("deactivate-user")
@click.argument("email")
@reporting
def deactivate_user(email: str) -> None:
    """Close an account to sign-ins and end its sessions."""
    click.echo(f"Deactivated {accounts.deactivate(email).email}.")


@blueprint.cli.command("activate-user")
@click.argument("email")
@reporting
def activate_user(email: str) -> None:
    """Open an account to sign-ins again."""
    click.echo(f"Activated {accounts.activate(email).email}.")


@blueprint.cli.command("set-password")
@click.argument("email")
@reporting
def set_password(email: str) -> None:
    """Set an account's password and end its sessions."""
    account = accounts.find_by_email(email)
    passwords.set_by_operator(account.email, _read_password())
    click.echo(f"Changed the password of {account.email}. All its sessions ended.")


@blueprint.cli.command("export-user")
@click.argument("email")
@reporting
def export_user(email: str) -> None:
    """Print all that is held of an account as JSON, for whoever asked for it by letter; its owner is told."""
    for piece in exports.export_for_operator(email):
        click.echo(piece, nl=False)


@blueprint.cli.command("show-user")
@click.argument("email_or_id")
@reporting
def show_user(email_or_id: str) -> None:
    """Show an account: its state, the wrong passwords on its count, and where it is signed in."""
    try:
        account = accounts.find_by_id(uuid.UUID(email_or_id))
    except ValueError:
        account = accounts.find_by_email(email_or_id)
    active = sessions.active_for(account.id)
    facts = {
        "id": account.id,
        "email": account.email,
        "confirmed": times.iso(account.email_verified_at) if account.email_verified_at else "no",
        "created": times.iso(account.created_at),
        "state": "open" if account.is_active else "deactivated",
        "superuser": "yes" if account.is_superuser else "no",
        "wrong passwords": throttling.failures(account.email),
        "wrong codes": throttling.wrong_second_steps(account.id),
        "sessions": len(active),
        "last signed in": max((times.iso(each.created_at) for each in active), default="-"),
    }
    for name, value in facts.items():
        click.echo(f"{name:16} {value}")


@blueprint.cli.command("unlock")
@click.argument("email")
@reporting
def unlock(email: str) -> None:
    """Take an account's wrong passwords and codes off the count, so that its owner may try again."""
    account = accounts.find_by_email(email)
    throttling.forget(account.email)
    throttling.forget_second_step(account.id)
    events.record("unlock", user_id=account.id)
    click.echo(f"Unlocked {account.email}.")


@blueprint.cli.command("revoke-sessions")
@click.argument("email")
@reporting
def revoke_sessions(email: str) -> None:
    """End every session of an account."""
    account = accounts.find_by_email(email)
    ended = sessions.end_all(account.id, reason="revoked")
    click.echo(f"Ended {ended} sessions of {account.email}.")


def _read_password() -> str:
    """Return the password from a prompt, or from standard input where nobody sits at a terminal."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")
