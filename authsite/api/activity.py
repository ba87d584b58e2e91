"""Activity: the feed of what happened in one's account."""

import uuid
from typing import Any

from flask import Blueprint, request

from .. import activity
from ..database import Row
from ..database.models import EVENT_KINDS
from ..errors import InvalidInput
from ..web import authentication, limits

blueprint = Blueprint("activity", __name__)

MOST = 100
USUAL = 50


@blueprint.get("/users/me/activity")
@limits.read_activity
def list_activity() -> dict[str, Any]:
    """Return what happened, newest first, and where to go on."""
    caller = authentication.current_session()
    rows, following = activity.feed(
        caller.account.id, limit=_limit(), before=_before(), kind=_kind()
    )
    return {"events": [_event(row, current=caller.id) for row in rows], "next": following}


def _event(row: Row, *, current: uuid.UUID) -> dict[str, Any]:
    members = row._asdict()
    del members["user_id"], members["is_mailed"]
    return members | {"is_current": row.session_id == current}


def _limit() -> int:
    text = request.args.get("limit", str(USUAL))
    is_number = len(text) <= 3 and text.isascii() and text.isdigit()
    if not is_number or not 1 <= int(text) <= MOST:
        raise InvalidInput([("limit", f"limit must be a whole number from 1 to {MOST}")])
    return int(text)


def _before() -> uuid.UUID | None:
    text = request.args.get("before")
    if text is None:
        return None
    try:
        return uuid.UUID(text[:64])
    except ValueError:
        raise InvalidInput([("before", "before must be the id of an event")]) from None


def _kind() -> str | None:
    kind = request.args.get("kind")
    if kind is not None and kind not in EVENT_KINDS:
        raise InvalidInput([("kind", "kind must be one of the kinds of events")])
    return kind
