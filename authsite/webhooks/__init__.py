"""What happens to accounts and sessions, told to the products, in the form of Standard Webhooks.

An event is a row, for each URL, of the transaction of the act, and leaves after the commit: at least once,
in no order. Where no URL is set there is no row, and no statement.
"""

from .outbox import delete_orphans, deliver, depth, emit, session_ended

__all__ = ["delete_orphans", "deliver", "depth", "emit", "session_ended"]
