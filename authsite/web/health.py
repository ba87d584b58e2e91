"""Whether the service is up, for whoever restarts or routes to it."""

import functools

from flask import Blueprint, Response, current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from .. import database
from ..extensions import limiter

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Answer that this process serves; nothing else is asked."""
    return Response("ok\n", mimetype="text/plain")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Answer 200 when the database is migrated and the limiter's store answers, else 503; never why."""
    if _database_is_migrated() and _limiter_store_answers():
        return Response("ready\n", mimetype="text/plain")
    return Response("not ready\n", 503, mimetype="text/plain")


def _database_is_migrated() -> bool:
    try:
        rows = database.rows(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError:
        return False
    versions = {row.version_num for row in rows}
    # What is not known here is newer: while a release goes on, old code serves the new schema.
    return bool(versions) and not versions & _older_versions()


@functools.cache
def _older_versions() -> frozenset[str]:
    """Return the migrations after which another one has come; each file has its migration's name."""
    numbers = (path.name.partition("_")[0] for path in database.MIGRATIONS.glob("versions/*_*.py"))
    return frozenset(sorted(numbers)[:-1])


def _limiter_store_answers() -> bool:
    return not current_app.config["REDIS_URL"] or limiter.storage.check()
