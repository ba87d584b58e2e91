"""The settings, looked through."""

import click

from .shell import blueprint


@blueprint.cli.command("check-config")
def check_config() -> None:
    """Say whether the service may start.

    Exit 1 with every problem of the settings where it may not.

    Without starting: nobody is asked over a network, and nothing listens.
    """
    # Whoever looks for this command has had the settings read: with a problem it is never found.
    click.echo("The settings are good.")
