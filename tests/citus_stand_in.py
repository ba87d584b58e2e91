"""What stands in for Citus, which no package of Debian's, Python's or Node's brings.

Its name is among the extensions; the functions and the view of its that the service uses are here, in a
schema that says what they are. They write down what they are told, and refuse keys as Citus does, later DDL's
too: whatever is unique in a table that is spread, and each foreign key of it, must hold the column that it is
spread by. Nothing is spread: statements run on one PostgreSQL, which refuses none of them.
"""

import psycopg

_SETUP = """
SET allow_system_table_mods = on;

INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (99999, 'citus', 10, 'pg_catalog'::regnamespace, false, 'stand-in');

CREATE SCHEMA citus_stand_in;

CREATE TABLE citus_stand_in.citus_tables (
    table_name regclass PRIMARY KEY,
    citus_table_type text NOT NULL,
    distribution_column text NOT NULL,
    colocation_id oid NOT NULL,
    truncated boolean NOT NULL DEFAULT false
);

CREATE FUNCTION citus_stand_in.require_keys() RETURNS void LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    SELECT indexrelid::regclass INTO wrong
    FROM pg_index JOIN citus_stand_in.citus_tables ON indrelid = table_name
    WHERE indisunique AND distribution_column NOT IN (
        SELECT attname FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY (indkey)
    );
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'cannot create constraint %: it does not hold the distribution column', wrong;
    END IF;
    SELECT conname INTO wrong FROM pg_constraint
    LEFT JOIN citus_stand_in.citus_tables AS here ON here.table_name = conrelid
    LEFT JOIN citus_stand_in.citus_tables AS there ON there.table_name = confrelid
    WHERE contype = 'f' AND here.table_name IS NOT NULL AND (
        here.colocation_id IS DISTINCT FROM there.colocation_id
        OR NOT EXISTS (
            SELECT FROM unnest(conkey, confkey) AS pair (from_number, to_number)
            JOIN pg_attribute AS a ON a.attrelid = conrelid AND a.attnum = from_number
            JOIN pg_attribute AS b ON b.attrelid = confrelid AND b.attnum = to_number
            WHERE a.attname = here.distribution_column AND b.attname = there.distribution_column
        )
    );
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'cannot create foreign key constraint %: its rows do not lie together', wrong;
    END IF;
END $$;

CREATE FUNCTION citus_stand_in.create_distributed_table(
    table_name regclass, distribution_column text, colocate_with text
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM citus_stand_in.citus_tables AS t WHERE t.table_name = $1) THEN
        RAISE EXCEPTION 'table % is already distributed', table_name;
    END IF;
    INSERT INTO citus_stand_in.citus_tables VALUES (
        $1, 'distributed', $2, CASE $3 WHEN 'none' THEN $1::oid ELSE (
            SELECT t.colocation_id FROM citus_stand_in.citus_tables AS t WHERE t.table_name = $3::regclass
        ) END
    );
    PERFORM citus_stand_in.require_keys();
END $$;

CREATE FUNCTION citus_stand_in.truncate_local_data_after_distributing_table(function_name regclass)
RETURNS void LANGUAGE sql AS $$
    UPDATE citus_stand_in.citus_tables SET truncated = true WHERE table_name = function_name
$$;

CREATE FUNCTION citus_stand_in.require_keys_of_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM citus_stand_in.require_keys();
END $$;

CREATE EVENT TRIGGER citus_stand_in ON ddl_command_end
EXECUTE FUNCTION citus_stand_in.require_keys_of_ddl();
"""


def install(url: str) -> None:
    """Have the database pass for one with Citus; connections that are made from now on see it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SETUP)
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET search_path = public, citus_stand_in')
