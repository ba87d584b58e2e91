"""The clean-up: it takes every dead row that is old enough, and nothing else, whatever else is going on."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text

from authsite import clock, create_app, database, sessions
from authsite.database.models import UserSession
from tests import factories, services

# Citus has a clean-up of its own.
ALSO_SPREAD = True
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEEP = timedelta(days=30)
SESSIONS = UserSession.__table__


def days(number: float) -> timedelta:
    return timedelta(days=number)


# (age, ended how long ago, lifetime) -> whether the clean-up takes it. `before` is 30 days ago.
KINDS = {
    "live and young": ((days(1), None, days(7)), False),
    "live and very old": ((days(60), None, days(70)), False),
    "live, as old as can be": ((days(29), None, days(30)), False),
    "expired just now": ((days(7), None, days(7)), False),
    "expired 29 days ago": ((days(36), None, days(7)), False),
    "expired 30 days ago to the second": ((days(37), None, days(7)), False),
    "expired 31 days ago": ((days(38), None, days(7)), True),
    "expired a year ago": ((days(372), None, days(7)), True),
    "ended just now": ((days(5), days(0), days(7)), False),
    "ended 29 days ago": ((days(30), days(29), days(7)), False),
    "ended 31 days ago": ((days(32), days(31), days(7)), True),
    "ended 31 days ago, not yet expired": ((days(32), days(31), days(40)), True),
    "ended at once, long ago": ((days(90), days(90), days(7)), True),
    "expired long ago, ended since": ((days(90), days(1), days(7)), True),
}


@pytest.fixture
def ada(app_context):
    return factories.account()


@pytest.fixture
def ada_on_postgresql(empty_postgresql_url):
    """An account on PostgreSQL, for what is only there: row locks, and many rows in a second."""
    app = create_app({"DATABASE_URL": empty_postgresql_url, "SECRET_KEY": services.SECRET_KEY})
    app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    with app.app_context():
        yield factories.account()
        database.engine().dispose()


def clean(*, batch_size: int = 1000, is_dry_run: bool = False) -> int:
    before = clock.now() - KEEP
    batches = sessions.delete_dead(before, batch_size=batch_size, is_dry_run=is_dry_run)
    return sum(found for _, found in batches)


def left() -> set:
    return {row.id for row in database.rows(select(SESSIONS.c.id))}


def write_every_kind(ada, times: int = 1) -> tuple[set, set]:
    """Write rows of every kind; return the ids of those that stay and of those that go."""
    stay, go = set(), set()
    for (age, ended, lifetime), is_taken in KINDS.values():
        rows = factories.session_rows(ada, times, age=age, ended=ended, lifetime=lifetime)
        (go if is_taken else stay).update(row["id"] for row in rows)
    return stay, go


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_dead_and_old_rows_go(ada, kind, time_machine):
    """PR-02: ended or expired alike; the origin left those that simply expired."""
    time_machine.move_to(NOON, tick=False)
    (age, ended, lifetime), is_taken = KINDS[kind]
    [row] = factories.session_rows(ada, age=age, ended=ended, lifetime=lifetime)

    assert clean() == (1 if is_taken else 0)
    assert left() == (set() if is_taken else {row["id"]})


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_the_size_of_a_batch_changes_nothing_but_the_batches(ada, batch_size, time_machine):
    """PR-02, LD-02: the dead stand between the living, and the walk misses none."""
    time_machine.move_to(NOON, tick=False)
    stay, go = write_every_kind(ada, times=5)

    assert clean(batch_size=batch_size) == len(go)
    assert left() == stay
    assert clean(batch_size=batch_size) == 0


def test_no_batch_looks_at_more_rows_than_it_may(ada, time_machine):
    """LD-02: and none is spent on what signed in after `before`."""
    time_machine.move_to(NOON, tick=False)
    write_every_kind(ada, times=5)
    before = clock.now() - KEEP
    batches = list(sessions.delete_dead(before, batch_size=7))
    old = [kind for kind in KINDS.values() if kind[0][0] > KEEP]

    assert max(looked_at for looked_at, _ in batches) == 7
    assert sum(looked_at for looked_at, _ in batches) == 5 * len(old)


def test_a_dry_run_counts_and_deletes_nothing(ada, time_machine):
    """FA-07."""
    time_machine.move_to(NOON, tick=False)
    stay, go = write_every_kind(ada, times=3)

    assert clean(batch_size=4, is_dry_run=True) == len(go)
    assert left() == stay | go


def test_the_oldest_go_first(ada, time_machine):
    """A run that is stopped early has done the most useful part."""
    time_machine.move_to(NOON, tick=False)
    for age in (400, 300, 200, 100):
        factories.session_rows(ada, age=days(age))
    run = sessions.delete_dead(clock.now() - KEEP, batch_size=2)
    next(run)
    run.close()

    created = sorted(row.created_at for row in database.rows(select(SESSIONS.c.created_at)))
    assert created == [NOON - days(200), NOON - days(100)]


def test_the_bar_knows_how_many_rows_will_be_looked_at(ada, time_machine):
    time_machine.move_to(NOON, tick=False)
    write_every_kind(ada, times=2)
    before = clock.now() - KEEP
    looked_at = sum(each for each, _ in sessions.delete_dead(before, batch_size=5, is_dry_run=True))

    assert sessions.count_before(before) == looked_at


def test_several_runs_at_once_delete_each_row_once(ada, app, time_machine):
    """FA-06: the counts add up to the dead, nothing that lives is lost, and nobody fails."""
    time_machine.move_to(NOON, tick=False)
    stay, go = write_every_kind(ada, times=40)
    counts, failures, barrier = [], [], threading.Barrier(3)

    def run() -> None:
        with app.app_context():
            barrier.wait()
            try:
                counts.append(clean(batch_size=20))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert sum(counts) == len(go)
    assert left() == stay


@pytest.mark.postgresql
def test_rows_that_another_run_holds_are_left_to_it(ada_on_postgresql):
    """FA-06, LD-02: a run waits for nobody."""
    held = factories.session_rows(ada_on_postgresql, age=days(100))
    factories.session_rows(ada_on_postgresql, 3, age=days(90))
    with database.transactional_engine().connect() as other, other.begin():
        other.execute(select(SESSIONS).where(SESSIONS.c.id == held[0]["id"]).with_for_update())
        started = time.monotonic()
        assert clean() == 3
        assert time.monotonic() - started < 5  # lock_timeout would be 8 s

    assert left() == {held[0]["id"]}
    assert clean() == 1


def test_signing_in_and_refreshing_go_on_during_a_run(ada, app):
    """LD-02: what lives is neither locked nor lost."""
    factories.session_rows(ada, 300, age=days(100))
    held = factories.grant(ada)
    for _ in sessions.delete_dead(clock.now() - KEEP, batch_size=50):
        held = sessions.rotate(held.session_id, ada.id, held.jti)
        factories.grant(ada)

    assert sessions.resume_api(held.session_id, ada.id).account == ada
    assert len(sessions.active_for(ada.id)) == 7


_GENERATE = """
INSERT INTO user_sessions (id, user_id, entrance, refresh_jti, rotated_at, device_name, device_type,
    created_at, last_used_at, expires_at, absolute_expires_at)
