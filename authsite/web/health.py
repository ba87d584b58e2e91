"""Whether the service is up, for whoever restarts or routes to it."""

import functools

from flask import Blueprint, Response, current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from .. import database
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
    reason = _fault_of_database() or _fault_of_limiter_store()
    news: faults.News = current_app.extensions.setdefault("readiness", faults.News("readiness"))
    news.tell(reason)
    if reason is None:
        return Response("ready\n", mimetype="text/plain")
    return Response("not ready\n", 503, mimetype="text/plain")


def _fault_of_database() -> str | None:
    try:
        rows = database.rows(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError as error:
        return faults.advice(error) or f"The database failed ({faults.describe(error)})"
    versions = {row.version_num for row in rows}
    if not versions:
        return faults.TABLES_MISSING
    # What is not known here is newer: while a release goes on, old code serves the new schema.
    return faults.TABLES_OUTDATED if versions & _older_versions() else None


@functools.cache
def _older_versions() -> frozenset[str]:
    """Return the migrations after which another one has come; each file has its migration's name."""
    numbers = (path.name.partition("_")[0] for path in database.MIGRATIONS.glob("versions/*_*.py"))
    return frozenset(sorted(numbers)[:-1])


def _fault_of_limiter_store() -> str | None:
    if not current_app.config["REDIS_URL"] or limiter.storage.check():
        return None
    return "The store of the rate limits does not answer"
