"""Changes of address: from the wish to the link, and back again from any step."""

import base64
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from authsite import (
    accounts,
    chores,
    clock,
    database,
    deletions,
    email_changes,
    exports,
    not_me,
    passwords,
    second_steps,
    sessions,
    throttling,
)
from authsite.crypto import tokens
from authsite.database.models import (
    AccountEvent,
    EmailChange,
    OutgoingEvent,
    OutgoingMail,
    PasswordReset,
    User,
    UserEmail,
    UserSession,
)
from authsite.errors import (
    EmailTaken,
    EmailTokenInvalid,
    InvalidCredentials,
    InvalidInput,
    SessionRevoked,
    TooManyAttempts,
)
from authsite.mail import outbox
from tests import factories, services
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.test_passkeys import add as add_passkey

# Its keys and statements are others where the tables are spread.
E1, E2, E3, E4 = (f"ada{number}@example.com" for number in (1, 2, 3, 4))
FROM = {"device_name": "Chrome on Windows", "ip_address": "203.0.113.7"}
WEEK = timedelta(days=7)


@pytest.fixture(autouse=True)
def _current(app_context):
    """Verbs need the application, not a request."""


@pytest.fixture
def ada():
    return factories.account(E1, is_verified=True)


@pytest.fixture
def session(ada):
    return resumed(ada)


def resumed(account):
    held = factories.grant(account)
    return sessions.resume_api(held.session_id, account.id)


def ask(session, email, **facts) -> bool:
    return email_changes.request(session, email, ip_address="203.0.113.7", **facts)


def waiting(account) -> str | None:
    found = email_changes.find_waiting(account.id)
    return found and found.new_email


def newest() -> database.Row:
    statement = select(EmailChange.id, EmailChange.user_id).order_by(EmailChange.created_at.desc())
    return database.rows(statement)[0]


def link(purpose: str = "change_email", change=None) -> str:
    change = change or newest()
    return tokens.sign(purpose, f"{change.user_id.hex}.{change.id}")


def change_to(session, email):
    """Change the address, as its owner would; return the change."""
    throttling_forget(session, email)
    assert ask(session, email)
    email_changes.confirm(session.account.id, link())
    return newest()


def throttling_forget(session, email) -> None:
    """A chain of changes is more than an hour allows."""
    for name, whom in (("change_email", str(session.account.id)), ("change_email to", email)):
        key = tokens.keyed_digest(f"mail {name}", whom)
        database.run(delete(throttling.SignInFailures).where(throttling.SignInFailures.key == key))


def undo(change, email, **facts):
    return email_changes.undo(link("undo_email", change), email, **(FROM | facts))


def address(account) -> str:
    row = database.row(select(User.email).where(User.id == account.id))
    return row.email


def held_by(account) -> dict:
    """Return the account's addresses, and until when those are kept that it gave up."""
    rows = database.rows(select(UserEmail.__table__).where(UserEmail.user_id == account.id))
    return {row.email: row.kept_until for row in rows}


def kinds(account) -> list[str]:
    statement = select(AccountEvent.kind).where(AccountEvent.user_id == account.id)
    rows = database.rows(statement.order_by(AccountEvent.id))
    return [row.kind for row in rows if row.kind.startswith("email_change")]


def names() -> list[str]:
    return [row.name for row in database.rows(select(OutgoingMail.name).order_by(OutgoingMail.id))]


def is_live(session) -> bool:
    try:
        sessions.resume_api(session.id, session.account.id)
    except SessionRevoked:
        return False
    return True


# Asking


def test_asking_changes_nothing_but_that_a_change_waits(ada, session):
    """LIFE §8.2: the old address goes on working meanwhile."""
    assert ask(session, " ADA2@Example.com ")
    found = email_changes.find_waiting(ada.id)

    assert (found.new_email, names()) == (E2, ["change_email"])
    assert timedelta(hours=23, minutes=59) < found.expires_at - clock.now() <= timedelta(hours=24)
    assert (address(ada), held_by(ada)) == (E1, {E1: None})
    assert accounts.authenticate(E1, PASSWORD).account == ada
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(E2, PASSWORD)
    assert factories.account(E2).email == E2  # a wish takes nothing
    assert kinds(ada) == ["email_change_requested"]


@pytest.mark.parametrize("typed", [E1, "ADA1@example.com", f"\u200b{E1} "])
def test_the_address_that_it_is_already_is_refused(session, typed):
    with pytest.raises(InvalidInput) as refusal:
        ask(session, typed)

    assert refusal.value.errors == [("email", "This is already your email address")]
    assert names() == []


def test_a_new_wish_ends_the_one_that_waits(ada, session):
    ask(session, E2)
    first = link()
    ask(session, E3)

    assert waiting(ada) == E3
    with pytest.raises(EmailTokenInvalid):
        email_changes.confirm(ada.id, first)
    assert email_changes.confirm(ada.id, link()).email == E3


