"""Deleting an account: closed at once, kept by its mail, and in the end nothing is left of it."""

import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy import func, insert, select

from authsite import (
    accounts,
    addresses,
    clock,
    database,
    deletions,
    email_changes,
    passkeys,
    passwords,
    registrations,
    second_steps,
    sessions,
    throttling,
    webhooks,
)
from authsite.crypto import tokens
from authsite.database import Base
from authsite.database.models import (
    AccountEvent,
    OutgoingEvent,
    OutgoingMail,
    User,
    UserEmail,
    UserSession,
)
from authsite.errors import (
    AccountBeingDeleted,
    EmailTaken,
    EmailTokenInvalid,
    InactiveAccount,
    InvalidCode,
    InvalidCredentials,
    InvalidInput,
    MfaTokenInvalid,
    ResetTokenInvalid,
    SessionRevoked,
    TooManyAttempts,
    UnknownAccount,
    WrongCurrentPassword,
)
from authsite.mail import outbox, quotas
from authsite.second_steps import pending
from tests import factories, services
from tests.authenticator import Authenticator
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.test_webhooks import SECRET, Receiver

# Its keys and statements are others where the tables are spread.
ALSO_SPREAD = True
EMAIL = "ada@example.com"
FROM = {"device_name": "Chrome on Windows", "ip_address": "203.0.113.7"}
BROWSER = "a-browser-that-she-has"
WEEK = timedelta(days=7)


@pytest.fixture(autouse=True)
def _current(app_context):
    """Verbs need the application, not a request."""


@pytest.fixture
def ada():
    return factories.account(EMAIL, is_verified=True)


@pytest.fixture
def session(ada):
    return resumed(ada)


def resumed(account, **how):
    held = factories.grant(account, **how)
    return sessions.resume_api(held.session_id, account.id)


def ask(session, **how):
    return deletions.request(session, ip_address="203.0.113.7", **how)


def link(account) -> str:
    after = state(account).delete_after
    return tokens.sign("keep_account", f"{account.id}:{after.isoformat()}")


def keep(token, email=EMAIL, *, is_reset=False):
    return deletions.keep(token, email, is_reset=is_reset, **FROM)


def state(account):
    return database.row(select(*User.__table__.c).where(User.id == account.id))


def count(model) -> int:
    return database.row(select(func.count()).select_from(model))[0]


def names() -> list[str]:
    return [row.name for row in database.rows(select(OutgoingMail.name).order_by(OutgoingMail.id))]


def happened(account) -> list[str]:
    events = select(AccountEvent.kind).where(AccountEvent.user_id == account.id)
    return [row.kind for row in database.rows(events.order_by(AccountEvent.id))]


def delete_due(**how) -> int:
    return sum(deletions.delete_due(**how))


def later(time_machine, after: timedelta = WEEK) -> None:
    time_machine.move_to(clock.now() + after, tick=False)


# Closed at once


def test_an_account_that_is_to_be_deleted_is_closed_at_once(ada, session, time_machine):
    """SE-14: every session, link and sign-in ends with the request, not with the rows."""
    time_machine.move_to(clock.now(), tick=False)
    other = factories.grant(ada)
    passwords.request_reset(EMAIL, **FROM)
    reset_id = outbox_facts("password_reset")["reset_id"]
    assert ask(session) == clock.now() + WEEK

    for held in (session.id, other.session_id):
        with pytest.raises(SessionRevoked):
            sessions.resume_api(held, ada.id)
    with pytest.raises(SessionRevoked):
        sessions.rotate(other.session_id, ada.id, other.jti, ip_address=None)
    with pytest.raises(ResetTokenInvalid):
        passwords.reset(tokens.reset_link(ada.id, reset_id), NEW_PASSWORD, **FROM)
    ends = {row.end_reason for row in database.rows(select(UserSession.end_reason))}
    assert ends == {"account_deleted"}
    assert "deletion_requested" in happened(ada)


