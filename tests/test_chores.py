"""What has to be done once a day: by the worker, between its mails, and by nobody else."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy import event, func, insert, select

from authsite import accounts, chores, clock, database, deletions, passwords, sessions
from authsite.database.models import (
    AccountEvent,
    MailQuota,
    PasswordReset,
    SignInFailures,
    SpentToken,
    TrustedBrowser,
    User,
    UserSession,
)
from authsite.errors import InvalidCredentials
from authsite.mail import outbox, quotas
from authsite.second_steps import pending
from tests import factories, services

READ_WHOLE = re.compile(r"(?:SCAN|Seq Scan on) (\w+)")
OLD = timedelta(days=120)
(STALE,) = (each for each in chores.CHORES if each.name == "sign_in_failures")
# Citus has a clean-up of its own.
ALSO_SPREAD = True


@pytest.fixture
def ada(app_context):
    return factories.account()


def count(model) -> int:
    return database.row(select(func.count()).select_from(model))[0]


def run_due(time_machine, after: timedelta, rota: chores.Rota) -> int:
    """Move to then and return how many batches are taken until nothing is due."""
    time_machine.move_to(clock.now() + after, tick=False)
    batches = 0
    while rota.turn():
        batches += 1
    return batches


def events_of(caplog) -> list[dict]:
    found = [each.facts for each in caplog.records if hasattr(each, "facts")]
    return [each for each in found if each["event"] == "cleanup"]


def leave_something_of_everything(ada) -> None:
    factories.session_rows(ada, 3, age=OLD)
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, "wrong password")
    pending.spend_once("test", "a token", expires_at=clock.now())


def test_trusts_and_counts_of_mail_go_once_their_time_is_over(ada, time_machine):
    """PR-01: and not before."""
    sessions.trust(ada.id, device_id=None, device_name="curl", ip_address=None)
    quotas.count(ada.id, "any")
    rota = chores.Rota()
    run_due(time_machine, timedelta(hours=2), rota)
    assert (count(TrustedBrowser), count(MailQuota)) == (1, 1)

    run_due(time_machine, timedelta(days=2), rota)
    assert (count(TrustedBrowser), count(MailQuota)) == (1, 0)

    run_due(time_machine, OLD, rota)
    assert (count(TrustedBrowser), count(MailQuota)) == (0, 0)


def test_nobody_has_to_run_the_clean_up(ada, time_machine):
    """PR-01: what README says is gone after so many days is gone without an operator's doing."""
    leave_something_of_everything(ada)
    rota = chores.Rota()
    run_due(time_machine, OLD, rota)

    left = (UserSession, PasswordReset, SignInFailures, SpentToken, AccountEvent)
    assert [count(each) for each in left] == [0, 0, 0, 0, 0]


def test_the_first_run_waits_some_minutes_and_the_next_a_day(ada, time_machine, caplog):
    rota = chores.Rota()
    assert run_due(time_machine, timedelta(minutes=2), rota) == 0
    assert run_due(time_machine, timedelta(minutes=10), rota) > 0
    assert run_due(time_machine, timedelta(hours=23), rota) == 0
    assert run_due(time_machine, timedelta(hours=2), rota) > 0
    assert [each["outcome"] for each in events_of(caplog)] == ["success", "success"]


def test_processes_that_start_together_do_not_all_clean_up_at_once(ada):
    assert len({chores.Rota()._due_at for _ in range(5)}) > 1


def test_a_chore_that_fails_is_told_once_holds_up_no_other_and_comes_again_in_an_hour(
    ada, time_machine, caplog, monkeypatch
):
    def fail(_before):
        raise ValueError(ada.email)
        yield

    leave_something_of_everything(ada)
    monkeypatch.setattr(chores, "CHORES", [chores.Chore("broken", fail), *chores.CHORES])
    rota = chores.Rota()
    run_due(time_machine, OLD, rota)
    [told] = events_of(caplog)

    assert (told["outcome"], told["failed"]) == ("error", {"broken": "ValueError"})
    assert told["chores"]["sessions"] == 3
    assert ada.email not in json.dumps(told)
    assert count(UserSession) == 0
    assert run_due(time_machine, timedelta(minutes=59), rota) == 0
    assert run_due(time_machine, timedelta(minutes=2), rota) > 0


def test_one_turn_is_one_short_batch(ada, time_machine, monkeypatch):
    """Mail that comes in the midst of a clean-up waits for one batch and not for its end."""
    monkeypatch.setattr(database, "FIRST_BATCH", 1)
    monkeypatch.setattr(database, "LARGEST_BATCH", 1)
    for number in range(4):
        pending.spend_once("test", str(number), expires_at=clock.now())
    monkeypatch.setattr(
        chores, "CHORES", [each for each in chores.CHORES if each.name == "spent_tokens"]
    )
    rota = chores.Rota()
    time_machine.move_to(clock.now() + timedelta(hours=1), tick=False)
    left = []
    while rota.turn():
        left.append(count(SpentToken))

    assert left == [3, 2, 1, 0]


def sent_by(*those: chores.Chore) -> list:
    """Do these chores and return the statements that they send, with their values."""
    engine, sent = database.engine(), []

    def note(_connection, _cursor, statement, values, *_more) -> None:
        sent.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    try:
        for chore in those:
            list(chore.batches(clock.now() - chores.KEEP))
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return sent


