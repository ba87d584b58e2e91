"""Extensions, created here and bound in create_app."""

import copy
import functools
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask_limiter import Limiter
from flask_mail import Mail
from flask_sqlalchemy import SQLAlchemy
from flask_wtf.csrf import CSRFProtect
from werkzeug.local import LocalProxy
from werkzeug.utils import import_string

csrf = CSRFProtect()
limiter = Limiter(key_func=lambda: "", key_prefix="authsite", strategy="moving-window")
mail = Mail()


def init_migrations(
    app: Flask,
    db: SQLAlchemy,
    *,
    directory: str,
    reporting: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Add `flask db`, which is loaded with its settings when somebody asks for it.

    Whoever serves requests does without Alembic: measured, 10 MB and a quarter of a second of each worker.
    `reporting` tells what goes wrong in its commands, as it does in ours.
    """

    @functools.cache
    def settings() -> Any:
        from flask_migrate import Migrate

        Migrate(directory=directory).init_app(app, db)
        return app.extensions["migrate"]

    @functools.cache
    def group() -> Any:
        ours = copy.copy(import_string("flask_migrate.cli:db"))
        ours.invoke = reporting(ours.invoke)
        return ours

    app.extensions["migrate"] = LocalProxy(settings)
    commands: Any = LocalProxy(group)
    app.cli.add_command(commands, name="db")
