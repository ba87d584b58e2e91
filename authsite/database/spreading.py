"""Where each table goes once Citus spreads them over machines, and what has to be done to bring it there.

What is one user's lies on one machine, beside the user. An address, a counter and what works once have no
user to go by, and are spread by themselves. What waits to be sent stays on the coordinator.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, ForeignKeyConstraint, Table, inspect, text

from . import Base, engine, faults, is_sqlite, transactional_engine

# The column whose value tells the machine; None: the table stays on the coordinator. Each table stands here.
SPREAD_BY: dict[str, str | None] = {
    "users": "id",
    "account_events": "user_id",
    "authenticator_apps": "user_id",
    "email_changes": "user_id",
    "mail_quotas": "user_id",
    "passkeys": "user_id",
    "password_resets": "user_id",
    "recovery_codes": "user_id",
    "trusted_browsers": "user_id",
    "user_sessions": "user_id",
    "user_emails": "email",
    "sign_in_failures": "key",
    "spent_tokens": "digest",
    # They are taken under a lock by whoever comes first, which Citus has for one machine only.
    "outgoing_events": None,
    "outgoing_mails": None,
    # They live for a day, and are looked for by their id and by their address.
    "registrations": None,
}

NOT_POSTGRESQL = (
    "The database is SQLite, which is one file: only PostgreSQL with Citus spreads tables."
)
NO_CITUS = "This database has no Citus. On its coordinator, as a superuser: CREATE EXTENSION citus"
NOT_DONE = "The database shows no trace of what was just done: {}"
UNLISTED = (
    "Accounts whose address is kept for another one: {}. Nobody could sign in to them any more. "
    "Run this again once the addresses are free; nothing has been changed."
)


class Refused(Exception):
    """The tables cannot be spread; why is a sentence for the operator."""


class Step(NamedTuple):
    """What is done in one transaction, in words and in SQL."""

    says: str
    statements: tuple[str, ...]


class Key(NamedTuple):
    """A primary key or another constraint that rows are unique by."""

    name: str
    columns: tuple[str, ...]


class Tables(NamedTuple):
    """What the database tells of the tables: by which column they are spread, and their constraints."""

    spread: dict[str, str]
    primary: dict[str, Key]
    unique: dict[str, list[Key]]
    # The names of the foreign keys, by table.
    foreign: dict[str, set[str]]


def remaining() -> list[Step]:
    """Return what is still to be done, nothing where all tables are where they should be; raise Refused."""
    require_citus()
    with engine().connect() as connection:
        return plan(_read(connection))


def take_step(after: Step | None = None) -> Step | None:
    """Do what comes next and return it, None where nothing is left; raise Refused, also for `after` itself.

    Two who do it at once take turns, and one that is cut off leaves the rest to the next.
    """
    require_citus()
    with transactional_engine().begin() as connection:
        driver_connection: Any = connection.connection.driver_connection
        usual, driver_connection.answer_timeout = driver_connection.answer_timeout, None
        try:
            connection.execute(_TAKE_TIME)
            connection.execute(_TAKE_TURNS)
            steps = plan(_read(connection))
            if steps and steps[0] == after:
                raise Refused(NOT_DONE.format(after.says))
            for statement in steps[0].statements if steps else ():
                connection.exec_driver_sql(statement)
                if statement == _LIST_ADDRESSES and (left := connection.scalar(_UNLISTED)):
                    raise Refused(UNLISTED.format(left))
        finally:
            driver_connection.answer_timeout = usual
    return steps[0] if steps else None


def require_citus() -> None:
    """Raise Refused unless this is PostgreSQL with Citus and the tables of this version."""
    if is_sqlite():
        raise Refused(NOT_POSTGRESQL)
    with engine().connect() as connection:
        if connection.execute(_CITUS).first() is None:
            raise Refused(NO_CITUS)
    if fault := faults.of_tables():
        raise Refused(fault)


def plan(tables: Tables) -> list[Step]:
    """Return the steps from what is there to what SPREAD_BY says, in their order."""
    moving = [each for each in Base.metadata.sorted_tables if _is_to_move(each, tables)]
    return [
        *_loosening(tables),
        *(_spreading(each, SPREAD_BY[each.name] or "", tables) for each in moving),
        *_fastening(moving, tables),
    ]


def _is_to_move(table: Table, tables: Tables) -> bool:
    return SPREAD_BY[table.name] is not None and table.name not in tables.spread


def _loosening(tables: Tables) -> list[Step]:
    """Return the step that drops the foreign keys which are in the way, if any is."""
    statements = []
    for table in Base.metadata.sorted_tables:
        for key in _foreign_keys(table):
            is_in_place = {table.name, key.referred_table.name} <= tables.spread.keys()
            if key.name in tables.foreign[table.name] and not is_in_place:
                statements.append(f"ALTER TABLE {table.name} DROP CONSTRAINT {key.name}")
    said = "foreign keys: dropped, for rows that do not lie together cannot have them"
    return [Step(said, tuple(statements))] if statements else []


def _spreading(table: Table, column: str, tables: Tables) -> Step:
    """Return the step that makes the table's keys hold the column, and spreads it."""
    name, primary = table.name, tables.primary[table.name]
    said = [f"{name}: spread by {column}"]
    statements = [_LIST_ADDRESSES] if name == "users" else []
    for key in (primary, *tables.unique[name]):
        if column in key.columns:
            continue
        statements.append(f"ALTER TABLE {name} DROP CONSTRAINT {key.name}")
        columns = ", ".join((column, *key.columns))
        # Beside what is unique by itself, several columns are so anyway.
        if primary.columns != (column,):
            kind = "PRIMARY KEY" if key is primary else "UNIQUE"
            statements.append(f"ALTER TABLE {name} ADD CONSTRAINT {key.name} {kind} ({columns})")
            said.append(f"{kind.lower()} ({columns})")
        index, indexed = "_".join(("ix", name, *key.columns)), ", ".join(key.columns)
        statements.append(f"CREATE INDEX {index} ON {name} ({indexed})")
        said.append(f"index ({indexed})")
    beside = "users" if column == "user_id" else "none"
    statements += [
        f"SELECT create_distributed_table('{name}', '{column}', colocate_with => '{beside}')",
        # The rows have been copied: what is left here is read by nobody and outlives its deletion.
        f"SELECT truncate_local_data_after_distributing_table('{name}')",
    ]
    return Step("; ".join(said), tuple(statements))


