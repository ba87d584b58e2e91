"""The hot paths at ten thousand, a million and ten million sessions: their work must not grow.

Each session comes with ten events of activity: a hundred million beside the ten.

The three databases stand side by side and take turns. Measured are the verbs, without Flask and without the
password's hash, which would hide growth behind work that is the same at every size; a request takes longer
and so grows less. Prints, for each statement as the service sends it, the pages that it touches at each
size, the milliseconds that PostgreSQL needs at the largest, and whether all of it goes by index: a tree that
has grown by a level or two costs a page or two more each time that it is descended. Then the medians.
"""

import argparse
import contextlib
import functools
import logging
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import psycopg
from flask import Flask
from sqlalchemy import text, true

from authsite import (
    accounts,
    activity,
    chores,
    clock,
    create_app,
    database,
    exports,
    outboxes,
    sessions,
)
from authsite.api import services as products
from authsite.crypto import tokens
from authsite.database.models import OutgoingEvent, OutgoingMail
from tests import services
from tests.bench import rows, sites

SIZES = (10_000, 1_000_000, 10_000_000)
MOST = 1.3
OLD_ROWS = 10_000
MOST_MS_OF_A_LONG_LIST = 50
MOST_LEVELS = 2  # that a B-tree may have grown by
LOOKS = 5
FEW_PAGES = 50  # of a table that is smaller no index is missed
SMALL_BATCH = 200
WEBHOOK_URL = "https://product.example.com/events"


class Picked(NamedTuple):
    """A live session of the API, whose it is, and a browser's session of the same user."""

    id: uuid.UUID
    user_id: uuid.UUID
    refresh_jti: str
    email: str
    page: sessions.Grant


def main() -> None:
    options = _options()
    print(sites.machine())
    with ExitStack() as stack:
        server = stack.enter_context(
            services.postgresql_server(
                *("-c", "shared_buffers=2GB", "-c", "max_wal_size=4GB", "-c", "autovacuum=off"),
                *("-c", "wal_level=minimal", "-c", "max_wal_senders=0"),
            )
        )
        apps = {}
        for size in options.sizes:
            url = stack.enter_context(services.new_database(server.url))
            begun = time.monotonic()
            events = size * options.events
            rows.fill(url, rows.Scale(_users(size), size, days=30, keep_days=25, events=events))
            _fill_beside(url, _users(size))
            took = time.monotonic() - begun
            print(f"{size:>12,} sessions, {events:,} events, loaded in {took:.0f} s", flush=True)
            apps[size] = stack.enter_context(_application(url))
        _show_plans(apps)
        _compare(apps, options.calls)
        largest = options.sizes[-1]
        with apps[largest].app_context():
            picked = _pick(1, largest)[0]
        _show_user_of_many_rows(apps[largest], picked)