def outbox_facts(name):
    return database.row(select(OutgoingMail.facts).where(OutgoingMail.name == name)).facts


def test_signing_in_meanwhile_tells_the_day_after_the_right_password_only(session, time_machine):
    """LT-01."""
    time_machine.move_to("2026-11-26T18:04:00Z", tick=False)
    session = resumed(session.account)
    ask(session)
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(EMAIL, "not her password")
    with pytest.raises(AccountBeingDeleted) as refusal:
        accounts.authenticate(EMAIL, PASSWORD)

    words = (
        "This account will be deleted on 3 December 2026. To keep it, open the link in our email"
    )
    assert (refusal.value.message, refusal.value.code) == (words, "inactive_account")


def test_a_sign_in_that_waits_for_its_second_step_ends(ada):
    phone, _codes = factories.turn_on(ada)
    authenticated = accounts.authenticate(EMAIL, PASSWORD)
    token = pending.token_for(authenticated, entrance="api", is_remembered=True)
    deletions.request_by_operator(EMAIL)

    with pytest.raises(MfaTokenInvalid):
        second_steps.complete_with_code(
            pending.read(token, is_page=False), phone.code(), client=sessions.Client()
        )
    assert not sessions.active_for(ada.id)


def test_the_address_stays_taken_meanwhile(ada, session):
    ask(session)
    with pytest.raises(EmailTaken):
        factories.account(EMAIL)


def test_no_reset_is_mailed_meanwhile(ada, session):
    ask(session)
    passwords.request_reset(EMAIL, **FROM)
    assert "password_reset" not in names()


def test_a_session_that_has_ended_deletes_nothing(ada, session):
    """Whoever is shown out, as a thief is, cannot take the account along with a request under way."""
    sessions.end(ada.id, session.id, reason="not_me")
    with pytest.raises(SessionRevoked):
        ask(session)
    assert state(ada).is_active
    assert "deletion_scheduled" not in names()


def test_the_password_is_asked_for_and_counted_where_it_has_to_be_right(ada, session):
    """LT-09."""
    with pytest.raises(WrongCurrentPassword):
        ask(session, password="not her password")
    assert throttling.failures(EMAIL) == 1
    assert state(ada).delete_after is None
    assert ask(session, password=PASSWORD)


def test_asking_twice_is_refused_and_moves_nothing(ada, session):
    after = ask(session)
    with pytest.raises(SessionRevoked):
        ask(session)
    with pytest.raises(AccountBeingDeleted):
        deletions.request_by_operator(EMAIL)
    assert state(ada).delete_after == after
    assert names().count("deletion_scheduled") == 1


# Kept


def test_the_link_keeps_the_account_once_and_signs_nobody_in(ada, session):
    ask(session)
    token = link(ada)
    keep(token)
    row = state(ada)
    assert (row.is_active, row.delete_after) == (True, None)
    assert "deletion_cancelled" in happened(ada)
    assert not sessions.active_for(ada.id)
    assert accounts.authenticate(EMAIL, PASSWORD).account.id == ada.id

    with pytest.raises(EmailTokenInvalid):
        keep(token)


def test_a_link_of_an_earlier_deletion_keeps_no_later_one(ada, session, time_machine):
    ask(session)
    earlier = link(ada)
    keep(earlier)
    later(time_machine, timedelta(minutes=1))
    ask(resumed(ada))
    with pytest.raises(EmailTokenInvalid):
        keep(earlier)
    assert not state(ada).is_active


def test_it_keeps_nothing_without_the_address_that_the_mail_went_to(ada, session):
    """LIFE 0.3: a scanner does not type it."""
    ask(session)
    with pytest.raises(InvalidInput):
        keep(link(ada), "grace@example.com")
    assert not state(ada).is_active
    keep(link(ada), " ADA@Example.com")
    assert state(ada).is_active


def test_keeping_and_resetting_leaves_a_thief_without_the_password(ada, session):
    """It was not me: the password that the thief knew is nobody's, and a reset is under way."""
    ask(session)
    keep(link(ada), is_reset=True)
    assert state(ada).is_active
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(EMAIL, PASSWORD)
    assert outbox_facts("password_reset")["after"] == "everything"


