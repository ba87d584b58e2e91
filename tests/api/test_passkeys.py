"""Passkeys over the API: made, listed, renamed, removed; signing in, the second step, step-up."""

import uuid

import pytest

from authsite import accounts, clock, database
from authsite.database.models import Passkey, SpentToken, User, UserSession
from tests.api.conftest import (
    EMAIL,
    V1,
    bearer,
    count,
    fields,
    is_live,
    is_moment,
    log_in,
    problem,
    try_login,
)
from tests.authenticator import ORIGIN, Authenticator, encoded
from tests.factories import PASSWORD, turn_on

UNKNOWN = "This passkey is not known here"
NOT_ACCEPTED = "That passkey was not accepted"


def creation_options(client, held):
    answer = client.post(f"{V1}/users/me/passkeys/options", headers=bearer(held))
    assert answer.status_code == 200, answer.text
    return answer.get_json()["publicKey"]


def add(client, held, key=None, **members):
    key = key or Authenticator()
    body = {"credential": key.make(creation_options(client, held))} | members
    answer = client.post(f"{V1}/users/me/passkeys", json=body, headers=bearer(held))
    assert answer.status_code == 201, answer.text
    return key, answer.get_json()


def sign_in_options(client):
    return client.post(f"{V1}/auth/passkey/options").get_json()["publicKey"]


def sign_in(client, key, *, address="127.0.0.1", **changed):
    body = {"credential": key.sign(sign_in_options(client), **changed)}
    how = {"environ_base": {"REMOTE_ADDR": address}}
    return client.post(f"{V1}/auth/login/passkey", json=body, **how)


def own_session(client, held):
    found = client.get(f"{V1}/sessions/me", headers=bearer(held)).get_json()["sessions"]
    return next(each for each in found if each["is_current"])


@pytest.fixture
def key(client, held):
    return add(client, held)[0]


def test_a_passkey_is_added_listed_renamed_and_removed(client, held):
    """The answers' members are those of the contract, and a public key is none of them."""
    headers = bearer(held)
    _, added = add(client, held, name=" Blue  key ")
    assert added["name"] == "Blue key"
    assert added.keys() == {
        *("id", "name", "created_at", "last_used_at", "is_backed_up", "transports"),
    }
    assert is_moment(added["created_at"])
    assert added["last_used_at"] is None
    assert added["transports"] == ["hybrid", "internal"]
    listed = client.get(f"{V1}/users/me/passkeys", headers=headers).get_json()
    assert listed == {"passkeys": [added]}
    assert client.get(f"{V1}/users/me/two-step", headers=headers).get_json()["passkeys"] == 1
    path = f"{V1}/users/me/passkeys/{added['id']}"
    renamed = client.patch(path, json={"name": "Green"}, headers=headers)
    assert renamed.get_json() == added | {"name": "Green"}
    removed = client.delete(path, headers=headers)
    assert removed.get_json() == {"success": True, "message": "Passkey removed"}
    problem(client.delete(path, headers=headers), 404, "not_found", "Passkey not found")
    assert client.get(f"{V1}/users/me/passkeys", headers=headers).get_json() == {"passkeys": []}


def test_without_a_name_it_has_the_devices(client, held):
    agent = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
    headers = bearer(log_in(client, headers=agent)) | agent
    options = client.post(f"{V1}/users/me/passkeys/options", headers=headers).get_json()
    body = {"credential": Authenticator().make(options["publicKey"]), "name": None}
    answer = client.post(f"{V1}/users/me/passkeys", json=body, headers=headers)
    assert answer.get_json()["name"] == "Firefox on Linux"


def test_another_users_passkey_is_not_found_and_stays_as_it_was(app, client, held, stranger):
    _, added = add(client, held)
    path, headers = f"{V1}/users/me/passkeys/{added['id']}", bearer(stranger)
    problem(client.patch(path, json={"name": "Hers"}, headers=headers), 404, "not_found")
    problem(client.delete(path, headers=headers), 404, "not_found")
    for bad in ("x", added["id"].replace("-", ""), str(uuid.UUID(int=1)), "%00"):
        problem(client.delete(f"{V1}/users/me/passkeys/{bad}", headers=headers), 404, "not_found")
    listed = client.get(f"{V1}/users/me/passkeys", headers=bearer(held)).get_json()
    assert listed == {"passkeys": [added]}


