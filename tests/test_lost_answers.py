"""A client that lost the answer to a refresh goes on, unless what it lost has been used by somebody."""

import contextlib
import os
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select

from authsite import database, passwords, sessions, throttling
from authsite.crypto import tokens
from authsite.database.models import OutgoingMail, UserSession
from authsite.errors import RefreshTokenExpired, SessionRevoked, TokenExpired
from tests import factories
from tests.factories import PASSWORD

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROUNDS, STEPS = int(os.environ.get("LOST_ANSWER_ROUNDS", "25")), 20
# On both sides of every limit that there is.
PAUSES = st.sampled_from([0, 1, 29, 30, 31, 600, 86_399, 86_400, 86_401])


@pytest.fixture
def ada(app_context, time_machine):
    time_machine.move_to(NOON, tick=False)
    return factories.account()


@pytest.fixture
def later(time_machine):
    def move(**by):
        time_machine.move_to(NOON + timedelta(**by), tick=False)

    return move


def rotate(held: sessions.Grant) -> sessions.Grant:
    return sessions.rotate(held.session_id, held.user_id, held.jti)


def use_access_token(held: sessions.Grant, issued_at: datetime | None = None) -> None:
    issued = int((issued_at or held.issued_at).timestamp())
    sessions.resume_api(held.session_id, held.user_id, issued_at=issued)


def use_for_the_list(held: sessions.Grant) -> None:
    issued = int(held.issued_at.timestamp())
    sessions.resume_api_with_all(held.session_id, held.user_id, issued_at=issued)


def is_live(held: sessions.Grant) -> bool:
    return any(row.id == held.session_id for row in sessions.active_for(held.user_id))


def mails() -> list[str]:
    return [row.name for row in database.rows(select(OutgoingMail.name))]


@pytest.mark.parametrize("seconds", [31, 3600, 86_400])
def test_a_client_that_lost_the_answer_goes_on_for_a_day(ada, later, seconds):
    """SE-06: with the same successor to the byte, as often as it is lost."""
    held = factories.grant(ada)
    later(minutes=1)
    newer = rotate(held)
    later(minutes=1, seconds=seconds)

    again = rotate(held)
    assert factories.refresh_token(again) == factories.refresh_token(newer)
    assert rotate(held) == newer
    assert rotate(again).jti != newer.jti
    assert mails() == []


@pytest.mark.parametrize("use", [rotate, use_access_token, use_for_the_list])
def test_what_somebody_used_ends_the_session_when_the_owner_comes_back(ada, later, use):
    """SE-04: a thief's use is a use, and both are out."""
    held = factories.grant(ada)
    later(minutes=1)
    newer = rotate(held)
    later(minutes=2)
    use(newer)
    with pytest.raises(SessionRevoked):
        rotate(held)

    assert not is_live(held)
    assert mails() == ["token_reuse"]
    with pytest.raises(SessionRevoked):
        rotate(newer)


def test_an_older_access_token_proves_nothing(ada, later):
    """SE-06: it is good for the rest of its 15 minutes, and was had before the answer was lost."""
    held = factories.grant(ada)
    later(minutes=1)
    newer = rotate(held)
    later(minutes=2)
    use_access_token(held)

    assert rotate(held) == newer


def test_an_access_token_issued_again_with_the_successor_is_a_use(ada, later):
    held = factories.grant(ada)
    later(minutes=1)
    newer = rotate(held)
    later(minutes=10)
    rotate(held)
    use_access_token(newer, NOON + timedelta(minutes=10))
    with pytest.raises(SessionRevoked):
        rotate(held)


@pytest.mark.parametrize(
    ("setting", "seconds"),
    [
        ({}, 86_401),
        ({"REFRESH_LOST_ANSWER_SECONDS": "0"}, 31),
        ({"REFRESH_LOST_ANSWER_SECONDS": "600"}, 601),
        ({"REFRESH_GRACE_SECONDS": "0"}, 0),
    ],
)
def test_after_its_time_an_earlier_token_ends_the_session(make_app, time_machine, setting, seconds):
    """SE-04: a strict grace leaves nothing to a lost answer either."""
    with make_app(**setting).app_context():
        time_machine.move_to(NOON, tick=False)
        held = factories.grant(factories.account())
        rotate(held)
        time_machine.move_to(NOON + timedelta(seconds=seconds), tick=False)
        with pytest.raises(SessionRevoked):
            rotate(held)
        assert mails() == ["token_reuse"]


def test_a_rotation_by_the_release_before_is_held_for_used(ada, later):
    """It moves `rotated_at` and knows nothing of the rest: nobody knows whether it was used."""
    held = factories.grant(ada)
    later(minutes=1)
    newer = rotate(held)
    table = UserSession.__table__
    database.run(
        table.update()
        .where(table.c.id == held.session_id)
        .values(previous_jti=newer.jti, refresh_jti="x", rotated_at=NOON + timedelta(minutes=2))
    )
    later(minutes=3)
    with pytest.raises(SessionRevoked):
        rotate(newer)


