"""Passkeys on pages: what works without a script, and what a script sends in an ordinary form."""

import json
import re
from datetime import timedelta
from html import unescape

import pytest
from sqlalchemy import update

from authsite import accounts, clock, database, second_steps
from authsite.database.models import Passkey, SpentToken, User, UserSession
from tests import factories
from tests.api.conftest import count
from tests.authenticator import UP, Authenticator, encoded
from tests.factories import PASSWORD, turn_on
from tests.pages.conftest import EMAIL, OTHER_EMAIL, Browser, elements

HERE = "http://localhost:5000"
PASSKEYS = "/account/passkeys"
UNKNOWN = "That passkey is not known here. Sign in with your password"


def at_home(app, **how) -> Browser:
    return Browser(app, base_url=HERE, **how)


@pytest.fixture
def ada(app) -> Browser:
    browser = at_home(app)
    browser.register()
    return browser


def options(page: str, kind: str = "get") -> dict:
    found = re.search(rf'data-kind="{kind}"[^>]*data-options="([^"]*)"', page)
    assert found, page
    return json.loads(unescape(found[1]))


def add(browser, key=None, **changed) -> Authenticator:
    key = key or Authenticator()
    page = browser.get(PASSKEYS).text
    assert "<noscript><p>Adding a passkey needs JavaScript. The list works without.</p>" in page
    made = key.make(options(page, "create"), **changed)
    answer = browser.post(PASSKEYS, credential=json.dumps(made))
    assert answer.status_code == 303, answer.text
    return key


def sign_in(browser, key, *, path="/login/passkey", page="/login", remembers="", **changed):
    shown = browser.get(page).text
    token = re.findall(r'name="csrf_token" value="([^"]+)"', shown)[-1]
    signed = json.dumps(key.sign(options(shown), **changed))
    return browser.send(path, {"csrf_token": token, "credential": signed, "remembers": remembers})


def of(app, email=EMAIL):
    with app.app_context():
        return accounts.find_by_email(email)


def rows(app):
    with app.app_context():
        return database.rows(Passkey.__table__.select())


def is_lasting(answer) -> bool:
    """Whether the cookie of the session outlives the browser."""
    set_cookies = answer.headers.getlist("Set-Cookie")
    [own] = [each for each in set_cookies if each.startswith("authsite=")]
    return "Expires" in own


def age(app, minutes: int = 11) -> None:
    """Nobody has proved anything lately."""
    with app.app_context():
        before = clock.now() - timedelta(minutes=minutes)
        database.run(update(UserSession).values(authenticated_at=before))


def test_a_passkey_is_added_listed_renamed_and_removed(app, ada):
    add(ada)
    page = ada.get(PASSKEYS).text
    assert "Passkey added: Chrome on Windows." in page
    assert "Saved in your password manager" in page
    assert "Not used yet" in page
    [row] = rows(app)
    path = f"{PASSKEYS}/{row.id}"
    assert "Enter a name" in ada.post(f"{path}/rename", name=" ").text
    assert ada.post(f"{path}/rename", name="Blue key").status_code == 303
    assert "The name is now Blue key." in ada.get(PASSKEYS).text
    assert "It cannot sign in to authsite any more." in ada.get(f"{path}/remove").text
    assert ada.post(f"{path}/remove").status_code == 303
    assert "Passkey removed: Blue key." in ada.get(PASSKEYS).text
    assert rows(app) == []
    assert ada.get(f"{path}/remove").status_code == 303


def test_a_passkey_signs_in_without_a_password(app, ada):
    key = add(ada)
    with app.app_context():
        turn_on(of(app))
    other = at_home(app)
    answer = sign_in(other, key)
    assert (answer.status_code, answer.location) == (303, "/account/devices")
    assert other.is_signed_in()
    assert "Last used just now" in other.get(PASSKEYS).text
    assert not is_lasting(answer)


def test_it_leads_to_where_one_wanted_to_go_and_is_remembered_if_that_was_ticked(app, ada):
    key, other = add(ada), at_home(app)
    page = "/login?next=/account/activity"
    shown = other.get(page).text
    assert 'action="/login/passkey?next=/account/activity"' in shown
    path = "/login/passkey?next=/account/activity"
    answer = sign_in(other, key, path=path, page=page, remembers="y")
    assert answer.location == "/account/activity"
    assert is_lasting(answer)


def test_a_refused_passkey_shows_the_form_again_and_the_button_stays(app, ada):
    key, other = add(ada), at_home(app)
    before = count(app, UserSession)
    for changed in ({"signature": b"x" * 70}, {"origin": "http://evil.example"}, {"flags": UP}):
        answer = sign_in(other, key, **changed)
        assert answer.status_code == 422
        assert UNKNOWN in answer.text
        assert "data-unknown" not in answer.text, "its password manager must not forget it"
        assert options(answer.text)
    assert count(app, UserSession) == before
    assert not other.is_signed_in()


