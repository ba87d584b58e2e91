"""The second step, for operators."""

import json

import click

from .. import second_steps
from .shell import blueprint, counted, on_account, reporting


@on_account("reset-two-step")
@click.option("--passkeys", is_flag=True, help="Remove all passkeys of the account as well.")
def reset_two_step(email: str, passkeys: bool) -> None:
    """Turn an account's two-step sign-in off.

    For who has lost phone and recovery codes: be sure who asks. All its sessions end. Its owner is told
    by mail what was taken away; where nothing was, no mail is sent.
    """
    done = second_steps.operating.reset(email, and_passkeys=passkeys)
    state = "is off" if done.was_on else "was off already"
    gone = " It has no passkeys any more." if passkeys else ""
    has_changed = done.was_on or done.passkeys_removed
    mailed = "Its owner is mailed." if has_changed else "No mail is sent: nothing was taken away."
    click.echo(
        f"Two-step sign-in {state} for {done.account.email}. All its sessions have ended.{gone} {mailed}"
    )


@blueprint.cli.command("reencrypt-secrets")
@click.option("--dry-run", is_flag=True, help="Write nothing; only count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reporting
def reencrypt_secrets(dry_run: bool, as_json: bool) -> None:
    """Seal with SECRET_KEY what an older secret sealed.

    One of SECRET_KEY_FALLBACKS, which may go afterwards.
    """
    found = second_steps.apps.reseal_all(is_dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(found | {"dry_run": dry_run}))
        return
    verb = "Would encrypt" if dry_run else "Encrypted"
    were = "was" if found["current"] == 1 else "were"
    click.echo(
        f"{verb} {counted(found['outdated'], 'secret')} anew; {found['current']} {were} current."
    )
    if found["unreadable"]:
        click.echo(f"{counted(found['unreadable'], 'secret')} can be read with no key that is set.")