def _fastening(moving: Sequence[Table], tables: Tables) -> list[Step]:
    """Return the steps that bring back the foreign keys between rows that lie together."""
    steps = []
    for table in Base.metadata.sorted_tables:
        for key in _foreign_keys(table):
            has_it = key.name in tables.foreign[table.name] and table not in moving
            if has_it or not _lies_together(key):
                continue
            column, referred = key.elements[0].parent, key.elements[0].column
            statement = (
                f"ALTER TABLE {table.name} ADD CONSTRAINT {key.name} FOREIGN KEY ({column.name}) "
                f"REFERENCES {referred.table.name} ({referred.name}) ON DELETE {key.ondelete}"
            )
            said = f"{table.name}: foreign key ({column.name}) to {referred.table.name}"
            steps.append(Step(said, (statement,)))
    return steps


def _foreign_keys(table: Table) -> list[ForeignKeyConstraint]:
    return sorted(table.foreign_key_constraints, key=lambda key: str(key.name))


def _lies_together(key: ForeignKeyConstraint) -> bool:
    """Return whether both ends are what their tables are spread by."""
    (element,) = key.elements
    ends = (element.parent, element.column)
    return all(SPREAD_BY[each.table.name] == each.name for each in ends)


def _read(connection: Connection) -> Tables:
    seen, names = inspect(connection), list(SPREAD_BY)
    primary = {
        name: Key(str(key["name"]), tuple(key["constrained_columns"]))
        for (_, name), key in seen.get_multi_pk_constraint(filter_names=names).items()
    }
    unique = {
        name: [Key(str(key["name"]), tuple(key["column_names"])) for key in keys]
        for (_, name), keys in seen.get_multi_unique_constraints(filter_names=names).items()
    }
    foreign = {
        name: {str(key["name"]) for key in keys}
        for (_, name), keys in seen.get_multi_foreign_keys(filter_names=names).items()
    }
    spread = {row.name: row.distribution_column for row in connection.execute(_SPREAD)}
    return Tables(spread, primary, unique, foreign)


_TAKE_TIME = text("SET LOCAL statement_timeout = 0")
_TAKE_TURNS = text("SELECT pg_advisory_xact_lock(6241957331)")
_CITUS = text("SELECT extversion FROM pg_extension WHERE extname = 'citus'")
_SPREAD = text(
    "SELECT table_name::text AS name, distribution_column FROM citus_tables "
    "WHERE citus_table_type = 'distributed'"
)
# Those of accounts that code of an older release has made: from now on an address is found in the list alone.
_LIST_ADDRESSES = (
    "INSERT INTO user_emails (email, user_id) SELECT email, id FROM users "
    "ON CONFLICT (email) DO UPDATE SET user_id = excluded.user_id, kept_until = NULL "
    "WHERE user_emails.kept_until < now()"
)
_UNLISTED = text(
    "SELECT count(*) FROM users WHERE NOT EXISTS (SELECT FROM user_emails AS listed WHERE "
    "listed.email = users.email AND listed.user_id = users.id AND listed.kept_until IS NULL)"
)