def test_the_device_that_asked_is_new_again_after_it(ada):
    held = factories.grant(ada, entrance="page", device_id=BROWSER)
    deletions.request_by_operator(EMAIL)
    keep(link(ada))
    assert held
    assert not sessions.is_known_browser(ada.id, BROWSER)


def test_after_its_time_the_link_keeps_nothing_though_the_rows_are_still_there(
    ada, session, time_machine
):
    ask(session)
    token = link(ada)
    later(time_machine)
    with pytest.raises(EmailTokenInvalid):
        keep(token)
    assert state(ada) is not None
    assert delete_due() == 1


def test_no_other_link_keeps_an_account(ada, session):
    ask(session)
    value = f"{ada.id}:{state(ada).delete_after.isoformat()}"
    for purpose in ("not_me", "reset", "verify_email", "undo_email"):
        with pytest.raises(EmailTokenInvalid):
            keep(tokens.sign(purpose, value))
    assert not state(ada).is_active


def test_an_operator_opens_it_again(ada, session, time_machine):
    ask(session)
    token = link(ada)
    accounts.activate(EMAIL)
    row = state(ada)
    assert (row.is_active, row.delete_after) == (True, None)
    later(time_machine)
    assert delete_due() == 0
    with pytest.raises(EmailTokenInvalid):
        keep(token)


def test_deactivating_is_refused_meanwhile_for_the_link_would_undo_it(ada, session):
    after = ask(session)
    with pytest.raises(AccountBeingDeleted):
        accounts.deactivate(EMAIL)
    assert state(ada).delete_after == after
    assert "deletion_requested" in happened(ada)


def test_who_was_shut_out_gets_no_link_that_lets_him_in(ada):
    accounts.deactivate(EMAIL)
    with pytest.raises(InactiveAccount, match="--now"):
        deletions.request_by_operator(EMAIL)
    assert state(ada).delete_after is None
    assert "deletion_scheduled" not in names()
    assert deletions.request_by_operator(EMAIL, is_at_once=True)[1] is None
    assert state(ada) is None


# Mails


def test_the_mails_say_until_when_it_can_be_kept_and_that_it_is_gone(
    make_app, mailbox, time_machine
):
    time_machine.move_to("2026-11-26T18:04:00Z", tick=False)
    with make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)).app_context():
        ada = factories.account(EMAIL, is_verified=True)
        ask(resumed(ada))
        outbox.deliver()
        assert mailbox.subjects == ["Your authsite account will be deleted on 3 December 2026"]
        assert "before 3 December 2026, 18:04 UTC" in mailbox.text()
        token = mailbox.token("/keep-account")
        assert deletions.find(token)[0].id == ada.id
        with pytest.raises(AccountBeingDeleted):
            accounts.authenticate(EMAIL, PASSWORD)
        outbox.deliver()
        assert mailbox.subjects == ["Your authsite account will be deleted on 3 December 2026"] * 2
        assert (
            "Somebody who has the password or a passkey of your authsite account" in mailbox.text(1)
        )
        assert deletions.find(mailbox.token("/keep-account"))[0].id == ada.id
        later(time_machine)
        assert delete_due() == 1
        outbox.deliver()
    assert mailbox.subjects[2:] == ["Your authsite account was deleted"]
    assert mailbox.recipients == [[EMAIL]] * 3
    assert "token=" not in mailbox.text()


def test_a_mail_of_a_deletion_that_was_taken_back_is_not_sent(make_app, mailbox):
    with make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)).app_context():
        ada = factories.account(EMAIL, is_verified=True)
        ask(resumed(ada))
        keep(link(ada))
        outbox.deliver()
    assert mailbox.subjects == []


