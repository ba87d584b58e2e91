"""Sign-ins that are bound to a browser's key: how one is, what is refused, what a copied cookie is worth."""

import json
import re
import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from authsite import accounts, clock, database, sessions
from authsite.database.models import OutgoingMail
from authsite.extensions import limiter
from tests import services
from tests.authenticator import UP, Authenticator, encoded
from tests.factories import PASSWORD, BrowserKey, turn_on
from tests.pages.conftest import (
    EMAIL,
    FIREFOX_ON_LINUX,
    OTHER_EMAIL,
    Browser,
    heading,
    session_row,
    summary,
    words,
)
from tests.pages.test_passkeys import add as add_passkey
from tests.pages.test_passkeys import options

HERE = "http://localhost"
BIND = "/session/bind"
REFRESH = "/session/refresh-binding"
REGISTRATION = "Secure-Session-Registration"
CHALLENGE = "Secure-Session-Challenge"
COOKIE = "authsite-bound"
ORIGIN = {"Origin": HERE}


@pytest.fixture
def app(make_app) -> Flask:
    return make_app(DEVICE_BOUND_SESSIONS="1")


class BindingBrowser(Browser):
    """A browser that knows device-bound sessions and does what it is asked to."""

    def __init__(self, app: Flask, **how: Any) -> None:
        super().__init__(app, **how)
        self.key = BrowserKey()

    def sign_up(self, email: str = EMAIL) -> str:
        """Register, and return the challenge that came with it."""
        fields = {"first_name": "Ada", "email": email, "password": PASSWORD}
        return offered(self.post("/register", **fields))

    def tell(self, path: str, proof: str | None = None, **headers: str) -> TestResponse:
        """Send what a browser sends of itself, which is no form."""
        given = {"Secure-Session-Response": proof} if proof else {}
        return self.send(path, headers=ORIGIN | given | headers)

    def bind(self, challenge: str) -> TestResponse:
        return self.tell(BIND, self.key.proof(challenge, is_first=True))

    def challenge(self, **headers: str) -> str:
        asked = self.tell(REFRESH, **headers)
        assert asked.status_code == 403
        return challenge_in(asked)

    def refresh(self, **headers: str) -> TestResponse:
        return self.tell(REFRESH, self.key.proof(self.challenge(**headers)), **headers)


@pytest.fixture
def browser(app: Flask) -> BindingBrowser:
    return BindingBrowser(app)


@pytest.fixture
def bound(browser: BindingBrowser) -> BindingBrowser:
    """A browser whose session is bound to its key."""
    assert browser.bind(browser.sign_up()).status_code == 200
    return browser


def offered(answer: TestResponse) -> str:
    """Return the challenge in the header that asks to bind a session."""
    (header,) = answer.headers.getlist(REGISTRATION)
    found = re.fullmatch(r'\(ES256\);path="/session/bind";challenge="([\w.-]+)"', header)
    assert found, header
    return found[1]


def challenge_in(answer: TestResponse) -> str:
    found = re.match(r'"([\w.-]+)";id="', answer.headers[CHALLENGE])
    assert found
    return found[1]


def proven_until_now(app: Flask, browser: Browser):
    return session_row(app, browser.session_id()).key_proved_at


@pytest.mark.parametrize("entrance", ["/register", "/login"])
def test_a_sign_in_asks_the_browser_to_bind_it(app, browser, entrance):
    fields = {"email": EMAIL, "password": PASSWORD}
    answer = browser.post("/register", first_name="Ada", **fields)
    if entrance == "/login":
        answer = BindingBrowser(app).post("/login", **fields)
    assert answer.status_code == 303
    assert offered(answer)


def test_what_is_no_sign_in_asks_for_nothing(browser):
    browser.sign_up()
    pages = [browser.get("/account"), browser.post("/account", first_name="Ada")]
    pages.append(BindingBrowser(browser.app).try_sign_in(password="wrong password"))
    assert not any(REGISTRATION in page.headers for page in pages)


def test_binding_keeps_the_key_and_tells_the_browser_how_to_go_on(app, browser):
    answer = browser.bind(browser.sign_up())
    row = session_row(app, browser.session_id())
    assert len(row.bound_key) == 64
    assert row.bound_at is not None
    assert answer.json == {
        "session_identifier": str(row.id),
        "refresh_url": REFRESH,
        "scope": {
            "include_site": False,
            "scope_specification": [
                {"type": "exclude", "path": path} for path in ("/static/", "/api/", "/.well-known/")
            ],
        },
        "credentials": [
            {"type": "cookie", "name": COOKIE, "attributes": "Path=/; HttpOnly; SameSite=Lax"}
        ],
        "allowed_refresh_initiators": ["*"],
    }
    (cookie,) = (each for each in answer.headers.getlist("Set-Cookie") if COOKIE in each)
    assert "Max-Age=600; HttpOnly; Path=/; SameSite=Lax" in cookie


