"""Rows by the million, written by PostgreSQL itself: ages, ends and ids as the verbs would have left them."""

import shutil
import tempfile
from typing import NamedTuple

import psycopg
from argon2 import PasswordHasher
from flask_migrate import upgrade
from sqlalchemy.engine import make_url

from authsite import create_app, database
from authsite.crypto import hashing
from tests import services

PASSWORD = "three random words"
USER_AGENT = "curl/8.9.1"
STRETCH = 5_000_000
LEAST_FREE = 12_000_000_000


class Scale(NamedTuple):
    """So many sessions, the oldest `days` old; those beyond about `keep_days` are dead for good.

    And so many events of activity, the oldest twice as old as they are kept.
    """

    users: int
    sessions: int
    days: float = 6
    keep_days: float = 45
    events: int = 0


def migrate(url: str, revision: str = "head") -> None:
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
    with app.app_context():
        upgrade(revision=revision)
        database.engine().dispose()


def fill(
    url: str, scale: Scale, *, hasher: PasswordHasher = hashing.HASHER, revision: str = "head"
) -> None:
    """Migrate an empty PostgreSQL database and fill it; every account has PASSWORD.

    Of a user's sessions every second one has ended, and those were of the device that the workloads sign in
    with: its owner is not told of it. The indexes are made afterwards and foreign keys are
    not asked: ten million rows take minutes instead of an hour, and the tables are the same.
    """
    migrate(url, revision)
    with psycopg.connect(driverless(url), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute(FUNCTIONS)
        connection.execute(USERS, {"users": scale.users, "hash": hasher.hash(PASSWORD)})
        if revision == "head":
            connection.execute(
                "INSERT INTO user_emails (email, user_id) SELECT email, id FROM users"
            )
        index = connection.execute(INDEX).fetchone()
        assert index is not None
        connection.execute(f"DROP INDEX {index[0]}")
        connection.execute(SESSIONS, scale._asdict())
        connection.execute(index[1])
        if scale.events:
            _fill_events(connection, scale)
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _fill_events(connection: psycopg.Connection, scale: Scale) -> None:
    """Write the events by stretches, and stop before the disk is full: a hundred million take 25 GB."""
    connection.execute(f"DROP INDEX {EVENTS_INDEX}")
    connection.execute(f"ALTER TABLE account_events DROP CONSTRAINT {EVENTS_KEY}")
    # Emptied in the same transaction, the table needs no log where `wal_level` is minimal.
    with connection.transaction():
        connection.execute("TRUNCATE account_events")
        for first in range(0, scale.events, STRETCH):
            if shutil.disk_usage(tempfile.gettempdir()).free < LEAST_FREE:
                raise SystemExit(f"The disk is nearly full after {first:,} events: try --events 5")
            last = min(scale.events, first + STRETCH) - 1
            connection.execute(EVENTS, scale._asdict() | {"first": first, "last": last})
    connection.execute(f"ALTER TABLE account_events ADD CONSTRAINT {EVENTS_KEY} PRIMARY KEY (id)")
    connection.execute(f"CREATE INDEX {EVENTS_INDEX} ON account_events (user_id, id)")


def driverless(url: str) -> str:
    """Return the URL as psycopg itself reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


# A version 7 UUID of a moment, made of a number instead of chance, for which PostgreSQL would ask the kernel
# at each row: that was most of the time. A user's is a function of its number.
FUNCTIONS = """
CREATE FUNCTION pg_temp.id_of(milliseconds bigint, number bigint) RETURNS uuid LANGUAGE sql AS $$
    SELECT overlay(overlay(md5(number::text) PLACING lpad(to_hex(milliseconds), 12, '0') || '7' FROM 1)
                   PLACING '8' FROM 17)::uuid
$$;
CREATE FUNCTION pg_temp.id_at(moment timestamptz, number bigint) RETURNS uuid LANGUAGE sql AS $$
    SELECT pg_temp.id_of((date_part('epoch', moment) * 1000)::bigint, number)
$$;
CREATE FUNCTION pg_temp.user_id(number bigint) RETURNS uuid LANGUAGE sql AS $$
    SELECT pg_temp.id_of(1577836800000 + number, number)
$$;
"""

USERS = """
INSERT INTO users (id, email, first_name, password_hash, password_changed_at, created_at, updated_at)
SELECT pg_temp.user_id(n), 'user' || n || '@example.com', 'Ada', %(hash)s, t, t, t
FROM generate_series(0, %(users)s - 1) n, (SELECT '2020-01-01Z'::timestamptz) moment (t)
"""

INDEX = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
FROM pg_index WHERE indrelid = 'user_sessions'::regclass AND NOT indisprimary
"""

EVENTS_INDEX, EVENTS_KEY = "ix_account_events_user_id_id", "pk_account_events"
EVENTS = """
INSERT INTO account_events (id, user_id, kind, created_at, device_name, ip_address)
SELECT pg_temp.id_at(t, n), pg_temp.user_id(n %% %(users)s),
    'signed_in', t, 'curl', '203.0.113.7'
FROM generate_series(%(first)s::bigint, %(last)s) n,
    LATERAL (SELECT now() - 180 * (1 - n / %(events)s::float8) * interval '1 day') moment (t)
"""

# Oldest first, as time would have written them. Between keep_days and a week on either side of it the dead
# stand between the living, as they do in life.
SESSIONS = """
INSERT INTO user_sessions (
    id, user_id, entrance, refresh_jti, rotated_at, device_id, device_name, browser, device_type, ip_address,
    user_agent, created_at, last_used_at, expires_at, absolute_expires_at, ended_at, end_reason
)
SELECT
    pg_temp.id_at(created_at, number),
    pg_temp.user_id(number %% %(users)s), 'api',
    left(md5('jti' || number), 22),
    used_at, CASE WHEN ended_at IS NOT NULL THEN 'app of user' || number %% %(users)s || '@example.com' END,
    'curl', 'curl', 'cli', '203.0.113.7', 'curl/8.9.1',
    created_at, used_at, least(used_at + interval '7 days', created_at + interval '30 days'),
    created_at + interval '30 days', ended_at, CASE WHEN ended_at IS NOT NULL THEN 'logged_out' END
FROM (
    SELECT *,
        CASE WHEN is_dead THEN created_at
             WHEN age > 30 THEN now() - interval '29 days'
             ELSE greatest(created_at, now() - interval '2 hours') END AS used_at,
        CASE WHEN is_dead AND is_second THEN created_at + interval '1 hour'
             WHEN is_dead THEN NULL
             WHEN age > 30 THEN now() - interval '29 days'
             WHEN is_second THEN greatest(created_at, now() - interval '1 hour') END AS ended_at
    FROM (
        SELECT number, age, now() - age * interval '1 day' AS created_at,
            (number / %(users)s) %% 2 = 1 AS is_second,
            age + (number * 7919 %% 1000) * 0.014 - 7 > %(keep_days)s AS is_dead
        FROM (
            SELECT number, %(days)s * (1 - number / %(sessions)s::float8) AS age
            FROM generate_series(0, %(sessions)s::bigint - 1) number
        ) aged
    ) dated
) used
"""