def test_no_chore_reads_a_table_from_end_to_end(app, ada):
    """Asked once a day of tables of any size: the plans, where an index is taken if there is one."""
    sent = sent_by(*chores.CHORES, *chores.HOURLY)
    assert len(sent) >= len(chores.CHORES)
    with app.extensions["transactional_engine"].begin() as connection:
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite() else "EXPLAIN"
        if not database.is_sqlite():
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, values in sent:
            plan = [
                str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", values)
            ]
            read = {each for line in plan for each in READ_WHOLE.findall(line)}
            assert read.isdisjoint(database.Base.metadata.tables), (statement, plan)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_counts_that_are_kept_are_not_read_to_find_those_that_are_over(app_context):
    """LT-06: whoever tries addresses without end leaves a count of each, for a month."""
    ended = {"recent": 1, "consecutive": 1, "window_ends_at": clock.now() - timedelta(hours=1)}
    kept = [{"key": number.to_bytes(32), **ended} for number in range(3000)]
    with database.transaction():
        database.run(insert(SignInFailures), kept)
    with database.engine().connect() as connection:
        connection.exec_driver_sql("ANALYZE sign_in_failures")
    pages = []
    for statement, values in sent_by(STALE):
        with database.engine().connect() as connection:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            (plan,) = connection.exec_driver_sql(explain, values).one()
            pages.append(plan[0]["Plan"]["Shared Hit Blocks"])

    assert pages
    assert max(pages) < 10
    assert count(SignInFailures) == 3000


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_rows_that_another_holds_are_skipped_and_nobody_is_waited_for(ada):
    """FA-09."""
    for number in range(3):
        pending.spend_once("test", str(number), expires_at=clock.now() - OLD)
    with database.transactional_engine().connect() as other:
        other.execute(select(SpentToken).limit(1).with_for_update())
        assert sum(pending.delete_spent()) == 2
    assert list(pending.delete_spent()) == [1]


@pytest.mark.parametrize("database_url", ["spread"], indirect=True)
def test_where_citus_is_installed_no_clean_up_claims_rows(ada, time_machine, sent_statements):
    """Citus refuses that over several machines: the chores delete stretches of the key instead."""
    leave_something_of_everything(ada)
    sessions.trust(ada.id, device_id=None, device_name="curl", ip_address=None)
    quotas.count(ada.id, "any")
    time_machine.move_to(clock.now() + OLD, tick=False)
    with sent_statements() as sent:
        for chore in chores.CHORES:
            list(chore.batches(clock.now() - chores.KEEP))

    assert not [each for each in sent if "SKIP LOCKED" in each]
    left = (UserSession, PasswordReset, SignInFailures, SpentToken, AccountEvent)
    assert [count(each) for each in (*left, TrustedBrowser, MailQuota)] == [0] * 7


# A worker whose clean-up is due at once, goes row by row and so is long in its midst.
DUE_AT_ONCE = """
from authsite import chores, database
from authsite.commands import worker
chores.FIRST_AFTER_SECONDS = (0, 0)
database.FIRST_BATCH = database.LARGEST_BATCH = 1
chores.CHORES = [each for each in chores.CHORES if each.name == "spent_tokens"]
from wsgi import app
with app.app_context():
    worker.work_until_stopped()
"""


@pytest.mark.site
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_mail_passes_a_clean_up_and_a_stop_ends_it_in_its_midst(
    make_app, mailbox, database_url, ada
):
    """DP-08: with thousands of batches to come, a mail arrives, and SIGTERM ends with 0 and no event."""
    for number in range(1500):
        pending.spend_once("test", str(number), expires_at=clock.now() - OLD)
    mail = {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(mailbox.port)}
    environ = os.environ | mail
    worker = subprocess.Popen(
        [sys.executable, "-c", DUE_AT_ONCE],
        cwd=services.ROOT,
        env=environ | {"DATABASE_URL": database_url, "SECRET_KEY": services.SECRET_KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        services.wait_until(lambda: count(SpentToken) < 1500, seconds=30)
        passwords.request_reset(ada.email, device_name="curl", ip_address=None)
        services.wait_until(lambda: mailbox.messages and outbox.depth() == 0, seconds=30)
        left_at_mail = count(SpentToken)
        worker.send_signal(signal.SIGTERM)
        output = worker.communicate(timeout=20)[0]
    finally:
        worker.kill()

    assert worker.returncode == 0, output
    assert left_at_mail > 0
    assert count(SpentToken) > 0
    assert '"cleanup"' not in output
    assert "Traceback" not in output


def test_accounts_that_are_due_go_within_the_hour_and_an_idle_hour_is_no_news(
    ada, time_machine, caplog
):
    """The day that was named to the owner is the day."""
    rota = chores.Rota(lambda: chores.HOURLY, every=chores.EVERY_HOUR)
    deletions.request_by_operator(ada.email)
    run_due(time_machine, timedelta(days=7) - timedelta(minutes=30), rota)
    assert (count(User), events_of(caplog)) == (1, [])
    run_due(time_machine, timedelta(hours=1), rota)

    assert count(User) == 0
    assert [(told["outcome"], told["chores"]) for told in events_of(caplog)] == [
        ("success", {"accounts": 1})
    ]
