"""The second step: codes that work once, no session without it, and what the database gives away."""

import base64
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from authsite import (
    accounts,
    activity,
    clock,
    database,
    passwords,
    second_steps,
    sessions,
    step_up,
    throttling,
)
from authsite.crypto import hashing, sealing
from authsite.database.models import AuthenticatorApp, OutgoingMail, RecoveryCode, User, UserSession
from authsite.errors import (
    AlreadyReplaced,
    InvalidCode,
    InvalidCredentials,
    MfaTokenInvalid,
    NoSecondStep,
    SecondStepRequired,
    SessionRevoked,
    SetupTokenInvalid,
    TooManyAttempts,
)
from authsite.second_steps import pending, recovery
from tests import factories, services
from tests.factories import NEW_PASSWORD, PASSWORD, Phone, turn_on
from tests.test_passkeys import add as add_passkey
from tests.test_races import at_once

CLIENT = sessions.Client(ip_address="203.0.113.7", user_agent="curl/8")


@pytest.fixture
def ada(app_context, time_machine):
    time_machine.move_to("2026-03-01T12:00:00Z", tick=False)
    return factories.account()


@pytest.fixture
def two_step(ada):
    """Ada's phone and recovery codes, half a minute after she has turned two-step sign-in on."""
    return turn_on(ada)


def mfa_token(email: str = "ada@example.com", password: str = PASSWORD, **how) -> str:
    authenticated = accounts.authenticate(email, password)
    with pytest.raises(SecondStepRequired) as required:
        second_steps.require(authenticated, entrance=how.pop("entrance", "api"), **how)
    return required.value.mfa_token


def complete(token: str, code: str, **how) -> second_steps.SignedIn:
    waiting = pending.read(token, is_page=how.pop("is_page", how.get("is_trusted", False)))
    return second_steps.complete_with_code(waiting, code, client=CLIENT, **how)


def session_count(account) -> int:
    return len(sessions.active_for(account.id))


def way_of(held: sessions.Grant) -> str:
    statement = select(UserSession.signed_in_with).where(UserSession.id == held.session_id)
    return database.rows(statement)[0][0]


# setting up


def test_a_setup_writes_nothing_until_a_code_has_been_shown(ada):
    held = factories.grant(ada)
    setup = second_steps.apps.begin(ada, held.session_id)
    assert second_steps.apps.find(ada.id) is None
    assert setup.uri.startswith("otpauth://totp/authsite:ada%40example.com?secret=")
    assert len(base64.b32decode(setup.secret)) == 20
    again = second_steps.apps.resume(ada, held.session_id, setup.setup_token)
    assert again == setup


def test_a_code_turns_it_on_lifts_that_session_and_ends_none(ada):
    other, held = factories.grant(ada), factories.grant(ada)
    setup = second_steps.apps.begin(ada, held.session_id)
    made = second_steps.apps.confirm(
        ada,
        held.session_id,
        setup_token=setup.setup_token,
        code=f" {Phone(setup.secret).code()[:3]} {Phone(setup.secret).code()[3:]} ",
    )
    assert len(set(made.recovery_codes)) == 10
    assert accounts.authenticate(ada.email, PASSWORD).two_step_since == clock.now()
    assert (way_of(held), way_of(other)) == ("password+app", "password")
    assert session_count(ada) == 2


def test_the_code_that_turned_it_on_is_spent(ada):
    held = factories.grant(ada)
    setup = second_steps.apps.begin(ada, held.session_id)
    code = Phone(setup.secret).code()
    second_steps.apps.confirm(ada, held.session_id, setup_token=setup.setup_token, code=code)
    with pytest.raises(InvalidCode):
        complete(mfa_token(), code)


@pytest.mark.parametrize("wrong", ["000000", "", "12345", "1234567", "١٢٣٤٥٦", "x" * 5000])
def test_a_wrong_code_turns_nothing_on(ada, wrong):
    held = factories.grant(ada)
    setup = second_steps.apps.begin(ada, held.session_id)
    with pytest.raises(InvalidCode):
        second_steps.apps.confirm(ada, held.session_id, setup_token=setup.setup_token, code=wrong)
    assert accounts.authenticate(ada.email, PASSWORD).two_step_since is None