def test_what_changes_passkeys_wants_fresh_proof(app, client, held, time_machine):
    """Reading and renaming do not: they give nobody a way in, and take none away."""
    key, added = add(client, held)
    credential = key.make(creation_options(client, held))
    time_machine.move_to(clock.now().replace(microsecond=0), tick=False)
    time_machine.shift(11 * 60)
    headers, path = bearer(held), f"{V1}/users/me/passkeys"
    for answer in (
        client.post(f"{path}/options", headers=headers),
        client.post(path, json={"credential": credential}, headers=headers),
        client.delete(f"{path}/{added['id']}", headers=headers),
    ):
        problem(answer, 401, "insufficient_user_authentication")
    assert count(app, Passkey) == 1
    assert client.get(path, headers=headers).status_code == 200
    renamed = client.patch(f"{path}/{added['id']}", json={"name": "x"}, headers=headers)
    assert renamed.status_code == 200


def test_a_passkey_signs_in_alone(client, key, app):
    with app.app_context():
        turn_on(accounts.find_by_email(EMAIL))
    answer = sign_in(client, key)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    held = answer.get_json()
    assert held.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert is_live(client, held)
    own = own_session(client, held)
    assert (own["aal"], own["amr"]) == (2, ["pop", "user", "mfa"])


def test_whatever_is_wrong_with_a_signature_the_answer_is_the_same(app, client, key):
    """Unknown, removed or badly signed: nobody learns which passkeys there are."""
    before = count(app, UserSession), count(app, SpentToken)
    answers = [
        sign_in(client, Authenticator(), user_handle=uuid.UUID(int=5).bytes, address="192.0.2.1"),
        sign_in(client, key, named=encoded(b"another"), address="192.0.2.2"),
        sign_in(client, key, signature=b"x" * 70, address="192.0.2.3"),
        sign_in(client, key, origin="http://evil.example", address="192.0.2.4"),
        sign_in(client, key, client_data={"challenge": encoded(b"x" * 83)}, address="192.0.2.5"),
    ]
    found = [problem(each, 401, "invalid_credentials", UNKNOWN) for each in answers]
    for each in found:
        each.pop("request_id")
    assert found == [found[0]] * 5
    assert {each.headers["WWW-Authenticate"] for each in answers} == {"Bearer"}
    assert (count(app, UserSession), count(app, SpentToken)) == before


def test_passkeys_share_the_limit_of_signing_in_and_count_as_no_wrong_password(client, key):
    for _ in range(9):  # `held` was the first
        problem(sign_in(client, key, signature=b"x"), 401, "invalid_credentials")
    problem(sign_in(client, key), 429, "rate_limited")
    problem(try_login(client), 429, "rate_limited")
    assert try_login(client, address="192.0.2.9").status_code == 200


@pytest.mark.parametrize(
    "credential",
    [
        None,
        "text",
        [],
        7,
        {},
        {"id": "x"},
        {"type": "public-key", "response": {}},
        {"x": "x" * 40_000},
    ],
)
def test_a_credential_that_is_none_is_422(client, held, credential):
    key = {"credential": credential}
    for answer in (
        client.post(f"{V1}/auth/login/passkey", json=key),
        client.post(f"{V1}/users/me/passkeys", json=key, headers=bearer(held)),
        client.post(f"{V1}/auth/login/second-step", json={"mfa_token": "x", "code": ""} | key)
        if credential and not isinstance(credential, dict)
        else client.post(f"{V1}/auth/login/passkey", json={}),
    ):
        assert fields(problem(answer, 422, "validation_error")) == ["credential"]


def test_deep_json_is_no_fault_of_ours(client, held):
    deep = '{"credential": ' + '{"x":' * 5000 + "1" + "}" * 5001
    for path in ("auth/login/passkey", "users/me/passkeys"):
        answer = client.post(
            f"{V1}/{path}", data=deep, content_type="application/json", headers=bearer(held)
        )
        problem(answer, 400, "malformed_request")


def test_a_refused_registration_is_422(app, client, held):
    options = creation_options(client, held)
    body = {"credential": Authenticator().make(options, origin="http://evil.example")}
    answer = client.post(f"{V1}/users/me/passkeys", json=body, headers=bearer(held))
    problem(answer, 422, "passkey_invalid", "That passkey cannot be added")
    assert count(app, Passkey) == 0


