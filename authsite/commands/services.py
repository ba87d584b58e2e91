"""Services that may ask about tokens."""

import click

from .. import service_clients
from ..config.values import SERVICE_NAME
from .shell import blueprint


@blueprint.cli.command("service-client")
@click.argument("name")
def service_client(name: str) -> None:
    """Make a secret for a service.

    It is shown once, with the entry to add to SERVICE_CLIENTS. NAME is one of your choice.

    Example: flask service-client wiki
    """
    if not SERVICE_NAME.fullmatch(name):
        raise click.BadParameter("must be 1 to 64 letters, digits, dots, hyphens and underscores")
    secret = service_clients.new_secret()
    click.echo(f"Secret, for {name} alone:  {secret}")
    click.echo(f"Add to SERVICE_CLIENTS:  {name}:{service_clients.digest(secret).hex()}")
