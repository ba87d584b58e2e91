"""What stands in for Citus, which no package of Debian's or Python's brings: its name among the extensions.

With it the service executes the statements that it has for Citus. They run on one PostgreSQL, which spreads
nothing: what only Citus could refuse is not seen here.
"""

import psycopg

_NAME = """
SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (99999, 'citus', 10, 'pg_catalog'::regnamespace, false, 'stand-in')
"""


def install(url: str) -> None:
    """Have the database pass for one with Citus."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _NAME.split(";"):
            connection.execute(statement)