SELECT
    -- As authsite.db.uuid7 makes them: 48 bits of milliseconds, the rest random.
    (lpad(to_hex((extract(epoch FROM began) * 1000)::bigint), 12, '0')
        || '7' || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15))::uuid,
    :user_id, 'api', md5(n::text), began, 'curl', 'cli',
    began, began, began + interval '7 days', began + interval '30 days'
FROM (
    SELECT n, now() - interval '400 days' + n * interval '1 second' AS began
    FROM generate_series(1, :count) AS n
) AS moments
"""


@pytest.mark.postgresql
def test_a_table_whose_size_is_not_known_yet_is_cleaned_all_the_same(ada_on_postgresql):
    """LD-02: after an import PostgreSQL may believe the table empty, and must not plan by that."""
    with database.transactional_engine().begin() as connection:
        connection.execute(text(_GENERATE), {"user_id": ada_on_postgresql.id, "count": 20_000})
        # As autovacuum does in the middle of an import: it counts none of the uncommitted rows.
        autocommit = {"isolation_level": "AUTOCOMMIT"}
        with database.engine().connect().execution_options(**autocommit) as autovacuum:
            autovacuum.execute(text("ANALYZE user_sessions"))

    assert clean(batch_size=5000) == 20_000


@pytest.mark.postgresql
def test_200_000_dead_rows_go_in_short_transactions(ada_on_postgresql):
    """LD-02: no batch holds its locks for more than 250 ms."""
    with database.transactional_engine().begin() as connection:
        connection.execute(text(_GENERATE), {"user_id": ada_on_postgresql.id, "count": 200_000})
    [live] = factories.session_rows(ada_on_postgresql)
    batches = sessions.delete_dead(clock.now() - KEEP, batch_size=5000)
    durations, deleted = [], 0
    while True:
        # A batch's look for its stretch and its DELETE together: an upper bound of its transaction.
        started = time.monotonic()
        found = next(batches, None)
        if found is None:
            break
        durations.append(time.monotonic() - started)
        deleted += found[1]

    assert deleted == 200_000
    assert len(durations) >= 40  # batches of 5000 at most
    # By the wall, on a machine that also does other things: two of the forty may meet a checkpoint.
    assert sorted(durations)[-3] < 0.25
    assert database.row(select(func.count()).select_from(SESSIONS))[0] == 1
    assert left() == {live["id"]}
