"""The process beside the web: mail and webhooks as they come, and the chores of the day, batch by batch."""

import signal
import threading
import time
from collections.abc import Callable

from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from .. import chores, webhooks
from ..database import faults
from ..mail import outbox
from .shell import blueprint

TURN_SECONDS = 2.0
PAUSE_BETWEEN_BATCHES = 0.01


@blueprint.cli.command("worker")
def work() -> None:
    """Deliver mail and webhooks, and clean up once a day.

    The process goes on until it is told to stop.
    """
    work_until_stopped()


def work_until_stopped() -> None:
    """Deliver at every turn; at SIGTERM finish the mail or batch at hand, so that none is done twice."""
    # A plain list: a handler that took the lock of an Event could find it held by what it interrupts.
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    telling = _start_telling(lambda: bool(told))
    rotas = [chores.Rota(), chores.Rota(lambda: chores.HOURLY, every=chores.EVERY_HOUR)]
    news = faults.News("worker")
    while not told:
        try:
            outbox.deliver(is_stopping=lambda: bool(told))
            news.tell(None)
        except SQLAlchemyError as error:
            # The database may be back at the next turn.
            news.tell(faults.describe(error))
        # What is written for requests goes first, and so does the mail that has come meanwhile.
        is_more_due = not told and max(each.turn() for each in rotas)
        seconds = PAUSE_BETWEEN_BATCHES if is_more_due else TURN_SECONDS
        next_turn = time.monotonic() + seconds
        while not told and (left := next_turn - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
    for thread in telling:
        thread.join()


def _start_telling(is_stopping: Callable[[], bool]) -> list[threading.Thread]:
    """Start a thread for each URL: one that hangs keeps neither the mail nor another URL waiting."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    threads = [
        threading.Thread(target=_tell, args=(app, url, is_stopping), name="webhooks", daemon=True)
        for url in app.config["WEBHOOK_URLS"]
    ]
    for thread in threads:
        thread.start()
    return threads


def _tell(app: Flask, url: str, is_stopping: Callable[[], bool]) -> None:
    """Deliver to one URL at every turn, until `is_stopping`; the event at hand is the last."""
    news = faults.News("webhooks")
    with app.app_context():
        while not is_stopping():
            try:
                webhooks.deliver(url, is_stopping=is_stopping)
                webhooks.delete_orphans()
                news.tell(None)
            except SQLAlchemyError as error:
                news.tell(faults.describe(error))
            next_turn = time.monotonic() + TURN_SECONDS
            while not is_stopping() and time.monotonic() < next_turn:
                time.sleep(0.1)