def test_what_is_cancelled_is_over_and_cancelling_again_says_nothing(ada, session):
    ask(session, E2)
    email_changes.cancel(ada.id)
    email_changes.cancel(ada.id)

    assert waiting(ada) is None
    assert kinds(ada) == ["email_change_requested", "email_change_cancelled"]
    with pytest.raises(EmailTokenInvalid):
        email_changes.confirm(ada.id, link())
    assert address(ada) == E1


def test_at_most_three_links_go_out_by_an_account_in_an_hour(ada, session, time_machine):
    """AP-22: and the one that waits is left as it is."""
    time_machine.move_to(clock.now(), tick=False)
    assert [ask(session, f"new{number}@example.com") for number in range(4)] == [*[True] * 3, False]
    assert (waiting(ada), names()) == ("new2@example.com", ["change_email"] * 3)
    time_machine.shift(timedelta(hours=1, seconds=1))

    assert ask(session, E2)


def test_at_most_three_links_go_to_an_address_in_an_hour():
    """AP-22: however many accounts ask."""
    asked = []
    for number in range(4):
        asked.append(ask(resumed(factories.account(f"user{number}@example.com")), E2))

    assert (asked, names()) == ([*[True] * 3, False], ["change_email"] * 3)


def test_a_wish_of_a_session_that_has_ended_meanwhile_is_none(ada, session):
    """The request was let in, and waited for a reset: what that ends must not come back after it."""
    sessions.end(ada.id, session.id, reason="revoked")
    with pytest.raises(SessionRevoked):
        ask(session, E2)

    assert (waiting(ada), names(), kinds(ada)) == (None, [], [])


def test_the_database_itself_lets_one_change_wait(ada, session):
    """LIFE §8.2: whatever code forgets to lock."""
    ask(session, E2)
    now = clock.now()
    addresses_of = {"old_email": E1, "new_email": E3, "old_was_verified": True}
    at = {"created_at": now, "expires_at": now + WEEK}
    with pytest.raises(IntegrityError):
        database.run(insert(EmailChange), {"id": "x", "user_id": ada.id} | addresses_of | at)
    over = {"ended_at": now}
    database.run(insert(EmailChange), {"id": "y", "user_id": ada.id} | addresses_of | at | over)

    assert waiting(ada) == E2


# Confirming


def test_the_link_changes_the_address_once(ada, session):
    ask(session, E2)
    token = link()
    assert email_changes.find(token).new_email == E2
    account = email_changes.confirm(ada.id, token)

    assert (account.email, address(ada), waiting(ada)) == (E2, E2, None)
    assert account.email_verified_at > ada.email_verified_at
    assert accounts.authenticate(E2, PASSWORD).account.id == ada.id
    with pytest.raises(InvalidCredentials):
        accounts.authenticate(E1, PASSWORD)
    for use in (lambda: email_changes.confirm(ada.id, token), lambda: email_changes.find(token)):
        with pytest.raises(EmailTokenInvalid):
            use()
    assert kinds(ada) == ["email_change_requested", "email_changed"]


def test_sessions_stay_and_reset_links_end(ada, session):
    """LIFE §8.2, RS-03: the password is the same; the mailbox of the link is not the account's now."""
    passwords.request_reset(E1, **FROM)
    reset = tokens.sign("reset", database.row(select(PasswordReset.id)).id)
    change_to(session, E2)

    assert is_live(session)
    with pytest.raises(Exception, match="Invalid or expired password reset"):
        passwords.reset(reset, NEW_PASSWORD, device_name=None, ip_address=None)


def test_a_link_is_good_for_its_own_account_only(ada, session):
    """LIFE §0.2"""
    grace = factories.account("grace@example.com")
    ask(session, E2)
    with pytest.raises(EmailTokenInvalid):
        email_changes.confirm(grace.id, link())

    assert (address(grace), address(ada)) == (grace.email, E1)
    forged = tokens.sign("change_email", f"{grace.id.hex}.{newest().id}")
    with pytest.raises(EmailTokenInvalid):
        email_changes.confirm(grace.id, forged)
    assert email_changes.confirm(ada.id, link()).email == E2


def test_no_other_token_is_such_a_link(ada, session):
    """RS-11: each purpose has a key of its own; a copy of the table is worth nothing."""
    ask(session, E2)
    change = newest()
    others = [tokens.sign(each, f"{ada.id.hex}.{change.id}") for each in ("undo_email", "reset")]
    for token in ["", "x", change.id, f"{ada.id.hex}.{change.id}", *others, f"{link()}x"]:
        with pytest.raises(EmailTokenInvalid):
            email_changes.confirm(ada.id, token)
        with pytest.raises(EmailTokenInvalid):
            email_changes.find_undoable(token)

    assert address(ada) == E1