def test_in_production_the_cookie_is_for_this_host_and_https_only(make_app, browser):
    challenge = browser.sign_up()
    browser.app.config.update(IS_PRODUCTION=True, SESSION_COOKIE_SECURE=True)
    answer = browser.tell(BIND, browser.key.proof(challenge, is_first=True))
    credential = answer.json["credentials"][0]
    assert credential["name"] == f"__Host-{COOKIE}"
    assert credential["attributes"] == "Path=/; HttpOnly; SameSite=Lax; Secure"
    assert f"__Host-{COOKIE}=" in answer.headers["Set-Cookie"]
    assert "; Secure;" in answer.headers["Set-Cookie"]


def test_a_browser_is_asked_for_a_proof_and_gets_ten_more_minutes_for_it(app, bound, later):
    later(timedelta(minutes=10))
    asked = bound.tell(REFRESH)
    assert asked.status_code == 403
    assert asked.headers[CHALLENGE].endswith(f';id="{bound.session_id()}"')
    assert COOKIE not in asked.headers.get("Set-Cookie", "")
    answer = bound.tell(REFRESH, bound.key.proof(challenge_in(asked)))
    assert answer.status_code == 200
    assert answer.json["session_identifier"] == str(bound.session_id())
    assert f"{COOKIE}=" in answer.headers["Set-Cookie"]


def test_on_the_way_from_another_site_the_name_of_the_session_is_enough(bound, app):
    """Chromium keeps a SameSite cookie back then, and sends the name of its session."""
    elsewhere = BindingBrowser(app)
    elsewhere.key = bound.key
    name = {"Sec-Secure-Session-Id": str(bound.session_id())}
    assert elsewhere.refresh(**name).status_code == 200
    elsewhere.key = BrowserKey()
    assert elsewhere.refresh(**name).status_code == 403


def bad_proofs(browser: BindingBrowser, challenge: str, *, is_first: bool) -> dict[str, str | None]:
    """Return what may be sent for a proof and is none, for a challenge that is good."""
    key = browser.key
    good = key.proof(challenge, is_first=is_first)
    return {
        "malformed": good[:-4],
        "not a JWT": "proof",
        "oversize": key.proof(challenge, is_first=is_first, pad="x" * 3000),
        "another type": key.proof(challenge, is_first=is_first, typ="JWT"),
        "no signature": key.proof(challenge, is_first=is_first, alg="none"),
        "a challenge of nobody's": key.proof("1" * 16 + "." + "A" * 43, is_first=is_first),
        "no challenge": key.proof("", is_first=is_first),
        "challenge cut": key.proof(challenge[:-1], is_first=is_first),
    }


def test_a_session_is_bound_by_a_good_proof_only(app, browser):
    challenge = browser.sign_up()
    for what, proof in bad_proofs(browser, challenge, is_first=True).items():
        answer = browser.tell(BIND, proof)
        assert answer.status_code == 403, what
        assert COOKIE not in answer.headers.get("Set-Cookie", ""), what
    assert session_row(app, browser.session_id()).bound_key is None
    assert browser.bind(challenge).status_code == 200


def test_a_session_is_bound_to_the_key_that_signs_only(app, browser):
    challenge = browser.sign_up()
    header = {"alg": "ES256", "typ": "dbsc+jwt", "jwk": browser.key.jwk}
    by_another = BrowserKey().signed(header, {"jti": challenge})
    for proof in (by_another, browser.key.proof(challenge), None):
        assert browser.tell(BIND, proof).status_code == 403
    assert session_row(app, browser.session_id()).bound_key is None
    assert browser.bind(challenge).status_code == 200


def test_a_key_is_proved_by_a_good_proof_only(app, bound):
    before = proven_until_now(app, bound)
    challenge = bound.challenge()
    refused = bad_proofs(bound, challenge, is_first=False)
    refused["wrong key"] = BrowserKey().proof(challenge)
    refused["wrong key that it brings along"] = BrowserKey().proof(challenge, is_first=True)
    for what, proof in refused.items():
        answer = bound.tell(REFRESH, proof)
        assert answer.status_code == 403, what
        assert COOKIE not in answer.headers.get("Set-Cookie", ""), what
        assert challenge_in(answer), what
    assert proven_until_now(app, bound) == before
    assert bound.tell(REFRESH, bound.key.proof(challenge)).status_code == 200


