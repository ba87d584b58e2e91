"""Accounts that are to go, and all clean-ups in one."""

import json
import time
from collections.abc import Iterator

import click

from .. import accounts, chores, clock, deletions, email_changes, events, registrations
from . import activity, sessions
from .shell import blueprint, reporting

PAUSE_BETWEEN_BATCHES = 0.01
NOUNS = {
    "accounts": ("account", "accounts"),
    "claims": ("unconfirmed registration", "unconfirmed registrations"),
    "changes": ("change of email address", "changes of email address"),
}


@blueprint.cli.command("cleanup-accounts")
@click.option("--batch-size", type=click.IntRange(1, 5000), default=500, show_default=True)
@click.option("--dry-run", is_flag=True, help="Delete nothing; only count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reporting
def cleanup_accounts(batch_size: int, dry_run: bool, as_json: bool) -> None:
    """Delete accounts that are due, and what came to nothing.

    Claims that have expired, and changes of address that are over.
    """
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
    events.record(
        "cleanup_accounts",
        accounts=counts["accounts"],
        claims=counts["claims"],
        changes=counts["changes"],
        dry_run=dry_run,
        seconds=seconds,
    )
    if as_json:
        click.echo(json.dumps(counts | {"dry_run": dry_run, "seconds": seconds}))
        return
    said = ", ".join(f"{count} {NOUNS[name][count != 1]}" for name, count in counts.items())
    click.echo(f"{'Would delete' if dry_run else 'Deleted'} {said}.")


@blueprint.cli.command("cleanup")
@click.option("--dry-run", is_flag=True, help="Delete nothing; only count.")
@click.pass_context
def cleanup(context: click.Context, dry_run: bool) -> None:
    """Do all three clean-ups.

    cleanup-sessions, cleanup-activity and cleanup-accounts; one that fails stops no other.
    """
    failed: list[click.ClickException] = []
    for each in (sessions.cleanup_sessions, activity.cleanup_activity, cleanup_accounts):
        try:
            context.invoke(each, dry_run=dry_run)
        except click.ClickException as error:
            failed.append(error)
    if failed:
        raise failed[0]


def _total(batches: Iterator[int]) -> int:
    total = 0
    for count in batches:
        total += count
        time.sleep(PAUSE_BETWEEN_BATCHES)  # what is written for requests goes first
    return total