@pytest.mark.parametrize("age", [timedelta(hours=23, minutes=59), timedelta(hours=24, seconds=2)])
def test_a_link_works_for_24_hours(ada, session, time_machine, age):
    ask(session, E2)
    token = link()
    time_machine.move_to(clock.now() + age)
    if age < timedelta(hours=24):
        assert email_changes.confirm(ada.id, token).email == E2
        return
    assert waiting(ada) is None
    with pytest.raises(EmailTokenInvalid):
        email_changes.confirm(ada.id, token)
    assert address(ada) == E1


def test_an_address_that_is_taken_meanwhile_is_refused_and_the_link_stays_good(ada, session):
    ask(session, E2)
    grace = factories.account(E2)
    with pytest.raises(EmailTaken):
        email_changes.confirm(ada.id, link())
    assert (address(ada), held_by(ada), held_by(grace)) == (E1, {E1: None}, {E2: None})
    assert names() == ["change_email"]
    database.run(delete(UserEmail).where(UserEmail.user_id == grace.id))
    database.run(delete(User).where(User.id == grace.id))

    assert email_changes.confirm(ada.id, link()).email == E2


def test_an_address_that_is_kept_for_its_owner_is_taken(ada, session):
    change_to(session, E2)
    grace = factories.account("grace@example.com")
    ask(resumed(grace), E1)
    with pytest.raises(EmailTaken):
        email_changes.confirm(grace.id, link())

    assert (address(grace), set(held_by(ada))) == (grace.email, {E1, E2})


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_an_address_that_only_the_release_before_has_listed_is_taken(ada, session):
    """Its code writes `users` alone: that table's own constraint decides then."""
    grace = factories.account(E2)
    database.run(delete(UserEmail).where(UserEmail.user_id == grace.id))
    ask(session, E2)
    with pytest.raises(EmailTaken):
        email_changes.confirm(ada.id, link())

    assert (address(ada), held_by(ada), held_by(grace)) == (E1, {E1: None}, {})


def test_an_account_of_the_release_before_keeps_the_address_that_it_gives_up():
    ada = factories.account(E1, is_verified=True)
    session = resumed(ada)
    database.run(delete(UserEmail).where(UserEmail.user_id == ada.id))
    change_to(session, E2)

    assert held_by(ada)[E1] is not None
    with pytest.raises(EmailTaken):
        factories.account(E1)


def test_a_closed_account_changes_nothing(ada, session):
    ask(session, E2)
    accounts.deactivate(E1)
    accounts.activate(E1)
    with pytest.raises(EmailTokenInvalid):
        email_changes.confirm(ada.id, link())

    assert (address(ada), waiting(ada)) == (E1, None)


def reset(account) -> None:
    passwords.request_reset(account.email, **FROM)
    waits = select(PasswordReset.id).where(PasswordReset.ended_at.is_(None))
    token = tokens.sign("reset", database.row(waits).id)
    passwords.reset(token, NEW_PASSWORD, device_name=None, ip_address=None)


ENDS = {
    "change": lambda ada, session: passwords.change(
        session, PASSWORD, NEW_PASSWORD, ip_address=None
    ),
    "reset": lambda ada, session: reset(ada),
    "set by the operator": lambda ada, session: passwords.set_by_operator(E1, NEW_PASSWORD),
    "not me": lambda ada, session: not_me.end_session(
        tokens.sign("not_me", f"session:{ada.id}:{session.id}"), **FROM
    ),
    "not me, everything": lambda ada, session: not_me.end_everything(
        tokens.sign("not_me", f"reuse:{ada.id}:{session.id}"), E1, **FROM
    ),
    "revoked": lambda ada, session: sessions.end(ada.id, session.id, reason="revoked"),
    "everywhere else": lambda ada, session: everywhere(ada, resumed(ada), keeps_own=True),
    "everywhere": lambda ada, session: everywhere(ada, session, keeps_own=False),
    "everywhere else, after it has signed out": lambda ada, session: (
        sessions.end(ada.id, session.id, reason="logged_out"),
        everywhere(ada, resumed(ada), keeps_own=True),
    ),
    "reuse": lambda ada, session: reuse(session),
    "deactivated": lambda ada, session: accounts.deactivate(E1),
    "to be deleted": lambda ada, session: deletions.request(session, ip_address=None),
}


def everywhere(account, session, *, keeps_own: bool) -> None:
    reason = "revoked" if keeps_own else "logged_out"
    by = {"device_name": session.device_name, "ip_address": None}
    sessions.end_everywhere(account.id, session.id, reason=reason, keeps_own=keeps_own, **by)


def reuse(session) -> None:
    with pytest.raises(SessionRevoked):
        sessions.rotate(session.id, session.account.id, "a token that is not its own")


@pytest.mark.parametrize("end", ENDS)
def test_what_ends_a_thiefs_hold_ends_the_change_that_waits(ada, session, end):
    """The "unexpired e-mail change" of pre-hijacking; the mail that waits is dropped too."""
    ask(session, E2)
    ENDS[end](ada, session)

    assert waiting(ada) is None
    with pytest.raises(EmailTokenInvalid):
        email_changes.confirm(ada.id, link())
    assert address(ada) == E1


