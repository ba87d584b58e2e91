"""Step-up: what a fresh proof is, what it is not, and what one without it is answered."""

import uuid
from datetime import timedelta

import pyotp
import pytest

from authsite import accounts, clock, second_steps
from authsite.second_steps import codes
from authsite.web import authentication, limits
from authsite.web.forms import StepUpForm
from tests.api.conftest import (
    EMAIL,
    V1,
    bearer,
    claims,
    is_live,
    log_in,
    problem,
    refresh,
    register,
    row_of,
    session_id,
    try_login,
)
from tests.factories import NEW_PASSWORD, PASSWORD

DETAIL = "Confirm it is you to continue"
CHALLENGE = (
    f'Bearer error="insufficient_user_authentication", error_description="{DETAIL}", max_age="600"'
)
OLD = timedelta(minutes=10, seconds=1)


@pytest.fixture
def app(make_app):
    """An application with one call more, which cannot be taken back."""
    app = make_app(is_of_its_own=True)

    @limits.update_account
    @authentication.step_up_required
    def blow_up():
        return {"typed": StepUpForm.from_json().password.data}

    app.add_url_rule(f"{V1}/bomb", "api.accounts.bomb", blow_up, methods=["POST"])
    return app


def blow_up(client, held, **how):
    return client.post(f"{V1}/bomb", headers=bearer(held), **({"json": {"password": "x"}} | how))


def step_up(client, held, password=PASSWORD):
    return client.post(f"{V1}/auth/step-up", headers=bearer(held), json={"password": password})


def state(client, held):
    answer = client.get(f"{V1}/auth/step-up", headers=bearer(held))
    assert answer.status_code == 200
    return answer.get_json()


def test_the_token_of_a_sign_in_is_fresh_for_ten_minutes(client, user, time_machine):
    """SE-18"""
    time_machine.move_to("2026-11-23T18:04:00Z", tick=False)
    held = log_in(client)
    assert state(client, held) == {
        "fresh_until": "2026-11-23T18:14:00.000000Z",
        "max_age": 600,
        "methods": ["password"],
    }
    assert blow_up(client, held).status_code == 200
    time_machine.move_to("2026-11-23T18:13:59Z", tick=False)
    assert blow_up(client, held).status_code == 200
    time_machine.move_to("2026-11-23T18:14:00Z", tick=False)
    assert state(client, held)["fresh_until"] is None
    answer = blow_up(client, held)
    found = problem(answer, 401, "insufficient_user_authentication", DETAIL)
    assert found["max_age"] == 600
    assert answer.headers["WWW-Authenticate"] == CHALLENGE
    assert is_live(client, held)


def test_a_refreshed_token_is_never_fresh_however_often_it_is_refreshed(client, held):
    """SE-18: neither the winner's nor that of a convergent answer."""
    first, again = refresh(client, held["refresh_token"]), refresh(client, held["refresh_token"])
    later = refresh(client, first.get_json()["refresh_token"])
    for answer in (first, again, later):
        assert "auth_time" not in claims(answer.get_json()["access_token"])
        assert state(client, answer.get_json())["fresh_until"] is None
        problem(blow_up(client, answer.get_json()), 401, "insufficient_user_authentication")


def test_confirming_makes_only_the_token_that_it_answers_fresh(client, held, time_machine):
    """SE-18: a copy of an access or refresh token made before never becomes privileged."""
    time_machine.move_to(clock.now() + OLD, tick=False)
    answer = step_up(client, held)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    fresh = answer.get_json()
    assert fresh.keys() == {"access_token", "token_type", "expires_in", "fresh_until"}
    assert fresh["fresh_until"] == state(client, fresh)["fresh_until"]
    assert blow_up(client, fresh).status_code == 200
    problem(blow_up(client, held), 401, "insufficient_user_authentication")
    refreshed = refresh(client, held["refresh_token"])
    assert refreshed.status_code == 200
    problem(blow_up(client, refreshed.get_json()), 401, "insufficient_user_authentication")


def test_confirming_writes_nothing_to_the_session(client, held):
    before = row_of(client.application, held)
    assert step_up(client, held).status_code == 200
    assert row_of(client.application, held) == before


def test_asking_and_acting_cost_no_statement_beside_the_one_that_authenticates(
    client, held, sent_statements
):
    """LIFE section 3: freshness stands in the token; a confirmation reads the password's hash."""
    with sent_statements() as sent:
        state(client, held)
    assert len(sent) == 1, sent
    with sent_statements() as sent:
        assert blow_up(client, held).status_code == 200
    assert len(sent) == 1, sent
    with sent_statements() as sent:
        assert step_up(client, held).status_code == 200
    assert [each.split()[0] for each in sent] == ["SELECT", "INSERT", "SELECT", "DELETE"], sent


def test_a_wrong_password_confirms_nothing_and_counts_as_a_failed_sign_in(client, held):
    """LT-09"""
    for _ in range(5):
        found = problem(
            step_up(client, held, "wrong"),
            403,
            "invalid_credentials",
            "Current password is incorrect",
        )
        assert found["errors"][0]["field"] == "password"
    for number in range(5):
        assert try_login(client, password="wrong", address=f"192.0.2.{number}").status_code == 401
    answer = try_login(client, address="192.0.2.9")
    assert answer.status_code == 429
    problem(answer, 429, "rate_limited")


def test_the_password_of_somebody_else_confirms_nothing(client, held):
    register(client, "grace@example.com", password=NEW_PASSWORD)
    problem(step_up(client, held, NEW_PASSWORD), 403, "invalid_credentials")


