"""One act of each operation of the API where the tables are spread over machines, in one life.

Without TEST_CITUS_URL on its stand-in, where each statement is read for whether Citus could answer it.
"""

import pytest
from sqlalchemy import update

from authsite import database
from authsite.database.models import User
from tests.api.conftest import (
    EMAIL,
    V1,
    bearer,
    change_token,
    email_token,
    problem,
    registration_token,
    reset_token_from_outbox,
    session_id,
    try_login,
)
from tests.api.test_introspection import NAME, SECRET, basic, entry
from tests.authenticator import Authenticator
from tests.factories import NEW_PASSWORD, PASSWORD, Phone

NEW_EMAIL = "ada.lovelace@example.com"
PLAIN = {"email": EMAIL, "password": PASSWORD}


class Life:
    """Acts of one client, each of which must succeed, and the operations that they were."""

    def __init__(self, client):
        self.client, self.done, self.held = client, set(), None
        self._routes = client.application.url_map.bind("localhost")

    def act(self, method, path, *, form=None, headers=None, **members):
        """Ask with the tokens that are held and return the JSON of the answer."""
        how = {"data": form} if form else {"json": members} if method != "GET" else {}
        own = bearer(self.held) if self.held else {}
        answer = self.client.open(V1 + path, method=method, headers=headers or own, **how)
        assert answer.status_code < 300, (method, path, answer.text)
        self.done.add(self._routes.match(V1 + path, method)[0])
        return answer.get_json(silent=True)

    def sign_in(self, **body):
        self.held = self.act("POST", "/auth/login", **body)


@pytest.fixture
def app(make_app):
    return make_app(
        EMAIL_VERIFICATION="required", RATELIMIT_ENABLED="0", SERVICE_CLIENTS=entry(NAME, SECRET)
    )


@pytest.mark.parametrize("database_url", ["spread"], indirect=True)
def test_each_operation_succeeds_where_the_tables_are_spread(app, client):
    life = Life(client)
    _register(life)
    _look_and_refresh(life)
    _end_sessions(life)
    _be_asked_for(life)
    _change_address_and_password(life)
    _use_a_passkey(life)
    _use_a_second_step(life)
    _leave(life)
    operations = {
        rule.endpoint for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/")
    }
    assert operations - life.done == set()


def _register(life):
    for path in ("/openapi.json", "/docs"):
        life.act("GET", path)
    life.act("POST", "/auth/register", **PLAIN, first_name="Ada")
    token = registration_token(life.client.application)
    life.act("POST", "/auth/register/confirm", token=token, password=PASSWORD)
    life.sign_in(**PLAIN)


def _look_and_refresh(life):
    for path in ("/auth/me", "/users/me", "/auth/step-up", "/users/me/activity"):
        life.act("GET", path)
    assert life.act("PATCH", "/users/me", first_name="Augusta")["first_name"] == "Augusta"
    life.held = life.act("POST", "/auth/refresh", refresh_token=life.held["refresh_token"])
    life.held |= life.act("POST", "/auth/step-up", password=PASSWORD)
    account = life.act("GET", "/users/me/export")["account"]
    assert (account["email"], account["first_name"]) == (EMAIL, "Augusta")


def _end_sessions(life):
    form = {"username": EMAIL, "password": PASSWORD}
    other = life.act("POST", "/auth/login/oauth", form=form, headers={"X-Device-Id": "other"})
    assert life.act("GET", "/sessions/me")["total"] == 2
    path = f"/sessions/{session_id(other)}"
    assert life.act("PATCH", path, device_name="Blue")["device_name"] == "Blue"
    assert life.act("DELETE", path)["message"] == "Session revoked: Blue"
    life.act("DELETE", "/sessions/me/others")
    assert life.act("DELETE", "/sessions/me/expired")["message"] == "Cleaned up 1 expired sessions"


def _be_asked_for(life):
    """A service learns whose token it was handed, and a client gives one back."""
    form = {"token": life.held["access_token"]}
    assert life.act("POST", "/auth/introspect", form=form, headers=basic())["active"]
    life.act("POST", "/auth/revoke", form={"token": life.held["refresh_token"]})
    form = {"token": life.held["access_token"]}
    assert not life.act("POST", "/auth/introspect", form=form, headers=basic())["active"]
    life.sign_in(**PLAIN)


def _change_address_and_password(life):
    app = life.client.application
    with app.app_context():  # as if registered before addresses were confirmed
        database.run(update(User).values(email_verified_at=None))
    life.act("POST", "/users/me/email/verification")
    life.act("POST", "/users/me/email/verify", token=email_token(app, EMAIL))
    life.act("POST", "/users/me/email", email="mistyped@example.com")
    life.act("DELETE", "/users/me/email")
    life.act("POST", "/users/me/email", email=NEW_EMAIL)
    life.act("POST", "/users/me/email/confirm", token=change_token(app))
    assert life.act("GET", "/users/me/email")["email"] == NEW_EMAIL
    passwords = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    life.held = life.act("PATCH", "/users/me/password", **passwords)
    life.act("POST", "/auth/password-reset/request", email=NEW_EMAIL)
    token = reset_token_from_outbox(app)
    life.act("POST", "/auth/password-reset/confirm", token=token, new_password=PASSWORD)
    life.sign_in(email=NEW_EMAIL, password=PASSWORD)


def _use_a_passkey(life):
    key = Authenticator()
    options = life.act("POST", "/users/me/passkeys/options")["publicKey"]
    added = life.act("POST", "/users/me/passkeys", credential=key.make(options))
    path = f"/users/me/passkeys/{added['id']}"
    life.act("PATCH", path, name="Green")
    assert [each["name"] for each in life.act("GET", "/users/me/passkeys")["passkeys"]] == ["Green"]
    options = life.act("POST", "/auth/passkey/options")["publicKey"]
    life.held = life.act("POST", "/auth/login/passkey", credential=key.sign(options))
    life.act("DELETE", path)


def _use_a_second_step(life):
    setup = life.act("POST", "/users/me/two-step/app")
    phone = Phone(setup["secret"])
    life.act("PUT", "/users/me/two-step/app", setup_token=setup["setup_token"], code=phone.code(-1))
    found = life.act("GET", "/users/me/two-step")
    assert found["enabled_since"]
    asked = problem(try_login(life.client, NEW_EMAIL), 403, "mfa_required")
    step = {"mfa_token": asked["mfa_token"], "code": phone.code()}
    life.held = life.act("POST", "/auth/login/second-step", **step)
    life.act("POST", "/users/me/two-step/recovery-codes", replaces=found["recovery_set_id"])
    life.act("DELETE", "/users/me/trusted-browsers")
    life.act("DELETE", "/users/me/two-step/app")
    life.act("PUT", "/users/me/two-step", enabled=False)


def _leave(life):
    for path in ("/auth/logout", "/auth/logout-all"):
        life.act("POST", path)
        life.sign_in(email=NEW_EMAIL, password=PASSWORD)
    life.act("DELETE", "/users/me")
    problem(try_login(life.client, NEW_EMAIL), 401, "inactive_account")
