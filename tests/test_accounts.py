"""Accounts: who may sign in, and what nobody learns."""

import threading
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from argon2 import PasswordHasher
from sqlalchemy import func, select, update
from werkzeug.security import generate_password_hash

from authsite import accounts, clock, database, passwords, sessions, spelling
from authsite.crypto import hashing, tokens
from authsite.database.models import PasswordReset, User
from authsite.errors import (
    EmailTaken,
    InactiveAccount,
    InvalidCredentials,
    ResetTokenInvalid,
    SessionRevoked,
    UnknownAccount,
    WeakPassword,
)
from tests import factories

# Its keys and statements are others where the tables are spread.
ALSO_SPREAD = True
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
USERS = User.__table__


@pytest.fixture(autouse=True)
def _current(app_context):
    """Verbs need the application, not a request."""


@pytest.fixture
def ada():
    return factories.account()


def user_row(account):
    return database.row(USERS.select().where(USERS.c.id == account.id))


def how_many() -> int:
    return database.row(select(func.count()).select_from(USERS))[0]


def facts_of(caplog, event: str) -> list[dict]:
    found = [getattr(record, "facts", {}) for record in caplog.records]
    return [facts for facts in found if facts.get("event") == event]


def test_registering_makes_an_active_account_without_privileges(time_machine):
    """AP-13."""
    time_machine.move_to(NOON, tick=False)
    account = factories.account("Ada@Example.com", last_name="Lovelace", phone_number="+44 20")

    assert account._asdict() == {
        "id": account.id,
        "email": "ada@example.com",
        "email_verified_at": None,
        "first_name": "Ada",
        "last_name": "Lovelace",
        "phone_number": "+44 20",
        "is_active": True,
        "is_superuser": False,
        "created_at": NOON,
        "updated_at": NOON,
    }
    assert accounts.find_by_email("ada@example.com") == account


def test_the_password_is_stored_as_its_hash(ada):
    """PW-09."""
    assert user_row(ada).password_hash.startswith("$argon2id$")
    assert factories.PASSWORD not in str(user_row(ada))


@pytest.mark.parametrize("again", ["ada@example.com", "ADA@EXAMPLE.COM", " Ada@example.com "])
def test_an_address_has_one_account_whatever_the_case_of_its_letters(ada, again):
    """AP-11."""
    with pytest.raises(EmailTaken) as refused:
        factories.account(again)

    assert refused.value.field == "email"
    assert how_many() == 1


@pytest.mark.parametrize("password", ["short", "password1", "ada@example.com", "\x00 three words"])
def test_registering_holds_to_the_password_policy(password):
    """PW-11, PW-08."""
    with pytest.raises(WeakPassword):
        factories.account(password=password)

    assert how_many() == 0


def test_registrations_of_one_address_at_once_make_one_account(app):
    """AP-12: the constraint decides, not a query before it."""
    made, refused, barrier = [], [], threading.Barrier(8)

    def register() -> None:
        with app.app_context():
            barrier.wait()
            try:
                made.append(factories.account())
            except EmailTaken as error:
                refused.append(error)

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(made), len(refused)) == (1, 7)
    assert how_many() == 1


@pytest.mark.parametrize("typed", ["ada@example.com", "ADA@example.com", " ada@Example.com"])
def test_the_right_password_opens_the_account_under_any_case_of_its_address(ada, typed):
    """AP-11."""
    assert accounts.authenticate(typed, factories.PASSWORD).account == ada


def test_authenticating_tells_when_the_password_was_set(ada):
    """SE-08: a session may only be begun with a password that is still the one."""
    authenticated = accounts.authenticate(ada.email, factories.PASSWORD)

    assert authenticated.password_changed_at == user_row(ada).password_changed_at


def test_the_password_may_be_typed_on_another_keyboard(ada):
    """PW-07: composed or decomposed, on every path."""
    owner = factories.account("zoe@example.com", password="zoe\u0308 likes caf\u00e9s")
    for form in ("NFC", "NFD"):
        typed = unicodedata.normalize(form, "zoe\u0308 likes caf\u00e9s")
        assert accounts.authenticate(owner.email, typed).account == owner