@pytest.mark.parametrize(
    ("offset", "said"),
    [(-6, "about 3 minutes slow"), (10, "about 5 minutes fast"), (-2, "about a minute slow")],
)
def test_a_clock_that_is_off_is_told_while_setting_up_and_never_when_signing_in(ada, offset, said):
    held = factories.grant(ada)
    setup = second_steps.apps.begin(ada, held.session_id)
    phone, token = Phone(setup.secret), {"setup_token": setup.setup_token}
    with pytest.raises(InvalidCode, match=said):
        second_steps.apps.confirm(ada, held.session_id, code=phone.code(offset), **token)
    with pytest.raises(InvalidCode, match="The code is wrong or has been used"):
        second_steps.apps.confirm(ada, held.session_id, code=phone.code(11), **token)
    second_steps.apps.confirm(ada, held.session_id, code=phone.code(), **token)
    with pytest.raises(InvalidCode, match="The code is wrong or has been used"):
        complete(mfa_token(), phone.code(offset))


def test_a_setup_is_of_one_session_of_one_user_and_for_fifteen_minutes(ada, time_machine):
    """An attacker's own picture, planted in another's session, sets nothing up."""
    eve, held = factories.account("eve@example.com"), factories.grant(ada)
    setup = second_steps.apps.begin(ada, held.session_id)
    code = Phone(setup.secret).code()
    for account, session_id in ((eve, held.session_id), (ada, factories.grant(ada).session_id)):
        with pytest.raises(SetupTokenInvalid):
            second_steps.apps.confirm(account, session_id, setup_token=setup.setup_token, code=code)
    for token in ("", "x", setup.setup_token[:-1], "x" * 5000, mfa_like()):
        with pytest.raises(SetupTokenInvalid):
            second_steps.apps.confirm(ada, held.session_id, setup_token=token, code=code)
    time_machine.shift(timedelta(minutes=15, seconds=1))
    with pytest.raises(SetupTokenInvalid):
        second_steps.apps.confirm(ada, held.session_id, setup_token=setup.setup_token, code=code)


def mfa_like() -> str:
    authenticated = accounts.authenticate("ada@example.com", PASSWORD)
    return pending.token_for(authenticated, entrance="api", is_remembered=True)


# signing in


def test_the_right_password_alone_makes_no_session(ada, two_step):
    """The gate stands in the INSERT: a view that forgets the step gets no row."""
    authenticated = accounts.authenticate(ada.email, PASSWORD)
    before = session_count(ada)
    with pytest.raises(InvalidCredentials):
        sessions.start(
            authenticated.account,
            password_changed_at=authenticated.password_changed_at,
            client=CLIENT,
            entrance="api",
        )
    assert session_count(ada) == before


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_code_of_the_step_before_or_after_is_taken_once(ada, time_machine, offset):
    phone, _ = turn_on(ada)
    time_machine.shift(timedelta(minutes=5))
    held = complete(mfa_token(), phone.code(offset)).grant
    assert way_of(held) == "password+app"
    for used in range(-1, offset + 1):
        with pytest.raises(InvalidCode):
            complete(mfa_token(), phone.code(used))


def test_a_recovery_code_works_once_however_it_is_typed(ada, two_step):
    _, (first, second, *_) = two_step
    held = complete(mfa_token(), f" {first.upper().replace('-', ' ').replace('0', 'O')}")
    assert way_of(held.grant) == "password+recovery"
    with pytest.raises(InvalidCode):
        complete(mfa_token(), first)
    assert complete(mfa_token(), second.replace("1", "l").replace("-", "")).grant
    assert recovery.summary(ada.id).left == 8


def test_nobody_elses_code_is_right(ada, two_step):
    grace = factories.account("grace@example.com")
    phone, paper = turn_on(grace)
    for code in (phone.code(), *paper):
        throttling.forget_second_step(ada.id)
        with pytest.raises(InvalidCode):
            complete(mfa_token(), code)
    assert recovery.summary(grace.id).left == 10


