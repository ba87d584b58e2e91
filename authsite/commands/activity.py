"""What happened, cleaned up."""

import json
import time
from datetime import datetime, timedelta
from typing import Any

import click
from flask import current_app

from .. import activity, clock, events
from .shell import blueprint, cleaning_up, counted, deleting, reporting

BATCH_SIZE = 5000
PAUSE_BETWEEN_BATCHES = 0.01


@blueprint.cli.command("cleanup-activity")
@click.option("--keep-days", type=click.IntRange(0, 3650), help="Instead of ACTIVITY_KEEP_DAYS.")
@cleaning_up(BATCH_SIZE)
@reporting
def cleanup_activity(keep_days: int | None, batch_size: int, dry_run: bool, as_json: bool) -> None:
    """Delete what happened more than --keep-days ago."""
    done = clean_up(keep_days, batch_size, dry_run=dry_run)
    click.echo(json.dumps(done) if as_json else in_words(done))


def clean_up(
    keep_days: int | None = None, batch_size: int = BATCH_SIZE, *, dry_run: bool
) -> dict[str, Any]:
    """Delete what happened long ago or, in a dry run, only count it; return how many events, and how."""
    days = current_app.config["ACTIVITY_KEEP_DAYS"] if keep_days is None else keep_days
    before = clock.now() - timedelta(days=days)
    started = time.monotonic()
    deleted = activity.count_before(before) if dry_run else _delete(before, batch_size)
    seconds = round(time.monotonic() - started, 3)
    events.record("cleanup_activity", deleted=deleted, dry_run=dry_run, seconds=seconds)
    return {"deleted": deleted, "dry_run": dry_run, "keep_days": days, "seconds": seconds}


def in_words(done: dict[str, Any]) -> str:
    """Return a clean-up's outcome as a sentence."""
    return f"{deleting(done)} {counted(done['deleted'], 'event')}."


def _delete(before: datetime, batch_size: int) -> int:
    deleted = 0
    for count in activity.delete_old(before, batch_size=batch_size):
        deleted += count
        time.sleep(PAUSE_BETWEEN_BATCHES)  # what is written for requests goes first
    return deleted
