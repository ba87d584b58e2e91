"""Races: what holds when everything happens at once, in threads, in processes, and when one is killed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from sqlalchemy import func, select, update

from authsite import (
    accounts,
    clock,
    database,
    passwords,
    second_steps,
    sessions,
    throttling,
)
from authsite.crypto import tokens
from authsite.database.models import (
    AuthenticatorApp,
    OutgoingMail,
    PasswordReset,
    RecoveryCode,
    SignInFailures,
    User,
    UserSession,
)
from authsite.errors import (
    AuthsiteError,
    InvalidCredentials,
    ResetTokenInvalid,
    SecondStepRequired,
    ServiceBusy,
    SessionRevoked,
    TooManyAttempts,
)
from authsite.mail import outbox
from tests import factories, services
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.racing import Ask, api

pytestmark = pytest.mark.site

ROUNDS = 100


def at_once(app, *acts: Callable[[], object]) -> list[object]:
    """Start all acts together, each in a thread of its own; return what each answered or refused with."""
    barrier = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        with app.app_context():
            barrier.wait()
            try:
                return act()
            except AuthsiteError as refusal:
                return refusal

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def is_live(held: sessions.Grant) -> bool:
    try:
        sessions.resume_api(held.session_id, held.user_id)
    except SessionRevoked:
        return False
    return True


def count(statement) -> int:
    return database.row(select(func.count()).select_from(statement.subquery()))[0]


@pytest.fixture
def ada(app_context):
    return factories.account()


def rotate(held: sessions.Grant) -> sessions.Grant:
    return sessions.rotate(held.session_id, held.user_id, held.jti)


def make_link(account) -> str:
    passwords.request_reset(account.email, device_name="curl", ip_address=None)
    [row] = database.rows(select(PasswordReset.id).where(PasswordReset.ended_at.is_(None)))
    return tokens.sign("reset", row.id)


# Threads, on the verbs


ON_CITUS_TOO = pytest.mark.skipif(services.CITUS_URL is None, reason="TEST_CITUS_URL names none")


@pytest.mark.parametrize(
    "database_url",
    ["sqlite", "postgresql", pytest.param("spread", marks=ON_CITUS_TOO)],
    indirect=True,
)
def test_parallel_refreshes_converge_on_one_successor(ada, app):
    """SE-03, SE-06: all get it, it works, and two generations back still ends the session."""
    for _ in range(20):
        held = factories.session_rows(ada)[0]
        old = sessions.Grant(
            held["id"], ada.id, held["created_at"], held["expires_at"], held["refresh_jti"]
        )
        answers = at_once(app, *[lambda: rotate(old)] * 8)  # noqa: B023

        assert len(set(answers)) == 1, answers
        newest = rotate(answers[0])
        assert newest.jti != answers[0].jti
        with pytest.raises(SessionRevoked):
            rotate(old)
        assert not is_live(newest)


KILLERS = {
    "revoke": lambda held: sessions.end(held.user_id, held.session_id, reason="revoked"),
    "logout-all": lambda held: sessions.end_all(held.user_id, reason="logged_out"),
    "deactivate": lambda _: accounts.deactivate("ada@example.com"),
}


@pytest.mark.parametrize("killer", KILLERS)
def test_a_session_that_is_ended_while_it_refreshes_is_dead(ada, app, killer):
    """SE-07: in every one of 100 rounds, whoever comes first."""
    survivors = []
    for _ in range(ROUNDS):
        [row] = factories.session_rows(ada)
        held = sessions.Grant(
            row["id"], ada.id, row["created_at"], row["expires_at"], row["refresh_jti"]
        )
        refreshed, _ = at_once(
            app,
            lambda: rotate(held),  # noqa: B023
            lambda: KILLERS[killer](held),  # noqa: B023
        )
        if is_live(held):
            survivors.append(refreshed)
        if isinstance(refreshed, sessions.Grant):
            with pytest.raises(SessionRevoked):
                rotate(refreshed)
        if killer == "deactivate":
            accounts.activate(ada.email)
            if is_live(held):
                survivors.append(refreshed)

    assert survivors == []


def test_a_session_that_refreshes_during_a_reset_is_dead(ada, app):
    """SE-07, SE-13."""
    survivors = []
    for number in range(ROUNDS):
        [row] = factories.session_rows(ada)
        held = sessions.Grant(
            row["id"], ada.id, row["created_at"], row["expires_at"], row["refresh_jti"]
        )
        reset_id = _write_reset(ada)
        link = tokens.sign("reset", reset_id)
        _, reset = at_once(
            app,
            lambda: rotate(held),  # noqa: B023
            lambda: passwords.reset(
                link,  # noqa: B023
                f"words of round {number}",  # noqa: B023
                device_name=None,
                ip_address=None,
            ),
        )
        assert reset.id == ada.id
        if is_live(held):
            survivors.append(number)

    assert survivors == []


def _write_reset(account) -> str:
    """Write a request for a reset, of which only three an hour could be asked for."""
    now, reset_id = clock.now(), tokens.new_jti()
    database.run(
        PasswordReset.__table__.insert(),
        {
            "id": reset_id,
            "user_id": account.id,
            "created_at": now,
            "expires_at": now + passwords.RESET_LIFETIME,
        },
    )
    return reset_id


def test_of_two_uses_of_a_link_one_wins(ada, app):
    """RS-02: the winner's password works, the loser's does not, every time."""
    for number in range(20):
        link = tokens.sign("reset", _write_reset(ada))
        chosen = [f"first words {number}", f"second words {number}"]
        answers = at_once(
            app,
            *(
                lambda password=password: passwords.reset(  # type: ignore[misc]
                    link,  # noqa: B023
                    password,
                    device_name=None,
                    ip_address=None,
                )
                for password in chosen
            ),
        )
        won = [not isinstance(answer, ResetTokenInvalid) for answer in answers]

        assert sorted(won) == [False, True]
        assert accounts.authenticate(ada.email, chosen[won.index(True)]).account.id == ada.id
        with pytest.raises(InvalidCredentials):
            accounts.authenticate(ada.email, chosen[won.index(False)])


def test_a_sign_in_with_the_old_password_that_races_a_reset_leaves_no_session(ada, app):
    """SE-08: it comes first and its session is ended, or it comes second and begins none."""
    survivors, password = [], PASSWORD
    for number in range(30):
        link, following = tokens.sign("reset", _write_reset(ada)), f"words of round {number}"
        signed_in, _ = at_once(
            app,
            lambda: factories.grant(ada, password=password),  # noqa: B023
            lambda: passwords.reset(
                link,  # noqa: B023
                following,  # noqa: B023
                device_name=None,
                ip_address=None,
            ),
        )
        assert isinstance(signed_in, sessions.Grant | InvalidCredentials)
        survivors += [row.id for row in sessions.active_for(ada.id)]
        password = following
        throttling.forget(ada.email)

    assert survivors == []


def test_sign_ins_at_once_keep_the_cap(make_app):
    """SE-19: they take turns at the user's row, so the cap holds exactly."""
    app = make_app(MAX_SESSIONS_PER_USER="3")
    with app.app_context():
        ada = factories.account()
        authenticated = accounts.authenticate(ada.email, PASSWORD)

        def start() -> sessions.Grant:
            return sessions.start(
                ada,
                password_changed_at=authenticated.password_changed_at,
                client=sessions.Client(),
                entrance="api",
            )

        for _ in range(4):
            answers = at_once(app, *[start] * 6)
            assert all(isinstance(answer, sessions.Grant) for answer in answers)
            assert len(sessions.active_for(ada.id)) == 3