@pytest.mark.parametrize("sent", [{}, {"credential": {"type": "public-key"}}])
def test_nothing_typed_is_told_at_the_field(client, held, sent):
    """FACTORS section 5: while two-step sign-in is off, only the password confirms a bearer."""
    answer = client.post(f"{V1}/auth/step-up", headers=bearer(held), json=sent)
    found = problem(answer, 422, "validation_error")
    assert [error["field"] for error in found["errors"]] == ["password"]


def test_the_order_is_authentication_limit_step_up_body(client, held, time_machine):
    """LIFE section 4"""
    time_machine.move_to(clock.now() + OLD, tick=False)
    nobody = client.post(f"{V1}/bomb", data="{", content_type="text/plain")
    assert nobody.headers["WWW-Authenticate"] == "Bearer"
    stale = blow_up(client, held, json=None, data="{", content_type="text/plain")
    problem(stale, 401, "insufficient_user_authentication")
    assert stale.headers["RateLimit-Policy"] == '"update-account";q=30;w=60'
    fresh = step_up(client, held).get_json()
    problem(
        blow_up(client, fresh, json=None, data="{", content_type="text/plain"),
        415,
        "unsupported_media_type",
    )
    for _ in range(28):
        blow_up(client, held)
    problem(blow_up(client, held), 429, "rate_limited")


def test_the_token_that_answers_a_change_of_password_is_fresh(client, held, time_machine):
    time_machine.move_to(clock.now() + OLD, tick=False)
    answer = client.patch(
        f"{V1}/users/me/password",
        headers=bearer(held),
        json={"current_password": PASSWORD, "new_password": NEW_PASSWORD},
    )
    assert answer.status_code == 200
    assert blow_up(client, answer.get_json()).status_code == 200
    problem(blow_up(client, held), 401, "insufficient_user_authentication")


def test_an_ended_session_confirms_nothing(client, held):
    other = log_in(client)
    client.post(f"{V1}/auth/logout-all", headers=bearer(other))
    problem(step_up(client, held), 401, "session_revoked")


@pytest.mark.parametrize("minutes", [1, 15])
def test_the_setting_says_for_how_long(make_app, minutes, time_machine):
    time_machine.move_to("2026-11-23T18:04:00Z", tick=False)
    client = make_app(STEP_UP_MINUTES=str(minutes)).test_client()
    register(client)
    held = log_in(client)
    assert state(client, held)["fresh_until"] == f"2026-11-23T18:{4 + minutes:02}:00.000000Z"
    assert state(client, held)["max_age"] == minutes * 60


def test_with_two_step_sign_in_only_a_code_confirms(client, held, time_machine):
    """FACTORS section 5: nothing proved before it was turned on counts, nor does the password alone."""
    time_machine.move_to("2030-01-01T00:00:10Z", tick=False)
    held = log_in(client)
    time_machine.move_to("2030-01-01T00:00:20Z", tick=False)
    app = turn_on(client)
    assert state(client, held)["fresh_until"] is None
    assert state(client, held)["methods"] == ["otp", "recovery_code"]
    found = problem(step_up(client, held), 422, "validation_error")
    assert [error["field"] for error in found["errors"]] == ["code"]
    refused = blow_up(client, held)
    found = problem(refused, 401, "insufficient_user_authentication")
    assert (found["max_age"], found["acr_values"]) == (600, "aal2")
    assert refused.headers["WWW-Authenticate"] == f'{CHALLENGE}, acr_values="aal2"'

    answer = confirm_with(client, held, "000000")
    problem(answer, 403, "invalid_code", "The code is wrong or has been used")
    time_machine.move_to("2030-01-01T00:01:20Z", tick=False)
    code = app.generate_otp(codes.step_at(clock.now()))
    answer = confirm_with(client, held, code)
    assert blow_up(client, answer.get_json()).status_code == 200
    problem(confirm_with(client, held, code), 403, "invalid_code")


def test_within_one_second_what_was_proved_before_a_second_step_is_told_from_what_came_after(
    client, user, time_machine
):
    """FACTORS section 3: a code in the very second in which it was turned on is fresh, a password is not."""
    time_machine.move_to("2030-01-01T00:00:20.200000Z", tick=False)
    held = log_in(client)
    before = [held, step_up(client, held).get_json()]
    time_machine.move_to("2030-01-01T00:00:20.500000Z", tick=False)
    app = turn_on(client)
    time_machine.move_to("2030-01-01T00:00:20.500001Z", tick=False)
    answer = confirm_with(client, held, app.generate_otp(codes.step_at(clock.now()) + 1))

    assert answer.status_code == 200
    after = answer.get_json()
    assert after["fresh_until"] == "2030-01-01T00:10:20.500001Z"
    assert state(client, after)["fresh_until"] == after["fresh_until"]
    assert blow_up(client, after).status_code == 200
    for stale in before:
        assert state(client, stale)["fresh_until"] is None
        problem(blow_up(client, stale), 401, "insufficient_user_authentication")


def confirm_with(client, held, code):
    return client.post(f"{V1}/auth/step-up", headers=bearer(held), json={"code": code})


def turn_on(client):
    """Turn two-step sign-in on from another session and return the app that makes the codes."""
    other = uuid.UUID(session_id(log_in(client)))
    with client.application.app_context():
        account = accounts.find_by_email(EMAIL)
        setup = second_steps.apps.begin(account, other)
        app = pyotp.TOTP(setup.secret)
        code = app.generate_otp(codes.step_at(clock.now()))
        second_steps.apps.confirm(account, other, setup_token=setup.setup_token, code=code)
    return app
