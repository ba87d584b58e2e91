"""What every command stands on: the blueprint, how an account is named, a password read, a failure told."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click
from flask import Blueprint, current_app
from sqlalchemy.exc import SQLAlchemyError

from ..database import faults
from ..errors import AuthsiteError, InvalidInput, SessionNotFound, UnknownAccount, WeakPassword

blueprint = Blueprint("commands", __name__, cli_group=None)
EXIT_STATUSES = "Exit status: 0 done, 1 failed, 2 bad arguments."
MOST_ROWS = 5000  # in one transaction of a clean-up
T = TypeVar("T")


@blueprint.record
def _tell_exit_statuses(_state: object) -> None:
    """Put under each command's help what a script reads."""
    for command in blueprint.cli.commands.values():
        command.epilog = EXIT_STATUSES


@blueprint.record
def _hide_what_no_operator_uses(_state: object) -> None:
    """Leave Flask-Limiter's own command out of `flask --help`: it knows nothing of our limits."""
    context = click.get_current_context(silent=True)
    commands: dict[str, click.Command] = getattr(
        context.find_root().command if context else None, "commands", {}
    )
    if "limiter" in commands:
        commands["limiter"].hidden = True


def on_account(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of this name that is told the address of an account, and is `reporting`."""

    def decorate(command: Callable[..., Any]) -> click.Command:
        made: click.Command = blueprint.cli.command(name)(
            click.argument("email")(reporting(command))
        )
        return made

    return decorate


def reporting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a refusal or a fault of the database into one line on standard error and exit 1.

    Where the tables are missing or outdated that is said, whatever else was found in them.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except InvalidInput as error:
            raise click.ClickException("\n".join(text for _, text in error.errors)) from None
        except AuthsiteError as error:
            # Of older tables, nobody knows what is not in them.
            raise click.ClickException(faults.of_tables() or _where_asked(error)) from None
        except UnicodeError:
            raise click.ClickException("This holds a character that cannot be used.") from None
        except SQLAlchemyError as error:
            advice = faults.advice(error)
            failed = f"The database failed ({faults.describe(error)})."
            # A command to copy: nothing stands behind it.
            raise click.ClickException(
                (advice and faults.of_tables()) or advice or failed
            ) from None

    return run


def _where_asked(error: AuthsiteError) -> str:
    """Return an error's message and, where nothing was found in a database that nobody has named, which one.

    Without the settings of production at hand a command looks into development's.
    """
    if current_app.config["MIGRATE_AT_START"] and isinstance(
        error, UnknownAccount | SessionNotFound
    ):
        return f"{error.message} in instance/authsite.db, the development database"
    return error.message


def with_password(use: Callable[[str], T]) -> T:
    """Return what `use` makes of a password from a prompt, which asks again while it is too weak.

    Where nobody sits at a terminal it is the first line of standard input, and WeakPassword is raised.
    """
    if not sys.stdin.isatty():
        return use(sys.stdin.readline().rstrip("\r\n"))
    while True:
        try:
            return use(click.prompt("Password", hide_input=True, confirmation_prompt=True))
        except WeakPassword as error:
            click.echo(f"{error.message}. Try another.", err=True)


def cleaning_up(batch_size: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a clean-up its options: `batch_size`, which is so many if it is not said, `dry_run`, `as_json`."""

    def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
            click.option("--dry-run", is_flag=True, help="Delete nothing; only count."),
            click.option(
                "--batch-size",
                type=click.IntRange(1, MOST_ROWS),
                default=batch_size,
                show_default=True,
                help="Rows in one transaction.",
            ),
        ):
            command = option(command)
        return command

    return with_options


def counted(count: int, noun: str) -> str:
    """Return "1 session" or "2 sessions"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def deleting(done: dict[str, Any]) -> str:
    """Return the verb of a clean-up's outcome."""
    return "Would delete" if done["dry_run"] else "Deleted"
