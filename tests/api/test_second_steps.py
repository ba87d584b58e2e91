"""The second step over the API: 403 and no token until a code has been shown; what a session then says."""

import uuid
from datetime import timedelta

import pytest

from authsite import accounts, clock, second_steps, sessions
from authsite.database.models import RecoveryCode, SpentToken, UserSession
from authsite.errors import SecondStepRequired
from tests.api.conftest import (
    EMAIL,
    V1,
    bearer,
    count,
    is_live,
    is_moment,
    log_in,
    problem,
    register,
    try_login,
)
from tests.factories import PASSWORD, Phone, turn_on

REQUIRED = "Enter the code from your authenticator app to finish signing in"
WRONG = "The code is wrong or has been used"
EXPIRED = "The sign-in has expired or was completed. Start again."


@pytest.fixture
def two_step(app, user):
    """Ada's phone and recovery codes; the session that turned it on is another device's."""
    with app.app_context():
        return turn_on(accounts.find_by_email(EMAIL))


def required(client, **how):
    return problem(try_login(client, **how), 403, "mfa_required", REQUIRED)


def complete(client, mfa_token, code, **how):
    body = {"mfa_token": mfa_token, "code": code}
    return client.post(f"{V1}/auth/login/second-step", json=body, **how)


def session_of(client, held):
    found = client.get(f"{V1}/sessions/me", headers=bearer(held)).get_json()["sessions"]
    return next(each for each in found if each["is_current"])


def test_the_right_password_gets_no_token_and_no_row(app, client, two_step):
    """A client that takes 2xx for success is not taken in, and none refreshes after it: 403."""
    before, spent = count(app, UserSession), count(app, SpentToken)
    found = required(client)
    assert found["expires_in"] == 600
    assert found["methods"] == ["otp", "recovery_code"]
    assert not found.keys() & {"access_token", "refresh_token", "passkey_options"}
    assert count(app, UserSession) == before
    assert count(app, SpentToken) == spent, "to know a password writes nothing"


def test_a_code_finishes_the_sign_in_and_the_session_says_so(client, two_step):
    phone, _ = two_step
    answer = complete(client, required(client)["mfa_token"], phone.code())
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    held = answer.get_json()
    assert held.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert is_live(client, held)
    own = session_of(client, held)
    assert (own["aal"], own["amr"]) == (2, ["pwd", "otp", "mfa"])
    assert own["authenticated_at"] is None, "its access token says it"


def test_a_recovery_code_does_too_and_once(client, two_step):
    _, paper = two_step
    held = complete(client, required(client)["mfa_token"], paper[0].upper()).get_json()
    assert session_of(client, held)["amr"] == ["pwd", "otp", "mfa"]
    again = complete(client, required(client)["mfa_token"], paper[0])
    assert problem(again, 403, "invalid_code", WRONG)["errors"][0]["field"] == "code"


def test_without_a_second_step_nothing_changes_and_a_session_says_that_too(client, held):
    own = session_of(client, held)
    assert (own["aal"], own["amr"]) == (1, ["pwd"])


def test_a_session_of_a_page_says_when_its_user_was_last_known(app, client, held):
    page = app.test_client()
    token = page.get("/login").text.split('name="csrf_token" value="')[1].split('"')[0]
    page.post("/login", data={"csrf_token": token, "email": EMAIL, "password": PASSWORD})
    found = client.get(f"{V1}/sessions/me", headers=bearer(held)).get_json()["sessions"]
    (other,) = [each for each in found if not each["is_current"]]
    assert is_moment(other["authenticated_at"])


def test_a_wrong_code_is_403_and_leaves_the_pending_sign_in_good(app, client, two_step):
    """401 would make a client\'s interceptor refresh, or sign its user out."""
    phone, _ = two_step
    before, token = count(app, UserSession), required(client)["mfa_token"]
    problem(complete(client, token, "000000"), 403, "invalid_code", WRONG)
    assert count(app, UserSession) == before
    assert complete(client, token, phone.code()).status_code == 200


