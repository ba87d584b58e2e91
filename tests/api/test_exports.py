"""A copy of one's data: all that is held, nothing that helps a thief, and told to its owner."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import orjson
import pytest
from sqlalchemy import delete, select, update

from authsite import accounts, clock, database, deletions, exports
from authsite.database.models import (
    AccountEvent,
    AuthenticatorApp,
    EmailChange,
    OutgoingMail,
    Passkey,
    PasswordReset,
    TrustedBrowser,
    User,
    UserSession,
)
from authsite.errors import ServiceBusy, UnknownAccount
from tests import factories
from tests.api.conftest import (
    EMAIL,
    OTHER_EMAIL,
    V1,
    bearer,
    claims,
    log_in,
    problem,
    refresh,
    register,
    session_id,
    try_login,
)
from tests.authenticator import Authenticator, encoded

# What is not told, and why.
WITHHELD = {
    User: {"password_hash"},
    UserSession: {
        *("refresh_jti", "previous_jti", "unused_rotation_at", "cookie_digest", "bound_key"),
        "user_id",
    },
    AccountEvent: {"user_id"},
    TrustedBrowser: {"user_id", "digest", "device_id"},
    AuthenticatorApp: {"user_id", "secret", "last_step"},
    Passkey: {
        *("user_id", "credential_id", "public_key", "sign_count"),
        *("aaguid", "is_backup_eligible"),
    },
    PasswordReset: {"user_id", "id"},
    EmailChange: {"user_id", "id"},
}
TOLD = {
    User: exports.ACCOUNT,
    UserSession: exports.SESSION,
    AccountEvent: exports.EVENT,
    TrustedBrowser: exports.TRUSTED,
    AuthenticatorApp: exports.APP,
    Passkey: exports.PASSKEY,
    PasswordReset: exports.RESET,
    EmailChange: exports.CHANGE,
}


def export(client, held):
    return client.get(f"{V1}/users/me/export", headers=bearer(held))


def events(app):
    with app.app_context():
        rows = database.rows(select(AccountEvent.kind, AccountEvent.session_id))
        return [(row.kind, row.session_id) for row in rows if row.kind == "data_exported"]


def mails(app):
    with app.app_context():
        return [row.name for row in database.rows(select(OutgoingMail.name))]


def test_it_is_one_file_of_all_that_is_held(client, held, time_machine):
    """PR-04, art. 15 and 20 GDPR"""
    time_machine.move_to("2030-11-23T18:04:00Z", tick=False)
    held = log_in(client)
    try_login(client, password="wrong password")
    answer = export(client, held)
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert answer.headers["Content-Disposition"] == (
        'attachment; filename="authsite-export-2030-11-23.json"'
    )
    assert answer.headers["Cache-Control"] == "no-store"
    found = json.loads(answer.data)
    assert list(found) == [
        *("format", "exported_at", "about", "account"),
        *("passkeys", "authenticator_apps", "trusted_browsers", "password_resets"),
        "email_changes",
        *("sessions", "activity", "counts"),
    ]
    assert (found["format"], found["exported_at"]) == (
        "authsite-export/1",
        "2030-11-23T18:04:00.000000Z",
    )
    assert found["account"]["email"] == EMAIL
    assert session_id(held) in {each["id"] for each in found["sessions"]}
    kinds = {each["kind"] for each in found["activity"]}
    assert kinds == {"registered", "signed_in", "sign_in_failed", "data_exported"}
    assert found["counts"] == {
        "sessions": len(found["sessions"]),
        "activity": len(found["activity"]),
        "email_changes": 0,
    }
    assert found["counts"]["sessions"] == 2


def test_every_column_is_told_or_withheld_by_name():
    """A new one is decided on, not forgotten."""
    for table, names in TOLD.items():
        columns = {each.name for each in table.__table__.c}
        assert set(names) | (WITHHELD[table] & columns) == columns, table
        assert not set(names) & WITHHELD[table]


HOSTILE = 'a"b\\c/d\n\t\x01\x7f\u2028</script>\U0001f4a9\u00fc'


@pytest.mark.parametrize("microseconds", [0, 100_000, 123_456])
def test_what_the_database_writes_is_what_it_holds(app_context, microseconds):
    """The long lists are its own text: whatever clients once sent, times of one form, yes, no and nothing."""
    ada, at = factories.account(), datetime(2026, 11, 20, 10, microsecond=microseconds, tzinfo=UTC)
    factories.grant(ada, device_id="kitchen-laptop")
    acted = {"session_id": uuid.uuid4(), "target": HOSTILE, "is_mailed": False, "created_at": at}
    database.run(update(AccountEvent).values(acted))
    named = {"device_name": HOSTILE, "user_agent": HOSTILE, "products": "", "authenticated_at": at}
    database.run(update(UserSession).values(named))
    found = json.loads(b"".join(exports.export(ada, by=None, ip_address=None)))
    [session], [*_, event] = found["sessions"], found["activity"][:-1]
    assert session == _told(UserSession, exports.SESSION)
    assert event == _told(AccountEvent, exports.EVENT, AccountEvent.id == uuid.UUID(event["id"]))
    assert (session["user_agent"], session["device_id"]) == (HOSTILE, "kitchen-laptop")
    assert session["authenticated_at"] == f"2026-11-20T10:00:00.{microseconds:06}Z"
    assert (session["is_remembered"], event["is_mailed"], session["bound_at"]) == (
        True,
        False,
        None,
    )


def _told(table, names, *conditions):
    """Return a row as Python would tell it."""
    columns = table.__table__.c
    row = database.row(select(*(columns[name] for name in names)).where(*conditions))
    return json.loads(orjson.dumps(row._asdict(), clock.rfc3339, orjson.OPT_PASSTHROUGH_DATETIME))


def test_changes_of_address_are_in_it_without_what_their_links_name(app, client, held):
    body = {"email": "new@example.com"}
    assert client.post(f"{V1}/users/me/email", json=body, headers=bearer(held)).status_code == 202
    found = json.loads(text := export(client, held).text)

    (change,) = found["email_changes"]
    assert (change["old_email"], change["new_email"]) == (EMAIL, "new@example.com")
    assert (change["confirmed_at"], found["counts"]["email_changes"]) == (None, 1)
    with app.app_context():
        assert database.row(select(EmailChange.id)).id not in text


def test_passkeys_are_in_it_by_name_and_without_their_keys(client, held):
    headers, key = bearer(held), Authenticator()
    options = client.post(f"{V1}/users/me/passkeys/options", headers=headers).get_json()
    body = {"credential": key.make(options["publicKey"]), "name": "Blue key"}
    assert client.post(f"{V1}/users/me/passkeys", json=body, headers=headers).status_code == 201
    found = json.loads(text := export(client, held).text)
    assert [each["name"] for each in found["passkeys"]] == ["Blue key"]
    assert encoded(key.credential_id) not in text


def test_nothing_in_it_opens_anything(app, client, held):
    refreshed = refresh(client, held["refresh_token"]).get_json()
    fresh = log_in(client)
    text = export(client, fresh).text
    for token in (held, refreshed, fresh):
        assert claims(token["refresh_token"])["jti"] not in text
        assert claims(token["access_token"])["jti"] not in text
    with app.app_context():
        user = database.row(select(User.password_hash))
        assert user.password_hash not in text
    assert "argon2" not in text


def test_it_holds_nobody_elses_rows(client, held, stranger):
    found = json.loads(export(client, stranger).data)
    assert found["account"]["email"] == OTHER_EMAIL
    assert [each["id"] for each in found["sessions"]] == [session_id(stranger)]
    assert EMAIL not in json.dumps(found)


def test_a_token_that_is_not_fresh_gets_nothing_and_leaves_no_trace(app, client, held):
    """SE-18"""
    refreshed = refresh(client, held["refresh_token"]).get_json()
    answer = export(client, refreshed)
    problem(answer, 401, "insufficient_user_authentication", "Confirm it is you to continue")
    assert 'max_age="600"' in answer.headers["WWW-Authenticate"]
    assert events(app) == []
    assert mails(app) == []


def test_its_owner_is_told_by_an_event_and_a_mail(app, client, held):
    assert export(client, held).status_code == 200
    [(_, acted)] = events(app)
    assert str(acted) == session_id(held)
    assert mails(app) == ["data_exported"]


def test_whoever_only_asks_whether_there_is_one_has_not_taken_it(app, client, held):
    answer = client.head(f"{V1}/users/me/export", headers=bearer(held))
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert (events(app), mails(app)) == ([], [])


def test_two_a_minute_are_enough(client, held):
    """LT-03"""
    for _ in range(2):
        assert export(client, held).status_code == 200
    problem(export(client, held), 429, "rate_limited")


def test_more_rows_than_one_read_brings_come_each_once(app, client, held, monkeypatch):
    with app.app_context():
        rows = factories.session_rows(accounts.find_by_email(EMAIL), 1203, age=timedelta(days=2))
    found = json.loads(export(client, held).data)
    ids = [each["id"] for each in found["sessions"]]
    assert len(ids) == len(set(ids)) == found["counts"]["sessions"] == 1204
    assert {str(row["id"]) for row in rows} <= set(ids)


def test_what_comes_while_it_is_read_is_not_in_it(app_context):
    ada = factories.account()
    factories.session_rows(ada, 3, age=timedelta(days=2))
    pieces = exports.export(ada, by=None, ip_address=None)
    first = next(pieces)
    factories.session_rows(ada, 2, age=timedelta(minutes=-1))
    found = json.loads(first + b"".join(pieces))
    assert found["counts"]["sessions"] == 3


def test_rows_that_the_clean_up_takes_meanwhile_do_not_break_it(app_context):
    ada = factories.account()
    rows = factories.session_rows(ada, 700, age=timedelta(days=40), ended=timedelta(days=35))
    pieces = exports.export(ada, by=None, ip_address=None)
    text = b""
    while text.count(b'"device_name"') < 100:  # the first read of the sessions has come
        text += next(pieces)
    database.run(delete(UserSession).where(UserSession.user_id == ada.id))
    found = json.loads(text + b"".join(pieces))
    assert found["counts"]["sessions"] == len(found["sessions"]) < len(rows)


def test_of_an_account_that_goes_meanwhile_the_file_is_cut_and_no_json(app_context):
    ada = factories.account()
    factories.session_rows(ada, 3)
    pieces = exports.export(ada, by=None, ip_address=None)
    read = [next(pieces)]
    database.run(delete(User).where(User.id == ada.id))
    with pytest.raises(UnknownAccount):
        read.extend(pieces)
    with pytest.raises(ValueError, match=r"(?i)delimiter|expecting|unterminated"):
        json.loads(b"".join(read))


def test_whoever_begins_another_copy_gets_that_one_and_the_first_is_cut(app_context):
    """LT-03. Fetched slowly, each would hold a thread for as long as its client likes."""
    ada, eve = factories.account(), factories.account("eve@example.com")
    for each in (ada, eve):
        factories.session_rows(each, 2 * exports.PIECE)
    first, eves, second = (
        exports.export(each, by=None, ip_address=None) for each in (ada, eve, ada)
    )
    read = [next(first), next(eves), next(second)]
    with pytest.raises(ServiceBusy):
        next(first)
    for begun, rest in ((read[1], eves), (read[2], second)):
        assert json.loads(begun + b"".join(rest))["counts"]["sessions"] == 2 * exports.PIECE
    assert exports._latest == {}


def test_a_copy_that_its_client_gives_up_leaves_nothing_behind(app_context):
    pieces = exports.export(factories.account(), by=None, ip_address=None)
    next(pieces)
    assert len(exports._latest) == 1
    pieces.close()
    assert exports._latest == {}


def test_of_an_account_whose_rows_are_going_the_file_is_cut(app_context):
    """Its sessions go in a transaction before its own row does: what was left was told as if it were all."""
    ada = factories.account()
    factories.session_rows(ada, 3)
    pieces = exports.export(ada, by=None, ip_address=None)
    next(pieces)
    deletions.request_by_operator(ada.email)
    due = {"delete_after": clock.now() - timedelta(seconds=1)}
    database.run(update(User).where(User.id == ada.id).values(due))
    next(deletions.delete_due())
    assert accounts.find_by_id(ada.id)
    with pytest.raises(UnknownAccount):
        list(pieces)


def test_the_value_of_a_browsers_cookie_is_not_told(app_context):
    ada = factories.account()
    factories.grant(ada, entrance="page", device_id="cookie-of-the-browser")
    factories.grant(ada, device_id="kitchen-laptop")
    text = b"".join(exports.export(ada, by=None, ip_address=None)).decode()
    assert "cookie-of-the-browser" not in text
    assert "kitchen-laptop" in text


def test_a_name_of_the_site_cannot_break_out_of_the_filename(make_app):
    client = make_app(SITE_NAME='Acme "Notes"; x=\u00fc').test_client()
    register(client)
    answer = export(client, log_in(client))
    assert re.fullmatch(
        r'attachment; filename="Acme-Notes-x-export-\d{4}-\d\d-\d\d\.json"',
        answer.headers["Content-Disposition"],
    )


def test_the_command_prints_the_same_and_the_owner_sees_the_operator(app):
    with app.app_context():
        factories.account()
    result = app.test_cli_runner().invoke(args=["export-user", EMAIL])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["account"]["email"] == EMAIL
    # Of two events within one millisecond either may come first.
    [event] = [each for each in found["activity"] if each["kind"] == "data_exported"]
    assert event["device_name"] is None
    assert mails(app) == ["data_exported"]
    assert app.test_cli_runner().invoke(args=["export-user", "nobody@example.com"]).exit_code == 1


def test_reading_costs_few_statements_however_small_the_account(client, held, sent_statements):
    """The session, event and mail, account twice, the short lists, and each of the long ones once."""
    with sent_statements() as sent:
        assert export(client, held).status_code == 200
    assert [each.split()[0] for each in sent].count("INSERT") == 2
    assert len(sent) <= 10, sent


def test_long_lists_take_a_statement_for_500_rows(app_context, sent_statements):
    ada = factories.account()
    factories.session_rows(ada, 2 * exports.BATCH + 1, age=timedelta(days=2))
    with sent_statements() as sent:
        assert b"".join(exports.export(ada, by=None, ip_address=None))
    assert exports.BATCH == 500
    assert sum("FROM user_sessions" in each for each in sent) == 3


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_user_with_many_sessions_is_not_looked_for_among_everybodys(app_context):
    """In a plan for any user, which PostgreSQL takes after a while: it guesses that few are between keys."""
    ada = factories.account()
    factories.session_rows(ada, 300, age=timedelta(days=2))
    sql = exports.LISTS["sessions"].statement.params(owner_id=ada.id, last=ada.id, end=ada.id)
    with database.transactional_engine().begin() as connection:
        connection.exec_driver_sql("ANALYZE user_sessions")
        connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        literal = str(sql.compile(connection, compile_kwargs={"literal_binds": True}))
        generic = literal.replace(f"'{ada.id}'", "$1")
        connection.exec_driver_sql(f"PREPARE sessions_of (uuid) AS {generic}")
        plan = connection.exec_driver_sql(f"EXPLAIN EXECUTE sessions_of ('{ada.id}')")
        conditions = [line for (line,) in plan if "Index Cond" in line]
    assert conditions
    assert not [each for each in conditions if ">" in each or "<" in each]


@pytest.mark.parametrize(("work", "rest"), [(0.02, 0.14), (60, 3 * exports.LONGEST_REST)])
def test_a_copy_rests_seven_times_as_long_as_it_works(monkeypatch, work, rest):
    """So that it takes an eighth of an interpreter at most; but bytes come, however slow the database."""
    passed = [0.0]
    replaced = SimpleNamespace(monotonic=lambda: sum(passed), sleep=passed.append)
    monkeypatch.setattr(exports, "time", replaced)

    def batches():
        for _ in range(2):
            passed.append(work)
            yield range(3 * exports.PIECE)

    pieces = list(exports._in_pieces(batches()))
    assert [len(each) for each in pieces] == 6 * [exports.PIECE]
    assert sum(passed) == pytest.approx(2 * (work + rest))


def test_the_moment_of_it_is_now(client, held):
    before = clock.now()
    found = json.loads(export(client, held).data)
    assert found["exported_at"] >= before.isoformat()[:19]
