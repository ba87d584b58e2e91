"""Whether the service is up, for whoever restarts or routes to it."""

from flask import Blueprint, Response, current_app

from ..database import faults
from ..extensions import limiter

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Answer that this process serves; nothing else is asked."""
    return Response("ok\n", mimetype="text/plain")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Answer 200 when the database is migrated and the limiter's store answers, else 503.

    Why not stands in the log, once for each change, and never in the answer.
    """
    reason = faults.of_tables() or _fault_of_limiter_store()
    news: faults.News = current_app.extensions.setdefault("readiness", faults.News("readiness"))
    news.tell(reason)
    if reason is None:
        return Response("ready\n", mimetype="text/plain")
    return Response("not ready\n", 503, mimetype="text/plain")


def _fault_of_limiter_store() -> str | None:
    if not current_app.config["REDIS_URL"] or limiter.storage.check():
        return None
    return "The store of the rate limits does not answer"