def test_a_challenge_counts_once_and_none_of_before_counts_after_it(bound):
    earlier, used = bound.challenge(), bound.challenge()
    assert bound.tell(REFRESH, bound.key.proof(used)).status_code == 200
    for challenge in (used, earlier):
        answer = bound.tell(REFRESH, bound.key.proof(challenge))
        assert answer.status_code == 403
        assert COOKIE not in answer.headers.get("Set-Cookie", "")


def test_one_proof_sent_by_many_at_once_counts_once(app, bound):
    proof = bound.key.proof(bound.challenge())
    browsers, statuses = [copied(bound) for _ in range(8)], []
    barrier = threading.Barrier(len(browsers))

    def send(browser: BindingBrowser) -> None:
        barrier.wait()
        statuses.append(browser.tell(REFRESH, proof).status_code)

    threads = [threading.Thread(target=send, args=(each,)) for each in browsers]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(statuses) == [200] + [403] * 7


def copied(browser: Browser) -> BindingBrowser:
    """Return another browser with all the cookies of this one; the key cannot be copied."""
    thief = BindingBrowser(browser.app, address="203.0.113.66", user_agent=FIREFOX_ON_LINUX)
    for name in ("authsite", "authsite-device", COOKIE):
        if cookie := browser.cookie(name):
            thief.client.set_cookie(name, cookie.value)
    return thief


@pytest.mark.parametrize("minutes", [6, 60])
def test_an_old_challenge_counts_no_more(bound, later, minutes):
    challenge = bound.challenge()
    later(timedelta(minutes=minutes))
    assert bound.tell(REFRESH, bound.key.proof(challenge)).status_code == 403
    assert bound.refresh().status_code == 200


def test_an_old_challenge_binds_nothing(app, browser, later):
    challenge = browser.sign_up()
    later(timedelta(minutes=6))
    assert browser.bind(challenge).status_code == 403
    assert session_row(app, browser.session_id()).bound_key is None


def test_a_challenge_is_of_one_session_and_for_one_thing(app, bound):
    other = BindingBrowser(app)
    to_bind = other.sign_up(OTHER_EMAIL)
    assert other.bind(bound.challenge()).status_code == 403
    assert other.bind(to_bind).status_code == 200
    assert bound.tell(REFRESH, bound.key.proof(other.challenge())).status_code == 403
    assert bound.tell(REFRESH, bound.key.proof(to_bind)).status_code == 403


def test_a_session_is_bound_once(app, bound):
    """Whoever has the cookie later cannot put a key of their own in its place."""
    key = session_row(app, bound.session_id()).bound_key
    thief = copied(bound)
    challenges = [bound.challenge()]
    for challenge in challenges:
        assert thief.bind(challenge).status_code == 403
    assert session_row(app, bound.session_id()).bound_key == key
    assert bound.refresh().status_code == 200


def test_the_same_first_proof_binds_once(app, browser):
    challenge = browser.sign_up()
    assert [browser.bind(challenge).status_code for _ in range(2)] == [200, 403]


def test_another_sessions_name_is_refused_without_a_challenge(app, bound):
    """A browser forgets such a session then (the answer names no challenge), and goes on with its own."""
    other = BindingBrowser(app)
    other.bind(other.sign_up(OTHER_EMAIL))
    for name in (str(other.session_id()), str(uuid.uuid4()), "no id", '"', "x" * 5000):
        answer = bound.tell(REFRESH, **{"Sec-Secure-Session-Id": name})
        assert answer.status_code == 403, name
        assert CHALLENGE not in answer.headers, name
    own = bound.tell(REFRESH, **{"Sec-Secure-Session-Id": f'"{bound.session_id()}"'})
    assert challenge_in(own)


def test_nothing_is_to_be_had_for_a_session_that_has_ended(app, bound):
    thief, session_id = copied(bound), bound.session_id()
    challenge = bound.challenge()
    bound.sign_out()
    for browser, name in ((thief, {}), (bound, {"Sec-Secure-Session-Id": str(session_id)})):
        for proof in (None, browser.key.proof(challenge)):
            answer = browser.tell(REFRESH, proof, **name)
            assert answer.status_code == 403
            assert CHALLENGE not in answer.headers
            assert COOKIE not in answer.headers.get("Set-Cookie", "")


