"""The process beside the web: mail as it comes, and between mails the chores of the day, batch by batch."""

import signal
import time

from sqlalchemy.exc import SQLAlchemyError

from .. import chores, events
from ..mail import outbox
from .shell import blueprint

TURN_SECONDS = 2.0
PAUSE_BETWEEN_BATCHES = 0.01


@blueprint.cli.command("worker")
def work() -> None:
    """Deliver mail, and clean up once a day, until the process is told to stop."""
    work_until_stopped()


def work_until_stopped() -> None:
    """Deliver at every turn; at SIGTERM finish the mail or batch at hand, so that none is done twice."""
    # A plain list: a handler that took the lock of an Event could find it held by what it interrupts.
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    rota = chores.Rota()
    while not told:
        try:
            outbox.deliver(is_stopping=lambda: bool(told))
        except SQLAlchemyError as error:
            # The database may be back at the next turn.
            events.record("mail", outcome="error", error=type(error).__name__)
        # What is written for requests goes first, and so does the mail that has come meanwhile.
        seconds = PAUSE_BETWEEN_BATCHES if not told and rota.turn() else TURN_SECONDS
        next_turn = time.monotonic() + seconds
        while not told and (left := next_turn - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