def test_sign_ins_of_one_device_at_once_leave_one_session(ada, app):
    """CONTRACT §1: the same device takes over from itself."""
    authenticated = accounts.authenticate(ada.email, PASSWORD)

    def start() -> sessions.Grant:
        return sessions.start(
            ada,
            password_changed_at=authenticated.password_changed_at,
            client=sessions.Client(device_id="phone"),
            entrance="api",
        )

    at_once(app, *[start] * 6)

    assert len(sessions.active_for(ada.id)) == 1


def test_operations_on_one_account_at_once_do_not_deadlock(ada, app):
    """LD-01: each locks the user's row first."""
    for _ in range(5):
        held = factories.grant(ada)
        session = sessions.resume_api(held.session_id, ada.id)
        answers = at_once(
            app,
            lambda: rotate(held),  # noqa: B023
            lambda: passwords.set_by_operator(ada.email, PASSWORD),
            lambda: sessions.end_all(ada.id, reason="revoked"),
            lambda: passwords.change(session, PASSWORD, NEW_PASSWORD, ip_address=None),  # noqa: B023
            lambda: passwords.request_reset(ada.email, device_name="curl", ip_address=None),
            lambda: accounts.update_details(ada.id, {"first_name": "Augusta"}),
        )
        passwords.set_by_operator(ada.email, PASSWORD)

        assert len(answers) == 6  # at_once raises whatever is not a refusal


