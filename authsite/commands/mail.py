"""Mail and webhooks delivered once."""

import click
from flask import current_app

from .. import webhooks
from ..mail import outbox
from . import worker
from .shell import blueprint, reporting


@blueprint.cli.command("send-mail")
@click.option("--loop", is_flag=True, help="The older name of `flask worker`.")
@reporting
def send_mail(loop: bool) -> None:
    """Deliver the mail, and the events for WEBHOOK_URLS, that wait in the outbox."""
    if loop:
        worker.work_until_stopped()
        return
    sent, failed = outbox.deliver()
    click.echo(f"Sent {sent}, failed {failed}, waiting {outbox.depth()}.")
    if urls := current_app.config["WEBHOOK_URLS"]:
        webhooks.delete_orphans()
        counts = [webhooks.deliver(url) for url in urls]
        told, untold = (sum(each) for each in zip(*counts, strict=True))
        click.echo(f"Webhooks: sent {told}, failed {untold}, waiting {webhooks.depth()}.")
        failed += untold
    raise SystemExit(1 if failed else 0)