STAYS = {
    "signed out": lambda ada, session: sessions.end(ada.id, session.id, reason="logged_out"),
    "another is revoked": lambda ada, session: sessions.end(
        ada.id, resumed(ada).id, reason="revoked"
    ),
    "it signs the others out": lambda ada, session: (
        resumed(ada),
        everywhere(ada, session, keeps_own=True),
    ),
    "another account signs out everywhere": lambda ada, session: everywhere(
        (grace := factories.account()), resumed(grace), keeps_own=False
    ),
    "signed in anew": lambda ada, session: sessions.end(ada.id, session.id, reason="replaced"),
    "no room": lambda ada, session: sessions.end(ada.id, session.id, reason="evicted"),
}


@pytest.mark.parametrize("act", STAYS)
def test_who_signs_out_or_takes_from_others_still_changes_the_address(ada, session, act):
    """LIFE §8.2: the link works beside the password too, so its owner need not stay signed in."""
    ask(session, E2)
    STAYS[act](ada, session)

    assert waiting(ada) == E2
    assert email_changes.confirm(ada.id, link()).email == E2


def test_what_only_a_reset_opens_stays_closed_under_the_new_address(ada, session):
    """Else who was reported would get in under it."""
    ask(session, E2)
    throttling.close(E1)
    email_changes.confirm(ada.id, link())

    with pytest.raises(TooManyAttempts):
        accounts.authenticate(E2, PASSWORD)


# The old address, and undoing


def test_the_address_that_was_given_up_stays_the_accounts_for_a_week(ada, session, time_machine):
    time_machine.move_to(clock.now(), tick=False)
    change_to(session, E2)
    assert held_by(ada) == {E1: clock.now() + WEEK, E2: None}
    with pytest.raises(EmailTaken):
        factories.account(E1)
    time_machine.shift(WEEK + timedelta(seconds=1))
    grace = factories.account(E1)

    assert (held_by(grace), held_by(ada)) == ({E1: None}, {E2: None})


def test_undoing_takes_everything_with_it_that_a_thief_could_hold(ada, session):
    thief = resumed(ada)
    change = change_to(thief, E2)
    throttling_forget(thief, E3)
    ask(thief, E3)
    passwords.request_reset(E2, **FROM)
    [his] = database.rows(select(PasswordReset.id).where(PasswordReset.ended_at.is_(None)))
    account = undo(change, " ADA1@Example.com")

    assert (account.email, address(ada), held_by(ada)) == (E1, E1, {E1: None})
    assert account.email_verified_at is not None
    assert not is_live(session)
    assert not is_live(thief)
    assert waiting(ada) is None
    for email in (E1, E2):
        with pytest.raises(InvalidCredentials):
            accounts.authenticate(email, PASSWORD)
    with pytest.raises(Exception, match="Invalid or expired password reset"):
        passwords.reset(
            tokens.sign("reset", his.id), NEW_PASSWORD, device_name=None, ip_address=None
        )
    assert {row.end_reason for row in database.rows(select(UserSession.end_reason))} == {
        "email_undone"
    }
    assert kinds(ada)[-1] == "email_change_undone"
    assert factories.account(E2).email == E2  # free at once


def test_undoing_mails_a_reset_that_works_even_if_a_thief_has_asked_for_three(ada, session):
    change = change_to(session, E2)
    for _ in range(3):
        passwords.request_reset(E2, **FROM)
    undo(change, E1)
    [waits] = database.rows(select(PasswordReset.id).where(PasswordReset.ended_at.is_(None)))
    passwords.reset(tokens.sign("reset", waits.id), NEW_PASSWORD, device_name=None, ip_address=None)

    assert accounts.authenticate(E1, NEW_PASSWORD).account.id == ada.id


def test_a_password_that_was_right_before_an_undo_signs_nobody_in_after_it(ada, session):
    """A sign-in under way: its password was verified, its row is not yet written."""
    change = change_to(session, E2)
    authenticated = accounts.authenticate(E2, PASSWORD)
    undo(change, E1)
    with pytest.raises(InvalidCredentials):
        sessions.start(
            authenticated.account,
            password_changed_at=authenticated.password_changed_at,
            client=sessions.Client(),
            entrance="api",
        )