def test_the_way_to_keep_it_is_mailed_however_many_mails_a_strangers_address_had(make_app, mailbox):
    with make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)).app_context():
        ada = factories.account(EMAIL)
        for _ in range(quotas.MOST_TO_UNPROVEN + 1):
            quotas.count(ada.id, "any")
        ask(resumed(ada))
        # Only once: whoever registered a stranger's address has the password too.
        with pytest.raises(AccountBeingDeleted):
            accounts.authenticate(EMAIL, PASSWORD)
        outbox.deliver()
    assert mailbox.subjects == ["Your authsite account will be deleted on " + mailbox_day(mailbox)]


def mailbox_day(mailbox) -> str:
    return mailbox.subjects[0].partition(" on ")[2]


def test_registering_and_deleting_again_and_again_fills_no_mailbox(make_app, mailbox):
    """AP-22: where nothing is waited for."""
    environ = {"ACCOUNT_DELETION_DAYS": "0", "EMAIL_VERIFICATION": "optional"}
    mail = {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(mailbox.port)}
    with make_app(**environ, **mail).app_context():
        for _ in range(5):
            assert ask(resumed(factories.account("stranger@example.com"))) is None
            outbox.deliver()
    assert Counter(mailbox.subjects).most_common(1)[0][1] <= throttling.MAX_MAILS


# Deleted


def test_nothing_goes_before_its_time(ada, session, time_machine):
    ask(session)
    later(time_machine, WEEK - timedelta(seconds=1))
    assert delete_due() == 0
    assert state(ada) is not None


def test_a_change_of_address_that_can_be_undone_is_waited_for(ada, session, time_machine):
    """Deleting must not outrun undoing: also where nothing else is waited for."""
    time_machine.move_to(clock.now(), tick=False)
    until = clock.now() + timedelta(days=20)
    old = {"email": "old@example.com", "user_id": ada.id, "kept_until": until}
    database.run(insert(UserEmail), old)
    assert ask(session) == until


def test_without_days_to_wait_it_is_gone_with_the_request(make_app):
    with make_app(ACCOUNT_DELETION_DAYS="0").app_context():
        ada = factories.account(EMAIL)
        factories.session_rows(ada, 3, age=timedelta(days=1), ended=timedelta(hours=1))
        assert ask(resumed(ada)) is None
        assert [count(each) for each in (User, UserEmail, UserSession, AccountEvent)] == [0] * 4
        assert names() == ["account_deleted"]
        assert factories.account(EMAIL).id != ada.id


def test_many_rows_go_in_short_transactions(ada, session, time_machine):
    factories.session_rows(ada, 10, age=timedelta(days=1))
    for _ in range(10):
        accounts.update_details(ada.id, {"first_name": "Ada"})
    ask(session)
    later(time_machine)
    left, over = [], []
    for is_over in deletions.delete_due(batch_size=4):
        left.append((count(UserSession), count(AccountEvent)))
        over.append(is_over)

    assert left[:3] == [(7, 13), (3, 13), (0, 13)]
    assert left[-1] == (0, 0)
    assert [now - then for then, now in pairwise(over)].count(1) == 1
    assert over[-1] == 1
    assert count(User) == 0


def test_one_that_stops_half_way_is_taken_up_by_the_next_run(ada, session, time_machine):
    factories.session_rows(ada, 10, age=timedelta(days=1))
    ask(session)
    later(time_machine)
    run = deletions.delete_due(batch_size=4)
    next(run)
    run.close()
    assert (count(UserSession), count(User)) == (7, 1)

    assert delete_due() == 1
    assert count(User) == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_account_that_another_run_is_at_is_left_to_it_and_waited_for_by_nobody(
    ada, session, time_machine
):
    """FA-09."""
    grace = factories.account("grace@example.com")
    ask(session)
    ask(resumed(grace))
    later(time_machine)
    with database.transactional_engine().connect() as other:
        other.execute(select(User).where(User.id == ada.id).with_for_update())
        assert delete_due() == 1
        assert (state(ada) is None, state(grace) is None) == (False, True)
    assert delete_due() == 1