def test_the_same_passkey_twice_is_409(client, held, key):
    body = {"credential": key.make(creation_options(client, held))}
    answer = client.post(f"{V1}/users/me/passkeys", json=body, headers=bearer(held))
    problem(answer, 409, "passkey_exists")


def test_the_right_password_offers_the_passkey_and_it_finishes_the_sign_in(app, client, key):
    with app.app_context():
        turn_on(accounts.find_by_email(EMAIL))
    required = problem(try_login(client), 403, "mfa_required")
    assert required["methods"] == ["otp", "recovery_code", "webauthn"]
    options = required["passkey_options"]
    assert [each["id"] for each in options["allowCredentials"]] == [encoded(key.credential_id)]
    path, token = f"{V1}/auth/login/second-step", required["mfa_token"]
    bad = {"mfa_token": token, "credential": key.sign(options, flags=1)}
    problem(client.post(path, json=bad), 403, "passkey_invalid", NOT_ACCEPTED)
    good = {"mfa_token": token, "credential": key.sign(options)}
    held = client.post(path, json=good)
    own = own_session(client, held.get_json())
    assert (own["aal"], own["amr"]) == (2, ["pwd", "pop", "user", "mfa"])
    problem(client.post(path, json=good), 403, "passkey_invalid", NOT_ACCEPTED)
    problem(client.post(path, json={"mfa_token": token}), 422, "validation_error")


def test_a_passkey_confirms_who_it_is_where_two_step_sign_in_is_on(app, client, held, key):
    before = client.get(f"{V1}/auth/step-up", headers=bearer(held)).get_json()
    assert (before["methods"], "publicKey" in before) == (["password"], False)
    switched = client.put(f"{V1}/users/me/two-step", json={"enabled": True}, headers=bearer(held))
    assert len(switched.get_json()["recovery_codes"]) == 10
    with app.app_context():
        later = clock.now().replace(year=clock.now().year - 1)
        database.run(User.__table__.update().values(two_step_since=later))
    found = client.get(f"{V1}/auth/step-up", headers=bearer(held)).get_json()
    assert found["methods"] == ["recovery_code", "webauthn"]
    path = f"{V1}/auth/step-up"
    for bad in (key.sign(sign_in_options(client)), key.sign(found["publicKey"], flags=1)):
        answer = client.post(path, json={"credential": bad}, headers=bearer(held))
        problem(answer, 403, "passkey_invalid", NOT_ACCEPTED)
    answer = client.post(path, json={"password": PASSWORD}, headers=bearer(held))
    problem(answer, 422, "validation_error")
    body = {"credential": key.sign(found["publicKey"])}
    fresh = client.post(path, json=body, headers=bearer(held)).get_json()
    assert creation_options(client, fresh)
    answer = client.post(path, json=body, headers=bearer(held))
    problem(answer, 403, "passkey_invalid", NOT_ACCEPTED)


def test_at_an_address_every_route_says_that_there_are_no_passkeys(make_app):
    client = make_app(PUBLIC_BASE_URL="http://127.0.0.1:5000").test_client()
    from tests.api.conftest import register

    register(client)
    headers = bearer(log_in(client))
    credential = {"credential": Authenticator().sign({"challenge": "eA", "rpId": "x"})}
    for answer in (
        client.post(f"{V1}/auth/passkey/options"),
        client.post(f"{V1}/auth/login/passkey", json=credential),
        client.post(f"{V1}/users/me/passkeys/options", headers=headers),
        client.post(f"{V1}/users/me/passkeys", json=credential, headers=headers),
    ):
        problem(answer, 409, "passkeys_unavailable")


def test_a_passkey_sign_in_reads_once_and_then_writes(app, client, key, sent_statements):
    """One look at the passkey; then, in one transaction: user, passkey, challenge, session."""
    sign_in(client, key)  # the device is known from then on
    credential = key.sign(sign_in_options(client))
    with sent_statements() as sent:
        answer = client.post(f"{V1}/auth/login/passkey", json={"credential": credential})
    assert answer.status_code == 200
    words = [" ".join(each.split()[:3]) for each in sent]
    assert len(sent) <= 8, words
    assert sum(each.startswith("SELECT") for each in sent) <= 3, words


def test_options_for_signing_in_write_and_read_nothing(app, client, sent_statements):
    with sent_statements() as sent:
        assert sign_in_options(client)["allowCredentials"] == []
    assert sent == []
    assert ORIGIN.startswith("http://localhost")
