"""The settings, looked through."""

import os

import click

from .. import config
from .shell import blueprint


@blueprint.cli.command("check-config")
def check_config() -> None:
    """Say whether the service may start.

    Exit 1 with every problem of the settings where it may not. A variable that is all but called like a
    setting, and so sets nothing, is named on standard error.

    Without starting: nobody is asked over a network, and nothing listens.
    """
    # Whoever looks for this command has had the settings read: with a problem it is never found.
    for name, meant in config.misspelt(os.environ).items():
        click.echo(f"{name} is no setting. Is {meant} meant?", err=True)
    click.echo("The settings are good.")