def _fill_beside(url: str, users: int) -> None:
    """Give each second user a row of everything that waits or will be over one day; none of it is due."""
    with psycopg.connect(rows.driverless(url), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(rows.FUNCTIONS)
        for statement in BESIDE:
            connection.execute(statement, {"count": users // 2})
        connection.execute("VACUUM ANALYZE")


def _users(size: int) -> int:
    return max(100, size // 10)


@contextmanager
def _application(url: str):
    app = create_app({"DATABASE_URL": url, "SECRET_KEY": services.SECRET_KEY})
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    logging.disable(logging.INFO)  # each sign-in and rotation would print a line
    with app.app_context():
        yield app
        database.engine().dispose()


def _compare(apps: dict[int, Flask], calls: int) -> None:
    """Time each verb on sessions picked at random, one size after another, and print the medians."""
    times: dict[str, dict[int, list[float]]] = {name: {s: [] for s in apps} for name in VERBS}
    for turn in range(6):
        for size, app in apps.items():
            with app.app_context():
                picked = _pick(calls // 5, size)
                for each in picked:  # what is timed is the work, not the disk
                    for name in WARMING:
                        VERBS[name](each)
                for name, verb in VERBS.items():
                    took = [_microseconds(verb, each) for each in picked]
                    if turn:  # the first turn warms up
                        times[name][size] += took
    for name, of_sizes in times.items():
        medians = {size: median(took) for size, took in of_sizes.items()}
        growth = max(medians.values()) / medians[min(medians)]
        print(
            f"{name:10} "
            + "  ".join(f"{size:>10,}: {took:6.0f} us" for size, took in medians.items())
            + f"  x {growth:.2f} {'met' if growth <= MOST else 'MISSED'}"
        )


def _microseconds(verb: Callable[[Picked], object], picked: Picked) -> float:
    begun = time.perf_counter()
    verb(picked)
    return (time.perf_counter() - begun) * 1e6


def _pick(count: int, size: int) -> list[Picked]:
    """Return live sessions, each the oldest of a user picked at random, and sign a browser in beside each."""
    picked = []
    for _ in range(count):
        email = f"user{random.randrange(_users(size))}@example.com"
        found = database.row(_PICK, {"email": email, "now": clock.now()})
        if found is not None:
            page = _sign_in(email, entrance="page", device_id=None)
            picked.append(Picked(*found, page))
    return picked


def _sign_in(email: str, *, entrance: str, device_id: str | None) -> sessions.Grant:
    """Do what a sign-in does but for the hash."""
    holder = accounts._holder(email)
    found = database.row(
        accounts._BY_ID_WITH_FAILURES, {"user_id": holder.id, "counter": b"nobody"}
    )
    assert found is not None
    return sessions.start(
        accounts._account(found),
        password_changed_at=found.password_changed_at,
        client=sessions.Client("203.0.113.7", rows.USER_AGENT, device_id),
        entrance=entrance,
    )


def _log_in(picked: Picked) -> object:
    """Sign in from a device that was seen before."""
    return _sign_in(picked.email, entrance="api", device_id=f"app of {picked.email}")


def _introspect(picked: Picked) -> object:
    token = tokens.access_token(user_id=picked.user_id, session_id=picked.id, issued_at=clock.now())
    answer = products.introspection(token, "bench")
    assert answer["active"]
    return answer


def _page(picked: Picked) -> object:
    assert picked.page.cookie_secret is not None
    return sessions.resume_page(picked.page.session_id, picked.user_id, picked.page.cookie_secret)


VERBS: dict[str, Callable[[Picked], object]] = {
    "me": lambda picked: sessions.resume_api(picked.id, picked.user_id),
    "page": _page,
    "forward": lambda picked: sessions.resume_product(picked.page.session_id, picked.user_id),
    "introspect": _introspect,
    "list": lambda picked: sessions.resume_api_with_all(picked.id, picked.user_id),
    "refresh": lambda picked: sessions.rotate(picked.id, picked.user_id, picked.refresh_jti),
    "login": _log_in,
    "activity": lambda picked: activity.feed(picked.user_id, limit=50),
}
WARMING = ("me", "list", "activity")
RECENT = {"ended": lambda picked: sessions.recently_ended_for(picked.user_id)}


def _wrong_password(picked: Picked) -> None:
    activity.record_failure(picked.user_id, has_filled=False)


def _clean_up_sessions(_picked: Picked) -> object:
    before = clock.now() - timedelta(days=20)
    return next(sessions.delete_dead(before, batch_size=SMALL_BATCH), None)


def _clean_up_activity(_picked: Picked) -> object:
    before = clock.now() - timedelta(days=100)
    return next(activity.delete_old(before, batch_size=SMALL_BATCH), None)


def _first_batch(chore: chores.Chore) -> Callable[[Picked], object]:
    return lambda _picked: next(chore.batches(clock.now() - chores.KEEP), None)


# What is not called so often that its time would matter, but must not read a table from end to end.
OTHERS: dict[str, Callable[[Picked], object]] = {
    **RECENT,
    "wrong password": _wrong_password,
    "export": lambda picked: list(exports._document(picked.user_id, clock.now())),
    "clean-up of sessions": _clean_up_sessions,
    "clean-up of activity": _clean_up_activity,
    **{
        f"chore {each.name}": _first_batch(each)
        for each in (*chores.BESIDE_SESSIONS, *chores.HOURLY)
    },
    "mails due": lambda _picked: outboxes.claim(OutgoingMail, true()),
    "webhooks due": lambda _picked: outboxes.claim(OutgoingEvent, OutgoingEvent.url == WEBHOOK_URL),
}

_PICK = text(
    "SELECT s.id, s.user_id, s.refresh_jti, u.email FROM users u"
    " JOIN user_sessions s ON s.user_id = u.id"
    " WHERE u.email = :email AND u.is_active AND s.refresh_jti IS NOT NULL"
    " AND s.ended_at IS NULL AND s.expires_at > :now ORDER BY s.id LIMIT 1"
)


class Look(NamedTuple):
    """What one statement cost: pages, milliseconds, descents of an index, and tables read from end to end."""

    pages: float
    milliseconds: float
    descents: float
    scanned: frozenset[str]


def _show_plans(apps: dict[int, Flask]) -> None:
    """Print what each statement costs at each size, and whether it grows with the tables."""
    found: dict[tuple[str, str], dict[int, Look]] = {}
    for size, app in apps.items():
        with app.app_context():
            picked = _pick(LOOKS, size)
            for name, verb in (VERBS | OTHERS).items():
                looks: dict[str, list[Look]] = {}
                for each in picked:
                    for label, look in _looks(app, functools.partial(verb, each)):
                        looks.setdefault(label, []).append(look)
                for label, several in looks.items():
                    found.setdefault((name, label), {})[size] = _median(several)
    for (name, label), of_sizes in found.items():
        pages = " ".join(f"{look.pages:6.0f}" for look in of_sizes.values())
        smallest, largest = of_sizes[min(of_sizes)], of_sizes[max(of_sizes)]
        grown = largest.pages - smallest.pages
        # Of many rows some lie beside each other in a small table.
        allowed = MOST_LEVELS * largest.descents + smallest.pages / 10
        if largest.scanned:
            verdict = f"MISSED: reads all of {', '.join(sorted(largest.scanned))}"
        else:
            verdict = "met" if grown <= allowed else f"MISSED: {allowed:.0f} are allowed"
        print(
            f"{name:24} {label:34} pages {pages} {grown:+4.0f}, {largest.milliseconds:7.2f} ms  {verdict}",
            flush=True,
        )


def _median(looks: list[Look]) -> Look:
    pages, milliseconds, descents = (median(each[place] for each in looks) for place in range(3))
    return Look(pages, milliseconds, descents, looks[0].scanned)


def _looks(app: Flask, work: Callable[[], object]) -> Iterator[tuple[str, Look]]:
    """Yield each statement that the work sends, by name and number, and what it costs."""
    with psycopg.connect(_dsn(app)) as connection:
        for number, (statement, values) in enumerate(_sent_by(work), 1):
            if statement.split()[0] not in ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE"):
                continue
            explained = connection.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}", values
            ).fetchone()
            assert explained is not None
            yield f"{number} {_label(statement)}", _read(connection, explained[0][0])
        connection.rollback()


def _label(statement: str) -> str:
    table = re.search(r"(?:INSERT INTO|UPDATE|FROM) (?!SKIP)([a-z_]+)", statement)
    return f"{statement.split(maxsplit=1)[0]} {table[1] if table else ''}"


def _read(connection: psycopg.Connection, explained: dict[str, Any]) -> Look:
    plan, descents, scanned = explained["Plan"], 0.0, set()
    for node in _nodes(plan):
        if "Index Name" in node:
            each = node["Actual Rows"] if "ANY" in node.get("Index Cond", "") else 1
            descents += node["Actual Loops"] * max(1, each)
        elif node["Node Type"] == "Seq Scan" and _pages(node) > FEW_PAGES:
            scanned.add(node["Relation Name"])
        elif node.get("Operation") in ("Insert", "Update"):
            written = max(1, node["Actual Rows"])
            descents += written * _index_count(connection, node["Relation Name"])
    return Look(_pages(plan), explained["Execution Time"], descents, frozenset(scanned))


def _pages(node: dict[str, Any]) -> int:
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


def _index_count(connection: psycopg.Connection, table: str) -> int:
    found = connection.execute(
        "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass", (table,)
    ).fetchone()
    assert found is not None
    return int(found[0])


def _sent_by(work: Callable[[], object]) -> list[tuple[str, Any]]:
    """Return the statements that the work sends, with their values, as the driver gets them."""
    sent: list[tuple[str, Any]] = []
    execute = psycopg.Cursor.execute

    def note(cursor: Any, statement: Any, values: Any = None, **options: Any) -> Any:
        sent.append((statement.decode() if isinstance(statement, bytes) else statement, values))
        return execute(cursor, statement, values, **options)

    with (
        mock.patch.object(psycopg.Cursor, "execute", note),
        contextlib.suppress(_Undo),
        database.transaction(),
    ):
        work()
        raise _Undo
    return sent


class _Undo(Exception):
    """Takes back what was only done to be looked at."""


def _show_user_of_many_rows(app: Flask, picked: Any) -> None:
    """Give one user 10,000 rows that ended or expired, and time what reads that user's rows."""
    with app.app_context():
        with psycopg.connect(_dsn(app), autocommit=True) as connection:
            connection.execute(rows.FUNCTIONS)
            for ended in ("now() - interval '8 days'", "NULL"):
                connection.execute(
                    MANY.format(ended=ended), {"user": picked.user_id, "count": OLD_ROWS // 2}
                )
            connection.execute("ANALYZE user_sessions")
        print()
        for name, verb in (VERBS | RECENT).items():
            if name == "refresh":
                continue
            took = median(_microseconds(verb, picked) for _ in range(15)) / 1000
            verdict = "met" if took < MOST_MS_OF_A_LONG_LIST else "MISSED"
            print(f"a user with {OLD_ROWS:,} old rows, {name}: {took:.1f} ms {verdict}")


MANY = """
INSERT INTO user_sessions (id, user_id, entrance, refresh_jti, device_name, browser, device_type,
    created_at, last_used_at, expires_at, absolute_expires_at, ended_at, end_reason)
SELECT pg_temp.id_at(t, n), %(user)s, 'api',
    md5(n::text), 'curl', 'curl', 'cli', t, t, t + interval '7 days', t + interval '30 days',
    {ended}, CASE WHEN {ended} IS NOT NULL THEN 'logged_out' END
FROM generate_series(1, %(count)s) n, LATERAL (SELECT now() - interval '9 days' - n * interval '2 min') m (t)
"""


BESIDE = (
    """
    INSERT INTO password_resets (id, user_id, created_at, expires_at)
    SELECT md5(n::text), pg_temp.user_id(n), t, t + interval '1 hour'
    FROM generate_series(0, %(count)s - 1) n, LATERAL (SELECT now() - n %% 29 * interval '1 day') m (t)
    """,
    """
    INSERT INTO sign_in_failures (key, recent, window_ends_at, consecutive)
    SELECT sha256(n::text::bytea), 1, now() - n %% 29 * interval '1 day', 1
    FROM generate_series(0, %(count)s - 1) n
    """,
    """
    INSERT INTO registrations (id, email, password_hash, first_name, created_at, expires_at)
    SELECT md5(n::text), 'claim' || n || '@example.com', 'none', 'Ada', now(), now() + interval '1 day'
    FROM generate_series(0, %(count)s - 1) n
    """,
    """
    INSERT INTO email_changes (id, user_id, old_email, new_email, old_was_verified, created_at,
        expires_at, confirmed_at, undo_until)
    SELECT md5(n::text), pg_temp.user_id(n), 'old' || n || '@example.com', 'user' || n || '@example.com',
        true, t, t + interval '1 day', t, t + interval '7 days'
    FROM generate_series(0, %(count)s - 1) n, LATERAL (SELECT now() - n %% 29 * interval '1 day') m (t)
    """,
    """
    INSERT INTO user_emails (email, user_id, kept_until)
    SELECT 'old' || n || '@example.com', pg_temp.user_id(n), now() + interval '3 days'
    FROM generate_series(0, %(count)s / 10) n
    """,
    """
    INSERT INTO trusted_browsers (user_id, digest, device_name, created_at, expires_at)
    SELECT pg_temp.user_id(n), sha256(n::text::bytea), 'curl', now(), now() + interval '20 days'
    FROM generate_series(0, %(count)s - 1) n
    """,
    """
    INSERT INTO mail_quotas (user_id, kind, sent, window_ends_at)
    SELECT pg_temp.user_id(n), 'new_device', 1, now() + interval '20 hours'
    FROM generate_series(0, %(count)s - 1) n
    """,
    """
    INSERT INTO spent_tokens (digest, expires_at)
    SELECT sha256(n::text::bytea), now() + interval '3 hours' FROM generate_series(0, %(count)s - 1) n
    """,
    """
    INSERT INTO outgoing_mails (id, user_id, name, facts, created_at, due_at)
    SELECT pg_temp.id_at(now(), n), pg_temp.user_id(n), 'new_device', '{}', now(), now() + interval '3 hours'
    FROM generate_series(0, %(count)s - 1) n
    """,
    f"""
    INSERT INTO outgoing_events (id, user_id, url, kind, facts, created_at, due_at)
    SELECT pg_temp.id_at(now(), n), pg_temp.user_id(n), '{WEBHOOK_URL}', 'user.updated', '{{}}', now(),
        now() + interval '3 hours'
    FROM generate_series(0, %(count)s - 1) n
    """,
    """
    UPDATE users SET is_active = false, delete_after = now() + interval '3 days'
    WHERE id IN (SELECT pg_temp.user_id(n * 97) FROM generate_series(1, %(count)s / 100) n)
    """,
)


def _dsn(app: Flask) -> str:
    return rows.driverless(app.config["SQLALCHEMY_DATABASE_URI"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--calls", type=int, default=300, help="of each verb at each size")
    parser.add_argument("--events", type=int, default=10, help="of activity, for each session")
    return parser.parse_args()


if __name__ == "__main__":
    main()