@pytest.mark.parametrize("step", [0, 1, 2])
def test_undoing_leads_from_any_step_of_a_chain_to_the_address_of_its_mail(ada, session, step):
    """LIFE §8.2: not to where the account was last (firebase-js-sdk#4269)."""
    chain = [E1, E2, E3, E4]
    changes = [change_to(session, email) for email in chain[1:]]
    account = undo(changes[step], chain[step])

    assert (account.email, address(ada)) == (chain[step], chain[step])
    # What came before it can still be undone; its address is kept. The rest is free.
    assert set(held_by(ada)) == set(chain[: step + 1])
    assert [each for each in chain if held_by(ada).get(each)] == chain[:step]
    for change, email in zip(changes[step:], chain[step:], strict=False):
        with pytest.raises(EmailTokenInvalid):
            undo(change, email)
    for change, email in reversed(list(zip(changes[:step], chain, strict=False))):
        assert undo(change, email).email == email
    assert address(ada) == E1


def test_an_address_that_was_given_up_twice_is_kept_for_the_later_link(ada, session, time_machine):
    time_machine.move_to(clock.now(), tick=False)
    first = change_to(session, E2)
    time_machine.shift(timedelta(days=3))
    session = resumed(accounts.find_by_id(ada.id))
    change_to(session, E1)
    time_machine.shift(1)
    second = change_to(session, E3)
    assert held_by(ada) == {
        E1: clock.now() + WEEK,
        E2: clock.now() + WEEK - timedelta(seconds=1),
        E3: None,
    }
    time_machine.shift(timedelta(days=5))
    with pytest.raises(EmailTokenInvalid):
        undo(first, E1)

    assert undo(second, E1).email == E1


def test_undoing_after_the_owner_went_back_by_himself_still_ends_everything(ada, session):
    change = change_to(session, E2)
    change_to(session, E1)

    assert undo(change, E1).email == E1
    assert held_by(ada) == {E1: None}
    assert not is_live(session)


def test_an_undo_asks_for_the_address_that_the_mail_went_to(ada, session):
    """LIFE §0.3: a scanner does not type it."""
    change = change_to(session, E2)
    for typed in ["", E2, "x", f"{E1}x"]:
        with pytest.raises(InvalidInput):
            undo(change, typed)

    assert (address(ada), is_live(session)) == (E2, True)
    assert undo(change, E1)


def test_an_undo_link_works_once_and_for_a_week(ada, session, time_machine):
    first = change_to(session, E2)
    undo(first, E1)
    with pytest.raises(EmailTokenInvalid):
        undo(first, E1)
    passwords.set_by_operator(E1, PASSWORD)
    second = change_to(resumed(accounts.find_by_id(ada.id)), E3)
    token = link("undo_email", second)
    time_machine.move_to(clock.now() + WEEK + timedelta(seconds=1))
    with pytest.raises(EmailTokenInvalid):
        email_changes.undo(token, E1, **FROM)

    assert address(ada) == E3


def test_a_change_that_only_waits_cannot_be_undone(ada, session):
    ask(session, E2)
    with pytest.raises(EmailTokenInvalid):
        undo(newest(), E1)


def test_an_address_that_nobody_has_proven_is_free_at_once_and_hears_nothing():
    """LIFE §6: it may be a stranger's, and an undo link would hand him the account."""
    ada = factories.account(E1)
    change = change_to(resumed(ada), E2)

    assert held_by(ada) == {E2: None}
    assert names() == ["change_email"]
    with pytest.raises(EmailTokenInvalid):
        undo(change, E1)
    assert factories.account(E1).email == E1


def test_what_counts_is_whether_the_address_is_proven_when_it_is_given_up(time_machine):
    ada = factories.account(E1)
    ask(resumed(ada), E2)
    from authsite import addresses

    addresses.verify(ada.id, tokens.sign("verify_email", f"{ada.id}:{E1}"))
    email_changes.confirm(ada.id, link())

    assert held_by(ada)[E1] is not None
    assert undo(newest(), E1).email == E1


def test_without_days_to_undo_the_old_address_is_told_and_free(make_app):
    app = make_app(EMAIL_UNDO_DAYS="0")
    with app.app_context():
        ada = factories.account(E1, is_verified=True)
        change = change_to(resumed(ada), E2)

        assert held_by(ada) == {E2: None}
        assert names() == ["change_email", "email_changed"]
        with pytest.raises(EmailTokenInvalid):
            undo(change, E1)


def test_undoing_keeps_an_account_that_a_thief_has_had_deleted(ada, session):
    """LIFE §8.2, §8.6: deleting must not outrun undoing."""
    change = change_to(session, E2)
    deletions.request(sessions.resume_api(session.id, ada.id), ip_address=None)
    undone = undo(change, E1)

    assert (undone.email, undone.is_active) == (E1, True)
    assert database.row(select(User.delete_after))[0] is None
    assert sum(deletions.delete_due()) == 0
    assert names()[-1] == "password_reset"
    statement = select(AccountEvent.kind).order_by(AccountEvent.id)
    assert "deletion_cancelled" in [row.kind for row in database.rows(statement)]


