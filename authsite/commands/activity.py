"""What happened, cleaned up."""

import json
import time
from datetime import datetime, timedelta

import click
from flask import current_app

from .. import activity, clock, events
from .shell import blueprint, counted, reporting

PAUSE_BETWEEN_BATCHES = 0.01


@blueprint.cli.command("cleanup-activity")
@click.option("--keep-days", type=click.IntRange(0, 3650), help="Instead of ACTIVITY_KEEP_DAYS.")
@click.option("--batch-size", type=click.IntRange(1, 5000), default=5000, show_default=True)
@click.option("--dry-run", is_flag=True, help="Delete nothing; only count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reporting
def cleanup_activity(keep_days: int | None, batch_size: int, dry_run: bool, as_json: bool) -> None:
    """Delete what happened more than --keep-days ago."""
    days = current_app.config["ACTIVITY_KEEP_DAYS"] if keep_days is None else keep_days
    before = clock.now() - timedelta(days=days)
    started = time.monotonic()
    deleted = activity.count_before(before) if dry_run else _delete(before, batch_size)
    seconds = round(time.monotonic() - started, 3)
    events.record("cleanup_activity", deleted=deleted, dry_run=dry_run, seconds=seconds)
    if as_json:
        facts = {"deleted": deleted, "dry_run": dry_run, "keep_days": days, "seconds": seconds}
        click.echo(json.dumps(facts))
    else:
        click.echo(f"{'Would delete' if dry_run else 'Deleted'} {counted(deleted, 'event')}.")


def _delete(before: datetime, batch_size: int) -> int:
    deleted = 0
    for count in activity.delete_old(before, batch_size=batch_size):
        deleted += count
        time.sleep(PAUSE_BETWEEN_BATCHES)  # what is written for requests goes first
    return deleted
