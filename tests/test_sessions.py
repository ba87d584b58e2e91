"""Sessions: a sign-in is a row, and what the row says holds at once."""

import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update
from time_machine import escape_hatch

from authsite import accounts, clock, database, passwords, sessions
from authsite.crypto import tokens
from authsite.database.models import DISTRUSTED_ENDS, OutgoingMail, User, UserSession
from authsite.errors import (
    Forbidden,
    InvalidCredentials,
    RefreshTokenExpired,
    SessionNotFound,
    SessionRevoked,
)
from tests import factories, services
from tests.factories import NEW_PASSWORD, PASSWORD

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SESSIONS = UserSession.__table__
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/143.0.0.0 Safari/537.36"
)
NEWER_CHROME = CHROME.replace("143", "151")
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.fixture(autouse=True)
def _at_noon(app_context, time_machine):
    time_machine.move_to(NOON, tick=False)


@pytest.fixture
def later(time_machine):
    """Move the clock to so long after noon."""

    def move(**duration: float) -> datetime:
        moment = NOON + timedelta(**duration)
        time_machine.move_to(moment, tick=False)
        return moment

    return move


@pytest.fixture
def ada():
    return factories.account()


@pytest.fixture
def grace():
    return factories.account("grace@example.com")


def row_of(held: sessions.Grant) -> database.Row:
    found = database.row(SESSIONS.select().where(SESSIONS.c.id == held.session_id))
    assert found is not None
    return found


def resume(held: sessions.Grant) -> sessions.Resumed:
    if held.cookie_secret is not None:
        return sessions.resume_page(held.session_id, held.user_id, held.cookie_secret)
    return sessions.resume_api(held.session_id, held.user_id)


def rotate(held: sessions.Grant, **more) -> sessions.Grant:
    return sessions.rotate(held.session_id, held.user_id, held.jti, **more)


def is_live(held: sessions.Grant) -> bool:
    try:
        resume(held)
    except SessionRevoked:
        return False
    return True


def live_ids(account) -> list[uuid.UUID]:
    return [row.id for row in sessions.active_for(account.id)]


def mails() -> list[str]:
    return [row.name for row in database.rows(select(OutgoingMail.name))]


def facts_of(caplog, event: str) -> list[dict]:
    found = [getattr(record, "facts", {}) for record in caplog.records]
    return [facts for facts in found if facts.get("event") == event]


# start


def test_a_sign_in_through_the_api_is_a_row_with_its_facts(ada):
    """SE-01."""
    held = factories.grant(
        ada,
        ip_address="203.0.113.7",
        user_agent=CHROME,
        device_id="laptop-1",
        city="London",
        country="United Kingdom",
    )

    assert row_of(held)._asdict() == {
        "id": held.session_id,
        "user_id": ada.id,
        "entrance": "api",
        "refresh_jti": held.jti,
        "previous_jti": None,
        "unused_rotation_at": None,
        "rotated_at": NOON,
        "cookie_digest": None,
        "bound_key": None,
        "bound_at": None,
        "key_proved_at": None,
        "unproven_at": None,
        "products": None,
        "is_remembered": True,
        "signed_in_with": "password",
        "authenticated_at": None,  # its token says it
        "device_name": "Chrome on Windows",
        "given_name": None,
        "browser": "Chrome",
        "os": "Windows",
        "device_type": "desktop",
        "device_id": "laptop-1",
        "ip_address": "203.0.113.7",
        "user_agent": CHROME,
        "location_city": "London",
        "location_country": "United Kingdom",
        "created_at": NOON,
        "last_used_at": NOON,
        "expires_at": NOON + timedelta(days=7),
        "absolute_expires_at": NOON + timedelta(days=30),
        "ended_at": None,
        "end_reason": None,
        "ended_from": None,
    }
    assert held.expires_at == NOON + timedelta(days=7)
    assert held.cookie_secret is None


@pytest.mark.parametrize(
    ("is_remembered", "idle"), [(True, timedelta(days=7)), (False, timedelta(hours=12))]
)
def test_a_sign_in_on_a_page_keeps_a_digest_of_its_secret(ada, is_remembered, idle):
    """SE-01: a copy of the table opens nothing; a browser that is not kept signed in has 12 hours."""
    authenticated = accounts.authenticate(ada.email, PASSWORD)
    held = sessions.start(
        ada,
        password_changed_at=authenticated.password_changed_at,
        client=sessions.Client(),
        entrance="page",
        is_remembered=is_remembered,
    )
    row = row_of(held)

    assert held.jti is row.refresh_jti is None
    assert row.cookie_digest == factories.digest(held.cookie_secret)
    assert held.cookie_secret not in str(row)
    assert len(held.cookie_secret) >= 43
    assert row.expires_at == held.expires_at == NOON + idle


