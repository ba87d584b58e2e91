"""Whether the service is up, for whoever restarts or routes to it."""

from flask import Blueprint, Response, current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from . import db
from .extensions import limiter

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Answer that this process serves; nothing else is asked."""
    return Response("ok\n", mimetype="text/plain")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Answer 200 when the database and the limiter's store answer, else 503; never why."""
    if _database_answers() and _limiter_store_answers():
        return Response("ready\n", mimetype="text/plain")
    return Response("not ready\n", 503, mimetype="text/plain")


def _database_answers() -> bool:
    try:
        return db.row(text("SELECT 1")) is not None
    except SQLAlchemyError:
        return False


def _limiter_store_answers() -> bool:
    return not current_app.config["REDIS_URL"] or limiter.storage.check()
