"""Registering over the API where addresses are confirmed first."""

import pytest

from authsite.database.models import OutgoingMail, Registration, User
from tests import factories
from tests.api.conftest import (
    EMAIL,
    OTHER_EMAIL,
    V1,
    count,
    problem,
    registration_token,
    try_login,
)
from tests.factories import PASSWORD

BODY = {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"}
OWN_EACH_TIME = {"X-Request-Id", "RateLimit", "Date"}


@pytest.fixture
def app(make_app):
    return make_app(EMAIL_VERIFICATION="required")


def claim(client, email=EMAIL):
    return client.post(f"{V1}/auth/register", json=BODY | {"email": email})


def confirm(client, token, password=PASSWORD):
    body = {"token": token, "password": password}
    return client.post(f"{V1}/auth/register/confirm", json=body)


def test_a_registration_is_a_claim_until_its_link_and_password_come_back(app, client):
    answer = claim(client)
    assert answer.status_code == 202
    words = "Check your email to finish creating your account"
    assert answer.get_json() == {"success": True, "message": words}
    assert count(app, User) == 0
    token = registration_token(app)
    words = "Current password is incorrect"
    problem(confirm(client, token, "not it"), 403, "invalid_credentials", words)
    created = confirm(client, token)

    assert created.status_code == 201
    assert (created.get_json()["email"], created.get_json()["email_verified"]) == (EMAIL, True)
    assert try_login(client).status_code == 200
    words = "Invalid or expired email confirmation link"
    problem(confirm(client, token), 400, "email_token_invalid", words)


def test_the_answer_is_the_same_whether_or_not_the_address_has_an_account(app, client):
    """LT-01: bytes and headers, and one mail each."""
    with app.app_context():
        factories.account(OTHER_EMAIL, is_verified=True)
    answers = [claim(client, email) for email in (EMAIL, OTHER_EMAIL, EMAIL, OTHER_EMAIL)]
    seen = {
        (
            answer.status_code,
            answer.data,
            tuple((name, value) for name, value in answer.headers if name not in OWN_EACH_TIME),
        )
        for answer in answers
    }

    assert len(seen) == 1
    assert (count(app, Registration), count(app, OutgoingMail)) == (4, 4)


def test_what_is_wrong_with_the_input_is_told_as_ever(app, client):
    body = BODY | {"email": "ada@", "password": "short"}
    found = problem(client.post(f"{V1}/auth/register", json=body), 422, "validation_error")

    assert sorted(each["field"] for each in found["errors"]) == ["email", "password"]
    assert count(app, Registration) == 0


def test_an_address_that_was_taken_meanwhile_is_a_conflict(app, client):
    claim(client)
    token = registration_token(app)
    with app.app_context():
        factories.account(is_verified=True)

    problem(confirm(client, token), 409, "email_taken")


@pytest.mark.parametrize("path", ["login", "login/oauth"])
def test_signing_in_unverified_is_refused_and_a_wrong_password_learns_nothing(app, client, path):
    with app.app_context():
        factories.account()

    def ask(email, password):
        body = {"email": email, "username": email, "password": password}
        how = {"json": body} if path == "login" else {"data": body}
        return client.post(f"{V1}/auth/{path}", **how)

    words = "Confirm your email address to sign in. We have sent you a link."
    answer = ask(EMAIL, PASSWORD)
    refused = problem(answer, 401, "email_not_verified", words)
    assert path == "login" or refused["error"] == "invalid_grant"
    wrong = [ask(email, "wrong password") for email in (EMAIL, "nobody@example.com")]
    bodies = [answer.get_json() | {"request_id": None} for answer in wrong]

    assert bodies[0] == bodies[1]
    assert bodies[0]["errors"][0]["code"] == "invalid_credentials"


@pytest.mark.parametrize("mode", ["off", "optional"])
def test_where_accounts_are_made_at_once_there_is_nothing_to_confirm(make_app, mode):
    client = make_app(EMAIL_VERIFICATION=mode).test_client()
    assert claim(client).status_code == 201

    problem(confirm(client, "x"), 404, "not_found")