def test_a_session_that_was_never_bound_gives_out_nothing_for_its_name(app, browser):
    browser.sign_up()
    name = {"Sec-Secure-Session-Id": str(browser.session_id())}
    for one in (BindingBrowser(app), browser):
        answer = one.tell(REFRESH, **name)
        assert (answer.status_code, CHALLENGE in answer.headers) == (403, False)


def test_a_challenge_for_the_one_thing_is_none_for_the_other(app, browser, later):
    """Else whoever copies the cookie of a session that is not bound could bind it to a key of their own."""
    offered_to_bind = browser.sign_up()
    with app.app_context():
        owner = accounts.find_by_email(EMAIL)
        session, _ = sessions.resume_product(browser.session_id(), owner.id)
        assert browser.bind(sessions.challenge_to_prove(session)).status_code == 403
        assert browser.bind(offered_to_bind).status_code == 200
        later(timedelta(seconds=1))
        held = sessions.Grant(session.id, owner.id, clock.now(), session.expires_at)
        proof = browser.key.proof(sessions.challenge_to_bind(held))
    assert browser.tell(REFRESH, proof).status_code == 403
    assert browser.refresh().status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"Origin": "https://evil.example"}, id="another's"),
        pytest.param({"Origin": "null"}, id="hidden"),
        pytest.param(ORIGIN | {"Sec-Fetch-Site": "cross-site"}, id="from another site"),
    ],
)
@pytest.mark.parametrize("path", [BIND, REFRESH])
def test_only_our_own_origin_may_ask(app, browser, path, headers):
    proof = browser.key.proof(browser.sign_up(), is_first=True)
    answer = browser.send(path, headers=headers | {"Secure-Session-Response": proof})
    assert answer.status_code == 403
    assert CHALLENGE not in answer.headers
    assert session_row(app, browser.session_id()).bound_key is None


@pytest.mark.parametrize("path", [BIND, REFRESH])
def test_without_a_cookie_there_is_nothing_to_bind_or_prove(browser, path):
    answer = browser.tell(path)
    assert answer.status_code == 403
    assert CHALLENGE not in answer.headers


def test_whatever_stands_in_the_headers_is_refused_and_no_fault(browser):
    browser.sign_up()
    for value in ("\x7f", "é", '"' * 3000, ";" * 3000, "." * 3000):
        for name in ("Secure-Session-Response", "Sec-Secure-Session-Id"):
            for path in (BIND, REFRESH):
                assert browser.tell(path, **{name: value}).status_code == 403


def test_refreshing_is_limited_by_session_not_by_address(app, bound):
    statuses = [bound.tell(REFRESH).status_code for _ in range(31)]
    assert statuses == [403] * 30 + [429]
    neighbour = BindingBrowser(app)
    neighbour.bind(neighbour.sign_up(OTHER_EMAIL))
    assert neighbour.refresh().status_code == 200


def test_made_up_names_are_looked_for_sixty_times_a_minute_from_one_address(
    app, bound, sent_statements
):
    stranger = BindingBrowser(app, address="203.0.113.66")
    with sent_statements() as sent:
        statuses = [
            stranger.tell(REFRESH, **{"Sec-Secure-Session-Id": str(uuid.uuid4())}).status_code
            for _ in range(70)
        ]
    assert statuses == [403] * 60 + [429] * 10
    assert len(sent) == 60
    # Who has the cookie is not counted among them, nor is another address.
    stranger.client.set_cookie("authsite", bound.cookie().value)
    assert stranger.tell(REFRESH).status_code == 403
    name = {"Sec-Secure-Session-Id": str(bound.session_id())}
    assert challenge_in(BindingBrowser(app).tell(REFRESH, **name))


def test_a_refresh_costs_two_reads_and_a_write(bound, sent_statements):
    challenge = bound.challenge()
    with sent_statements() as sent:
        assert bound.tell(REFRESH, bound.key.proof(challenge)).status_code == 200
    assert [each.split()[0] for each in sent] == ["SELECT", "SELECT", "UPDATE"]


class TestSwitchedOff:
    """With the setting off there is none of it."""

    @pytest.fixture
    def app(self, make_app) -> Flask:
        return make_app()

    def test_no_sign_in_asks_for_anything(self, browser):
        answer = browser.post("/register", first_name="Ada", email=EMAIL, password=PASSWORD)
        assert answer.status_code == 303
        assert not any("session-" in name.lower() for name, _ in answer.headers)
        assert browser.cookie(COOKIE) is None

    @pytest.mark.parametrize("path", [BIND, REFRESH])
    def test_nobody_answers(self, browser, path):
        browser.register()
        proof = browser.key.proof("a challenge", is_first=True)
        assert browser.tell(path, proof).status_code == 404
        assert browser.cookie(COOKIE) is None


