"""The second step over the API: 403 and no token until a code has been shown; what a session then says."""

import pytest

from authsite import accounts, second_steps
from authsite.database.models import SpentToken, UserSession
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
from tests.factories import PASSWORD, turn_on

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