def test_every_bad_pending_sign_in_gets_the_same_answer(app, client, two_step):
    phone, paper = two_step
    used = required(client)["mfa_token"]
    assert complete(client, used, phone.code()).status_code == 200
    with app.app_context():
        authenticated = accounts.authenticate(EMAIL, PASSWORD)
        with pytest.raises(SecondStepRequired) as raised:
            second_steps.require(authenticated, entrance="page")
    before = count(app, UserSession)
    for bad in (used, used[:-2], "x", "\u00e9", raised.value.mfa_token, "x" * 4096):
        problem(complete(client, bad, paper[0]), 400, "mfa_token_invalid", EXPIRED)
    assert count(app, UserSession) == before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"mfa_token": "x"},
        {"code": "123456"},
        {"mfa_token": 7, "code": "123456"},
        {"mfa_token": "x", "code": 123456},
        {"mfa_token": "x", "code": "1" * 129},
        {"mfa_token": "x" * 4097, "code": "123456"},
        {"mfa_token": "x", "code": "1\x0000000"},
    ],
)
def test_a_body_that_is_not_right_is_422(client, body):
    problem(client.post(f"{V1}/auth/login/second-step", json=body), 422, "validation_error")


def test_five_wrong_codes_close_it_whatever_address_they_come_from(client, two_step):
    phone, paper = two_step
    for number in range(5):
        token = required(client)["mfa_token"]
        address = {"environ_base": {"REMOTE_ADDR": f"192.0.2.{number}"}}
        problem(complete(client, token, "000000", **address), 403, "invalid_code")
    for code in (phone.code(), paper[0]):
        refused = complete(client, required(client)["mfa_token"], code)
        problem(refused, 429, "rate_limited")
        assert int(refused.headers["Retry-After"]) > 60


def test_ten_a_minute_are_taken_from_one_address(client):
    answers = [complete(client, "x", "000000") for _ in range(11)]
    assert [each.status_code for each in answers] == [400] * 10 + [429]


def test_a_device_id_names_the_device_and_never_skips_the_step(client, two_step):
    phone, _ = two_step
    named = {"X-Device-Id": "kitchen"}
    token = required(client, headers=named)["mfa_token"]
    held = complete(client, token, phone.code(), headers=named).get_json()
    assert session_of(client, held)["device_id"] == "kitchen"
    required(client, headers=named)


def test_an_oauth_client_is_told_in_its_own_words_and_signs_in_by_the_same_route(client, two_step):
    """AP-18"""
    phone, _ = two_step
    form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD}
    found = problem(client.post(f"{V1}/auth/login/oauth", data=form), 403, "mfa_required", REQUIRED)
    assert (found["error"], found["error_description"]) == ("mfa_required", REQUIRED)
    answer = complete(client, found["mfa_token"], phone.code(), headers={"User-Agent": ""})
    assert session_of(client, answer.get_json())["device_name"] == "API Client"


def test_nothing_of_it_is_told_before_the_right_password(client, two_step):
    wrong = try_login(client, password="not it at all")
    register(client, "plain@example.com")
    plain = try_login(client, "plain@example.com", password="not it at all")
    ours, theirs = wrong.get_json(), plain.get_json()
    for each in (ours, theirs):
        each.pop("request_id")
    assert ours == theirs
    assert log_in(client, "plain@example.com")


# setting it up, changing it, taking it away

TWO_STEP = f"{V1}/users/me/two-step"
NOTHING = {
    "enabled_since": None,
    "app": None,
    "recovery_codes_left": 0,
    "recovery_set_id": None,
    "passkeys": 0,
    "trusted_browsers": 0,
}
STEP_UP_CALLS = [
    ("POST", f"{TWO_STEP}/app", None),
    ("PUT", f"{TWO_STEP}/app", {"setup_token": "x", "code": "123456"}),
    ("PUT", TWO_STEP, {"enabled": False}),
    ("DELETE", f"{TWO_STEP}/app", None),
    ("POST", f"{TWO_STEP}/recovery-codes", {"replaces": None}),
]


def overview(client, held):
    return client.get(TWO_STEP, headers=bearer(held)).get_json()


def begin(client, held):
    return client.post(f"{TWO_STEP}/app", headers=bearer(held))