def test_many_wrong_passwords_at_once_are_counted_exactly(ada, app):
    """LT-06: at most the limit and those in flight are evaluated, and none is lost from the count.

    Those beyond the places to wait for hashing are sent away, neither evaluated nor counted.
    """
    answers = at_once(app, *[lambda: accounts.authenticate(ada.email, "a wrong password")] * 50)
    evaluated = [each for each in answers if isinstance(each, InvalidCredentials)]
    refused = [each for each in answers if isinstance(each, TooManyAttempts | ServiceBusy)]
    key = throttling.key_for(ada.email)  # mails to the address are counted in the same table
    row = database.row(SignInFailures.__table__.select().where(SignInFailures.key == key))

    assert len(evaluated) + len(refused) == 50
    assert 10 <= len(evaluated) <= 10 + 2  # two places for hashing in one process
    assert (row.recent, row.consecutive) == (len(evaluated), len(evaluated))


# Processes: two workers of a running site


@pytest.fixture
def owner(track):
    return factories.account()


def get_me(bearer: str) -> Ask:
    return api("GET", "/auth/me", bearer=bearer)


def refresh(token: str) -> Ask:
    return api("POST", "/auth/refresh", refresh_token=token)


def log_in(account, password: str = PASSWORD) -> Ask:
    return api("POST", "/auth/login", email=account.email, password=password)


def tokens_of(held: sessions.Grant) -> dict[str, str]:
    return {"refresh": factories.refresh_token(held), "access": factories.access_token(held)}


def test_fifty_refreshes_of_one_token_over_all_workers(owner, track):
    """SE-03, SE-05, LD-01: fifty times 200 and one successor; the token of two steps back ends it all."""
    old = tokens_of(factories.grant(owner))
    answers = track.race(*[refresh(old["refresh"])] * 50)

    assert Counter(answer.status for answer in answers) == {200: 50}
    [successor] = {answer.json()["refresh_token"] for answer in answers}
    newest = track.ask(refresh(successor))
    assert newest.status == 200

    replayed = track.ask(refresh(old["refresh"]))
    assert (replayed.status, replayed.code) == (401, "session_revoked")
    assert track.ask(refresh(newest.json()["refresh_token"])).status == 401
    assert track.ask(get_me(newest.json()["access_token"])).status == 401


@pytest.mark.parametrize("path", ["/auth/logout", "/auth/logout-all"])
def test_a_log_out_during_refreshes_is_final_on_every_worker(owner, track, path):
    """SE-07, SE-02: the last word is that it is dead."""
    for _ in range(services.rounds(8)):
        held = factories.grant(owner)
        own = tokens_of(held)
        answers = track.race(
            refresh(own["refresh"]),
            api("POST", path, bearer=own["access"]),
            refresh(own["refresh"]),
        )
        assert answers[1].status == 200
        assert {answers[0].status, answers[2].status} <= {200, 401}
        for answer in (answers[0], answers[2]):
            if answer.status == 200:
                pair = answer.json()
                assert track.ask(refresh(pair["refresh_token"])).status == 401
                assert track.ask(get_me(pair["access_token"])).status == 401
        assert track.ask(get_me(own["access"])).status == 401


def test_two_confirmations_over_all_workers_have_one_winner(track):
    """RS-02."""
    for number in range(services.rounds(2)):
        owner = factories.account(f"ada{number}@example.com")
        link, chosen = (
            make_link(owner),
            [f"the {each} of two words" for each in ("first", "second")],
        )
        answers = track.race(
            *(
                api("POST", "/auth/password-reset/confirm", token=link, new_password=password)
                for password in chosen
            )
        )
        statuses = [answer.status for answer in answers]

        assert sorted(statuses) == [200, 400]
        for status, password in zip(statuses, chosen, strict=True):
            answer = track.ask(log_in(owner, password))
            assert answer.status == (200 if status == 200 else 401)


# The second step (FACTORS 7). The password before it is not the subject: the tokens are made here.


def pending_sign_in(account, password: str = PASSWORD) -> str:
    """Return the `mfa_token` of a right password; each is of a sign-in of its own."""
    with pytest.raises(SecondStepRequired) as required:
        second_steps.require(accounts.authenticate(account.email, password), entrance="api")
    return required.value.mfa_token


def second_step(token: str, code: str) -> Ask:
    return api("POST", "/auth/login/second-step", mfa_token=token, code=code)


def sessions_of(account) -> int:
    return len(sessions.active_for(account.id))