def test_an_account_that_fails_keeps_no_other_waiting_and_is_told_of(
    ada, session, time_machine, monkeypatch
):
    grace = factories.account("grace@example.com")
    ask(session)
    ask(resumed(grace))
    later(time_machine)
    real = throttling.forget_second_step

    def fail_for_ada(user_id):
        if user_id == ada.id:
            raise RuntimeError("the disk is full")
        real(user_id)

    monkeypatch.setattr(throttling, "forget_second_step", fail_for_ada)
    with pytest.raises(RuntimeError):
        delete_due()
    assert (state(ada) is None, state(grace) is None) == (False, True)
    monkeypatch.undo()
    assert delete_due() == 1


def test_whoever_takes_the_address_next_starts_with_nothing_of_it(ada, session, time_machine):
    for _ in range(throttling.MAX_RECENT):
        with pytest.raises(InvalidCredentials):
            accounts.authenticate(EMAIL, "not her password")
    ask(session)
    later(time_machine, WEEK)
    throttling.close(EMAIL)
    assert delete_due() == 1

    anew = factories.account(EMAIL, password=NEW_PASSWORD)
    assert anew.id != ada.id
    assert accounts.authenticate(EMAIL, NEW_PASSWORD).account.id == anew.id
    assert happened(anew) == ["registered"]


def test_a_wrong_password_at_the_very_end_is_no_fault(ada, time_machine, monkeypatch):
    """Between the look at the account and the note of the failure its row has gone."""
    from authsite.crypto import hashing

    def gone(*_):
        deletions.request_by_operator(EMAIL, is_at_once=True)
        return False

    monkeypatch.setattr(hashing, "is_correct", gone)
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(EMAIL, "not her password")
    assert count(AccountEvent) == 0


# Complete


def snapshot() -> dict[str, list[str]]:
    """Return every row of every table, written out."""
    return {
        table.name: sorted(str(tuple(row)) for row in database.rows(select(table)))
        for table in Base.metadata.sorted_tables
    }


def live(email: str, first_name: str) -> sessions.Resumed:
    """Live a life that leaves a row in every table; a new table wants a line here."""
    person = factories.account(email, first_name=first_name, phone_number="+44 20 7946 0958")
    session = resumed(person, ip_address="203.0.113.7", user_agent="Teapot/4.18")
    factories.turn_on(person)
    outbox.deliver()
    _wrong_passwords_and_codes(person)
    passwords.request_reset(email, **FROM)
    registrations.claim(email=email, password=NEW_PASSWORD, first_name=first_name, **FROM)
    sessions.trust(person.id, device_id=BROWSER, **FROM)
    quotas.count(person.id, "new_device")
    options = passkeys.creation_options(person, session.id)
    made = json.dumps(Authenticator().make(options))
    passkeys.add(person.id, session.id, made, name="Her stick", is_api=True)
    pending.spend_once("not_me session", email, expires_at=clock.now() + WEEK)
    addresses.verify_by_operator(email)
    _change_address(session, f"new-{email}")
    assert email_changes.request(session, f"newer-{email}", ip_address="203.0.113.7")
    return session


def _wrong_passwords_and_codes(person) -> None:
    authenticated = accounts.authenticate(person.email, PASSWORD)
    sessions.start(
        authenticated.account,
        password_changed_at=authenticated.password_changed_at,
        client=sessions.Client(device_id=BROWSER),
        entrance="page",
        signed_in_with="password+app",
    )
    for _ in range(throttling.MAX_RECENT + 3):  # beyond the address's count: the browser's own
        with pytest.raises(InvalidCredentials):
            accounts.authenticate(person.email, "not her password", browser=BROWSER)
    token = pending.token_for(authenticated, entrance="api", is_remembered=True)
    with pytest.raises(InvalidCode):
        second_steps.complete_with_code(
            pending.read(token, is_page=False), "000000", client=sessions.Client()
        )


