"""Sessions counted and cleaned up."""

import json
import sys
import time
import uuid
from datetime import timedelta
from typing import Any

import click

from .. import accounts, chores, clock, events, sessions
from ..errors import SessionNotFound
from ..web import times
from .shell import blueprint, cleaning_up, counted, deleting, reporting

KEEP_DAYS = 30
BATCH_SIZE = 5000
PAUSE_BETWEEN_BATCHES = 0.01
HEADS = ["ID", "DEVICE", "ADDRESS", "SIGNED IN", "LAST USED"]


@blueprint.cli.command("cleanup-sessions")
@click.option(
    "--keep-days",
    type=click.IntRange(0, 3650),
    default=KEEP_DAYS,
    show_default=True,
    help="How long they are kept after that.",
)
@cleaning_up(BATCH_SIZE)
@reporting
def cleanup_sessions(keep_days: int, batch_size: int, dry_run: bool, as_json: bool) -> None:
    """Delete sessions that ended or expired long ago.

    That is more than --keep-days ago. Links, counts and trusted browsers that are over go with them.
    """
    done = clean_up(keep_days, batch_size, dry_run=dry_run, is_silent=as_json)
    click.echo(json.dumps(done) if as_json else in_words(done))


def clean_up(
    keep_days: int = KEEP_DAYS, batch_size: int = BATCH_SIZE, *, dry_run: bool, is_silent: bool
) -> dict[str, Any]:
    """Delete what is dead or, in a dry run, only count it; return how many sessions, and how."""
    before = clock.now() - timedelta(days=keep_days)
    started = time.monotonic()
    deleted = 0
    is_terminal = sys.stderr.isatty() and not is_silent
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
        for chore in chores.BESIDE_SESSIONS:
            for _ in chore.batches(before):
                time.sleep(PAUSE_BETWEEN_BATCHES)
    seconds = round(time.monotonic() - started, 3)
    events.record("cleanup", deleted=deleted, dry_run=dry_run, seconds=seconds)
    return {"deleted": deleted, "dry_run": dry_run, "keep_days": keep_days, "seconds": seconds}


def in_words(done: dict[str, Any]) -> str:
    """Return a clean-up's outcome as a sentence."""
    return f"{deleting(done)} {counted(done['deleted'], 'session')}."


@blueprint.cli.command("list-sessions")
@click.argument("email")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@reporting
def list_sessions(email: str, as_json: bool) -> None:
    """List where an account is signed in. The last used first."""
    account = accounts.find_by_email(email)
    found = [
        {
            "id": str(each.id),
            "device_name": each.device_name,
            "ip_address": each.ip_address,
            "created_at": times.iso(each.created_at),
            "last_used_at": times.iso(each.last_used_at),
        }
        for each in sessions.active_for(account.id)
    ]
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found:
        click.echo(f"{account.email} is signed in nowhere.")
        return
    lines = [HEADS, *([value or "-" for value in each.values()] for each in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (f"{cell:{width}}" for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@blueprint.cli.command("revoke-session")
@click.argument("session_id", type=click.UUID)
@reporting
def revoke_session(session_id: uuid.UUID) -> None:
    """End one session.

    By its id, which list-sessions shows, and the log as session_id.
    """
    owner = sessions.find_owner(session_id)
    if owner is None:
        raise SessionNotFound
    was_live = sessions.find_own(owner, session_id) is not None
    name = sessions.end(owner, session_id, reason="revoked")
    click.echo(f"Signed out {name}." if was_live else f"{name} is signed out already.")


@blueprint.cli.command("session-stats")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reporting
def session_stats(as_json: bool) -> None:
    """Count the sessions.

    Those that are active, with a second step (AAL2), expired, ended by reason; and by type of device.
    """
    statistics = sessions.statistics()
    if as_json:
        click.echo(json.dumps(statistics))
        return
    rows = [(name, statistics[name]) for name in ("active", "aal2", "expired")]
    for title in ("ended", "device_types"):
        rows.append((title.replace("_", " "), sum(statistics[title].values())))
        rows += [(f"  {name}", count) for name, count in statistics[title].items()]
    width = max(len(name) for name, _ in rows)
    digits = max(len(str(count)) for _, count in rows)
    for name, count in rows:
        click.echo(f"{name:{width}}  {count:{digits}}")