def test_every_sign_in_has_an_id_and_secrets_of_its_own(ada):
    """SE-10."""
    held = [factories.grant(ada), factories.grant(ada), factories.grant(ada, entrance="page")]

    assert len({each.session_id for each in held}) == 3
    assert held[0].jti != held[1].jti
    assert len(live_ids(ada)) == 3


@pytest.mark.parametrize(
    ("client", "column", "longest"),
    [
        ({"user_agent": "curl/8 " + "x" * 20_000}, "user_agent", 512),
        ({"device_id": "d" * 5_000}, "device_id", 255),
        ({"device_name": "n" * 5_000}, "device_name", 64),
        ({"user_agent": "a" * 512}, "device_name", 64),
        ({"city": "c" * 500, "country": "c" * 500}, "location_city", 100),
    ],
)
def test_over_long_headers_never_cost_the_row(ada, client, column, longest):
    """SE-01: cut, on both databases; the origin dropped the row and let the sign-in pass."""
    held = factories.grant(ada, **client)

    assert 0 < len(getattr(row_of(held), column)) <= longest
    assert live_ids(ada) == [held.session_id]


@pytest.mark.parametrize(
    "agent", ["", " ", "\u202e<script>", "🐌" * 600, "Mozilla/5.0 (" * 40, "%s%n{}", "K"]
)
def test_any_user_agent_gets_a_row_with_a_name(ada, agent):
    """SE-01, AP-16."""
    assert row_of(factories.grant(ada, user_agent=agent)).device_name


def test_without_a_row_there_is_no_sign_in(ada):
    """SE-01: what the database refuses is an error, never a grant without a row."""
    with pytest.raises(Exception, match=r"(?i)constraint"):
        factories.grant(ada, entrance="nonsense")

    assert live_ids(ada) == []
    assert mails() == []


def test_a_password_that_changed_meanwhile_begins_no_session(ada, later):
    """SE-08: the sign-in verified the old one."""
    authenticated = accounts.authenticate(ada.email, PASSWORD)
    later(seconds=1)
    passwords.set_by_operator(ada.email, NEW_PASSWORD)

    with pytest.raises(InvalidCredentials):
        sessions.start(
            ada,
            password_changed_at=authenticated.password_changed_at,
            client=sessions.Client(),
            entrance="api",
        )
    assert database.row(select(func.count()).select_from(SESSIONS))[0] == 0


def test_the_same_device_takes_over_from_its_older_session(ada):
    """CONTRACT §1: a client-chosen id; the older session ends, a name that was given stays."""
    older = factories.grant(ada, device_id="phone", user_agent=CHROME)
    sessions.rename(ada.id, older.session_id, "Work laptop")
    other = factories.grant(ada, device_id="tablet")
    newer = factories.grant(ada, device_id="phone", user_agent=CHROME)

    assert set(live_ids(ada)) == {other.session_id, newer.session_id}
    assert row_of(older).end_reason == "replaced"
    assert sessions.find_own(ada.id, newer.session_id).device_name == "Work laptop"


def test_a_given_name_survives_the_end_of_its_session(ada, later):
    """The device comes back after it was signed out: its owner's name for it is still good."""
    older = factories.grant(ada, device_id="phone")
    sessions.rename(ada.id, older.session_id, "My phone")
    between = factories.grant(ada, device_id="phone")
    later(hours=1)
    newer = factories.grant(ada, device_id="phone")

    assert not is_live(between)
    assert sessions.find_own(ada.id, newer.session_id).device_name == "My phone"


def test_a_device_id_is_no_credential(ada, grace):
    """CONTRACT §1: another user's session with the same id is not touched, nor its name told."""
    theirs = factories.grant(grace, device_id="phone")
    sessions.rename(grace.id, theirs.session_id, "Hers")
    own = factories.grant(ada, device_id="phone")

    assert is_live(theirs)
    assert sessions.find_own(ada.id, own.session_id).device_name != "Hers"


def test_sign_ins_without_a_device_id_leave_each_other_alone(ada):
    held = [factories.grant(ada), factories.grant(ada)]

    assert all(is_live(each) for each in held)


def test_beyond_the_cap_the_least_recently_used_session_ends(make_app, later):
    """SE-19: by use, not by age."""
    with make_app(MAX_SESSIONS_PER_USER="3").app_context():
        ada = factories.account()
        held = []
        for minute in range(3):
            later(minutes=minute)
            held.append(factories.grant(ada))
        later(minutes=5)
        held[0] = rotate(held[0])
        later(minutes=6)
        held.append(factories.grant(ada))

        assert live_ids(ada) == [each.session_id for each in (held[3], held[0], held[2])]
        assert row_of(held[1]).end_reason == "evicted"


