"""Products behind this service."""

import click
from flask import current_app

from .. import products
from .shell import blueprint


@blueprint.cli.command("forward-auth-key")
@click.argument("origin")
def forward_auth_key(origin: str) -> None:
    """Print a product's key.

    With it the product verifies what it is told of its users. ORIGIN stands in FORWARD_AUTH_ORIGINS.

    Example: flask forward-auth-key https://wiki.example.com
    """
    listed = current_app.config["FORWARD_AUTH_ORIGINS"]
    if origin not in listed:
        told = f"It lists {', '.join(sorted(listed))}." if listed else "It lists none."
        raise click.ClickException(f"FORWARD_AUTH_ORIGINS does not list this origin. {told}")
    click.echo(products.assertion_key(origin))