def confirm(client, held, setup_token, code):
    body = {"setup_token": setup_token, "code": code}
    return client.put(f"{TWO_STEP}/app", json=body, headers=bearer(held))


@pytest.fixture
def fresh(client, two_step):
    """The Tokens of a session of Ada's that has shown both."""
    return complete(client, required(client)["mfa_token"], two_step[0].code()).get_json()


def test_setting_up_writes_nothing_until_a_code_of_the_app_is_shown(app, client, held):
    setup = begin(client, held)
    assert setup.headers["Cache-Control"] == "no-store"
    found = setup.get_json()
    assert found.keys() == {"secret", "uri", "setup_token", "expires_in"}
    assert found["expires_in"] == 900
    assert found["uri"].startswith("otpauth://totp/")
    assert overview(client, held) == NOTHING
    made = confirm(client, held, found["setup_token"], Phone(found["secret"]).code())
    assert made.status_code == 200
    assert len(set(made.get_json()["recovery_codes"])) == 10
    now = overview(client, held)
    assert is_moment(now["enabled_since"])
    assert is_moment(now["app"]["created_at"])
    assert (now["recovery_codes_left"], now["passkeys"]) == (10, 0)
    assert now["recovery_set_id"] == made.get_json()["set_id"]
    assert session_of(client, held)["aal"] == 2, "the session that did it is lifted"
    required(client)


def test_the_bearer_that_turned_it_on_is_fresh_no_longer(client, held, time_machine):
    """Nothing that was proved before it was on counts."""
    setup = begin(client, held).get_json()
    code = Phone(setup["secret"]).code()
    time_machine.move_to(clock.now() + timedelta(seconds=2))
    confirm(client, held, setup["setup_token"], code)
    refused = client.put(TWO_STEP, json={"enabled": False}, headers=bearer(held))
    problem(refused, 401, "insufficient_user_authentication")
    assert overview(client, held)["enabled_since"]


def test_a_wrong_code_turns_nothing_on_and_a_clock_that_is_off_is_told(client, held):
    setup = begin(client, held).get_json()
    refused = confirm(client, held, setup["setup_token"], "000000")
    problem(refused, 403, "invalid_code", WRONG)
    late = confirm(client, held, setup["setup_token"], Phone(setup["secret"]).code(-6))
    assert "about 3 minutes slow" in problem(late, 403, "invalid_code")["detail"]
    assert overview(client, held) == NOTHING


@pytest.mark.parametrize("token", ["x", "\u00e9", "x" * 4096])
def test_a_setup_that_never_was_is_400(client, held, token):
    refused = confirm(client, held, token, "123456")
    problem(refused, 400, "setup_token_invalid", "The setup has expired. Start again.")


def test_a_setup_of_another_session_or_user_is_400(client, held, stranger):
    setup = begin(client, held).get_json()
    code = Phone(setup["secret"]).code()
    for other in (log_in(client), stranger):
        problem(confirm(client, other, setup["setup_token"], code), 400, "setup_token_invalid")
        assert overview(client, other) == NOTHING


@pytest.mark.parametrize(("method", "path", "body"), STEP_UP_CALLS)
def test_no_change_of_factors_without_fresh_proof(
    app, client, two_step, fresh, time_machine, method, path, body
):
    """ASVS 7.5.3: a stale session adds and removes nothing."""
    before = overview(client, fresh)
    time_machine.move_to(clock.now() + timedelta(minutes=11))
    refused = client.open(path, method=method, json=body, headers=bearer(fresh))
    problem(refused, 401, "insufficient_user_authentication")
    assert overview(client, fresh) == before


@pytest.mark.parametrize(("method", "path", "body"), STEP_UP_CALLS)
def test_no_token_that_a_refresh_gave_changes_factors(client, fresh, method, path, body):
    body_ = {"refresh_token": fresh["refresh_token"]}
    later = client.post(f"{V1}/auth/refresh", json=body_).get_json()
    refused = client.open(path, method=method, json=body, headers=bearer(later))
    problem(refused, 401, "insufficient_user_authentication")