def test_a_cap_of_one_leaves_the_newest(make_app):
    """SE-19: it is never the session that has just begun that ends, though all stand at one moment."""
    with make_app(MAX_SESSIONS_PER_USER="1").app_context():
        ada = factories.account()
        for _ in range(3):
            held = factories.grant(ada)
            assert live_ids(ada) == [held.session_id]


def test_dead_sessions_do_not_count_towards_the_cap(make_app):
    """SE-19."""
    with make_app(MAX_SESSIONS_PER_USER="2").app_context():
        ada = factories.account()
        factories.session_rows(ada, 5, age=timedelta(days=9))
        factories.session_rows(ada, 5, ended=timedelta(0))
        held = [factories.grant(ada), factories.grant(ada)]

        assert set(live_ids(ada)) == {each.session_id for each in held}


def test_the_cap_is_per_user(make_app):
    """SE-19."""
    with make_app(MAX_SESSIONS_PER_USER="1").app_context():
        ada, grace = factories.account(), factories.account("grace@example.com")
        held = [factories.grant(ada), factories.grant(grace)]

        assert all(is_live(each) for each in held)


def test_a_lowered_cap_takes_effect_at_the_next_sign_in(make_app):
    """SE-19: all of those beyond it end, not just one."""
    with make_app(MAX_SESSIONS_PER_USER="3").app_context():
        ada = factories.account()
        factories.session_rows(ada, 10, age=timedelta(hours=1))
        held = factories.grant(ada)

        assert len(live_ids(ada)) == 3
        assert live_ids(ada)[0] == held.session_id


def test_the_first_device_is_silent_and_an_unknown_second_is_told(ada):
    """LT-16."""
    factories.grant(ada, user_agent=CHROME)
    assert mails() == []

    factories.grant(ada, user_agent=FIREFOX, ip_address="203.0.113.7")
    assert mails() == ["new_device"]


def test_a_device_that_was_seen_before_is_silent(ada):
    """LT-16: known by its id, whatever its browser has become."""
    factories.grant(ada, user_agent=CHROME, device_id="a")
    factories.grant(ada, user_agent=FIREFOX, device_id="a", ip_address="198.51.100.9")

    assert mails() == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"user_agent": CHROME}, {"user_agent": CHROME}),
        ({}, {}),
        ({"device_id": "a"}, {"device_id": "b"}),
        ({"device_id": "a"}, {"device_id": "a", "entrance": "page"}),
        ({"device_id": "a", "entrance": "page"}, {"device_id": "a"}),
    ],
)
def test_a_device_is_known_by_its_id_and_entrance_and_by_nothing_that_can_be_copied(
    ada, first, second
):
    """LT-19: a stolen password came in silently under the owner's own user agent."""
    factories.grant(ada, **first)
    factories.grant(ada, **second)

    assert mails() == ["new_device"]


@pytest.mark.parametrize("reason", DISTRUSTED_ENDS)
def test_a_device_that_was_thrown_out_is_new_again(ada, reason):
    """LT-19"""
    held = factories.grant(ada, device_id="a", entrance="page")
    sessions.end(ada.id, held.session_id, reason=reason)
    assert not sessions.is_known_browser(ada.id, "a")
    factories.grant(ada, device_id="a", entrance="page")

    assert mails() == ["new_device"]


def test_an_account_older_than_its_rows_has_no_silent_first_device(ada, later):
    """LT-19: whoever clears the list away leaves no silence behind."""
    factories.grant(ada, device_id="a")
    sessions.end_all(ada.id, reason="logged_out")
    later(days=1, seconds=1)
    sessions.delete_own_dead(ada.id)
    factories.grant(ada, device_id="a")

    assert mails() == ["new_device"]


def test_the_owners_name_for_a_device_is_not_inherited_by_one_of_another_kind(ada):
    """LT-19: who only knows the id is no "Mum's laptop"."""
    held = factories.grant(ada, user_agent=CHROME, device_id="a")
    sessions.rename(ada.id, held.session_id, "Mum's laptop")
    other = factories.grant(ada, user_agent=FIREFOX, device_id="a")
    assert sessions.find_own(ada.id, other.session_id).given_name is None
    back = factories.grant(ada, user_agent=NEWER_CHROME, device_id="a")
    assert sessions.find_own(ada.id, back.session_id).given_name == "Mum's laptop"


