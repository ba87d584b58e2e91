"""What a thief with a fresh session adds to sign in with goes when its owner takes the account back."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from authsite import (
    accounts,
    clock,
    database,
    deletions,
    email_changes,
    not_me,
    passwords,
    sessions,
)
from authsite.crypto import tokens
from authsite.database.models import (
    AccountEvent,
    AuthenticatorApp,
    OutgoingMail,
    PasswordReset,
    RecoveryCode,
    TrustedBrowser,
    User,
)
from tests import factories
from tests.api.conftest import (
    EMAIL,
    V1,
    bearer,
    change_token,
    count,
    log_in,
    problem,
    session_id,
    try_login,
)
from tests.api.test_email_changes import ask, confirm
from tests.api.test_passkeys import add, sign_in
from tests.factories import NEW_PASSWORD

THIEFS = "thief@example.com"
FROM = {"device_name": "Chrome on Windows", "ip_address": "203.0.113.7"}


@pytest.fixture
def ada(app):
    with app.app_context():
        return factories.account(EMAIL, is_verified=True)


@pytest.fixture
def her_key(client, ada, time_machine):
    """A passkey that she has had for more than a week when the thief comes."""
    key = add(client, log_in(client))[0]
    time_machine.move_to(clock.now() + timedelta(days=7, minutes=1))
    return key


def set_up_app(client, held, time_machine) -> None:
    """What asks for a fresh proof then asks for a code, which the thief has."""
    path = f"{V1}/users/me/two-step/app"
    begun = client.post(path, json={}, headers=bearer(held)).get_json()
    phone = factories.Phone(begun["secret"])
    body = {"setup_token": begun["setup_token"], "code": phone.code(-1)}
    assert client.put(path, json=body, headers=bearer(held)).status_code == 200
    time_machine.move_to(clock.now() + timedelta(seconds=2))
    body = {"code": phone.code()}
    proven = client.post(f"{V1}/auth/step-up", json=body, headers=bearer(held))
    assert proven.status_code == 200, proven.text
    held["access_token"] = proven.get_json()["access_token"]


def move(client, app, held, email=THIEFS) -> None:
    assert ask(client, held, email).status_code == 202
    assert confirm(client, held, change_token(app)).status_code == 200


def undo(client, app, held) -> None:
    """The thief changes the address, and she changes it back."""
    move(client, app, held)
    with app.app_context():
        email_changes.undo(change_token(app, "undo_email"), EMAIL, **FROM)


def report(client, app, held) -> None:
    with app.app_context():
        named = f"session:{accounts.find_by_email(EMAIL).id}:{session_id(held)}"
        not_me.end_everything(tokens.sign("not_me", named), EMAIL, **FROM)


def report_from_the_old_address(client, app, held) -> None:
    """The mail of the thief's sign-in is still there; the change is of another session of his."""
    with app.app_context():
        named = f"session:{accounts.find_by_email(EMAIL).id}:{session_id(held)}"
    move(client, app, log_in(client))
    with app.app_context():
        not_me.end_everything(tokens.sign("not_me", named), EMAIL, **FROM)


def report_the_password(client, app, held) -> None:
    body = {"current_password": factories.PASSWORD, "new_password": "the thief has chosen this"}
    changed = client.patch(f"{V1}/users/me/password", json=body, headers=bearer(held))
    assert changed.status_code == 200, changed.text
    with app.app_context():
        account = accounts.find_by_email(EMAIL)
        of = select(User.password_changed_at).where(User.id == account.id)
        named = f"password:{account.id}:{database.row(of)[0].isoformat()}"
        not_me.end_everything(tokens.sign("not_me", named), EMAIL, **FROM)


def keep(client, app, held) -> None:
    """The thief has the account deleted, and she keeps it and resets."""
    assert client.delete(f"{V1}/users/me", json={}, headers=bearer(held)).status_code == 200
    with app.app_context():
        user = database.rows(select(User.id, User.delete_after))[0]
        link = tokens.sign("keep_account", f"{user.id}:{user.delete_after.isoformat()}")
        deletions.keep(link, EMAIL, is_reset=True, **FROM)


def change_then_keep(client, app, held) -> None:
    """As by a session of its own: the change that is open reaches further back than the deletion."""
    move(client, app, held)
    move(client, app, held, EMAIL)
    keep(client, app, log_in(client))


def reset(app) -> None:
    with app.app_context():
        account = accounts.find_by_email(EMAIL)
        of = select(PasswordReset.id).where(PasswordReset.ended_at.is_(None))
        link = tokens.reset_link(account.id, database.row(of).id)
        passwords.reset(link, NEW_PASSWORD, device_name=None, ip_address=None)


