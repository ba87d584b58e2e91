"""Accounts that are to go, and all clean-ups in one."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click

from .. import accounts, chores, clock, deletions, email_changes, events, registrations
from . import activity, sessions
from .shell import blueprint, cleaning_up, deleting, reporting

BATCH_SIZE = 500
PAUSE_BETWEEN_BATCHES = 0.01
Facts = dict[str, Any]
NOUNS = {
    "accounts": ("account", "accounts"),
    "claims": ("unconfirmed registration", "unconfirmed registrations"),
    "changes": ("change of email address", "changes of email address"),
}


@blueprint.cli.command("cleanup-accounts")
@cleaning_up(BATCH_SIZE)
@reporting
def cleanup_accounts(batch_size: int, dry_run: bool, as_json: bool) -> None:
    """Delete accounts that are due, and what came to nothing.

    Claims that have expired, and changes of address that are over.
    """
    done = clean_up(batch_size, dry_run=dry_run)
    click.echo(json.dumps(done) if as_json else in_words(done))


def clean_up(batch_size: int = BATCH_SIZE, *, dry_run: bool) -> Facts:
    """Delete what is due or over or, in a dry run, only count it; return how many of each, and how."""
    before, started = clock.now() - chores.KEEP, time.monotonic()
    if dry_run:
        counts = {
            "accounts": deletions.count_due(),
            "claims": registrations.count_expired(),
            "changes": email_changes.count_dead(before),
        }
    else:
        counts = {
            "accounts": _total(deletions.delete_due(batch_size=batch_size)),
            "claims": _total(registrations.delete_expired()),
            "changes": _total(email_changes.delete_dead(before)),
        }
        _total(accounts.delete_given_up())
    seconds = round(time.monotonic() - started, 3)
    done: Facts = counts | {"dry_run": dry_run, "seconds": seconds}
    events.record("cleanup_accounts", **done)
    return done


def in_words(done: Facts) -> str:
    """Return a clean-up's outcome as a sentence."""
    said = (f"{done[name]} {nouns[done[name] != 1]}" for name, nouns in NOUNS.items())
    return f"{deleting(done)} {', '.join(said)}."


@blueprint.cli.command("cleanup")
@click.option("--dry-run", is_flag=True, help="Delete nothing; only count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def cleanup(dry_run: bool, as_json: bool) -> None:
    """Do all three clean-ups.

    cleanup-sessions, cleanup-activity and cleanup-accounts; one that fails stops no other, and is null
    in JSON.
    """
    parts: dict[str, tuple[Callable[..., Facts], Callable[[Facts], str]]] = {
        "sessions": (partial(sessions.clean_up, is_silent=as_json), sessions.in_words),
        "activity": (activity.clean_up, activity.in_words),
        "accounts": (clean_up, in_words),
    }
    done: dict[str, Facts | None] = dict.fromkeys(parts)
    failures: list[str] = []
    for name, (work, words) in parts.items():
        try:
            done[name] = facts = reporting(work)(dry_run=dry_run)
        except click.ClickException as error:
            failures.append(error.message)
        else:
            if not as_json:
                click.echo(words(facts))
    if as_json:
        click.echo(json.dumps(done))
    if failures:
        raise click.ClickException("\n".join(dict.fromkeys(failures)))


def _total(batches: Iterator[int]) -> int:
    total = 0
    for count in batches:
        total += count
        time.sleep(PAUSE_BETWEEN_BATCHES)  # what is written for requests goes first
    return total
