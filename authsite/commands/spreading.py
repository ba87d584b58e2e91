"""The tables, spread over machines."""

import click
from sqlalchemy.exc import DBAPIError

from ..database import faults, spreading
from .shell import blueprint, reporting

DONE_ALREADY = "The tables are distributed already: nothing is to be done."
AGAIN = "What stands above is done. Run this again for the rest."


@blueprint.cli.command("distribute-tables")
@click.option("--dry-run", is_flag=True, help="Change nothing; print the SQL.")
@reporting
def distribute_tables(dry_run: bool) -> None:
    """Spread the tables over the machines of Citus.

    By user; once, on its coordinator, while nothing serves.

    Run it again after each flask db upgrade that adds a table, and where it was cut off.
    """
    try:
        steps = spreading.remaining()
        if dry_run:
            click.echo("\n\n".join(map(_sql, steps)) or DONE_ALREADY)
            return
        done = None
        while step := spreading.take_step(after=done):
            click.echo(f"{step.says}.")
            done = step
        click.echo("Done. Restart what serves." if done else DONE_ALREADY)
    except spreading.Refused as refusal:
        raise click.ClickException(str(refusal)) from None
    except DBAPIError as error:
        # What keeps tables from being spread is said by Citus; its first line quotes no row.
        diagnosis = getattr(error.orig, "diag", None)
        said = (diagnosis and diagnosis.message_primary) or faults.describe(error)
        raise click.ClickException(f"{said}. {AGAIN}") from None


def _sql(step: spreading.Step) -> str:
    statements = "".join(f"{statement};\n" for statement in step.statements)
    return f"-- {step.says}\nBEGIN;\n{statements}COMMIT;"