# What a copied cookie is worth

CONFIRM = "/login/confirm"
PAGES = (
    "/account",
    "/account/devices",
    "/account/activity",
    "/account/security",
    "/account/password",
    "/account/export",
)


@pytest.fixture
def thief(bound: BindingBrowser, later) -> BindingBrowser:
    """Another computer with all cookies of a bound browser, eleven minutes and a second later."""
    copy = copied(bound)
    later(timedelta(minutes=11, seconds=1))
    return copy


def facts(caplog, event: str) -> list[dict]:
    found = [getattr(record, "facts", {}) for record in caplog.records]
    return [each for each in found if each.get("event") == event]


def test_the_owner_goes_on_for_as_long_as_the_browser_proves_its_key(bound, later):
    for _ in range(20):
        later(timedelta(minutes=10))
        assert bound.refresh().status_code == 200
        assert bound.is_signed_in()


def test_copied_cookies_open_nothing_after_ten_minutes(app, bound, thief, caplog):
    for path in PAGES:
        answer = thief.get(path)
        assert answer.location == f"{CONFIRM}?next={path}", path
        assert EMAIL not in answer.text
    assert len(facts(caplog, "key_not_proven")) == len(PAGES)
    assert thief.get("/").location == CONFIRM
    assert thief.get("/no-such-page").status_code == 404
    for path in (CONFIRM, "/login", "/no-such-page"):
        assert EMAIL not in thief.get(path).text
    assert bound.refresh().status_code == 200
    assert bound.is_signed_in()


def test_a_copy_that_is_used_at_once_ends_with_its_ten_minutes(bound, later):
    """What this is not: whoever copies the cookies has what is left of the ten minutes, and a minute."""
    thief = copied(bound)
    for minutes, is_in in ((0, True), (10, True), (2, False)):
        later(timedelta(minutes=minutes))
        assert (thief.get("/account").status_code == 200) is is_in


def test_no_use_of_a_copy_ends_or_changes_the_owners_session(app, bound, thief):
    bound.refresh()
    token, session_id = thief.csrf_token(CONFIRM), bound.session_id()
    row = session_row(app, session_id)
    for path, fields in {
        "/account": {"first_name": "Eve"},
        "/account/password": {"current_password": PASSWORD, "new_password": "an evil password"},
        f"/account/devices/{session_id}/revoke": {},
        f"/account/devices/{session_id}/rename": {"name": "Eve's"},
        "/account/devices/revoke-others": {},
        "/logout": {},
    }.items():
        assert thief.send(path, {"csrf_token": token} | fields).status_code in {302, 303}
    assert session_row(app, session_id) == row
    assert bound.is_signed_in()


def test_a_thief_who_signs_in_elsewhere_with_the_copied_cookies_leaves_the_session_alone(
    app, thief
):
    BindingBrowser(app).sign_up(OTHER_EMAIL)
    session_id = thief.session_id()
    thief.sign_in(OTHER_EMAIL)
    assert thief.session_id() != session_id
    assert session_row(app, session_id).ended_at is None


def test_a_copy_does_not_keep_a_session_in_use(app, bound, thief):
    used_at = session_row(app, bound.session_id()).last_used_at
    thief.get("/account")
    assert session_row(app, bound.session_id()).last_used_at == used_at


@pytest.mark.parametrize(("seconds", "is_in"), [(29, True), (31, False)])
def test_right_after_the_binding_a_page_may_come_before_the_first_cookie(
    app, browser, later, seconds, is_in
):
    """Pages are asked for while the browser binds (w3c/webappsec-dbsc#248)."""
    later(timedelta(0))
    challenge = browser.sign_up()
    browser.bind(challenge)
    browser.client.delete_cookie(COOKIE)
    later(timedelta(seconds=seconds))
    assert (browser.get("/account").status_code == 200) is is_in


@pytest.mark.parametrize("value", ["", "x", "1" * 16 + "." + "A" * 43, "{other}", "x" * 4000])
def test_no_other_value_in_the_cookie_will_do(app, bound, thief, value):
    other = BindingBrowser(app)
    other.bind(other.sign_up(OTHER_EMAIL))
    thief.client.set_cookie(COOKIE, value.format(other=other.cookie(COOKIE).value))
    assert thief.get("/account").status_code == 302
    assert bound.refresh().status_code == 200