def test_the_value_of_the_browsers_cookie_is_shown_nowhere(ada):
    """LT-20: whoever reads the list must not get the owner's allowance."""
    page = factories.grant(ada, device_id="cookie-value", entrance="page")
    client = factories.grant(ada, device_id="laptop")
    shown = {row.id: row for row in sessions.active_for(ada.id)}
    assert shown[client.session_id].device_id == "laptop"
    assert "cookie-value" not in repr(shown)
    sessions.end(ada.id, page.session_id, reason="revoked")
    assert "cookie-value" not in repr(sessions.recently_ended_for(ada.id))


def test_a_device_of_somebody_else_is_not_a_known_one(ada, grace):
    """LT-16."""
    factories.grant(grace, user_agent=FIREFOX)
    factories.grant(ada, user_agent=CHROME)
    factories.grant(ada, user_agent=FIREFOX)

    assert mails() == ["new_device"]


# resume


@pytest.mark.parametrize("entrance", ["api", "oauth", "page"])
def test_a_live_session_brings_its_user_along(ada, entrance):
    """SE-02: in one read."""
    held = factories.grant(ada, entrance=entrance)
    session = resume(held)

    assert (session.id, session.account, session.entrance) == (held.session_id, ada, entrance)


END = {
    "logged out": lambda held: sessions.end(held.user_id, held.session_id, reason="logged_out"),
    "all logged out": lambda held: sessions.end_all(held.user_id, reason="logged_out"),
    "deactivated": lambda _: accounts.deactivate("ada@example.com"),
    "password set": lambda _: passwords.set_by_operator("ada@example.com", NEW_PASSWORD),
    "user deleted": lambda held: database.run(
        User.__table__.delete().where(User.id == held.user_id)
    ),
    "row deleted": lambda held: database.run(
        SESSIONS.delete().where(SESSIONS.c.id == held.session_id)
    ),
}


@pytest.mark.parametrize("entrance", ["api", "page"])
@pytest.mark.parametrize("how", END)
def test_an_ended_session_is_dead_at_once(ada, how, entrance):
    """SE-02, SE-14: for requests and for refreshing."""
    held = factories.grant(ada, entrance=entrance)
    assert is_live(held)
    END[how](held)

    assert not is_live(held)
    if held.jti:
        with pytest.raises(SessionRevoked):
            rotate(held)


@pytest.mark.parametrize(
    ("entrance", "is_remembered", "lifetime"),
    [
        ("api", True, timedelta(days=7)),
        ("page", True, timedelta(days=7)),
        ("page", False, timedelta(hours=12)),
    ],
)
def test_a_session_that_is_not_used_is_dead_when_its_time_is_over(
    ada, later, entrance, is_remembered, lifetime
):
    """SE-09."""
    authenticated = accounts.authenticate(ada.email, PASSWORD)
    held = sessions.start(
        ada,
        password_changed_at=authenticated.password_changed_at,
        client=sessions.Client(),
        entrance=entrance,
        is_remembered=is_remembered,
    )
    later(seconds=lifetime.total_seconds() - 1)
    assert is_live(held)

    later(seconds=lifetime.total_seconds())
    assert not is_live(held)
    assert live_ids(ada) == []


def test_neither_kind_of_credential_opens_the_other_kind_of_session(ada):
    """SE-22: an id alone is not enough for a page, and a page's session has no bearer."""
    page, api = factories.grant(ada, entrance="page"), factories.grant(ada)

    with pytest.raises(SessionRevoked):
        sessions.resume_api(page.session_id, ada.id)
    with pytest.raises(SessionRevoked):
        sessions.resume_page(api.session_id, api.user_id, api.jti)
    with pytest.raises(SessionRevoked):
        sessions.rotate(page.session_id, ada.id, page.cookie_secret)
    assert is_live(page)


@pytest.mark.parametrize("secret", ["", "x", "\ud800", "\x00", "é"])
def test_a_wrong_cookie_secret_opens_nothing(ada, secret):
    """SE-10, TK-10."""
    held = factories.grant(ada, entrance="page")
    with pytest.raises(SessionRevoked):
        sessions.resume_page(held.session_id, held.user_id, secret)


def test_a_token_of_another_user_opens_nothing(ada, grace):
    """SE-02: the id of the session with somebody else's id is nobody's."""
    held = factories.grant(ada)
    with pytest.raises(SessionRevoked):
        sessions.resume_api(held.session_id, grace.id)
    with pytest.raises(SessionRevoked):
        sessions.rotate(held.session_id, grace.id, held.jti)
    assert is_live(held)


