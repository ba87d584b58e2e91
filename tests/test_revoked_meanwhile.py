"""What is asked in a session that is taken from its holder meanwhile is not done, or was done before."""

import json

import pytest
from sqlalchemy import delete, select

from authsite import clock, database, email_changes, passkeys, passwords, second_steps, sessions
from authsite.database.models import (
    AccountEvent,
    AuthenticatorApp,
    EmailChange,
    OutgoingMail,
    Passkey,
    RecoveryCode,
    User,
    UserSession,
)
from authsite.errors import AuthsiteError, SessionRevoked, WrongCurrentPassword
from authsite.second_steps import recovery
from tests import factories, services
from tests.authenticator import Authenticator
from tests.factories import NEW_PASSWORD, PASSWORD, Phone
from tests.test_races import at_once

ROUNDS = services.rounds(6)


@pytest.fixture(autouse=True)
def _current(app_context):
    """Verbs need the application, not a request."""


def thief(account) -> sessions.Resumed:
    """Return a browser's session, fresh, of whoever will be signed out."""
    client = sessions.Client(ip_address="203.0.113.7", user_agent="curl/8")
    changed_at = passwords.changed_at(account.id)
    held = sessions.start(
        account,
        password_changed_at=changed_at,
        client=client,
        entrance="page",
        signed_in_with="passkey",
    )
    return sessions.resume_page(held.session_id, account.id, held.cookie_secret)


def add_passkey(session):
    options = passkeys.creation_options(session.account, session.id)
    made = json.dumps(Authenticator().make(options))
    return lambda: passkeys.add(session.account.id, session.id, made, name=None, is_api=True)


def remove_passkey(session):
    row = add_passkey(session)()
    return lambda: passkeys.remove(session.account.id, session.id, row.id)


def confirm_app(session):
    setup = second_steps.apps.begin(session.account, session.id)
    shown = {"setup_token": setup.setup_token, "code": Phone(setup.secret).code()}
    return lambda: second_steps.apps.confirm(session.account, session.id, **shown)


def remove_app(session):
    factories.turn_on(session.account)
    return lambda: second_steps.apps.remove(session.account.id, session.id)


def turn_off(session):
    factories.turn_on(session.account)
    return lambda: second_steps.apps.turn_off(session.account.id, session.id)


def enable(session):
    add_passkey(session)()
    return lambda: second_steps.switch.enable(session.account.id, session.id)


def replace_codes(session):
    factories.turn_on(session.account)
    seen = recovery.current_set(session.account.id)
    return lambda: recovery.replace(session.account.id, session.id, replaces=seen)


def change_password(session):
    return lambda: passwords.change(session, PASSWORD, NEW_PASSWORD, ip_address=None)


def ask_for_address(session):
    wanted = f"new-{session.account.email}"
    return lambda: email_changes.request(session, wanted, ip_address=None)


def renew(session):
    return lambda: sessions.renew(session, authenticated_at=clock.now())


ACTS = [
    *(add_passkey, remove_passkey, confirm_app, remove_app, turn_off, enable, replace_codes),
    *(change_password, ask_for_address, renew),
]


def state(account) -> list[object]:
    """Return what the account signs in with, and the secret of its cookies."""
    columns = {
        Passkey: ["id"],
        AuthenticatorApp: ["secret"],
        RecoveryCode: ["digest"],
        User: ["password_hash", "two_step_since"],
        UserSession: ["id", "cookie_digest"],
        EmailChange: ["id"],
    }
    found = []
    for table, names in columns.items():
        keys = table.__table__.c
        owner = keys.id if table is User else keys.user_id
        rows = database.rows(select(*(keys[name] for name in names)).where(owner == account.id))
        found.append(sorted(map(repr, rows)))
    return found


def written(account) -> int:
    """Return how many mails and events there are of the account."""
    return sum(
        len(database.rows(select(table.id).where(table.user_id == account.id)))
        for table in (OutgoingMail, AccountEvent)
    )


@pytest.mark.parametrize("prepare", ACTS)
def test_what_is_asked_in_a_session_that_has_ended_is_not_done(prepare):
    """SE-08: the request was let in before."""
    ada = factories.account()
    session = thief(ada)
    act = prepare(session)
    sessions.end(ada.id, session.id, reason="revoked")
    before = state(ada), written(ada)
    with pytest.raises(SessionRevoked):
        act()

    assert (state(ada), written(ada)) == before


@pytest.mark.parametrize("prepare", ACTS)
def test_whose_account_has_gone_is_told_that_he_is_signed_out(prepare):
    """Or that his password is wrong; not that nobody has his address."""
    ada = factories.account()
    act = prepare(thief(ada))
    database.run(delete(User).where(User.id == ada.id))

    with pytest.raises((SessionRevoked, WrongCurrentPassword)):
        act()


@pytest.mark.slow
@pytest.mark.parametrize("prepare", ACTS)
def test_once_a_session_is_ended_nothing_that_it_asked_for_is_done_any_more(app, prepare):
    """Whoever ends it sees, when that is done, what there is of factors, and it stays so."""
    for number in range(ROUNDS):
        ada = factories.account(f"ada{number}@example.com")
        session = thief(ada)
        act = prepare(session)

        def end(ada=ada, session=session):
            sessions.end(ada.id, session.id, reason="revoked")
            return state(ada)

        done, seen = at_once(app, act, end)

        assert not isinstance(done, AuthsiteError) or isinstance(done, SessionRevoked), done
        assert state(ada) == seen