@pytest.mark.parametrize(
    "password",
    [
        "",
        "wrong",
        f" {factories.PASSWORD}",
        factories.PASSWORD.upper(),
        f"{factories.PASSWORD}\x00",
    ],
)
def test_a_wrong_password_opens_nothing(ada, password):
    """PW-06."""
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, password)


def test_unknown_inactive_and_wrong_are_told_alike(ada):
    """LT-01: one type, one message; only the right password learns that its account is closed."""
    accounts.deactivate(factories.account("closed@example.com").email)
    refusals = []
    for email, password in [
        ("nobody@example.com", factories.PASSWORD),
        (ada.email, "wrong password"),
        ("closed@example.com", "wrong password"),
    ]:
        with pytest.raises(InvalidCredentials) as refused:
            accounts.authenticate(email, password)
        refusals.append((type(refused.value), refused.value.message, refused.value.field))

    assert len(set(refusals)) == 1
    with pytest.raises(InactiveAccount):
        accounts.authenticate("closed@example.com", factories.PASSWORD)


def test_an_unknown_address_costs_a_hash_and_the_same_statements(ada, app):
    """LT-01, LT-02: what is done for it is what is done for a wrong password."""
    statements = []
    note = lambda *arguments: statements.append(arguments[2])  # noqa: E731
    from sqlalchemy import event

    event.listen(database.engine(), "before_cursor_execute", note)
    try:
        for email in (ada.email, "nobody@example.com"):
            with pytest.raises(InvalidCredentials):
                accounts.authenticate(email, "wrong password")
    finally:
        event.remove(database.engine(), "before_cursor_execute", note)

    half = len(statements) // 2
    assert half
    assert statements[:half] == statements[half:]


@pytest.mark.parametrize(
    "make_hash",
    [
        lambda: generate_password_hash(factories.PASSWORD, method="pbkdf2:sha256:1000"),
        lambda: PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(factories.PASSWORD),
    ],
)
def test_an_older_hash_is_renewed_at_the_next_sign_in(ada, make_hash):
    """PW-09, PW-10: and the sign-in's own password_changed_at stays good."""
    database.run(update(User).where(User.id == ada.id), {"password_hash": make_hash()})
    before = user_row(ada)
    held = factories.grant(ada)
    after = user_row(ada)

    assert after.password_hash != before.password_hash
    assert not hashing.is_outdated(after.password_hash)
    assert after.password_changed_at == before.password_changed_at
    assert sessions.resume_api(held.session_id, ada.id).account == ada
    assert accounts.authenticate(ada.email, factories.PASSWORD).account == ada


def test_a_wrong_password_renews_no_hash(ada):
    """PW-10."""
    old = generate_password_hash(factories.PASSWORD, method="pbkdf2:sha256:1000")
    database.run(update(User).where(User.id == ada.id), {"password_hash": old})
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, "wrong password")

    assert user_row(ada).password_hash == old


@pytest.mark.parametrize(
    "changes",
    [{"first_name": "Augusta"}, {"last_name": None, "phone_number": "+44"}, {}],
)
def test_only_the_named_details_change(ada, changes):
    updated = accounts.update_details(ada.id, changes)

    assert updated == ada._replace(**changes, updated_at=updated.updated_at)
    assert updated.updated_at >= ada.updated_at


@pytest.mark.parametrize(
    "forbidden", ["email", "is_superuser", "is_active", "id", "password_hash", "created_at"]
)
def test_nothing_but_details_can_be_changed(ada, forbidden):
    """AP-13."""
    before = user_row(ada)
    accounts.update_details(ada.id, {forbidden: "x", "first_name": "Augusta"})

    after = user_row(ada)
    assert after.first_name == "Augusta"
    assert getattr(after, forbidden) == getattr(before, forbidden)