@pytest.mark.site
def test_another_process_ends_it_here_too(ada, database_url, time_machine):
    """SE-02: nothing of a session is kept in a process."""
    time_machine.move_to(
        escape_hatch.datetime.datetime.now(UTC)
    )  # the other one knows no other clock
    held = factories.grant(ada)
    assert is_live(held)
    subprocess.run(
        [sys.executable, "-m", "flask", "revoke-sessions", ada.email],
        cwd=services.ROOT,
        env={"DATABASE_URL": database_url, "SECRET_KEY": services.SECRET_KEY},
        check=True,
        capture_output=True,
    )

    assert not is_live(held)
    assert row_of(held).end_reason == "revoked"


# rotate


def test_a_refresh_changes_the_token_for_its_one_successor(ada, later):
    """SE-03, SE-09: the row's jti and expiry move together."""
    held = factories.grant(ada, ip_address="203.0.113.7")
    moment = later(hours=1)
    newer = rotate(held, ip_address="198.51.100.9")
    row = row_of(held)

    assert newer.session_id == held.session_id
    assert newer.jti == row.refresh_jti != held.jti
    assert row.previous_jti == held.jti
    assert newer.issued_at == row.rotated_at == row.last_used_at == moment
    assert newer.expires_at == row.expires_at == moment + timedelta(days=7)
    assert row.ip_address == "198.51.100.9"


def test_a_refresh_from_nowhere_keeps_the_address(ada):
    held = factories.grant(ada, ip_address="203.0.113.7")
    rotate(held, ip_address=None)

    assert row_of(held).ip_address == "203.0.113.7"


@pytest.mark.parametrize("seconds", [0, 1, 30])
def test_a_client_that_lost_the_answer_gets_the_same_successor_again(ada, later, seconds):
    """SE-06: equal jti, iat and exp, so the token is the same to the byte."""
    held = factories.grant(ada)
    later(minutes=1)
    newer = rotate(held)
    later(minutes=1, seconds=seconds)
    again = rotate(held)

    assert again == newer
    assert factories.refresh_token(again) == factories.refresh_token(newer)
    assert rotate(again).jti not in {held.jti, newer.jti}
    assert mails() == []


def assert_reuse_ends(ada, stolen: sessions.Grant, caplog) -> None:
    """Present an old token; the session must end, be recorded, and its owner be told."""
    before = len(mails())
    with pytest.raises(SessionRevoked):
        rotate(stolen)

    row = row_of(stolen)
    assert row.end_reason == "reuse_detected"
    assert not is_live(stolen)
    assert mails()[before:] == ["token_reuse"]
    [event] = facts_of(caplog, "refresh_reuse")
    assert (event["session_id"], event["user_id"]) == (stolen.session_id, ada.id)
    # The token that was good until now is dead with its session.
    with pytest.raises(SessionRevoked):
        sessions.rotate(stolen.session_id, ada.id, row.refresh_jti)


def test_after_the_grace_an_earlier_token_ends_the_session(ada, later, caplog):
    """SE-04."""
    held = factories.grant(ada)
    resume(rotate(held))
    later(seconds=30.001)

    assert_reuse_ends(ada, held, caplog)


def test_once_its_successor_was_used_an_earlier_token_ends_the_session(ada, caplog):
    """SE-05, SE-06: two generations back, whatever the grace."""
    held = factories.grant(ada)
    rotate(rotate(held))

    assert_reuse_ends(ada, held, caplog)


def test_three_generations_back_ends_the_session(ada, caplog):
    """SE-05."""
    held = factories.grant(ada)
    rotate(rotate(rotate(held)))

    assert_reuse_ends(ada, held, caplog)


def test_a_token_that_was_never_given_out_ends_the_session(ada, caplog):
    """SE-04: it was signed with our key, so it is a copy of something."""
    held = factories.grant(ada)

    assert_reuse_ends(ada, held._replace(jti=tokens.new_jti()), caplog)


def test_without_a_grace_the_immediate_parent_ends_the_session(make_app, caplog):
    """SE-06: REFRESH_GRACE_SECONDS=0 is strict, in the same instant too."""
    with make_app(REFRESH_GRACE_SECONDS="0").app_context():
        ada = factories.account()
        held = factories.grant(ada)
        rotate(held)

        assert_reuse_ends(ada, held, caplog)


def test_the_grace_is_a_setting(make_app, later):
    """SE-06."""
    with make_app(REFRESH_GRACE_SECONDS="5").app_context():
        held = factories.grant(factories.account())
        newer = rotate(held)
        resume(newer)
        later(seconds=5)
        assert rotate(held) == newer
        later(seconds=5.001)
        with pytest.raises(SessionRevoked):
            rotate(held)