def test_a_pending_sign_in_works_once_for_ten_minutes_and_not_after_the_password(
    ada, two_step, time_machine
):
    phone, paper = two_step
    token = mfa_token()
    complete(token, phone.code())
    with pytest.raises(MfaTokenInvalid):
        complete(token, paper[0])
    assert recovery.summary(ada.id).left == 10, "a refused sign-in burns no code"
    old = mfa_token()
    time_machine.shift(timedelta(minutes=10, seconds=1))
    with pytest.raises(MfaTokenInvalid):
        complete(old, phone.code())
    older = mfa_token()
    database.run(
        update(User).where(User.id == ada.id).values(password_changed_at=clock.now()), None
    )
    with pytest.raises(MfaTokenInvalid):
        complete(older, phone.code())


def test_a_sign_in_that_began_on_a_page_does_not_go_on_in_the_api_nor_the_reverse(ada, two_step):
    for entrance in ("page", "api"):
        with pytest.raises(MfaTokenInvalid):
            pending.read(mfa_token(entrance=entrance), is_page=entrance != "page")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "x" * 9000])
def test_what_is_no_pending_sign_in_is_refused(ada, two_step, token):
    with pytest.raises(MfaTokenInvalid):
        complete(token, two_step[0].code())


def test_a_deactivated_account_is_not_signed_in_by_its_second_step(ada, two_step):
    token = mfa_token()
    accounts.deactivate(ada.email)
    with pytest.raises(MfaTokenInvalid):
        complete(token, two_step[0].code())


# guessing


def test_five_wrong_codes_close_it_for_codes_of_either_kind_until_the_window_has_passed(
    ada, two_step, time_machine
):
    phone, paper = two_step
    for _ in range(5):
        with pytest.raises(InvalidCode):
            complete(mfa_token(), "000000")
    for code in (phone.code(), paper[0]):
        with pytest.raises(TooManyAttempts):
            complete(mfa_token(), code)
    assert recovery.summary(ada.id).left == 10
    time_machine.shift(timedelta(minutes=15, seconds=1))
    assert complete(mfa_token(), phone.code()).grant


def test_a_right_password_does_not_clear_the_count_and_a_right_second_step_does(ada, two_step):
    _phone, paper = two_step
    for round_ in range(4):
        with pytest.raises(InvalidCode):
            complete(mfa_token(), "000000")
        assert throttling.wrong_second_steps(ada.id) == round_ + 1
    complete(mfa_token(), paper[0])
    assert throttling.wrong_second_steps(ada.id) == 0


@pytest.mark.slow
def test_fifty_without_a_right_one_between_close_it_for_good(ada, two_step, time_machine):
    phone, _ = two_step
    for _ in range(10):
        for _ in range(5):
            with pytest.raises(InvalidCode):
                complete(mfa_token(), "000000")
        time_machine.shift(timedelta(minutes=16))
    with pytest.raises(TooManyAttempts, match="Use a passkey, or ask the operator"):
        complete(mfa_token(), phone.code())
    throttling.forget_second_step(ada.id)
    assert complete(mfa_token(), phone.code()).grant


def test_a_reset_of_the_password_neither_asks_for_nor_clears_the_second_step(ada, two_step):
    """ASVS 6.4.3"""
    with pytest.raises(InvalidCode):
        complete(mfa_token(), "000000")
    passwords.set_by_operator(ada.email, NEW_PASSWORD)
    assert throttling.wrong_second_steps(ada.id) == 1
    assert complete(mfa_token(password=NEW_PASSWORD), two_step[0].code()).grant


# recovery codes, removal


def test_new_recovery_codes_replace_all_and_only_the_set_that_was_seen(ada, two_step):
    _, old = two_step
    seen = recovery.current_set(ada.id)
    made, set_id = recovery.replace(ada.id, factories.live_session(ada.id), replaces=seen)
    assert not set(made) & set(old)
    with pytest.raises(AlreadyReplaced):
        recovery.replace(ada.id, factories.live_session(ada.id), replaces=seen)
    with pytest.raises(InvalidCode):
        complete(mfa_token(), old[0])
    assert complete(mfa_token(), made[0]).grant
    assert recovery.current_set(ada.id) == set_id
    assert recovery.is_current(ada.id, made)
    assert not recovery.is_current(ada.id, old)


def test_without_two_step_sign_in_there_are_no_recovery_codes(ada):
    with pytest.raises(NoSecondStep):
        recovery.replace(ada.id, factories.live_session(ada.id), replaces=None)
    assert recovery.summary(ada.id) is None


