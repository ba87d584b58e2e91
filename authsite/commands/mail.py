"""Mail delivered, once or until told to stop."""

import signal
import time

import click
from sqlalchemy.exc import SQLAlchemyError

from .. import events
from ..mail import outbox
from .shell import blueprint, reporting

SEND_INTERVAL_SECONDS = 2.0


@blueprint.cli.command("send-mail")
@click.option("--loop", is_flag=True, help="Go on until the process is told to stop.")
@reporting
def send_mail(loop: bool) -> None:
    """Deliver the mail that waits in the outbox."""
    if loop:
        _send_until_stopped()
        return
    sent, failed = outbox.deliver()
    click.echo(f"Sent {sent}, failed {failed}, waiting {outbox.depth()}.")
    raise SystemExit(1 if failed else 0)


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
