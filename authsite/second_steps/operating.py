"""What an operator does about somebody's second step."""

from .. import accounts, database, events, sessions, throttling
from ..database.models import Account
from . import apps


def reset(email: str) -> Account:
    """Turn an account's two-step sign-in off, end its sessions and mail the owner; raise UnknownAccount."""
    account = accounts.find_by_email(email)
    with database.transaction():
        apps.turn_off(account.id)
        throttling.forget_second_step(account.id)
        sessions.end_all(account.id, reason="revoked")
    events.record("two_step_reset", user_id=account.id)
    return account