def _change_address(session, new_email) -> None:
    assert email_changes.request(session, new_email, ip_address="203.0.113.7")
    change = database.row(
        select(email_changes.EmailChange.id).where(
            email_changes.EmailChange.user_id == session.account.id
        )
    )
    value = f"{session.account.id.hex}.{change.id}"
    email_changes.confirm(session.account.id, tokens.sign("change_email", value))


@pytest.fixture
def products():
    with Receiver() as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("days", ["0", "7"])
def test_in_the_end_nothing_is_left_of_a_person_in_any_table(
    make_app, mailbox, products, time_machine, days
):
    """PR-03, art. 17 GDPR. Every table is looked at, by its whole content, and one's neighbour keeps all."""
    time_machine.move_to(clock.now(), tick=True)
    environ = {
        "EMAIL_VERIFICATION": "optional",
        "ACCOUNT_DELETION_DAYS": days,
        "MAIL_SERVER": services.HOST,
        "MAIL_PORT": str(mailbox.port),
        "WEBHOOK_URLS": products.url,
        "WEBHOOK_SECRETS": SECRET,
    }
    with make_app(**environ).app_context():
        live("grace@example.com", "Grace")
        send_all(products)
        before = snapshot()
        session = live(EMAIL, "Ada")
        lived = snapshot()
        untouched = {name for name, rows in lived.items() if rows == before[name]}
        assert not untouched, f"leave a row in {untouched} as well: have `live` do it"

        ask(session)
        later(time_machine, WEEK + timedelta(seconds=1))
        assert delete_due() == 1
        on_their_way = set(snapshot()["outgoing_events"]) - set(before["outgoing_events"])
        assert not any("Ada" in each or "@" in each or "203.0" in each for each in on_their_way)
        assert events_of(session.account.id) >= {"user.deleted"}
        send_all(products)
        # Digests that name nobody, of what has been used and of how many mails there were: by the clean-up.
        later(time_machine, timedelta(days=8))
        list(throttling.delete_stale(clock.now() - timedelta(days=30)))
        list(pending.delete_spent())
        left = snapshot()

    for name, rows in left.items():
        assert not set(rows) - set(before[name]), name
        if name not in ("sign_in_failures", "spent_tokens"):  # hers are over by now, too
            assert rows == before[name]
    assert mailbox.recipients[-1] == [f"new-{EMAIL}"]
    assert mailbox.subjects[-1] == "Your authsite account was deleted"
    last = [each for each in products.events() if each["data"].get("id") == str(session.account.id)]
    assert last[-1]["type"] == "user.deleted"
    assert last[-1]["data"] == {"id": str(session.account.id)}


def events_of(user_id) -> set[str]:
    kinds = select(OutgoingEvent.kind).where(OutgoingEvent.user_id == user_id)
    return {row.kind for row in database.rows(kinds)}


def send_all(products) -> None:
    outbox.deliver()
    webhooks.deliver(products.url)
    assert (outbox.depth(), webhooks.depth()) == (0, 0)


def test_a_row_whose_user_is_forgotten_by_the_database_goes_too(ada, session, time_machine):
    """Of tables that are spread over machines a foreign key takes nothing along."""
    deleted = {statement.table.name for statement in deletions._REST}
    of_users = {table.name for table in Base.metadata.sorted_tables if "user_id" in table.c}
    referring = {
        table.name
        for table in Base.metadata.sorted_tables
        if any(key.column.table is User.__table__ for key in table.foreign_keys)
    }
    assert deleted == of_users - {"outgoing_events"}
    assert referring <= deleted


def test_nobody_is_known_whose_address_is_none():
    with pytest.raises(UnknownAccount):
        deletions.request_by_operator("nobody@example.com")


def test_too_many_wrong_passwords_close_this_way_too(ada, session):
    for _ in range(throttling.MAX_RECENT):
        with pytest.raises(WrongCurrentPassword):
            ask(session, password="not her password")
    with pytest.raises(TooManyAttempts):
        ask(session, password=PASSWORD)
    assert state(ada).is_active
