"""authsite: accounts, and every place where they are signed in."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from flask import Flask
from flask.json.provider import JSONProvider
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.middleware.proxy_fix import ProxyFix

from . import api, clock, commands, config, database, events, forwarding, pages, shortcuts, spelling
from .database import faults, models
from .extensions import csrf, init_migrations, mail
from .web import authentication, headers, health, limits, openapi, problems, times

__version__ = openapi.VERSION


class OrjsonProvider(JSONProvider):
    """JSON by orjson: ids as text, times as RFC 3339 in UTC, with microseconds and Z."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return orjson.dumps(
            obj, option=orjson.OPT_PASSTHROUGH_DATETIME, default=clock.rfc3339
        ).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Any:
        body = self.dumps(self._prepare_response_obj(args, kwargs))
        return self._app.response_class(body, mimetype="application/json")


class Site(Flask):
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is: there are no coroutines here to look for, seven times a request."""
        return func


def create_app(environ: Mapping[str, str] = os.environ) -> Flask:
    """Return the application that these environment variables describe; raise ConfigError."""
    settings = config.load(environ)
    app = Site(__name__)
    # A doubled slash is another address, not a redirect to the host that the request named.
    app.url_map.merge_slashes = False
    app.json = OrjsonProvider(app)
    app.config.update(settings)
    events.configure(settings["LOG_FORMAT"])
    app.wsgi_app = shortcuts.Shortcut(app)  # type: ignore[method-assign]
    headers.init_app(app)
    _trust_proxies(app, settings["TRUSTED_PROXY_HOPS"])
    app.wsgi_app = headers.Bounds(app.wsgi_app)  # type: ignore[method-assign]
    database.init_app(app)
    limits.init_app(app)
    csrf.init_app(app)
    authentication.init_app(app)
    mail.init_app(app)
    init_migrations(
        app,
        database.db,
        directory=str(database.MIGRATIONS),
        reporting=commands.shell.reporting,
    )
    times.init_app(app)
    app.add_template_filter(spelling.masked_email, "masked_email")
    app.add_template_filter(spelling.readable_email, "readable_email")
    problems.init_app(app)
    for blueprint in (
        forwarding.blueprint,
        api.blueprint,
        pages.blueprint,
        health.blueprint,
        commands.blueprint,
    ):
        app.register_blueprint(blueprint)
    if settings["MIGRATE_AT_START"]:
        _migrate(app)
    return app


def _migrate(app: Flask) -> None:
    """Bring the development database up to date, so that the first command is enough.

    Raise ConfigError where that cannot be.
    """
    try:
        with app.app_context():
            if faults.of_tables():
                from flask_migrate import upgrade  # only here: init_migrations tells why

                upgrade()
    except SQLAlchemyError as error:
        reason = faults.describe(error)
        raise config.ConfigError(
            [f"The database in instance/ cannot be used ({reason}): set DATABASE_URL"]
        ) from None


def _trust_proxies(app: Flask, hops: int) -> None:
    if hops:
        # The address that the last `hops` proxies report; nothing that a client may write. Each appends to
        # X-Forwarded-For, but only the last need set X-Forwarded-Proto: its word on the scheme counts.
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            _spelled_plainly(app.wsgi_app), x_for=hops, x_proto=1, x_host=0, x_port=0, x_prefix=0
        )


def _spelled_plainly(wsgi_app: Callable[..., Any]) -> Callable[..., Any]:
    """Read what a proxy may write: a scheme in capitals, an address with a port or in brackets."""

    def run(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.url_scheme"] = environ["wsgi.url_scheme"].lower()
        environ["REMOTE_ADDR"] = _without_port(environ.get("REMOTE_ADDR") or "")
        return wsgi_app(environ, start_response)

    return run


def _without_port(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


__all__ = ["__version__", "create_app", "models"]