def test_what_stands_in_the_cookie_is_no_challenge_and_a_challenge_is_no_cookie(bound, thief):
    thief.client.set_cookie(COOKIE, thief.challenge())
    assert thief.get("/account").status_code == 302
    assert bound.tell(REFRESH, bound.key.proof(bound.cookie(COOKIE).value)).status_code == 403


def test_a_browser_that_does_not_know_of_it_is_as_it_was(app, later, open_browser):
    ada = open_browser()
    ada.register()
    later(timedelta(hours=11))
    assert ada.is_signed_in()
    assert ada.cookie(COOKIE) is None


def test_after_a_change_of_the_secret_browsers_go_on(make_app, bound):
    app = make_app(
        is_of_its_own=True,
        DEVICE_BOUND_SESSIONS="1",
        SECRET_KEY=services.SECRET_KEY[::-1],
        SECRET_KEY_FALLBACKS=services.SECRET_KEY,
    )
    moved = copied(bound)
    moved.app, moved.client, moved.key = app, app.test_client(), bound.key
    for name in ("authsite", COOKIE):
        moved.client.set_cookie(name, bound.cookie(name).value)
    assert moved.is_signed_in()
    assert moved.refresh().status_code == 200


def test_where_it_is_switched_off_again_nobody_is_asked(make_app, bound, later):
    app = make_app()
    before = copied(bound)
    before.app, before.client = app, app.test_client()
    before.client.set_cookie("authsite", bound.cookie().value)
    later(timedelta(hours=1))
    assert before.is_signed_in()


@pytest.mark.parametrize("is_bound", [True, False])
def test_a_page_is_one_read_bound_or_not(browser, sent_statements, is_bound):
    challenge = browser.sign_up()
    if is_bound:
        browser.bind(challenge)
    with sent_statements() as sent:
        assert browser.get("/account").status_code == 200
    assert [each.split()[0] for each in sent] == ["SELECT"]


def test_no_product_is_opened_by_a_copy(make_app, later):
    """Neither by a code for its host, nor under our own origin, where the account's cookie counts."""
    app = make_app(
        DEVICE_BOUND_SESSIONS="1",
        FORWARD_AUTH_ORIGINS="https://wiki.example.com,http://localhost",
        TRUSTED_PROXY_HOPS="1",
        PUBLIC_BASE_URL="http://localhost",
    )
    owner = BindingBrowser(app)
    owner.bind(owner.sign_up())
    copy = copied(owner)
    later(timedelta(minutes=11, seconds=1))
    handoff = f"/handoff?origin=https://wiki.example.com&challenge={'a' * 64}"
    asked = {"X-Forwarded-Proto": "http", "X-Forwarded-Host": "localhost"}
    assert copy.get(handoff).location.startswith(f"{CONFIRM}?next=")
    assert copy.get("/forward-auth", headers=asked).status_code == 401
    owner.refresh()
    assert owner.get(handoff).location.startswith("https://wiki.example.com/.authsite/callback?")
    assert owner.get("/forward-auth", headers=asked).status_code == 200


# What the owner hears of it


def told(app: Flask) -> list[database.Row]:
    with app.app_context():
        query = select(OutgoingMail.facts).where(OutgoingMail.name == "key_not_proven")
        return database.rows(query)


def test_the_owner_is_mailed_and_reads_it_in_the_activity(app, bound, thief):
    thief.get("/account")
    (mail,) = told(app)
    assert mail.facts["bound_name"] == "Chrome on Windows"
    assert mail.facts["device_name"] == "Firefox on Linux"
    assert mail.facts["ip_address"] == "203.0.113.66"
    bound.refresh()
    activity = words(bound.get("/account/activity"))
    assert (
        "The sign-in of Chrome on Windows was used without its key, and opened nothing"
        " Firefox on Linux · 203.0.113.66"
    ) in activity
    assert "We emailed you about this" in activity


def test_a_thief_who_tries_again_and_again_fills_no_mailbox(app, bound, thief, later, caplog):
    for _ in range(5):
        thief.get("/account")
    thief.post("/logout", page=CONFIRM)
    assert len(facts(caplog, "key_not_proven")) == 7
    assert len(told(app)) == 1
    later(timedelta(hours=11))
    bound.refresh()
    bound.get("/account")  # in use, and so it lives on
    later(timedelta(hours=11))
    bound.refresh()
    bound.get("/account")
    later(timedelta(hours=3))
    other = copied(bound)
    other.get("/account")
    assert len(told(app)) == 2