def test_removing_the_last_factor_turns_it_off_with_all_that_hangs_on_it(ada, two_step):
    signed_in = complete(mfa_token(entrance="page"), two_step[0].code(), is_trusted=True)
    assert sessions.trusted_count(ada.id) == 1
    assert second_steps.apps.remove(ada.id, factories.live_session(ada.id))
    assert not second_steps.apps.remove(ada.id, factories.live_session(ada.id))
    assert accounts.authenticate(ada.email, PASSWORD).two_step_since is None
    assert recovery.summary(ada.id) is None
    assert not sessions.is_trusted(ada.id, signed_in.trust.secret)
    assert factories.grant(ada)


def test_a_new_app_replaces_the_old_one_and_keeps_the_recovery_codes(ada, two_step, time_machine):
    old, paper = two_step
    time_machine.shift(timedelta(minutes=1))
    held = complete(mfa_token(), old.code()).grant
    setup = second_steps.apps.begin(ada, held.session_id)
    new = Phone(setup.secret)
    made = second_steps.apps.confirm(
        ada, held.session_id, setup_token=setup.setup_token, code=new.code()
    )
    assert made.recovery_codes is None
    time_machine.shift(timedelta(minutes=1))
    with pytest.raises(InvalidCode):
        complete(mfa_token(), old.code())
    assert complete(mfa_token(), new.code()).grant
    assert complete(mfa_token(), paper[0]).grant


# trusted browsers


def test_a_trusted_browser_skips_the_step_for_its_days_and_its_user_only(
    ada, two_step, time_machine
):
    secret = complete(mfa_token(entrance="page"), two_step[0].code(), is_trusted=True).trust.secret
    authenticated = accounts.authenticate(ada.email, PASSWORD)
    assert second_steps.require(authenticated, entrance="page", trust_secrets=[secret]) == (
        "password+trusted"
    )
    grace = factories.account("grace@example.com")
    turn_on(grace)
    assert mfa_token("grace@example.com", entrance="page", trust_secrets=[secret])
    assert mfa_token(entrance="page", trust_secrets=["x" * 43])
    time_machine.shift(timedelta(days=30, seconds=1))
    assert mfa_token(entrance="page", trust_secrets=[secret])


def test_no_trust_is_given_over_the_api_nor_where_the_settings_offer_none(ada, two_step, app):
    _phone, paper = two_step
    assert complete(mfa_token(), paper[0], is_page=False, is_trusted=True).trust is None
    app.config["TRUSTED_BROWSER_DAYS"] = 0
    assert complete(mfa_token(entrance="page"), paper[1], is_trusted=True).trust is None


def _change(ada, held):
    resumed = sessions.resume_api(held.session_id, ada.id)
    passwords.change(resumed, PASSWORD, NEW_PASSWORD, ip_address=None)


def _everywhere(*, keeps_own):
    def end(ada, held):
        how = {"device_name": "x", "ip_address": None, "keeps_own": keeps_own}
        sessions.end_everywhere(ada.id, held.session_id, reason="revoked", **how)

    return end


def _revoke_the_browser(ada, held):
    (browser,) = [each for each in sessions.active_for(ada.id) if each.entrance == "page"]
    sessions.end(ada.id, browser.id, reason="revoked", ended_from="x")


def _reuse(ada, held):
    jti = held.jti
    for _ in range(2):
        jti = sessions.rotate(held.session_id, ada.id, jti, ip_address=None).jti
    with pytest.raises(SessionRevoked):
        sessions.rotate(held.session_id, ada.id, held.jti, ip_address=None)


ENDS_OF_TRUST = {
    "change": _change,
    "operator's password": lambda ada, held: passwords.set_by_operator(ada.email, NEW_PASSWORD),
    "deactivated": lambda ada, held: accounts.deactivate(ada.email),
    "everywhere": _everywhere(keeps_own=False),
    "everywhere else": _everywhere(keeps_own=True),
    "that device signed out from another": _revoke_the_browser,
    "reuse": _reuse,
    "new codes": lambda ada, held: recovery.replace(
        ada.id, factories.live_session(ada.id), replaces=recovery.current_set(ada.id)
    ),
    "turned off": lambda ada, held: second_steps.apps.turn_off(
        ada.id, factories.live_session(ada.id)
    ),
}