def test_a_code_makes_it_fresh_again_and_the_password_does_not(
    client, two_step, fresh, time_machine
):
    time_machine.move_to(clock.now() + timedelta(minutes=11))
    stale = {"headers": bearer(fresh)}
    assert client.get(f"{V1}/auth/step-up", **stale).get_json()["methods"] == [
        "otp",
        "recovery_code",
    ]
    problem(
        client.post(f"{V1}/auth/step-up", json={"password": PASSWORD}, **stale),
        422,
        "validation_error",
    )
    body = {"code": two_step[0].code()}
    held = client.post(f"{V1}/auth/step-up", json=body, **stale).get_json()
    assert client.delete(f"{TWO_STEP}/app", headers=bearer(held)).status_code == 200


def test_off_takes_app_codes_and_trust_away_and_the_password_is_enough(app, client, fresh):
    for _ in range(2):
        answer = client.put(TWO_STEP, json={"enabled": False}, headers=bearer(fresh))
        assert answer.get_json() == {"recovery_codes": None, "set_id": None}
    assert overview(client, fresh) == NOTHING
    assert count(app, RecoveryCode) == 0
    assert log_in(client)


def test_on_wants_something_to_ask_for(client, held):
    refused = client.put(TWO_STEP, json={"enabled": True}, headers=bearer(held))
    problem(refused, 409, "no_second_step", "Add an authenticator app or a passkey first")
    assert overview(client, held) == NOTHING


def test_on_where_it_is_on_changes_nothing(client, fresh):
    before = overview(client, fresh)
    answer = client.put(TWO_STEP, json={"enabled": True}, headers=bearer(fresh))
    assert answer.get_json() == {"recovery_codes": None, "set_id": before["recovery_set_id"]}
    assert overview(client, fresh) == before


@pytest.mark.parametrize("enabled", [None, "true", 1, [], "missing"])
def test_whether_it_is_on_is_true_or_false_and_nothing_else(client, held, enabled):
    body = {} if enabled == "missing" else {"enabled": enabled}
    refused = client.put(TWO_STEP, json=body, headers=bearer(held))
    problem(refused, 422, "validation_error", "Give true or false")


def test_removing_the_app_twice_says_the_same(client, fresh):
    for _ in range(2):
        answer = client.delete(f"{TWO_STEP}/app", headers=bearer(fresh))
        assert answer.get_json()["message"] == "Authenticator app removed"
    assert overview(client, fresh) == NOTHING


def test_new_recovery_codes_replace_the_set_that_the_caller_knows(client, two_step, fresh):
    seen = overview(client, fresh)["recovery_set_id"]
    path, how = f"{TWO_STEP}/recovery-codes", {"headers": bearer(fresh)}
    made = client.post(path, json={"replaces": seen}, **how)
    assert made.headers["Cache-Control"] == "no-store"
    assert len(made.get_json()["recovery_codes"]) == 10
    for old in (seen, None, str(uuid.uuid4())):
        problem(client.post(path, json={"replaces": old}, **how), 409, "already_replaced")
    problem(
        complete(client, required(client)["mfa_token"], two_step[1][0]), 403, "invalid_code", WRONG
    )
    code = made.get_json()["recovery_codes"][0]
    assert complete(client, required(client)["mfa_token"], code).status_code == 200


@pytest.mark.parametrize("body", [{}, {"replaces": "x"}, {"replaces": 7}])
def test_which_set_is_replaced_has_to_be_said(client, fresh, body):
    path = f"{TWO_STEP}/recovery-codes"
    problem(client.post(path, json=body, headers=bearer(fresh)), 422, "validation_error")


def test_browsers_are_trusted_no_longer_when_their_user_says_so(app, client, fresh, stranger):
    with app.app_context():
        ada = accounts.find_by_email(EMAIL)
        given = sessions.trust(ada.id, device_id="x", device_name="Chrome", ip_address=None)
    path = f"{V1}/users/me/trusted-browsers"
    assert client.delete(path, headers=bearer(stranger)).get_json()["message"] == (
        "0 browsers forgotten"
    )
    assert overview(client, fresh)["trusted_browsers"] == 1
    assert client.delete(path, headers=bearer(fresh)).get_json()["message"] == (
        "1 browsers forgotten"
    )
    with app.app_context():
        assert not sessions.is_trusted(ada.id, given.secret)