def test_beside_a_refused_passkey_the_password_signs_in_and_leads_on(ada, app):
    other = at_home(app)
    path = "/login/passkey?next=/account/activity"
    shown = other.post(path, page="/login?next=/account/activity", credential="{}")
    assert shown.status_code == 422
    password_form = elements(shown, "form")[0]["action"]
    token = re.findall(r'name="csrf_token" value="([^"]+)"', shown.text)[0]
    fields = {"csrf_token": token, "email": EMAIL, "password": PASSWORD}
    answer = other.send(password_form, fields)
    assert (answer.status_code, answer.location) == (303, "/account/activity")
    assert other.is_signed_in()


def test_a_passkey_that_is_gone_is_named_to_its_password_manager(app, ada):
    key, other = add(ada), at_home(app)
    [row] = rows(app)
    ada.post(f"{PASSKEYS}/{row.id}/remove")
    answer = sign_in(other, key)
    assert answer.status_code == 422
    told = re.search(r'data-unknown="([^"]*)"', answer.text)
    expected = {"rpId": "localhost", "credentialId": encoded(key.credential_id)}
    assert json.loads(unescape(told[1])) == expected


@pytest.mark.parametrize("junk", ["", "{", "[]", '{"type": "public-key"}', "x" * 33_000])
def test_what_is_no_passkeys_answer_is_422_and_never_a_fault(app, ada, junk):
    other = at_home(app)
    answer = other.post("/login/passkey", page="/login", credential=junk)
    assert answer.status_code == 422
    assert UNKNOWN in answer.text
    if junk:
        assert ada.post(PASSKEYS, credential=junk).status_code == 422
    assert rows(app) == []


def test_a_challenge_is_of_the_browser_that_it_was_shown_to(app, ada):
    """Another's page with its options, even with a form of one's own, signs nobody in."""
    key, theirs, mine = add(ada), at_home(app), at_home(app)
    shown = options(theirs.get("/login").text)
    signed = json.dumps(key.sign(shown))
    answer = mine.post("/login/passkey", page="/login", credential=signed)
    assert answer.status_code == 422
    assert not mine.is_signed_in()


def test_an_hour_is_too_long_and_said_so(app, ada, time_machine):
    key, other = add(ada), at_home(app)
    time_machine.move_to(clock.now(), tick=False)
    shown = other.get("/login").text
    token = re.findall(r'name="csrf_token" value="([^"]+)"', shown)[-1]
    signed = json.dumps(key.sign(options(shown)))
    time_machine.shift(timedelta(minutes=60))
    answer = other.send("/login/passkey", {"csrf_token": token, "credential": signed})
    assert answer.status_code == 422
    assert "That took too long. Try again" in answer.text


def test_a_closed_account_is_told_to_its_owner(app, ada):
    key, other = add(ada), at_home(app)
    with app.app_context():
        accounts.deactivate(EMAIL)
    assert "This account has been deactivated." in sign_in(other, key).text


def test_the_sign_in_page_writes_nothing(app, make_app, sent_statements):
    browser = at_home(app)
    with sent_statements() as sent:
        for _ in range(200):
            assert browser.client.get("/login", base_url=HERE).status_code == 200
    assert sent == []
    assert count(app, SpentToken) == 0


def test_adding_wants_fresh_proof_first(app, ada):
    age(app)
    page = ada.get(PASSKEYS).text
    assert "Continue to add a passkey" in page
    assert "data-options" not in page
    assert ada.post(PASSKEYS, current_password="not it at all").status_code == 422
    assert ada.post(PASSKEYS, current_password=PASSWORD).location == PASSKEYS
    assert options(ada.get(PASSKEYS).text, "create")
    add(ada)
    [row] = rows(app)
    age(app)
    assert ada.post(f"{PASSKEYS}/{row.id}/remove").status_code == 422
    assert len(rows(app)) == 1


def test_a_refused_registration_is_said_and_keeps_nothing(app, ada):
    key = Authenticator()
    made = key.make(options(ada.get(PASSKEYS).text, "create"), origin="http://evil.example")
    answer = ada.post(PASSKEYS, credential=json.dumps(made))
    assert answer.status_code == 422
    assert "That passkey cannot be added. Try again" in answer.text
    assert rows(app) == []


