"""Mail and webhooks delivered once, and a mail of one's own to see that it arrives."""

import click
from flask import current_app

from .. import events, webhooks
from ..mail import emails, outbox, sending
from ..web import times
from ..web.forms import EmailForm
from . import worker
from .shell import blueprint, reporting


@blueprint.cli.command("send-mail")
@click.option("--loop", is_flag=True, help="The older name of `flask worker`.")
@reporting
def send_mail(loop: bool) -> None:
    """Deliver what waits in the outbox.

    That is mail, and the events for WEBHOOK_URLS.
    """
    if loop:
        worker.work_until_stopped()
        return
    failed = _deliver_mail()
    if urls := current_app.config["WEBHOOK_URLS"]:
        webhooks.delete_orphans()
        counts = [webhooks.deliver(url) for url in urls]
        told, untold = (sum(each) for each in zip(*counts, strict=True))
        click.echo(f"Webhooks: sent {told}, failed {untold}, waiting {webhooks.depth()}.")
        failed += untold
    raise SystemExit(1 if failed else 0)


@blueprint.cli.command("send-test-mail")
@click.argument("address")
@reporting
def send_test_mail(address: str) -> None:
    """Send a mail to an address at once.

    Say whether the mail server has taken it, or its answer.
    """
    with current_app.test_request_context():
        to = EmailForm.from_members({"email": address}).email.data or ""
    try:
        sending.send(emails.compose(emails.test(), email=to, first_name=None))
    except OSError as error:
        answer = sending.answer_in(error)
        events.record("mail", outcome="error", mail="test", error=type(error).__name__)
        says = f"\nIt says: {answer.text}" if answer else ""
        raise click.ClickException(sending.explain(error) + says) from None
    events.record("mail", mail="test")
    click.echo(sending.taken(f"the mail for {to}"))


def _deliver_mail() -> int:
    """Deliver what is due, say what came of it, and return how many mails could not be sent."""
    said: set[str] = set()

    def say_once(error: Exception) -> None:
        # When it happens: with a server that hangs, each mail takes its time.
        if (reason := sending.explain(error)) not in said:
            said.add(reason)
            click.echo(reason)

    sent, failed = outbox.deliver(on_failure=say_once)
    click.echo(f"Sent {sent}, failed {failed}, waiting {outbox.depth()}.")
    if due_at := outbox.next_due_at():
        click.echo(f"The next try is at {times.iso(due_at)}, by `flask worker` or this command.")
    return failed