def test_reuse_touches_no_other_session(ada, grace, later):
    """SE-04."""
    stolen, other, page = (
        factories.grant(ada),
        factories.grant(ada),
        factories.grant(ada, entrance="page"),
    )
    hers = factories.grant(grace)
    resume(rotate(stolen))
    later(minutes=1)
    with pytest.raises(SessionRevoked):
        rotate(stolen)

    assert all(is_live(each) for each in (other, page, hers))
    assert rotate(other).session_id == other.session_id


def test_reuse_is_told_once(ada, later):
    """SE-04: a thief who goes on knocking sends no more mail."""
    held = factories.grant(ada)
    resume(rotate(held))
    later(minutes=1)
    for _ in range(3):
        with pytest.raises(SessionRevoked):
            rotate(held)

    assert mails() == ["token_reuse"]


def test_an_ended_session_keeps_its_reason_when_its_token_comes_back(ada):
    """A device that was signed out is no thief."""
    held = factories.grant(ada)
    sessions.end(ada.id, held.session_id, reason="revoked")
    with pytest.raises(SessionRevoked):
        rotate(held)

    assert row_of(held).end_reason == "revoked"
    assert mails() == []


def test_an_expired_refresh_is_told_so_and_ends_nothing(ada, later):
    """SE-09: whichever generation it is."""
    held = factories.grant(ada)
    newer = rotate(held)
    later(days=7)
    for each in (held, newer):
        with pytest.raises(RefreshTokenExpired):
            rotate(each)

    assert row_of(held).ended_at is None
    assert mails() == []


def test_a_token_of_a_session_that_is_gone_is_revoked():
    with pytest.raises(SessionRevoked):
        sessions.rotate(uuid.uuid4(), uuid.uuid4(), tokens.new_jti())


def test_refreshing_moves_the_idle_clock_and_never_the_absolute_one(ada, later):
    """SE-09: six days at a time, and still 30 days are all."""
    held = factories.grant(ada)
    end = NOON + timedelta(days=30)
    for day in (6, 12, 18, 24, 29):
        moment = later(days=day)
        held = rotate(held)
        assert held.expires_at == min(moment + timedelta(days=7), end)
        assert row_of(held).absolute_expires_at == end
    later(days=30, seconds=-1)
    assert is_live(held)

    later(days=30)
    assert not is_live(held)
    with pytest.raises(RefreshTokenExpired):
        rotate(held)


# touch


def test_use_is_noted_at_most_once_a_minute(ada, later):
    """SE-20."""
    held = factories.grant(ada, ip_address="203.0.113.7")
    for seconds, noted in [(59, 0), (60, 60), (119, 60), (120, 120)]:
        later(seconds=seconds)
        sessions.touch(resume(held), address=lambda: "198.51.100.9")
        assert row_of(held).last_used_at == NOON + timedelta(seconds=noted)

    assert row_of(held).ip_address == "198.51.100.9"


def test_the_last_use_never_goes_back(ada, later):
    """SE-20: a slow request must not overwrite a later one."""
    held = factories.grant(ada)
    later(minutes=5)
    slow = resume(held)
    later(minutes=10)
    sessions.touch(resume(held), address=lambda: None)
    later(minutes=6)
    sessions.touch(slow, address=lambda: None)

    assert row_of(held).last_used_at == NOON + timedelta(minutes=10)


def test_a_request_from_nowhere_keeps_the_address(ada, later):
    held = factories.grant(ada, ip_address="203.0.113.7")
    later(minutes=2)
    sessions.touch(resume(held), address=lambda: None)

    assert row_of(held).ip_address == "203.0.113.7"


@pytest.mark.parametrize(
    ("is_remembered", "idle"), [(True, timedelta(days=7)), (False, timedelta(hours=12))]
)
def test_use_starts_a_browsers_idle_clock_afresh(ada, later, is_remembered, idle):
    """SE-09: and no use moves it beyond the 30 days."""
    [row] = factories.session_rows(
        ada,
        entrance="page",
        refresh_jti=None,
        cookie_digest=factories.digest("secret"),
        is_remembered=is_remembered,
    )
    moment = later(hours=6)
    sessions.touch(sessions.resume_page(row["id"], row["user_id"], "secret"), address=lambda: None)
    assert sessions.find_own(ada.id, row["id"]).expires_at == moment + idle

    end = NOON + timedelta(days=30)
    database.run(update(UserSession), {"expires_at": end, "last_used_at": end - timedelta(hours=2)})
    later(days=30, hours=-1)
    sessions.touch(sessions.resume_page(row["id"], row["user_id"], "secret"), address=lambda: None)
    assert sessions.find_own(ada.id, row["id"]).expires_at == end


