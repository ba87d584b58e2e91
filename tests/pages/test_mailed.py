"""What the activity says was mailed, against the mails that each act really queues."""

import json
import uuid

import pytest
from sqlalchemy import select, update

from authsite import (
    accounts,
    activity,
    addresses,
    clock,
    database,
    deletions,
    email_changes,
    exports,
    not_me,
    passkeys,
    passwords,
    second_steps,
    sessions,
)
from authsite.crypto import tokens
from authsite.database.models import (
    EVENT_KINDS,
    AccountEvent,
    EmailChange,
    OutgoingMail,
    PasswordReset,
    User,
    UserSession,
)
from authsite.errors import SecondStepRequired, SessionRevoked
from authsite.pages.activity import MAILED, _folded
from authsite.second_steps import pending
from tests import factories
from tests.authenticator import Authenticator
from tests.factories import NEW_PASSWORD, PASSWORD, Phone

FROM = {"device_name": "Chrome on Windows", "ip_address": "203.0.113.7"}
IP = {"ip_address": "203.0.113.7"}
BROWSER = "the-one-that-ada-uses"
NEW = "ada.lovelace@example.com"
# Of a failure there is no act to be undone; a mail tells of the third wrong code, whatever its kind.
FAILURES = {f"{of}_{how}" for of in ("sign_in", "second_step") for how in ("failed", "blocked")}


class Owner:
    """An account, a browser that is signed in to it and an API client, and what led to an act."""

    def __init__(self, *, is_verified: bool = True) -> None:
        self.account = factories.account(is_verified=is_verified)
        self.held = factories.grant(self.account)
        page = factories.grant(self.account, entrance="page", device_id=BROWSER)
        self.browser = sessions.resume_page(page.session_id, self.id, page.cookie_secret)
        self.prepared = None

    @property
    def id(self) -> uuid.UUID:
        return self.account.id

    def link(self, purpose: str) -> str:
        """Return the token of the newest mail of a change of address."""
        query = select(EmailChange.id).order_by(EmailChange.created_at.desc())
        return tokens.sign(purpose, f"{self.id.hex}.{database.rows(query)[0].id}")


def ask_for_change(owner):
    assert email_changes.request(owner.browser, NEW, **IP)


def change_email(owner):
    ask_for_change(owner)
    email_changes.confirm(owner.id, owner.link("change_email"))


def ask_for_reset(owner):
    passwords.request_reset(owner.account.email, **FROM)


def reset(owner):
    reset_id = database.rows(select(PasswordReset.id))[0].id
    passwords.reset(tokens.sign("reset", reset_id), NEW_PASSWORD, **FROM)


def reuse(owner):
    held = owner.held
    for _ in range(2):
        held = sessions.rotate(held.session_id, owner.id, held.jti)
    with pytest.raises(SessionRevoked):
        sessions.rotate(owner.held.session_id, owner.id, owner.held.jti)


def keep(owner):
    after = deletions.scheduled_for(owner.id)
    token = tokens.sign("keep_account", f"{owner.id}:{after.isoformat()}")
    deletions.keep(token, owner.account.email, is_reset=False, **FROM)


def ask_for_deletion(owner):
    deletions.request_by_operator(owner.account.email)


def report(owner):
    token = tokens.sign("not_me", f"session:{owner.id}:{owner.held.session_id}")
    assert not_me.end_session(token, **FROM)


def be_told_of_another_password(owner):
    passwords.set_by_operator(owner.account.email, NEW_PASSWORD)
    changed_at = database.rows(select(User.password_changed_at))[0].password_changed_at
    owner.prepared = tokens.sign("not_me", f"password:{owner.id}:{changed_at.isoformat()}")


def turn_on(owner):
    owner.prepared = factories.turn_on(owner.account)


def new_app(owner):
    setup = second_steps.apps.begin(owner.account, owner.held.session_id)
    code = Phone(setup.secret).code()
    second_steps.apps.confirm(
        owner.account, owner.held.session_id, setup_token=setup.setup_token, code=code
    )


def use_recovery_code(owner):
    authenticated = accounts.authenticate(owner.account.email, PASSWORD)
    with pytest.raises(SecondStepRequired) as required:
        second_steps.require(authenticated, entrance="api")
    waiting = pending.read(required.value.mfa_token, is_page=False)
    second_steps.complete_with_code(waiting, owner.prepared[1][0], client=sessions.Client())


def add_passkey(owner):
    options = passkeys.creation_options(owner.account, owner.browser.id)
    made = json.dumps(Authenticator().make(options))
    owner.prepared = passkeys.add(owner.id, owner.browser.id, made, name=None, is_api=True)


def use_without_key(owner):
    bound = {"bound_at": clock.now(), "bound_key": bytes(64)}
    mine = update(UserSession).where(
        UserSession.user_id == owner.id, UserSession.id == owner.browser.id
    )
    database.run(mine.values(bound))
    sessions.note_unproven(owner.browser)


def nothing(_owner):
    """Lead to no act."""


def by_email(verb):
    return lambda owner: verb(owner.account.email)