def test_the_first_use_is_one_update_and_no_other_use_is_any(ada, later, sent_statements):
    """One SELECT for each read, one UPDATE for each rotation."""
    held = factories.grant(ada)
    later(seconds=5)
    with sent_statements() as rotation:
        newer = rotate(held)
    assert [each.split()[0] for each in rotation] == ["UPDATE"]

    for expected in (["SELECT", "UPDATE"], ["SELECT"], ["SELECT"]):
        with sent_statements() as sent:
            use_access_token(newer)
        assert [each.split()[0] for each in sent] == expected


def test_noting_a_use_touches_no_index():
    """On PostgreSQL the new version of the row stays in its page."""
    indexed = {column.name for index in UserSession.__table__.indexes for column in index.columns}
    assert not indexed & {"unused_rotation_at", "rotated_at", "refresh_jti", "previous_jti"}


def test_use_and_return_at_the_same_moment_leave_no_second_life(app, ada, later):
    """SE-04: whichever comes first, the owner's next return after the use ends the session."""
    for round_ in range(8):
        throttling.forget(ada.email)
        held = factories.grant(ada)
        newer = rotate(held)
        later(minutes=1 + round_)
        barrier = threading.Barrier(2)

        def at_once(act: Any, grant: sessions.Grant, barrier: Any = barrier) -> None:
            with app.app_context():
                barrier.wait()
                with contextlib.suppress(SessionRevoked):  # the use came first
                    act(grant)

        pair = [
            threading.Thread(target=at_once, args=each)
            for each in ((use_access_token, newer), (rotate, held))
        ]
        for each in pair:
            each.start()
        for each in pair:
            each.join()
        with pytest.raises(SessionRevoked):
            rotate(held)
        assert not is_live(held)
        later()


