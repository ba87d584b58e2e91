"""Addresses over the API: is it confirmed, and confirming it."""

from authsite.database.models import OutgoingMail
from tests.api.conftest import EMAIL, OTHER_EMAIL, V1, bearer, count, email_token, problem

NONE_PENDING = {"pending_email": None, "pending_expires_at": None}
LINK = "Invalid or expired email confirmation link"


def verify(client, held, token):
    body = {"token": token}
    return client.post(f"{V1}/users/me/email/verify", json=body, headers=bearer(held))


def test_the_link_confirms_the_address_of_the_account_that_asks(app, client, held):
    email = client.get(f"{V1}/users/me/email", headers=bearer(held))
    assert email.get_json() == {"email": EMAIL, "email_verified": False} | NONE_PENDING
    assert client.get(f"{V1}/auth/me", headers=bearer(held)).get_json()["email_verified"] is False
    answer = verify(client, held, email_token(app, EMAIL))
    assert answer.status_code == 200
    assert (answer.get_json()["email"], answer.get_json()["email_verified"]) == (EMAIL, True)

    assert client.get(f"{V1}/users/me/email", headers=bearer(held)).get_json()["email_verified"]
    assert client.get(f"{V1}/auth/me", headers=bearer(held)).get_json()["email_verified"]
    problem(verify(client, held, email_token(app, EMAIL)), 400, "email_token_invalid", LINK)


def test_a_strangers_link_confirms_nothing(app, client, held, stranger):
    """LIFE §0.2"""
    problem(verify(client, stranger, email_token(app, EMAIL)), 400, "email_token_invalid", LINK)

    for tokens, email in ((held, EMAIL), (stranger, OTHER_EMAIL)):
        answer = client.get(f"{V1}/users/me/email", headers=bearer(tokens))
        assert answer.get_json() == {"email": email, "email_verified": False} | NONE_PENDING


def test_asking_for_a_link_does_not_tell_whether_one_was_sent(make_app):
    client = (app := make_app(EMAIL_VERIFICATION="optional", RATELIMIT_ENABLED="0")).test_client()
    body = {"email": EMAIL, "password": "three random words", "first_name": "Ada"}
    assert client.post(f"{V1}/auth/register", json=body).status_code == 201
    held = client.post(f"{V1}/auth/login", json=body).get_json()
    ask = lambda: client.post(f"{V1}/users/me/email/verification", headers=bearer(held))  # noqa: E731
    answers = [ask() for _ in range(5)]
    assert count(app, OutgoingMail) == 3
    verify(client, held, email_token(app, EMAIL))
    answers.append(ask())

    words = "If your address is not confirmed yet, we have sent a link"
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].get_json() == {"success": True, "message": words}


def test_a_registration_with_its_link_is_five_statements(client, sent_statements, monkeypatch):
    """LIFE §3: user, address, turn, mail and event, in one transaction."""
    monkeypatch.setitem(client.application.config, "EMAIL_VERIFICATION", "optional")
    body = {"email": EMAIL, "password": "three random words", "first_name": "Ada"}
    with sent_statements() as sent:
        assert client.post(f"{V1}/auth/register", json=body).status_code == 201
    assert len(sent) == 5, sent