def test_the_rows_of_an_account_stay_for_as_long_as_undoing_may_take(make_app, time_machine):
    app = make_app(ACCOUNT_DELETION_DAYS="0")
    with app.app_context():
        ada = factories.account(E1, is_verified=True)
        session = resumed(ada)
        change = change_to(session, E2)
        deletions.request(sessions.resume_api(session.id, ada.id), ip_address=None)
        time_machine.move_to(clock.now() + WEEK - timedelta(minutes=1))
        assert sum(deletions.delete_due()) == 0

        assert undo(change, E1).is_active


def test_what_an_operator_has_closed_is_not_opened_by_undoing(ada, session):
    change = change_to(session, E2)
    accounts.deactivate(E2)
    with pytest.raises(EmailTokenInvalid):
        undo(change, E1)

    assert (address(ada), accounts.find_by_email(E2).is_active) == (E2, False)


# Mails


@pytest.fixture
def with_mail(app, mailbox):
    app.config.update(MAIL_SERVER=services.HOST, MAIL_PORT=mailbox.port, SITE_NAME="Harbour")


def arrived(mailbox) -> list:
    """Deliver what waits and return whom each mail went to and its subject."""
    outbox.deliver()
    assert outbox.depth() == 0
    sent = zip(mailbox.recipients, mailbox.subjects, strict=True)
    return [(*to, subject) for to, subject in sent]


def everything(message) -> str:
    return "".join(part.get_content() for part in message.walk() if not part.is_multipart())


def test_the_new_address_gets_a_link_and_learns_nothing_of_the_account(with_mail, mailbox):
    ada = factories.account(E1, is_verified=True, first_name="Augusta")
    ask(resumed(ada), E2)
    assert arrived(mailbox) == [(E2, "Confirm your new email address for Harbour")]
    words = everything(mailbox.messages[0])
    assert not any(each in words for each in ("Augusta", E1, "ada1", "203.0.113.7", str(ada.id)))
    email_changes.confirm(ada.id, mailbox.token("/confirm-email"))

    assert address(ada) == E2


def test_the_old_address_is_told_who_and_where_to_and_gets_a_link_that_undoes_it(
    with_mail, mailbox
):
    ada = factories.account(E1, is_verified=True)
    ask(resumed(ada), "someone@thief.example")
    email_changes.confirm(ada.id, link())
    assert arrived(mailbox)[-1] == (E1, "Your Harbour email address was changed")
    text = mailbox.text()
    assert "s•••@thief.example" in text
    assert "someone" not in everything(mailbox.messages[-1])
    assert "203.0.113.7" in text

    account = email_changes.undo(mailbox.token("/undo-email"), E1, **FROM)
    assert account.email == E1
    assert arrived(mailbox)[-1] == (E1, "Reset your Harbour password")


def test_the_notice_goes_to_the_address_of_its_own_change(with_mail, mailbox):
    """LIFE §0.4: not to the one that the account has by then; nor is it lost if the account is closed."""
    ada = factories.account(E1, is_verified=True)
    session = resumed(ada)
    change_to(session, E2)
    change_to(session, E3)
    accounts.deactivate(E3)
    told = [to for to, subject in arrived(mailbox) if "was changed" in subject]

    assert told == [E1, E2]


def test_a_notice_of_what_was_undone_meanwhile_is_not_sent(with_mail, mailbox):
    ada = factories.account(E1, is_verified=True)
    session = resumed(ada)
    first, _ = change_to(session, E2), change_to(session, E3)
    undo(first, E1)

    assert [subject for _, subject in arrived(mailbox)] == ["Reset your Harbour password"]


@pytest.mark.parametrize("gone", ["replaced", "cancelled", "used", "expired"])
def test_a_link_that_no_longer_works_is_not_mailed(with_mail, mailbox, gone, time_machine):
    ada = factories.account(E1)
    session = resumed(ada)
    ask(session, E2)
    if gone == "replaced":
        ask(session, E3)
    elif gone == "cancelled":
        email_changes.cancel(ada.id)
    elif gone == "used":
        email_changes.confirm(ada.id, link())
    else:
        time_machine.move_to(clock.now() + timedelta(hours=24, seconds=1))

    assert E2 not in [to for to, _ in arrived(mailbox)]


@pytest.mark.parametrize("whose", ["shown", "kept"])
def test_who_has_the_new_address_is_told_so_and_nobody_else(with_mail, mailbox, whose):
    """LIFE §8.2: decided when it is sent; a kept address counts as having an account."""
    ada, grace = factories.account(E1), factories.account(E2, is_verified=True)
    if whose == "kept":
        change_to(resumed(grace), E3)
    database.run(delete(OutgoingMail))
    ask(resumed(ada), E2)
    assert arrived(mailbox) == [(E2, "You already have an account at Harbour")]
    words = mailbox.text()

    assert f"use {E2} for another account at Harbour" in " ".join(words.split())
    assert "token=" not in words


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_so_is_who_was_listed_by_the_release_before(with_mail, mailbox):
    """Its code writes `users` alone, and serves no tables that are spread."""
    ada, grace = factories.account(E1), factories.account(E2, is_verified=True)
    database.run(delete(UserEmail).where(UserEmail.user_id == grace.id))
    database.run(delete(OutgoingMail))
    ask(resumed(ada), E2)
    assert arrived(mailbox) == [(E2, "You already have an account at Harbour")]