def test_details_of_an_account_that_is_gone_cannot_be_changed(ada):
    """Whoever asks is signed out by then, and told so: not that nobody has such an address."""
    database.run(USERS.delete())
    with pytest.raises(SessionRevoked):
        accounts.update_details(ada.id, {"first_name": "Augusta"})


def test_deactivating_ends_sessions_and_reset_links_at_once(ada):
    """SE-14, RS-03."""
    held = factories.grant(ada)
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    link = tokens.sign("reset", database.row(select(PasswordReset.id)).id)
    accounts.deactivate("ADA@example.com")

    with pytest.raises(SessionRevoked):
        sessions.resume_api(held.session_id, ada.id)
    with pytest.raises(SessionRevoked):
        sessions.rotate(held.session_id, ada.id, held.jti)
    with pytest.raises(ResetTokenInvalid):
        passwords.reset(link, factories.NEW_PASSWORD, device_name=None, ip_address=None)
    assert sessions.recently_ended_for(ada.id)[0].end_reason == "deactivated"


def test_activating_opens_the_account_but_revives_nothing(ada):
    """SE-14: what ended stays ended."""
    held = factories.grant(ada)
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    link = tokens.sign("reset", database.row(select(PasswordReset.id)).id)
    accounts.deactivate(ada.email)
    accounts.activate(ada.email)

    assert accounts.authenticate(ada.email, factories.PASSWORD).account.is_active
    with pytest.raises(SessionRevoked):
        sessions.resume_api(held.session_id, ada.id)
    with pytest.raises(ResetTokenInvalid):
        passwords.find_reset(link)


def test_a_sign_in_that_races_a_deactivation_begins_no_session(ada):
    """SE-14: the account was open when the password was verified, and is not when the row is written."""
    authenticated = accounts.authenticate(ada.email, factories.PASSWORD)
    accounts.deactivate(ada.email)

    with pytest.raises(InvalidCredentials):
        sessions.start(
            authenticated.account,
            password_changed_at=authenticated.password_changed_at,
            client=sessions.Client(),
            entrance="api",
        )
    assert not sessions.active_for(ada.id)


@pytest.mark.parametrize("verb", [accounts.deactivate, accounts.activate, accounts.find_by_email])
def test_an_unknown_address_is_refused(ada, verb):
    with pytest.raises(UnknownAccount):
        verb("nobody@example.com")


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("Ada@EXAMPLE.com", "ada@example.com"),
        ("  ada@example.com\n", "ada@example.com"),
        ("\u212aate@example.com", "\u212aate@example.com"),
        ("\u0130da@example.com", "\u0130da@example.com"),
        ("ÉVA@example.com", "Éva@example.com"),
    ],
)
def test_only_ascii_letters_change_their_case(written, stored):
    """AP-11, RS-07: `str.lower` would make another person's address of some."""
    assert spelling.canonical_email(written) == stored


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_deleting_an_account_takes_its_rows_along(ada):
    """PR-03: also on SQLite, where foreign keys are off by default. None reaches another machine."""
    factories.grant(ada)
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    database.run(USERS.delete().where(USERS.c.id == ada.id))

    for table in ("user_sessions", "password_resets", "outgoing_mails"):
        assert (
            database.row(select(func.count()).select_from(database.db.metadata.tables[table]))[0]
            == 0
        )


def test_sign_ins_are_recorded_without_the_address_or_the_password(ada, caplog):
    """LG-03, LG-01."""
    factories.grant(ada)
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(ada.email, "wrong password")

    outcomes = [(each["outcome"], each["user_id"]) for each in facts_of(caplog, "login")]
    assert outcomes == [("success", ada.id), ("failure", ada.id)]
    assert ada.email not in str(facts_of(caplog, "login"))
    assert "wrong password" not in caplog.text


def test_times_are_read_once(time_machine):
    """An account is created and last updated in the same moment."""
    time_machine.move_to(NOON, tick=False)
    account = factories.account()
    time_machine.move_to(NOON + timedelta(hours=1), tick=False)

    assert account.created_at == account.updated_at == user_row(account).password_changed_at
    assert accounts.update_details(account.id, {}).updated_at == clock.now()