@pytest.mark.parametrize("end", ENDS_OF_TRUST.values(), ids=ENDS_OF_TRUST)
def test_what_ends_trust(ada, two_step, end):
    """A copied cookie is worth nothing after any of these, whoever holds it."""
    phone, paper = two_step
    browser = CLIENT._replace(device_id="b" * 22)
    waiting = pending.read(mfa_token(entrance="page"), is_page=True)
    trust = second_steps.complete_with_code(
        waiting, paper[0], client=browser, is_trusted=True
    ).trust
    held = complete(mfa_token(), phone.code()).grant
    assert sessions.is_trusted(ada.id, trust.secret)
    end(ada, held)
    assert not sessions.is_trusted(ada.id, trust.secret)


def test_an_ordinary_sign_out_and_another_devices_end_leave_trust_alone(ada, two_step):
    phone, paper = two_step
    waiting = pending.read(mfa_token(entrance="page"), is_page=True)
    client = CLIENT._replace(device_id="b" * 22)
    signed_in = second_steps.complete_with_code(waiting, paper[0], client=client, is_trusted=True)
    held = complete(mfa_token(), phone.code()).grant
    sessions.end(ada.id, signed_in.grant.session_id, reason="logged_out")
    sessions.end(ada.id, held.session_id, reason="revoked", ended_from="x")
    assert sessions.is_trusted(ada.id, signed_in.trust.secret)


# what a copy of the database gives away, and secrets that are rotated


def test_a_copy_of_the_database_opens_nothing(ada, two_step):
    """RS-01's kind: neither secret, code nor cookie stands in it."""
    phone, paper = two_step
    signed_in = complete(mfa_token(entrance="page"), phone.code(), is_trusted=True)
    secret = base64.b32decode(phone.secret)
    dump = ""
    for table in database.Base.metadata.sorted_tables:
        for row in database.rows(text(f"SELECT * FROM {table.name}")):
            dump += repr([bytes(each) if isinstance(each, memoryview) else each for each in row])
    assert "argon2id" in dump
    for hidden in (phone.secret, repr(secret)[2:-1], signed_in.trust.secret, *paper):
        assert hidden not in dump
        assert hidden.replace("-", "") not in dump


def test_a_secret_moved_to_another_account_opens_nothing(ada, two_step):
    grace = factories.account("grace@example.com")
    turn_on(grace)
    theirs = second_steps.apps.find(ada.id).secret
    database.run(
        update(AuthenticatorApp).where(AuthenticatorApp.user_id == grace.id).values(secret=theirs)
    )
    with pytest.raises(InvalidCode):
        complete(mfa_token("grace@example.com"), two_step[0].code())


def test_after_a_rotation_of_the_secret_the_app_goes_on_and_is_sealed_anew(ada, two_step, app):
    """TK-08's kind."""
    before = second_steps.apps.find(ada.id).secret
    app.config.update(SECRET_KEY="n" * 40, SECRET_KEY_FALLBACKS=[services.SECRET_KEY])
    assert complete(mfa_token(), two_step[0].code()).grant
    after = second_steps.apps.find(ada.id).secret
    assert after != before
    app.config["SECRET_KEY_FALLBACKS"] = []
    opened = sealing.open_("authenticator app", after, belongs_to=ada.id.bytes)
    assert base64.b32encode(opened.content).decode() == two_step[0].secret


def test_a_secret_that_was_dropped_too_early_refuses_the_app_and_never_skips_the_step(
    ada, two_step, app, caplog
):
    phone, paper = two_step
    app.config["SECRET_KEY"] = "n" * 40
    with pytest.raises(InvalidCode):
        complete(mfa_token(), phone.code())
    assert "second_step_unreadable" in [
        getattr(r, "facts", {}).get("event") for r in caplog.records
    ]
    assert complete(mfa_token(), paper[0]).grant


def test_resealing_takes_all_apps_to_the_newest_secret(ada, two_step, app):
    (row,) = database.rows(second_steps.apps.EVERY)
    assert second_steps.apps.reseal(row) is False
    app.config.update(SECRET_KEY="n" * 40, SECRET_KEY_FALLBACKS=[services.SECRET_KEY])
    assert second_steps.apps.reseal(row) is True
    app.config.update(SECRET_KEY="m" * 40, SECRET_KEY_FALLBACKS=[])
    (row,) = database.rows(second_steps.apps.EVERY)
    assert second_steps.apps.reseal(row) is None


