"""Mail delivered once."""

import click

from ..mail import outbox
from . import worker
from .shell import blueprint, reporting


@blueprint.cli.command("send-mail")
@click.option("--loop", is_flag=True, help="The older name of `flask worker`.")
@reporting
def send_mail(loop: bool) -> None:
    """Deliver the mail that waits in the outbox."""
    if loop:
        worker.work_until_stopped()
        return
    sent, failed = outbox.deliver()
    click.echo(f"Sent {sent}, failed {failed}, waiting {outbox.depth()}.")
    raise SystemExit(1 if failed else 0)