def test_tries_at_the_same_time_are_told_once(app, bound, thief):
    thieves = [copied(thief) for _ in range(8)]
    barrier = threading.Barrier(len(thieves))

    def try_it(one: BindingBrowser) -> None:
        barrier.wait()
        one.get("/account")

    threads = [threading.Thread(target=try_it, args=(each,)) for each in thieves]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(told(app)) == 1


def test_nobody_is_told_of_a_browser_that_proves_its_key(app, bound, later):
    for _ in range(3):
        later(timedelta(minutes=10))
        bound.refresh()
        bound.get("/account")
    assert told(app) == []


def test_the_devices_page_says_what_is_bound(app, bound, open_browser):
    open_browser(user_agent=FIREFOX_ON_LINUX).sign_in()
    page = words(bound.get("/account/devices"))
    first, second = page.split("More about this device")[:2]
    assert first.endswith("Bound to this computer ")
    assert "Bound to" not in second
    assert page.count("Bound to this computer") == 1


def test_where_it_is_switched_off_nothing_is_said_to_be_bound(make_app, bound):
    app = make_app()
    before = copied(bound)
    before.app, before.client = app, app.test_client()
    before.client.set_cookie("authsite", bound.cookie().value)
    assert "Bound to" not in words(before.get("/account/devices"))


# Confirm it is you


def test_the_owner_is_asked_again_and_goes_on_in_the_same_session_with_a_new_key(
    app, bound, thief, later
):
    session_id, key = bound.session_id(), session_row(app, bound.session_id()).bound_key
    bound.client.delete_cookie(COOKIE)  # and so is a browser that lost its key
    asked = bound.get("/account")
    page = bound.get(asked.location)
    assert heading(page) == "Confirm it is you"
    assert "Sign out of this browser" in words(page)
    answer = bound.post(asked.location, current_password=PASSWORD)
    assert (answer.status_code, answer.location) == (303, "/account")
    assert bound.is_signed_in()
    assert bound.session_id() == session_id
    assert session_row(app, session_id).bound_key is None
    bound.key = BrowserKey()
    assert bound.bind(offered(answer)).status_code == 200
    assert session_row(app, session_id).bound_key not in {None, key}
    later(timedelta(minutes=9))
    assert bound.refresh().status_code == 200
    # The copy of before is of nothing now: not even asked.
    assert thief.get("/account").location == "/login?next=/account"


def test_a_wrong_password_confirms_nothing_and_is_counted(app, bound, thief):
    for _ in range(10):
        wrong = thief.post(CONFIRM, current_password="not the password")
        assert wrong.status_code == 422
        assert summary(wrong) == [("current_password", "Your current password is wrong")]
        assert EMAIL not in wrong.text
        limiter.reset()  # what stops it is the account's own count
    assert thief.post(CONFIRM, current_password=PASSWORD).status_code == 429
    assert thief.get("/account").status_code == 302
    assert session_row(app, bound.session_id()).ended_at is None


def test_it_is_asked_also_where_the_sign_in_is_fresh(bound, later):
    """A sign-in of a minute ago needs no confirmation for anything else; whose computer it is, it does."""
    thief = copied(bound)
    thief.client.delete_cookie(COOKIE)
    later(timedelta(minutes=1))
    assert thief.post(CONFIRM).status_code == 422
    assert thief.get("/account").status_code == 302


def test_where_two_step_is_on_the_second_step_is_asked_for(app, bound, thief):
    with app.app_context():
        phone, _ = turn_on(accounts.authenticate(EMAIL, PASSWORD).account)
    wrong = thief.post(CONFIRM, current_password=PASSWORD)
    assert summary(wrong) == [("current_code", "Enter a code to confirm it is you")]
    assert thief.get("/account").status_code == 302
    assert thief.post(CONFIRM, current_code=phone.code()).status_code == 303
    assert thief.is_signed_in()