# races

ROUNDS = 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["app", "recovery"])
def test_one_code_shown_by_many_at_once_makes_one_session(app_context, kind):
    ada = factories.account()
    for round_ in range(ROUNDS):
        database.run(text("DELETE FROM authenticator_apps"))
        database.run(update(User).values(two_step_since=None))
        database.run(text("DELETE FROM recovery_codes"))
        phone, paper = turn_on(ada)
        code = phone.code() if kind == "app" else paper[0]
        before = session_count(ada)
        tokens = [mfa_token() for _ in range(4)]
        answers = at_once(app_context, *[_completing(token, code) for token in tokens])
        assert session_count(ada) == before + 1, round_
        assert sum(isinstance(each, second_steps.SignedIn) for each in answers) == 1
        throttling.forget_second_step(ada.id)


def _completing(token: str, code: str):
    return lambda: complete(token, code)


@pytest.mark.slow
def test_one_pending_sign_in_with_two_good_factors_makes_one_session(app_context):
    ada = factories.account()
    _phone, paper = turn_on(ada)
    for code in paper[: ROUNDS // 2]:
        token, before = mfa_token(), session_count(ada)
        other = recovery_pair(paper, code)
        at_once(app_context, _completing(token, code), _completing(token, other))
        assert session_count(ada) == before + 1
        paper = recovery.replace(
            ada.id, factories.live_session(ada.id), replaces=recovery.current_set(ada.id)
        )[0]
        throttling.forget_second_step(ada.id)


def recovery_pair(paper: list[str], code: str) -> str:
    return next(each for each in paper if each != code)


@pytest.mark.slow
def test_turning_it_on_while_a_password_signs_in_leaves_no_session_that_came_later(app_context):
    ada = factories.account()
    for round_ in range(ROUNDS):
        held = factories.grant(ada)
        setup = second_steps.apps.begin(ada, held.session_id)
        code = Phone(setup.secret).code()
        authenticated = accounts.authenticate(ada.email, PASSWORD)
        turning, signing = at_once(
            app_context,
            lambda setup=setup, held=held, code=code: second_steps.apps.confirm(
                ada, held.session_id, setup_token=setup.setup_token, code=code
            ),
            lambda authenticated=authenticated: sessions.start(
                ada,
                password_changed_at=authenticated.password_changed_at,
                client=CLIENT,
                entrance="api",
            ),
        )
        assert not isinstance(turning, Exception), round_
        if isinstance(signing, sessions.Grant):
            # It came first: no password alone has signed in since.
            assert signing.issued_at <= accounts.authenticate(ada.email, PASSWORD).two_step_since
        assert isinstance(signing, (sessions.Grant, InvalidCredentials))
        second_steps.apps.remove(ada.id, factories.live_session(ada.id))
        sessions.end_all(ada.id, reason="revoked")


@pytest.mark.parametrize(
    "prove",
    [
        lambda session: step_up.confirm(session, password=PASSWORD),
        lambda session: passwords.change(session, PASSWORD, NEW_PASSWORD, ip_address=None).grant,
    ],
    ids=["confirming", "changing the password"],
)
def test_a_password_being_checked_while_it_is_turned_on_proves_nothing_afterwards(
    app_context, monkeypatch, prove
):
    """SE-18: a check waits for its place for seconds where many sign in."""
    ada = factories.account()
    held, elsewhere = factories.grant(ada), factories.grant(ada)
    session = sessions.resume_api(held.session_id, ada.id)
    setup = second_steps.apps.begin(ada, elsewhere.session_id)
    taken, waiting = threading.Semaphore(0), threading.BoundedSemaphore(1)
    monkeypatch.setattr(hashing, "_slots", taken)
    monkeypatch.setattr(hashing, "_waiting", waiting)

    def turn_on_meanwhile() -> None:
        services.wait_until(lambda: waiting._value == 0, what="the password's check")
        try:
            second_steps.apps.confirm(
                ada,
                elsewhere.session_id,
                setup_token=setup.setup_token,
                code=Phone(setup.secret).code(),
            )
        finally:
            taken.release()

    grant, turned_on = at_once(app_context, lambda: prove(session), turn_on_meanwhile)

    assert turned_on is None
    assert isinstance(grant, sessions.Grant)
    shown = sessions.resume_api(held.session_id, ada.id)
    assert step_up.fresh_until(shown._replace(authenticated_at=grant.authenticated_at)) is None


@pytest.mark.slow
def test_two_new_sets_at_once_leave_one(app_context):
    ada = factories.account()
    turn_on(ada)
    for _ in range(ROUNDS):
        seen = recovery.current_set(ada.id)
        answers = at_once(
            app_context,
            *[
                lambda seen=seen: recovery.replace(
                    ada.id, factories.live_session(ada.id), replaces=seen
                )
            ]
            * 2,
        )
        won = [each for each in answers if isinstance(each, tuple)]
        assert len(won) == 1
        rows = database.rows(select(RecoveryCode.set_id))
        assert {row.set_id for row in rows} == {won[0][1]}
        assert len(rows) == 10


# activity


def kinds_of(account) -> list[str]:
    rows, _ = activity.feed(account.id, limit=100)
    events = sorted(rows, key=lambda row: (row.created_at, row.kind))
    return [row.kind for row in events if row.kind not in {"registered", "signed_in"}]


def test_each_change_of_the_second_step_is_told_to_its_owner(ada, time_machine):
    """LIFE 8.4, FACTORS section 5: on, a new app, new codes, a recovery code, off."""
    _phone, paper = turn_on(ada)
    expected = ["two_step_on"]
    assert kinds_of(ada) == expected
    time_machine.move_to("2026-03-01T12:01:00Z", tick=False)
    with pytest.raises(InvalidCode):
        complete(mfa_token(), "000000")
    assert kinds_of(ada) == [*expected, "second_step_failed"]
    complete(mfa_token(), paper[0])
    expected += ["recovery_code_used", "second_step_failed"]
    assert kinds_of(ada) == expected
    time_machine.move_to("2026-03-01T12:02:00Z", tick=False)
    second_steps.recovery.replace(
        ada.id, factories.live_session(ada.id), replaces=recovery.current_set(ada.id)
    )
    expected.append("second_step_changed")
    assert kinds_of(ada) == expected
    time_machine.move_to("2026-03-01T12:03:00Z", tick=False)
    here = factories.live_session(ada.id)
    setup = second_steps.apps.begin(ada, here)
    code = Phone(setup.secret).code()
    second_steps.apps.confirm(ada, here, setup_token=setup.setup_token, code=code)
    expected.append("second_step_changed")
    assert kinds_of(ada) == expected
    time_machine.move_to("2026-03-01T12:04:00Z", tick=False)
    assert second_steps.apps.remove(ada.id, factories.live_session(ada.id))
    assert not second_steps.apps.remove(ada.id, factories.live_session(ada.id))
    assert kinds_of(ada) == [*expected, "two_step_off"]


def test_the_fifth_wrong_code_is_told_to_have_blocked_and_what_follows_is_not_told(ada, two_step):
    """LIFE 8.4 for the second step; what is no guess at a code is none of it."""
    for _ in range(5):
        with pytest.raises(InvalidCode):
            complete(mfa_token(), "000000")
    with pytest.raises(TooManyAttempts):
        complete(mfa_token(), "000000")
    with pytest.raises(MfaTokenInvalid):
        complete("not a token of ours", "000000")
    told = [each for each in kinds_of(ada) if each != "two_step_on"]
    assert told == ["second_step_blocked", *["second_step_failed"] * 4]  # in one moment: by name


def test_who_guesses_at_passwords_cannot_hide_who_knows_one(ada, two_step):
    """Each of the two kinds of failures has its own fifty a day."""
    for _ in range(51):
        activity.record_failure(ada.id, has_filled=False)
    with pytest.raises(InvalidCode):
        complete(mfa_token(), "000000")
    rows, _ = activity.feed(ada.id, limit=100)
    kinds = [row.kind for row in rows]
    assert (kinds.count("sign_in_failed"), kinds.count("second_step_failed")) == (50, 1)


def test_a_recovery_code_that_bought_no_session_was_not_used(ada, two_step, monkeypatch):
    """The event goes with its act: undone together."""
    _phone, paper = two_step
    token = mfa_token()
    monkeypatch.setattr(sessions, "start", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        complete(token, paper[0])
    assert kinds_of(ada) == ["two_step_on"]
    assert recovery.summary(ada.id).left == 10


# what the owner is mailed, and what an operator does


def mailed(ada):
    query = select(OutgoingMail.name).where(OutgoingMail.user_id == ada.id)
    return [row.name for row in database.rows(query.order_by(OutgoingMail.id))]


def test_the_owner_is_mailed_of_each_change(ada, two_step):
    second_steps.recovery.replace(
        ada.id, factories.live_session(ada.id), replaces=recovery.current_set(ada.id)
    )
    confirm_another(ada)
    second_steps.apps.remove(ada.id, factories.live_session(ada.id))
    assert what_is_mailed(ada) == {"on", "codes", "app_replaced", "off"}


def test_an_app_beside_a_passkey_is_mailed_as_what_it_is(ada):
    """Added, replaced, removed: never just "changed"."""
    add_passkey(ada)
    second_steps.switch.enable(ada.id, factories.live_session(ada.id))
    confirm_another(ada)
    confirm_another(ada)
    second_steps.apps.remove(ada.id, factories.live_session(ada.id))
    assert what_is_mailed(ada) == {"on", "app_added", "app_replaced", "app_removed"}


def confirm_another(ada):
    here = factories.live_session(ada.id)
    setup = second_steps.apps.begin(ada, here)
    code = Phone(setup.secret).code()
    second_steps.apps.confirm(ada, here, setup_token=setup.setup_token, code=code)


def what_is_mailed(ada):
    of_the_step = (OutgoingMail.user_id == ada.id, OutgoingMail.name == "second_step_changed")
    found = [
        row.facts["what"] for row in database.rows(select(OutgoingMail.facts).where(*of_the_step))
    ]
    assert len(found) == len(set(found))
    return set(found)


def test_the_owner_is_mailed_of_a_recovery_code_and_not_of_one_that_bought_nothing(ada, two_step):
    token = mfa_token()
    held = complete(token, two_step[1][0]).grant
    with pytest.raises(MfaTokenInvalid):
        complete(token, two_step[1][1])
    query = select(OutgoingMail.facts).where(OutgoingMail.name == "recovery_code_used")
    [mail] = database.rows(query)
    # The session that it signed in can be ended from the mail.
    assert (mail.facts["left"], mail.facts["session_id"]) == (9, str(held.session_id))


def test_the_third_wrong_code_is_mailed_once_a_day(ada, two_step, time_machine):
    for number in range(5):
        with pytest.raises(InvalidCode):
            complete(mfa_token(), "000000")
        assert mailed(ada).count("password_known") == (number >= 2)
    time_machine.shift(timedelta(days=1))
    for _ in range(2):
        with pytest.raises(InvalidCode):
            complete(mfa_token(), "000000")
    assert mailed(ada).count("password_known") == 2


def test_an_operators_reset_opens_the_account_to_the_password_and_ends_every_session(ada, two_step):
    for _ in range(5):
        with pytest.raises(InvalidCode):
            complete(mfa_token(), "000000")
    second_steps.operating.reset(ada.email)
    assert session_count(ada) == 0
    assert throttling.wrong_second_steps(ada.id) == 0
    assert recovery.summary(ada.id) is None
    assert mailed(ada).count("second_step_changed") == 2, "that it was on, and is off"
    assert factories.grant(ada)


def test_resealing_lets_an_old_secret_go(ada, two_step, app):
    app.config.update(SECRET_KEY="n" * 40, SECRET_KEY_FALLBACKS=[services.SECRET_KEY])
    outdated = {"outdated": 1, "current": 0, "unreadable": 0}
    assert second_steps.apps.reseal_all(is_dry_run=True) == outdated
    assert second_steps.apps.reseal_all(is_dry_run=False) == outdated
    app.config["SECRET_KEY_FALLBACKS"] = []
    current = {"outdated": 0, "current": 1, "unreadable": 0}
    assert second_steps.apps.reseal_all(is_dry_run=True) == current
    assert complete(mfa_token(), two_step[0].code()).grant
    app.config["SECRET_KEY"] = "m" * 40
    assert second_steps.apps.reseal_all(is_dry_run=False)["unreadable"] == 1