def happened(app) -> list[str]:
    with app.app_context():
        found = database.rows(select(AccountEvent.kind).order_by(AccountEvent.id))
        return [each.kind for each in found]


def told(app) -> list[tuple[str, str | None]]:
    with app.app_context():
        found = database.rows(select(OutgoingMail.name, OutgoingMail.facts))
        return [(each.name, each.facts.get("what")) for each in found]


@pytest.mark.parametrize(
    "take_back",
    [
        *(undo, report, report_from_the_old_address),
        *(report_the_password, keep, change_then_keep),
    ],
)
def test_a_passkey_that_a_thief_added_first_signs_in_no_more(app, client, ada, her_key, take_back):
    """Her own, which is older than his session, stays."""
    thief = log_in(client)
    his_key = add(client, thief)[0]
    assert sign_in(client, his_key).status_code == 200
    take_back(client, app, thief)
    reset(app)

    problem(sign_in(client, his_key), 401, "invalid_credentials")
    assert sign_in(client, her_key).status_code == 200
    assert "passkey_removed" in happened(app)
    assert ("passkey_changed", "removed") in told(app)


@pytest.mark.parametrize("take_back", [undo, report, report_the_password, keep])
def test_nor_does_one_that_he_added_by_a_session_before(
    app, client, ada, her_key, take_back, time_machine
):
    """He signs in by it, and once more by the password, and only then does what is seen."""
    first = log_in(client)
    time_machine.move_to(clock.now() + timedelta(minutes=5))
    his_key = add(client, first)[0]
    time_machine.move_to(clock.now() + timedelta(days=3))
    assert sign_in(client, his_key).status_code == 200
    time_machine.move_to(clock.now() + timedelta(days=3, hours=23))
    take_back(client, app, log_in(client))
    reset(app)

    problem(sign_in(client, his_key), 401, "invalid_credentials")
    assert sign_in(client, her_key).status_code == 200


def test_nor_does_one_that_was_added_after_the_change(app, client, ada, her_key):
    thief = log_in(client)
    move(client, app, thief)
    his_key = add(client, thief)[0]
    with app.app_context():
        email_changes.undo(change_token(app, "undo_email"), EMAIL, **FROM)
    reset(app)

    problem(sign_in(client, his_key), 401, "invalid_credentials")
    assert sign_in(client, her_key).status_code == 200


@pytest.mark.parametrize("take_back", [undo, report, report_the_password, keep])
def test_an_app_that_a_thief_set_up_locks_nobody_out(app, client, ada, take_back, time_machine):
    """Without a factor of hers the second step is off, and what came with it gone."""
    thief = log_in(client)
    set_up_app(client, thief, time_machine)
    with app.app_context():
        sessions.trusted.trust(ada.id, device_id=None, device_name="his", ip_address=None)
    take_back(client, app, thief)
    reset(app)

    assert try_login(client, password=NEW_PASSWORD).status_code == 200
    assert count(app, AuthenticatorApp) == count(app, RecoveryCode) == 0
    assert count(app, TrustedBrowser) == 0
    assert "two_step_off" in happened(app)
    assert ("second_step_changed", "off") in told(app)


@pytest.mark.parametrize("take_back", [undo, report, keep])
def test_with_an_older_passkey_the_second_step_stays_on(
    app, client, ada, her_key, take_back, time_machine
):
    thief = log_in(client)
    set_up_app(client, thief, time_machine)
    take_back(client, app, thief)
    reset(app)

    asked = problem(try_login(client, password=NEW_PASSWORD), 403, "mfa_required")
    assert asked["methods"] == ["webauthn"]
    assert count(app, AuthenticatorApp) == count(app, RecoveryCode) == 0
    assert "two_step_off" not in happened(app)
    assert ("second_step_changed", "app_removed") in told(app)
    assert ("second_step_changed", "gone") in told(app)


def test_keeping_without_a_reset_leaves_everything(app, client, ada):
    """It was she who had it deleted."""
    held = log_in(client)
    her_key = add(client, held)[0]
    assert client.delete(f"{V1}/users/me", json={}, headers=bearer(held)).status_code == 200
    with app.app_context():
        user = database.rows(select(User.id, User.delete_after))[0]
        link = tokens.sign("keep_account", f"{user.id}:{user.delete_after.isoformat()}")
        deletions.keep(link, EMAIL, is_reset=False, **FROM)

    assert sign_in(client, her_key).status_code == 200