def test_use_does_not_move_what_an_api_clients_token_says(ada, later):
    """SE-09: the expiry stands in the refresh token; only a rotation moves both."""
    held = factories.grant(ada)
    later(days=1)
    sessions.touch(resume(held), address=lambda: None)

    assert row_of(held).expires_at == held.expires_at


def test_use_does_not_undo_a_rotation_that_came_between(ada, later):
    """SE-09: a request that read the row before the rotation writes after it."""
    held = factories.grant(ada)
    later(days=6)
    slow = resume(held)
    newer = rotate(held)
    later(days=6, seconds=1)
    sessions.touch(slow, address=lambda: None)

    assert row_of(held).expires_at == newer.expires_at


def test_use_does_not_revive_an_ended_session(ada, later):
    """SE-07."""
    held = factories.grant(ada)
    later(minutes=5)
    slow = resume(held)
    sessions.end(ada.id, held.session_id, reason="revoked")
    sessions.touch(slow, address=lambda: None)

    assert not is_live(held)
    assert row_of(held).last_used_at == NOON


def test_a_renewed_cookie_replaces_the_old_one(ada):
    """PW-13: the session goes on, its old secret is worth nothing."""
    held = factories.grant(ada, entrance="page")
    renewed = sessions.renew(resume(held))

    assert resume(renewed).id == held.session_id
    assert not is_live(held)


# The list


def test_the_list_holds_ones_own_live_sessions_last_used_first(ada, grace, later):
    """SE-16."""
    factories.grant(grace)
    factories.session_rows(ada, ended=timedelta(0))
    factories.session_rows(ada, age=timedelta(days=8))
    held = []
    for minute in range(3):
        later(minutes=minute)
        held.append(factories.grant(ada))
    later(minutes=9)
    rotate(held[0])

    assert live_ids(ada) == [held[index].session_id for index in (0, 2, 1)]


def test_the_list_never_holds_a_secret(ada):
    """SE-16: neither jti nor digest is even read."""
    factories.grant(ada)
    names = sessions.active_for(ada.id)[0]._fields

    assert not {"refresh_jti", "previous_jti", "cookie_digest", "user_id"} & set(names)


def test_both_entrances_stand_in_one_list(ada):
    """SE-21."""
    held = [factories.grant(ada, entrance=entrance) for entrance in ("api", "oauth", "page")]

    assert set(live_ids(ada)) == {each.session_id for each in held}


def test_what_ended_is_shown_for_30_days_with_its_reason(ada, later):
    """CONTRACT §3."""
    held = factories.grant(ada, user_agent=CHROME)
    sessions.end(ada.id, held.session_id, reason="revoked", ended_from="Firefox on Linux")
    later(days=29)
    [row] = sessions.recently_ended_for(ada.id)
    assert (row.id, row.end_reason, row.ended_from) == (
        held.session_id,
        "revoked",
        "Firefox on Linux",
    )

    later(days=30)
    assert not sessions.recently_ended_for(ada.id)


# rename


def test_a_name_replaces_the_devices_until_it_is_forgotten(ada):
    held = factories.grant(ada, user_agent=CHROME)

    assert sessions.rename(ada.id, held.session_id, "Work").device_name == "Work"
    assert resume(held).device_name == "Chrome on Windows"  # what it is
    (shown,) = sessions.active_for(ada.id)
    assert (shown.device_name, shown.own_name) == ("Work", "Chrome on Windows")
    assert sessions.rename(ada.id, held.session_id, None).device_name == "Chrome on Windows"


def test_only_ones_own_live_session_can_be_renamed(ada, grace):
    """AP-14."""
    hers, ended = factories.grant(grace, user_agent=CHROME), factories.grant(ada)
    sessions.end(ada.id, ended.session_id, reason="revoked")

    with pytest.raises(Forbidden):
        sessions.rename(ada.id, hers.session_id, "Mine")
    for unknown in (ended.session_id, uuid.uuid4()):
        with pytest.raises(SessionNotFound):
            sessions.rename(ada.id, unknown, "Mine")
    assert resume(hers).device_name == "Chrome on Windows"
    assert row_of(ended).given_name is None


# end


def test_ending_names_the_device_and_ends_nothing_else(ada, later):
    """SE-11."""
    held, other = factories.grant(ada, user_agent=CHROME), factories.grant(ada)
    moment = later(minutes=1)

    assert sessions.end(ada.id, held.session_id, reason="revoked") == "Chrome on Windows"
    row = row_of(held)
    assert (row.ended_at, row.end_reason) == (moment, "revoked")
    assert is_live(other)


