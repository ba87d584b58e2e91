"""What every command stands on: the blueprint, and how a failure is told."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from flask import Blueprint
from sqlalchemy.exc import SQLAlchemyError

from ..database import faults
from ..errors import AuthsiteError, InvalidInput

blueprint = Blueprint("commands", __name__, cli_group=None)


def reporting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a refusal or a fault of the database into one line on standard error and exit 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except InvalidInput as error:
            raise click.ClickException("\n".join(text for _, text in error.errors)) from None
        except AuthsiteError as error:
            raise click.ClickException(error.message) from None
        except UnicodeError:
            raise click.ClickException("This holds a character that cannot be used.") from None
        except SQLAlchemyError as error:
            failed = f"The database failed ({faults.describe(error)})."
            # A command to copy: nothing stands behind it.
            raise click.ClickException(faults.advice(error) or failed) from None

    return run