def unspend(phone: factories.Phone) -> str:
    """Return the app's code of now, as if none had been shown yet."""
    database.run(update(AuthenticatorApp).values(last_step=0))
    return phone.code()


@pytest.mark.parametrize("kind", ["app", "recovery"])
def test_one_code_over_all_workers_makes_one_session(owner, track, kind):
    """As many at once as the count of wrong ones lets through: five, before they are looked at."""
    phone, paper = factories.turn_on(owner)
    for on_paper in paper:
        code = unspend(phone) if kind == "app" else on_paper
        before = sessions_of(owner)
        pending = [pending_sign_in(owner) for _ in range(5)]
        answers = track.race(*(second_step(token, code) for token in pending))

        assert Counter(answer.status for answer in answers) == {200: 1, 403: 4}
        assert sessions_of(owner) == before + 1
        throttling.forget_second_step(owner.id)


def test_one_pending_sign_in_with_two_good_factors_over_all_workers_makes_one_session(owner, track):
    """And what lost is not burnt: it goes on being good."""
    phone, paper = factories.turn_on(owner)
    for code in paper:
        token, before = pending_sign_in(owner), sessions_of(owner)
        app_code = unspend(phone)
        answers = track.race(second_step(token, app_code), second_step(token, code))
        by_app, by_paper = (answer.status for answer in answers)

        assert sorted((by_app, by_paper)) == [200, 400]
        assert sessions_of(owner) == before + 1
        throttling.forget_second_step(owner.id)
        lost = app_code if by_paper == 200 else code
        assert track.ask(second_step(pending_sign_in(owner), lost)).status == 200


def test_turning_it_on_while_a_password_signs_in_over_all_workers_leaves_no_later_session_of_it(
    owner, track
):
    """Whoever comes first: none with the password alone after."""
    for _ in range(services.rounds(8)):
        held = factories.grant(owner)
        setup = second_steps.apps.begin(owner, held.session_id)
        turned_on, *signed_in = track.race(
            api(
                "PUT",
                "/users/me/two-step/app",
                bearer=factories.fresh_access_token(held),
                setup_token=setup.setup_token,
                code=factories.Phone(setup.secret).code(),
            ),
            *[log_in(owner)] * 3,
        )
        later = select(UserSession.id).where(
            UserSession.signed_in_with == "password",
            UserSession.created_at > select(User.two_step_since).scalar_subquery(),
        )

        assert turned_on.status == 200, turned_on.text
        assert {answer.status for answer in signed_in} <= {200, 401, 403}
        assert count(later) == 0
        second_steps.apps.remove(owner.id, factories.live_session(owner.id))


def test_second_steps_throughout_a_change_of_the_password_leave_no_session(track):
    """PW-13 over all workers: each is refused, or its session ends with the change."""
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    refused = 0
    for number in range(services.rounds(6)):
        account = factories.account(f"ada{number}@example.com")
        held = factories.grant(account)
        _, paper = factories.turn_on(account)
        steps = [second_step(pending_sign_in(account), code) for code in paper]
        changed, *stepped = track.race(
            api("PATCH", "/users/me/password", bearer=factories.fresh_access_token(held), **body),
            *steps,
        )
        statuses = {answer.status for answer in stepped}

        assert changed.status == 200, changed.text
        assert statuses <= {200, 400, 429}
        refused += bool(statuses - {200})
        assert [row.id for row in sessions.active_for(account.id)] == [held.session_id]
    assert refused, "no step came after the change: nothing was raced"


def test_new_sets_of_recovery_codes_over_all_workers_leave_one(owner, track):
    bearer = factories.fresh_access_token(factories.grant(owner))
    factories.turn_on(owner)
    for _ in range(services.rounds(8)):
        seen = {"replaces": str(second_steps.recovery.current_set(owner.id))}
        ask = api("POST", "/users/me/two-step/recovery-codes", bearer=bearer, **seen)
        answers = track.race(*[ask] * 3)

        assert Counter(answer.status for answer in answers) == {200: 1, 409: 2}
        [made] = [answer.json() for answer in answers if answer.status == 200]
        rows = database.rows(select(RecoveryCode.set_id))
        assert [str(row.set_id) for row in rows] == [made["set_id"]] * 10