def test_ones_own_kept_address_gets_the_link(with_mail, mailbox):
    """The owner may go back."""
    ada = factories.account(E1, is_verified=True)
    session = resumed(ada)
    change_to(session, E2)
    ask(session, E1)
    assert arrived(mailbox)[-1] == (E1, "Confirm your new email address for Harbour")
    email_changes.confirm(ada.id, mailbox.token("/confirm-email"))

    assert held_by(ada) == {E1: None, E2: held_by(ada)[E2]}


def test_at_most_ten_links_reach_an_address_in_a_day(with_mail, mailbox, time_machine):
    """AP-22: three an hour are seventy-two a day."""
    time_machine.move_to(clock.now(), tick=False)
    for number in range(12):
        ada = factories.account(f"user{number}@example.com")
        assert ask(resumed(ada), E2)
        time_machine.shift(timedelta(minutes=61))
        outbox.deliver()

    assert len(mailbox.messages) == 10


ACTS = {
    "Your Harbour password was changed": lambda ada, session: passwords.change(
        session, PASSWORD, NEW_PASSWORD, ip_address="203.0.113.7"
    ),
    "Your Harbour data was downloaded": lambda ada, session: list(
        exports.export(ada, by=session, ip_address="203.0.113.7")
    ),
    "New passkey for Harbour: his": lambda ada, session: add_passkey(
        ada, name="his", session_id=session.id
    ),
    "Two-step sign-in is on for Harbour": lambda ada, session: factories.turn_on(ada),
    "Your second step for Harbour was changed": lambda ada, session: new_codes(ada),
}


def new_codes(ada) -> None:
    factories.turn_on(ada)
    outbox.deliver()
    second_steps.recovery.replace(
        ada.id, factories.live_session(ada.id), replaces=second_steps.recovery.current_set(ada.id)
    )


@pytest.mark.parametrize("subject", ACTS)
def test_what_a_thief_does_is_told_to_every_address_that_can_be_changed_back(
    with_mail, mailbox, subject
):
    """LIFE §6: else his own mailbox alone would hear of it. The link is that of its own address."""
    ada = factories.account(E1, is_verified=True)
    session = resumed(ada)
    change_to(session, E2)
    change_to(session, E3)
    outbox.deliver()
    session = sessions.resume_api(session.id, ada.id)
    ACTS[subject](session.account, session)
    told = arrived(mailbox)[-3:]
    assert sorted(told) == [(each, subject) for each in (E1, E2, E3)]
    of = {to: number for number, (to,) in enumerate(mailbox.recipients)}  # each one's last
    assert f"had the address {E1}" in " ".join(mailbox.text(of[E1]).split())
    assert "/not-me?" not in mailbox.text(of[E1])
    assert "/undo-email?" not in everything(mailbox.messages[of[E3]])

    assert email_changes.undo(mailbox.token("/undo-email", of[E1]), E1, **FROM).email == E1


def test_it_is_told_once_where_the_account_is_back_or_the_time_is_over(
    with_mail, mailbox, time_machine
):
    ada = factories.account(E1, is_verified=True)
    session = resumed(ada)
    change_to(session, E2)
    change_to(session, E1)
    outbox.deliver()
    passwords.set_by_operator(E1, NEW_PASSWORD)
    outbox.deliver()
    told = [to for to, name in arrived(mailbox) if "password was changed" in name]
    assert sorted(told) == [E1, E2]
    time_machine.move_to(clock.now() + WEEK + timedelta(seconds=1))
    passwords.set_by_operator(E1, PASSWORD)

    told = [to for to, name in arrived(mailbox) if "password was changed" in name]
    assert sorted(told) == [E1, E1, E2]


# Products


def test_products_are_told_of_a_change_of_its_undoing_and_of_what_that_ended(make_app):
    secret = "whsec_" + base64.b64encode(b"n" * 32).decode()
    app = make_app(WEBHOOK_URLS="http://127.0.0.1:9/hooks", WEBHOOK_SECRETS=secret)
    with app.app_context():
        ada = factories.account(E1, is_verified=True)
        session = resumed(ada)
        database.run(delete(OutgoingEvent))
        ask(session, E2)
        assert told_products() == []
        email_changes.confirm(ada.id, link())
        assert told_products() == [("user.updated", {})]
        undo(newest(), E1)

    with app.app_context():
        ended = {"session_ids": [str(session.id)], "reason": "email_undone"}
        assert told_products()[1:] == [("session.ended", ended), ("user.updated", {})]


def told_products() -> list:
    rows = database.rows(select(OutgoingEvent.kind, OutgoingEvent.facts).order_by(OutgoingEvent.id))
    return [tuple(row) for row in rows]