def test_another_users_passkey_is_not_shown_and_stays(app, ada):
    add(ada)
    [row] = rows(app)
    eve = at_home(app)
    eve.register(OTHER_EMAIL)
    assert "You have no passkeys yet." in eve.get(PASSKEYS).text
    for act in ("rename", "remove"):
        assert eve.get(f"{PASSKEYS}/{row.id}/{act}").status_code == 303
        assert eve.post(f"{PASSKEYS}/{row.id}/{act}", page=PASSKEYS, name="x").status_code == 303
    assert rows(app) == [row]


def test_one_key_on_one_device_suggests_another(app, ada):
    add(ada, Authenticator(is_synced=False))
    page = ada.get(PASSKEYS).text
    assert "On this device only" in page
    assert "Add another on a second device" in page


def test_a_passkey_is_the_second_step(app, ada):
    key = add(ada)
    with app.app_context():
        turn_on(of(app))
    other = at_home(app)
    assert other.try_sign_in().location == "/login/second-step"
    path = "/login/second-step"
    bad = sign_in(other, key, path=path, page=path, flags=UP)
    assert bad.status_code == 422
    assert "That passkey was not accepted. Try again" in bad.text
    assert not other.is_signed_in()
    assert sign_in(other, key, path=path, page=path).status_code == 303
    assert other.is_signed_in()


def test_with_passkeys_alone_it_is_asked_for_and_recovery_codes_are_the_way_without_script(
    app, ada
):
    key = add(ada)
    assert "Ask for a passkey after my password" in ada.get("/account/security").text
    page = ada.post("/account/two-step/on").text
    [code, *_] = re.findall(r"[a-z0-9]{6}-[a-z0-9]{6}-[a-z0-9]{6}-[a-z0-9]{6}", page)
    assert "A passkey or a recovery code" in ada.get("/account/security").text
    for proof in ("code", "passkey"):
        other = at_home(app)
        other.try_sign_in()
        path = "/login/second-step"
        page = other.get(path).text
        assert "Use your passkey or a recovery code" in page
        assert "which needs JavaScript. Use a recovery code instead." in page
        if proof == "code":
            other.post(path, code=code)
        else:
            sign_in(other, key, path=path, page=path)
        assert other.is_signed_in()
    [row] = rows(app)
    page = other.get(f"{PASSKEYS}/{row.id}/remove").text
    assert "two-step sign-in is then off" in page
    other.post(f"{PASSKEYS}/{row.id}/remove")
    assert "Two-step sign-in is off." in other.get(PASSKEYS).text


def test_a_passkey_confirms_who_it_is_beside_the_code(app, ada):
    key = add(ada)
    with app.app_context():
        second_steps.switch.enable(of(app).id, factories.live_session(of(app).id))
        long_ago = clock.now() - timedelta(days=1)
        database.run(update(User).values(two_step_since=long_ago))
    age(app)
    page = ada.get(PASSKEYS).text
    assert "Enter a recovery code to confirm it is you" in page
    for changed, status in (({"flags": UP}, 422), ({}, 303)):
        shown = options(ada.get(PASSKEYS).text)
        signed = json.dumps(key.sign(shown, **changed))
        answer = ada.post(PASSKEYS, current_passkey=signed, current_code="")
        assert answer.status_code == status
    assert options(ada.get(PASSKEYS).text, "create")
    assert ada.post(PASSKEYS, current_passkey="", current_code="").status_code == 303, "still fresh"


def test_elsewhere_than_at_home_the_page_says_where_passkeys_work(app):
    browser = Browser(app, base_url="http://127.0.0.1:5000")
    browser.register()
    page = browser.get(PASSKEYS).text
    assert "Passkeys work at http://localhost:5000 only." in page
    assert "data-options" not in page
    assert "passkeys.js" not in browser.get("/login").text


def test_at_an_address_there_are_none(make_app):
    app = make_app(PUBLIC_BASE_URL=HERE.replace("localhost", "127.0.0.1"))
    browser = Browser(app, base_url="http://127.0.0.1:5000")
    browser.register()
    assert "Passkeys need a site that is reached by a name" in browser.get(PASSKEYS).text
    assert browser.get("/.well-known/passkey-endpoints").status_code == 404
    other = Browser(app, base_url="http://127.0.0.1:5000")
    assert "passkeys.js" not in other.get("/login").text
    assert other.post("/login/passkey", page="/login", credential="{}").status_code == 422


def test_password_managers_find_where_passkeys_are_kept(app):
    found = at_home(app).get("/.well-known/passkey-endpoints")
    assert found.get_json() == {"enroll": f"{HERE}{PASSKEYS}", "manage": f"{HERE}{PASSKEYS}"}
    assert at_home(app).get("/.well-known/webauthn").status_code == 404