class Service(RuleBasedStateMachine):
    """The service beside a model: they never disagree about what is alive and which answer comes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = time_machine.travel(NOON, tick=False)
        self.traveller = self.clock.start()
        self.now, self.password = NOON, PASSWORD
        self.issued: list[tuple[str, int, sessions.Grant]] = []  # kind, when, what
        self.model: dict[Any, dict[str, Any]] = {}

    def teardown(self) -> None:
        self.clock.stop()

    @initialize()
    def register(self) -> None:
        for table in reversed(database.Base.metadata.sorted_tables):
            database.run(table.delete())
        self.ada = factories.account()

    # The model: for each session what is current, what was before it, and whether that was used.

    def lives(self, id_: Any) -> bool:
        return self.model[id_]["live"] and self.now < self.model[id_]["until"]

    def refreshed(self, id_: Any, jti: str) -> str | None:
        """Return the jti of the answer, "new" for one that nobody has seen, None for a refusal."""
        model = self.model[id_]
        if not self.lives(id_):
            return None
        if jti == model["jti"]:
            model.update(before=jti, jti="new", rotated=self.now, used=False, until=self.due(model))
            return "new"
        age = (self.now - model["rotated"]).total_seconds()
        if jti == model["before"] and age <= (30 if model["used"] else 86_400):
            return model["jti"]
        model["live"] = False
        return None

    def due(self, model: dict[str, Any]) -> datetime:
        return min(self.now + timedelta(days=7), model["born"] + timedelta(days=30))

    # What people do

    @precondition(lambda self: sum(self.lives(id_) for id_ in self.model) < 2)
    @rule()
    def sign_in(self) -> None:
        held = factories.grant(self.ada, password=self.password)
        born = {"born": self.now, "rotated": self.now, "before": None, "used": True}
        self.model[held.session_id] = born | {"jti": held.jti, "live": True}
        self.model[held.session_id]["until"] = self.due(born)
        self.hand_out(held)

    def hand_out(self, held: sessions.Grant) -> None:
        self.issued += [
            ("refresh", 0, held),
            ("access", int(max(self.now, held.issued_at).timestamp()), held),
        ]

    @precondition(lambda self: self.issued)
    @rule(data=st.data(), is_lost=st.booleans(), is_recent=st.booleans(), after=PAUSES)
    def refresh(self, data: st.DataObject, is_lost: bool, is_recent: bool, after: int) -> None:
        self.move_the_clock(after)
        self.present(self.pick(data, "refresh", is_recent)[2], is_lost=is_lost)

    # What decides most, and by chance alone hardly ever comes in this order.
    @precondition(lambda self: self.current())
    @rule(
        data=st.data(),
        is_lost=st.booleans(),
        uses=st.sampled_from([[], [True], [True], [False], [True, False]]),
        after=st.sampled_from([0, 30, 31, 600, 86_400, 86_401]),
        returns=st.integers(1, 2),
    )
    def come_back(
        self, data: st.DataObject, is_lost: bool, uses: list[bool], after: int, returns: int
    ) -> None:
        """Refresh, have access tokens used meanwhile, and show the token of before again."""
        held = data.draw(st.sampled_from(self.current()))
        self.present(held, is_lost=is_lost)
        for is_recent in uses:
            self.show(*self.pick(data, "access", is_recent)[1:])
        self.move_the_clock(after)
        for _ in range(returns):
            self.present(held)

    @precondition(lambda self: self.current())
    @rule(times=st.integers(1, 6))
    def grow_old(self, times: int) -> None:
        """A session that is used lives for a month."""
        for _ in range(times):
            self.move_the_clock(6 * 86_400)
            for held in self.current()[:1]:
                self.present(held)

    def current(self) -> list[sessions.Grant]:
        """Return the refresh tokens that somebody holds and that are to be used next."""
        return [
            held
            for kind, _, held in reversed(self.issued)
            if kind == "refresh" and self.is_current(held)
        ]

    def is_current(self, held: sessions.Grant) -> bool:
        return self.lives(held.session_id) and self.model[held.session_id]["jti"] == held.jti

    def present(self, held: sessions.Grant, *, is_lost: bool = False) -> None:
        refreshes = [held for kind, _, held in self.issued if kind == "refresh"]
        expected = self.refreshed(held.session_id, held.jti or "")
        try:
            answer = rotate(held)
        except (SessionRevoked, RefreshTokenExpired):
            assert expected is None
            return
        assert expected is not None
        if expected == "new":
            assert answer.jti not in {each.jti for each in refreshes}
            self.model[held.session_id]["jti"] = answer.jti
        assert answer.jti == self.model[held.session_id]["jti"]
        assert answer.expires_at == self.model[held.session_id]["until"]
        if not is_lost:
            self.hand_out(answer)

    @precondition(lambda self: self.issued)
    @rule(data=st.data(), is_recent=st.booleans())
    def use(self, data: st.DataObject, is_recent: bool) -> None:
        self.show(*self.pick(data, "access", is_recent)[1:])

    def show(self, issued_at: int, held: sessions.Grant) -> None:
        at = datetime.fromtimestamp(issued_at, UTC)
        token = tokens.access_token(user_id=held.user_id, session_id=held.session_id, issued_at=at)
        try:
            claims = tokens.read(token, tokens.ACCESS)
            sessions.resume_api(claims.session_id, claims.user_id, issued_at=claims.issued_at)
        except TokenExpired:
            return
        except SessionRevoked:
            assert not self.lives(held.session_id)
            return
        assert self.lives(held.session_id)
        if at >= self.model[held.session_id]["rotated"]:
            self.model[held.session_id]["used"] = True

    def pick(self, data: st.DataObject, kind: str, is_recent: bool) -> Any:
        """Return any that was issued, or one of the latest, which decide more: the last access token."""
        found = [each for each in reversed(self.issued) if each[0] == kind]
        latest = found[: 2 if kind == "refresh" else 1]
        return data.draw(st.sampled_from(latest if is_recent else found))

    # One rule for all that ends sessions: else hardly any would grow old.
    @precondition(lambda self: any(self.lives(id_) for id_ in self.model))
    @rule(
        data=st.data(), how=st.sampled_from(["revoke", "everywhere", "reset", "change", "", "", ""])
    )
    def end_something(self, data: st.DataObject, how: str) -> None:
        if how == "revoke":
            self.revoke(data)
        elif how == "everywhere":
            assert sessions.end_all(self.ada.id, reason="logged_out") == self.end_all()
        elif how == "reset":
            self.reset_the_password()
        elif how == "change":
            before = self.current()
            self.change_the_password(data)
            for held in before[: data.draw(st.integers(0, 1))]:
                self.present(held)

    def revoke(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(list(self.model)))
        sessions.end(self.ada.id, id_, reason="revoked")
        self.model[id_]["live"] = False

    def end_all(self) -> int:
        ended = [id_ for id_ in self.model if self.lives(id_)]
        for id_ in ended:
            self.model[id_]["live"] = False
        return len(ended)

    def reset_the_password(self) -> None:
        self.password += "x"
        passwords.set_by_operator(self.ada.email, self.password)
        self.end_all()

    def change_the_password(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from([id_ for id_ in self.model if self.lives(id_)]))
        session = sessions.resume_api(id_, self.ada.id, issued_at=0)
        grant, _ = passwords.change(session, self.password, self.password + "x", ip_address=None)
        self.password += "x"
        kept = self.model[id_]
        self.end_all()
        kept.update(live=True, jti=grant.jti, before=None, rotated=self.now, used=True)
        self.hand_out(grant)

    @rule(seconds=st.sampled_from([1, 29, 80_000, 500_000]))
    def wait(self, seconds: int) -> None:
        self.move_the_clock(seconds)

    def move_the_clock(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.traveller.move_to(self.now, tick=False)

    @invariant()
    def they_agree(self) -> None:
        if hasattr(self, "ada"):
            alive = {row.id for row in sessions.active_for(self.ada.id)}
            assert alive == {id_ for id_ in self.model if self.lives(id_)}


@pytest.mark.slow
def test_the_service_never_disagrees_with_its_model(app_context):
    """SE-03 to SE-06, on both databases: with any token ever issued, in any order, at any time."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Service,
        settings=settings(
            max_examples=ROUNDS,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