def test_wrong_passwords_over_all_workers_share_one_counter(owner, track):
    """LT-06, LT-04: fifty at once; the limit and those in flight, and the count is exact."""
    answers = track.race(*[log_in(owner, "a wrong password")] * 50)
    statuses = Counter(answer.status for answer in answers)
    key = throttling.key_for(owner.email)  # mails to the address are counted in the same table
    row = database.row(SignInFailures.__table__.select().where(SignInFailures.key == key))

    # Beyond the places to wait for hashing it is 503: neither evaluated nor counted.
    assert statuses[401] + statuses[429] + statuses[503] == 50
    assert 10 <= statuses[401] <= 10 + 4  # two places for hashing in each of two processes
    assert (row.recent, row.consecutive) == (statuses[401], statuses[401])
    assert track.ask(log_in(owner)).status == 429


def refresh_anew(site: services.Site, token: str) -> requests.Response:
    """Refresh over a connection of its own, which is any worker's."""
    url, body = f"{site.url}/api/v1/auth/refresh", {"refresh_token": token}
    return requests.post(url, json=body, headers={"Connection": "close"}, timeout=30)


def test_a_worker_that_is_killed_leaves_each_session_one_usable_token(owner, track):
    """FA-05: never both, never half; and the others go on serving."""
    site = track.site
    held = [factories.grant(owner) for _ in range(12)]
    known: dict[str, list[str]] = {
        str(each.session_id): [factories.refresh_token(each)] for each in held
    }
    is_over = threading.Event()

    def refresh_on_and_on(known_tokens: list[str]) -> None:
        while not is_over.is_set():
            with contextlib.suppress(requests.RequestException):  # the killed worker's connections
                answer = refresh_anew(site, known_tokens[-1])
                if answer.status_code == 200:
                    known_tokens.append(answer.json()["refresh_token"])

    with ThreadPoolExecutor(len(held)) as pool:
        running = [pool.submit(refresh_on_and_on, each) for each in known.values()]
        for _ in range(2):
            services.wait_until(lambda: all(len(each) > 2 for each in known.values()))
            victims = site.worker_pids()
            os.kill(victims[0], signal.SIGKILL)
            services.wait_until(
                lambda pid=victims[0]: (
                    pid not in site.worker_pids() and len(site.worker_pids()) == 2
                )
            )
            for each in known.values():
                del each[:-1]
        is_over.set()
        for each in running:
            each.result(30)

    services.wait_until(site.answers)
    for known_tokens in known.values():
        # A lost answer is found again: the last token that the client knows leads to the current one.
        answer = track.ask(refresh(known_tokens[-1]))
        assert answer.status == 200
        again = track.ask(refresh(answer.json()["refresh_token"]))
        assert again.status == 200
    assert len(sessions.active_for(owner.id)) == len(held)
    assert track.ask(get_me(factories.access_token(held[0]))).status == 200


# Mail


def drain_in_a_process(environ: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "send-mail"],
        cwd=services.ROOT,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_drainers_in_processes_send_each_mail_once(ada, database_url, mailbox):
    """Exactly once: none is lost, none leaves twice."""
    people = [factories.account(f"user{number}@example.com") for number in range(24)]
    for each in people:
        passwords.request_reset(each.email, device_name="curl", ip_address=None)
    environ = os.environ | {
        "DATABASE_URL": database_url,
        "SECRET_KEY": services.SECRET_KEY,
        "MAIL_SERVER": services.HOST,
        "MAIL_PORT": str(mailbox.port),
    }
    drainers = [drain_in_a_process(environ) for _ in range(3)]
    statuses = [each.wait(60) for each in drainers]

    assert statuses == [0, 0, 0]
    assert Counter(address for [address] in mailbox.recipients) == Counter(
        each.email for each in people
    )
    assert outbox.depth() == 0


def test_a_drainer_that_is_killed_leaves_its_mails_to_the_next(
    ada, make_app, database_url, mailbox, time_machine
):
    """Its lease runs out; nothing is lost, and before that nobody else takes it."""
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    with socket.create_server((services.HOST, 0)) as silent:
        silent.settimeout(30)
        environ = os.environ | {
            "DATABASE_URL": database_url,
            "SECRET_KEY": services.SECRET_KEY,
            "MAIL_SERVER": services.HOST,
            "MAIL_PORT": str(silent.getsockname()[1]),
        }
        drainer = drain_in_a_process(environ)
        connection, _ = silent.accept()
        with connection:
            drainer.kill()
            drainer.wait()

    with make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)).app_context():
        assert outbox.depth() == 1
        [row] = database.rows(select(OutgoingMail.due_at))
        assert outbox.deliver() == (0, 0)
        time_machine.move_to(row.due_at)
        assert outbox.deliver() == (1, 0)
    assert mailbox.recipients == [[ada.email]]
