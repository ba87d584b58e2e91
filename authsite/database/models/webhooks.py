"""Events that wait for a product."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from .. import Base, UtcDateTime

MAX_URL = 2048


class OutgoingEvent(Base):
    """An event on its way to one URL. Who somebody is stands nowhere here: it is read when it is sent.

    Its user may be gone by then: that is an event too, so no foreign key takes the row along.
    """

    __tablename__ = "outgoing_events"
    __table_args__ = (Index("ix_outgoing_events_url_due_at", "url", "due_at"),)

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    url: Mapped[str] = mapped_column(String(MAX_URL))
    kind: Mapped[str] = mapped_column(String(32))
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # When it may be tried; a drainer that takes it moves this ahead, which is its lease.
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