# What is over


def test_the_clean_up_deletes_what_is_over(ada, session, time_machine):
    """What can still be undone, or waits, stays."""
    change_to(session, E2)
    throttling_forget(session, E3)
    ask(session, E3)
    assert how_many() == 2
    assert sum(email_changes.delete_dead(clock.now())) == 0
    time_machine.move_to(clock.now() + timedelta(days=2))
    assert sum(email_changes.delete_dead(clock.now())) == 1
    time_machine.move_to(clock.now() + timedelta(days=6))

    assert sum(email_changes.delete_dead(clock.now())) == 1
    assert how_many() == 0


def test_the_clean_up_frees_what_is_kept_for_nobody(ada, session, time_machine):
    """The row goes; until then anybody may take the address anyway."""
    change_to(session, E2)
    assert sum(accounts.delete_given_up()) == 0
    time_machine.move_to(clock.now() + WEEK + timedelta(seconds=1))

    assert sum(accounts.delete_given_up()) == 1
    assert held_by(ada) == {E2: None}


def test_the_worker_cleans_both_up(time_machine):
    """A change goes 30 days after it is over."""
    ada = factories.account(E1, is_verified=True)
    session = resumed(ada)
    change_to(session, E2)
    ask(session, E3)
    chores_at(time_machine, timedelta(days=8))
    assert (how_many(), held_by(ada)) == (2, {E2: None})
    chores_at(time_machine, timedelta(days=30))

    assert how_many() == 0


def chores_at(time_machine, later: timedelta) -> None:
    time_machine.move_to(clock.now() + later)
    rota = chores.Rota()
    time_machine.move_to(clock.now() + timedelta(minutes=11))
    while rota.turn():
        pass


# The operator


@pytest.fixture
def flask(app):
    runner = app.test_cli_runner()
    return lambda *arguments: runner.invoke(args=["change-email", *arguments])


def test_the_operator_changes_an_address(flask, ada, session):
    told = flask("ADA1@example.com", " Ada2@Example.com")

    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines()[-1] == f"Changed ADA1@example.com to {E2}."
    account = accounts.find_by_email(E2)
    assert account.email_verified_at is not None
    assert held_by(ada) == {E2: None}  # no link undoes it, so nothing is kept for one
    assert is_live(session)
    assert names() == ["email_changed"] * 2
    by = select(AccountEvent.session_id, AccountEvent.device_name, AccountEvent.ip_address)
    assert database.rows(by.where(AccountEvent.kind == "email_changed")) == [(None, None, None)]


def test_both_addresses_are_told_of_an_operators_change(with_mail, mailbox):
    ada = factories.account(E1, is_verified=True)
    email_changes.change_by_operator(E1, E2)
    subject = "Your Harbour email address was changed"
    assert sorted(arrived(mailbox)) == [(E1, subject), (E2, subject)]
    assert not any("token=" in everything(each) for each in mailbox.messages)
    words = {to: " ".join(mailbox.text(n).split()) for n, (to,) in enumerate(mailbox.recipients)}

    assert f"by an operator of Harbour, from {E1} to a•••@example.com." in words[E1]
    assert f"by an operator of Harbour. It is {E2} now." in words[E2]
    assert address(ada) == E2


def test_an_operators_change_ends_the_one_that_waits_and_leaves_earlier_undos(ada, session):
    first = change_to(session, E2)
    throttling_forget(session, E3)
    ask(session, E3)
    email_changes.change_by_operator(E2, E4)

    assert waiting(ada) is None
    assert set(held_by(ada)) == {E1, E4}
    assert undo(first, E1).email == E1


def test_the_operator_gives_an_owner_the_address_back_that_is_kept_for_him(ada, session):
    change_to(session, E2)

    assert email_changes.change_by_operator(E2, E1).email == E1


def test_a_closed_account_may_be_given_another_address(ada):
    accounts.deactivate(E1)

    assert email_changes.change_by_operator(E1, E2).email == E2
    assert not accounts.find_by_email(E2).is_active


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((E1, E1), "This is already the account's email address"),
        ((E1, "grace@example.com"), "User with this email already exists"),
        (("nobody@example.com", E2), "No account has this email address"),
        ((E1, "nonsense"), "Enter an email address in the correct format"),
        ((E1, f"{E2}\r\nBcc: x@example.com"), "Enter an email address in the correct format"),
    ],
)
def test_what_the_operator_cannot_change_is_said_and_changes_nothing(flask, ada, arguments, reason):
    factories.account("grace@example.com")
    told = flask(*arguments)

    assert (told.exit_code, reason in told.stderr) == (1, True)
    assert "Traceback" not in told.output
    assert (address(ada), names(), how_many()) == (E1, [], 0)


def how_many() -> int:
    return database.row(select(func.count()).select_from(EmailChange))[0]