def test_ending_again_changes_nothing(ada, later):
    """SE-17: the first reason and moment stay."""
    held = factories.grant(ada)
    sessions.end(ada.id, held.session_id, reason="logged_out")
    before = row_of(held)
    later(minutes=1)

    assert sessions.end(ada.id, held.session_id, reason="revoked") == before.device_name
    assert row_of(held) == before


def test_another_users_session_cannot_be_ended(ada, grace, caplog):
    """SE-17, AP-14, LG-03."""
    hers = factories.grant(grace)
    with pytest.raises(Forbidden) as refused:
        sessions.end(ada.id, hers.session_id, reason="revoked")

    assert refused.value.message == "You can only revoke your own sessions"
    assert is_live(hers)
    assert [each["user_id"] for each in facts_of(caplog, "forbidden")] == [ada.id]


def test_an_unknown_session_cannot_be_ended(ada):
    """SE-17."""
    with pytest.raises(SessionNotFound):
        sessions.end(ada.id, uuid.uuid4(), reason="revoked")


@pytest.mark.parametrize("keeps", [True, False])
def test_all_sessions_end_but_for_the_one_that_is_kept(ada, grace, keeps):
    """SE-12: pages' and API's alike, and the count is of those that were live."""
    own, api, page = (
        factories.grant(ada),
        factories.grant(ada),
        factories.grant(ada, entrance="page"),
    )
    hers = factories.grant(grace)
    factories.session_rows(ada, ended=timedelta(0))
    factories.session_rows(ada, age=timedelta(days=8))
    keep = own.session_id if keeps else None
    ended = sessions.end_all(ada.id, reason="logged_out", keep=keep, ended_from="curl")

    assert ended == (2 if keeps else 3)
    assert live_ids(ada) == ([own.session_id] if keeps else [])
    assert {row_of(each).ended_from for each in (api, page)} == {"curl"}
    assert is_live(hers)
    assert sessions.end_all(ada.id, reason="logged_out", keep=keep) == 0


def test_ones_own_dead_rows_can_be_deleted(ada, grace):
    """CONTRACT §2: expired or ended, however young; nobody else's."""
    held = factories.grant(ada)
    factories.session_rows(ada, 2, ended=timedelta(0))
    factories.session_rows(ada, 3, age=timedelta(days=8))
    factories.session_rows(grace, 4, ended=timedelta(0))

    assert sessions.delete_own_dead(ada.id) == 5
    assert database.row(select(func.count()).select_from(SESSIONS))[0] == 5
    assert is_live(held)


def test_statistics_count_every_row_once(ada):
    factories.session_rows(ada, 2)
    factories.session_rows(ada, 1, device_type="mobile")
    factories.session_rows(ada, 3, age=timedelta(days=8))
    factories.session_rows(ada, 4, ended=timedelta(0))
    factories.session_rows(ada, 5, age=timedelta(days=9), ended=timedelta(1), end_reason="evicted")

    assert sessions.statistics() == {
        "active": 3,
        "aal2": 0,
        "expired": 3,
        "ended": {"evicted": 5, "revoked": 4},
        "device_types": {"cli": 2, "mobile": 1},
    }


def test_statistics_of_nothing_are_zeros():
    assert sessions.statistics() == {
        "active": 0,
        "aal2": 0,
        "expired": 0,
        "ended": {},
        "device_types": {},
    }


def test_statistics_tell_how_many_came_in_with_a_second_step(ada):
    """FACTORS 6: a trusted browser's cookie is none, and what has ended is not counted."""
    for way in sessions.ASSURANCE:
        factories.session_rows(ada, signed_in_with=way)
    factories.session_rows(ada, signed_in_with="password+app", ended=timedelta(0))

    assert (sessions.statistics()["active"], sessions.statistics()["aal2"]) == (6, 4)


@pytest.mark.parametrize(
    ("reason", "event"), [("logged_out", "session_ended"), ("revoked", "session_ended")]
)
def test_ends_are_recorded(ada, caplog, reason, event):
    """LG-03."""
    held = factories.grant(ada)
    sessions.end(ada.id, held.session_id, reason=reason)
    sessions.end(ada.id, held.session_id, reason=reason)  # changes nothing, so is no event

    assert [(each["session_id"], each["reason"]) for each in facts_of(caplog, event)] == [
        (held.session_id, reason)
    ]


def test_no_secret_of_a_session_is_recorded(ada, caplog):
    """LG-01."""
    held, page = factories.grant(ada), factories.grant(ada, entrance="page")
    newer = rotate(held)
    sessions.end_all(ada.id, reason="logged_out")

    logged = " ".join(str(vars(record)) for record in caplog.records)
    for secret in (held.jti, newer.jti, page.cookie_secret):
        assert secret not in logged
    assert clock.now() == NOON