VERIFY = by_email(addresses.verify_by_operator)
DEACTIVATE = by_email(accounts.deactivate)
# The kind, what leads to the act, and the act; a kind that is not always mailed stands here as it is not.
ACTS = [
    ("registered", nothing, lambda _owner: factories.account("grace@example.com")),
    (
        "signed_in",
        nothing,
        lambda owner: factories.grant(owner.account, entrance="page", device_id=BROWSER),
    ),
    ("email_verified", nothing, VERIFY),
    (
        "signed_out",
        nothing,
        lambda owner: sessions.end(owner.id, owner.browser.id, reason="logged_out"),
    ),
    (
        "device_signed_out",
        nothing,
        lambda owner: sessions.end(
            owner.id, owner.held.session_id, reason="revoked", ended_from="x"
        ),
    ),
    ("devices_signed_out", nothing, lambda owner: sessions.end_all(owner.id, reason="revoked")),
    ("refresh_reused", nothing, reuse),
    (
        "password_changed",
        nothing,
        lambda owner: passwords.change(owner.browser, PASSWORD, NEW_PASSWORD, **IP),
    ),
    (
        "password_set",
        nothing,
        lambda owner: passwords.set_by_operator(owner.account.email, NEW_PASSWORD),
    ),
    ("password_reset_requested", nothing, ask_for_reset),
    ("password_reset", ask_for_reset, reset),
    (
        "details_changed",
        nothing,
        lambda owner: accounts.update_details(owner.id, {"first_name": "Augusta"}),
    ),
    ("email_change_requested", nothing, ask_for_change),
    ("email_change_cancelled", ask_for_change, lambda owner: email_changes.cancel(owner.id)),
    (
        "email_changed",
        ask_for_change,
        lambda owner: email_changes.confirm(owner.id, owner.link("change_email")),
    ),
    (
        "email_change_undone",
        change_email,
        lambda owner: email_changes.undo(owner.link("undo_email"), owner.account.email, **FROM),
    ),
    ("not_me_reported", nothing, report),
    (
        "not_me_reported",
        be_told_of_another_password,
        lambda owner: not_me.end_everything(owner.prepared, owner.account.email, **FROM),
    ),
    (
        "data_exported",
        nothing,
        lambda owner: list(exports.export(owner.account, by=None, ip_address=None)),
    ),
    (
        "deletion_requested",
        nothing,
        lambda owner: deletions.request(owner.browser, password=PASSWORD, **IP),
    ),
    ("deletion_requested", nothing, ask_for_deletion),
    ("deletion_cancelled", ask_for_deletion, keep),
    ("deactivated", nothing, DEACTIVATE),
    ("activated", DEACTIVATE, by_email(accounts.activate)),
    ("two_step_on", nothing, turn_on),
    (
        "two_step_on",
        add_passkey,
        lambda owner: second_steps.switch.enable(owner.id, owner.browser.id),
    ),
    ("two_step_off", turn_on, lambda owner: second_steps.apps.turn_off(owner.id, owner.browser.id)),
    ("two_step_off", turn_on, lambda owner: second_steps.apps.remove(owner.id, owner.browser.id)),
    ("second_step_changed", turn_on, new_app),
    (
        "second_step_changed",
        turn_on,
        lambda owner: second_steps.recovery.replace(
            owner.id, owner.browser.id, replaces=second_steps.recovery.current_set(owner.id)
        ),
    ),
    ("recovery_code_used", turn_on, use_recovery_code),
    ("passkey_added", nothing, add_passkey),
    (
        "passkey_removed",
        add_passkey,
        lambda owner: passkeys.remove(owner.id, owner.browser.id, owner.prepared.id),
    ),
    (
        "passkey_removed",
        add_passkey,
        lambda owner: second_steps.operating.reset(owner.account.email, and_passkeys=True),
    ),
    ("key_not_proven", nothing, use_without_key),
]
UNVERIFIED = {"email_verified", "email_changed"}


@pytest.mark.parametrize("is_verified", [True, False])
def test_it_says_of_a_new_address_whether_the_old_one_was_mailed(app_context, is_verified):
    owner = Owner(is_verified=is_verified)
    ask_for_change(owner)
    email_changes.confirm(owner.id, owner.link("change_email"))
    assert said_to_be_mailed(owner, "email_changed") == ("email_changed" in names()) == is_verified


def test_it_says_of_an_operators_new_address_that_it_was_mailed(app_context):
    """To the new one, where the old one was not confirmed."""
    owner = Owner(is_verified=False)
    email_changes.change_by_operator(owner.account.email, "new@example.com")
    assert said_to_be_mailed(owner, "email_changed")
    assert "email_changed" in names()


def said_to_be_mailed(owner, kind) -> bool:
    rows, _ = activity.feed(owner.id, limit=100, kind=kind)
    [entry] = _folded(rows)
    return entry.is_mailed


def names() -> list[str]:
    query = select(OutgoingMail.name).order_by(OutgoingMail.created_at)
    return [row.name for row in database.rows(query)]


def kinds() -> list[str]:
    return [row.kind for row in database.rows(select(AccountEvent.kind))]


def test_every_act_is_held_to_its_mails():
    assert {kind for kind, _, _ in ACTS} | FAILURES == set(EVENT_KINDS)
    assert MAILED.keys() <= set(EVENT_KINDS) - FAILURES


@pytest.mark.parametrize(("kind", "lead", "act"), ACTS, ids=[f"{each[0]}" for each in ACTS])
def test_it_says_of_an_act_that_it_was_mailed_if_it_always_is(app_context, kind, lead, act):
    owner = Owner(is_verified=kind not in UNVERIFIED)
    lead(owner)
    earlier, before = names(), kinds().count(kind)
    act(owner)
    assert kinds().count(kind) > before
    queued = names()
    for name in earlier:
        queued.remove(name)
    assert (MAILED[kind] in queued) if kind in MAILED else queued == []
