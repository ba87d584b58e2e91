"""The command line: one line around a verb each. Exit 0 done, 1 failed, 2 bad arguments."""

import json
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

import click
from flask import Blueprint, current_app
from sqlalchemy.exc import SQLAlchemyError

from . import accounts, clock, events, passwords, sessions, throttling
from .errors import AuthsiteError, InvalidInput
from .mail import outbox
from .web.forms import RegisterForm

blueprint = Blueprint("commands", __name__, cli_group=None)

PAUSE_BETWEEN_BATCHES = 0.01
SEND_INTERVAL_SECONDS = 2.0


def _reporting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a refusal or a fault of the database into one line on standard error and exit 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except InvalidInput as error:
            raise click.ClickException("\n".join(text for _, text in error.errors)) from None
        except AuthsiteError as error:
            raise click.ClickException(error.message) from None
        except UnicodeError:
            raise click.ClickException("This holds a character that cannot be used.") from None
        except SQLAlchemyError as error:
            kind = type(getattr(error, "orig", None) or error).__name__
            raise click.ClickException(f"The database failed ({kind}).") from None

    return run


@blueprint.cli.command("cleanup-sessions")
@click.option("--keep-days", type=click.IntRange(0, 3650), default=30, show_default=True)
@click.option("--batch-size", type=click.IntRange(1, 5000), default=5000, show_default=True)
@click.option("--dry-run", is_flag=True, help="Delete nothing; only count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_reporting
def cleanup_sessions(keep_days: int, batch_size: int, dry_run: bool, as_json: bool) -> None:
    """Delete every session that ended or expired more than --keep-days ago."""
    before = clock.now() - timedelta(days=keep_days)
    started = time.monotonic()
    deleted = 0
    is_terminal = sys.stderr.isatty() and not as_json
    with click.progressbar(
        length=sessions.count_before(before) if is_terminal else 0,
        label="Looking through sessions",
        file=sys.stderr,
        hidden=not is_terminal,
    ) as bar:
        for looked_at, found in sessions.delete_dead(
            before, batch_size=batch_size, is_dry_run=dry_run
        ):
            deleted += found
            bar.update(looked_at)
            if found and not dry_run:
                time.sleep(PAUSE_BETWEEN_BATCHES)  # sign-ins and refreshes go first
    if not dry_run:
        passwords.delete_dead_resets(before)
        throttling.delete_stale(before)
    seconds = round(time.monotonic() - started, 3)
    events.record("cleanup", deleted=deleted, dry_run=dry_run, seconds=seconds)
    if as_json:
        facts = {"deleted": deleted, "dry_run": dry_run, "keep_days": keep_days}
        click.echo(json.dumps(facts | {"seconds": seconds}))
    else:
        click.echo(f"{'Would delete' if dry_run else 'Deleted'} {deleted} sessions.")


@blueprint.cli.command("session-stats")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_reporting
def session_stats(as_json: bool) -> None:
    """Count the sessions: active, expired, ended by reason, active by type of device."""
    statistics = sessions.statistics()
    if as_json:
        click.echo(json.dumps(statistics))
        return
    click.echo(f"active   {statistics['active']}\nexpired  {statistics['expired']}")
    for title in ("ended", "device_types"):
        click.echo(title.replace("_", " "))
        for name, count in statistics[title].items():
            click.echo(f"  {name}  {count}")


@blueprint.cli.command("send-mail")
@click.option("--loop", is_flag=True, help="Go on until the process is told to stop.")
@_reporting
def send_mail(loop: bool) -> None:
    """Deliver the mail that waits in the outbox."""
    if loop:
        _send_until_stopped()
        return
    sent, failed = outbox.deliver()
    click.echo(f"Sent {sent}, failed {failed}, waiting {outbox.depth()}.")
    raise SystemExit(1 if failed else 0)


@blueprint.cli.command("create-user")
@click.argument("email")
@click.option("--first-name", default=None, help="Default: what stands before the @.")
@click.option("--superuser", is_flag=True)
@_reporting
def create_user(email: str, first_name: str | None, superuser: bool) -> None:
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
    )
    click.echo(f"Created {registered.account.email}.")


@blueprint.cli.command("deactivate-user")
@click.argument("email")
@_reporting
def deactivate_user(email: str) -> None:
    """Close an account to sign-ins and end its sessions."""
    click.echo(f"Deactivated {accounts.deactivate(email).email}.")


@blueprint.cli.command("activate-user")
@click.argument("email")
@_reporting
def activate_user(email: str) -> None:
    """Open an account to sign-ins again."""
    click.echo(f"Activated {accounts.activate(email).email}.")


@blueprint.cli.command("set-password")
@click.argument("email")
@_reporting
def set_password(email: str) -> None:
    """Set an account's password and end its sessions."""
    account = accounts.find_by_email(email)
    passwords.set_by_operator(account.email, _read_password())
    click.echo(f"Changed the password of {account.email}. All its sessions ended.")


@blueprint.cli.command("revoke-sessions")
@click.argument("email")
@_reporting
def revoke_sessions(email: str) -> None:
    """End every session of an account."""
    account = accounts.find_by_email(email)
    ended = sessions.end_all(account.id, reason="revoked")
    click.echo(f"Ended {ended} sessions of {account.email}.")


def _send_until_stopped() -> None:
    """Deliver at every turn; at SIGTERM finish the mail at hand, so that none leaves twice."""
    # A plain list: a handler that took the lock of an Event could find it held by what it interrupts.
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    while not told:
        try:
            outbox.deliver(is_stopping=lambda: bool(told))
        except SQLAlchemyError as error:
            # The database may be back at the next turn.
            events.record("mail", outcome="error", error=type(error).__name__)
        next_turn = time.monotonic() + SEND_INTERVAL_SECONDS
        while not told and time.monotonic() < next_turn:
            time.sleep(0.1)


def _read_password() -> str:
    """Return the password from a prompt, or from standard input where nobody sits at a terminal."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")