class TestByPasskey:
    """Who signs in by a passkey may know no password; beside it, and without a script, that still counts."""

    @pytest.fixture
    def app(self, make_app) -> Flask:
        return make_app(DEVICE_BOUND_SESSIONS="1", PUBLIC_BASE_URL=HERE)

    @pytest.fixture
    def key(self, bound) -> Authenticator:
        return add_passkey(bound, origin=HERE)

    @pytest.fixture
    def moved(self, bound, key, later) -> BindingBrowser:
        """The same browser on another computer, which has the passkey too."""
        copy = copied(bound)
        later(timedelta(minutes=11, seconds=1))
        return copy

    @pytest.mark.parametrize("is_on", [False, True], ids=["two-step off", "two-step on"])
    def test_it_confirms_alone_and_the_session_may_be_bound_anew(self, app, moved, key, is_on):
        if is_on:
            with app.app_context():
                turn_on(accounts.authenticate(EMAIL, PASSWORD).account)
        page, session_id = moved.get(CONFIRM).text, moved.session_id()
        assert EMAIL not in page
        assert "passkeys.js" in page
        signed = json.dumps(key.sign(options(page), origin=HERE))
        answer = moved.post(f"{CONFIRM}?next=/account", page=CONFIRM, current_passkey=signed)
        assert (answer.status_code, answer.location) == (303, "/account")
        assert moved.is_signed_in()
        assert moved.session_id() == session_id
        assert session_row(app, session_id).bound_key is None
        assert offered(answer)

    def test_nothing_else_confirms_and_nothing_changes(self, app, bound, moved, key):
        other = BindingBrowser(app)
        other.sign_up(OTHER_EMAIL)
        of_another = add_passkey(other, origin=HERE)
        to_sign_in = options(BindingBrowser(app).get("/login").text)
        shown = options(moved.get(CONFIRM).text)
        row = session_row(app, bound.session_id())
        refused = {
            "of a device that verified nobody": key.sign(shown, origin=HERE, flags=UP),
            "for another site's page": key.sign(shown, origin="http://evil.example"),
            "for the sign-in page": key.sign(to_sign_in, origin=HERE),
            "another's passkey": of_another.sign(shown, origin=HERE),
            "another's, said to be one's own": of_another.sign(
                shown, origin=HERE, named=encoded(key.credential_id), user_handle=key.user_handle
            ),
            "no passkey's answer": {"type": "public-key"},
            "no JSON": "{",
        }
        for what, answer in refused.items():
            wrong = moved.post(CONFIRM, current_passkey=json.dumps(answer))
            assert wrong.status_code == 422, what
            assert summary(wrong) == [("current_password", "That passkey was not accepted")], what
            assert EMAIL not in wrong.text, what
            limiter.reset()
        assert moved.get("/account").status_code == 302
        assert session_row(app, bound.session_id()) == row

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_it_is_offered_only_under_the_name_that_it_is_bound_to(self, app, moved, host):
        there = BindingBrowser(app, base_url=f"http://{host}")
        there.client.set_cookie("authsite", moved.cookie().value, domain=host)
        page = there.get(CONFIRM).text
        assert 'type="password"' in page
        assert ("data-options" in page) == ("passkeys.js" in page) == (host == "localhost")

    def test_it_is_not_offered_to_who_has_none(self, bound, later):
        later(timedelta(minutes=11, seconds=1))
        page = bound.get(CONFIRM).text
        assert 'type="password"' in page
        assert "data-options" not in page

    def test_the_password_counts_beside_it(self, moved):
        page = moved.get(CONFIRM)
        assert 'type="password"' in page.text
        assert re.search(r'<button type="button"[^>]* hidden>Use a passkey</button>', page.text)
        nothing = moved.post(CONFIRM, current_passkey="")
        assert summary(nothing) == [
            ("current_password", "Enter your password to confirm it is you")
        ]
        assert moved.post(CONFIRM, current_password=PASSWORD).status_code == 303


@pytest.mark.parametrize("remember", [{}, {"remember": "y"}])
def test_a_confirmed_browser_is_kept_signed_in_as_it_was(app, later, remember):
    BindingBrowser(app).sign_up()
    ada = BindingBrowser(app)
    ada.bind(offered(ada.try_sign_in(**remember)))
    until = ada.cookie().expires
    ada.client.delete_cookie(COOKIE)
    later(timedelta(minutes=1))
    ada.get(CONFIRM)
    assert ada.cookie().expires == until
    ada.post(CONFIRM, current_password=PASSWORD)
    assert ada.cookie().expires == until
    assert ada.is_signed_in()


def test_the_page_is_for_nobody_else(bound, open_browser):
    for answer in (bound.get(f"{CONFIRM}?next=/account"), bound.post(CONFIRM, page="/account")):
        assert answer.location in {"/account", "/account/devices"}
    assert open_browser().get(CONFIRM).location == "/login"


def test_signing_out_there_forgets_the_copy_only(app, bound, thief):
    answer = thief.post("/logout", page=CONFIRM)
    assert (answer.status_code, answer.location) == (303, "/login")
    assert "id" not in thief.cookie_content()
    assert session_row(app, bound.session_id()).ended_at is None


def test_the_question_leads_to_no_other_site(bound, thief):
    answer = thief.post(f"{CONFIRM}?next=https://evil.example/", current_password=PASSWORD)
    assert answer.location == "/account/devices"
