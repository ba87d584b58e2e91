"""A client of the API in few words: register, sign in, send the token, read a problem."""

import base64
import json
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, text
from werkzeug.test import TestResponse

from authsite import accounts, database
from authsite.crypto import tokens
from authsite.database.models import EmailChange
from tests import services
from tests.factories import PASSWORD

EMAIL = "ada@example.com"
OTHER_EMAIL = "grace@example.com"
V1 = "/api/v1"

PROBLEM_MEMBERS = {
    "type",
    "title",
    "status",
    "detail",
    "instance",
    "success",
    "request_id",
    "errors",
}


def register(client: FlaskClient, email: str = EMAIL, **members: Any) -> dict[str, Any]:
    """Register through the API and return the User that it answers."""
    body = {"email": email, "password": PASSWORD, "first_name": "Ada"} | members
    answer = client.post(f"{V1}/auth/register", json=body)
    assert answer.status_code == 201, answer.text
    return answer.get_json()


def try_login(
    client: FlaskClient,
    email: str = EMAIL,
    password: str = PASSWORD,
    *,
    address: str = "127.0.0.1",
    headers: dict[str, str] | None = None,
) -> TestResponse:
    return client.post(
        f"{V1}/auth/login",
        json={"email": email, "password": password},
        headers=headers,
        environ_base={"REMOTE_ADDR": address},
    )


def log_in(client: FlaskClient, email: str = EMAIL, **how: Any) -> dict[str, Any]:
    """Sign a device in and return its Tokens."""
    answer = try_login(client, email, **how)
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def refresh(client: FlaskClient, refresh_token: str) -> TestResponse:
    return client.post(f"{V1}/auth/refresh", json={"refresh_token": refresh_token})


def bearer(held: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {held['access_token']}"}


def is_live(client: FlaskClient, held: dict[str, Any]) -> bool:
    """Return whether the access token of these Tokens opens anything."""
    status = client.get(f"{V1}/auth/me", headers=bearer(held)).status_code
    assert status in {200, 401}
    return status == 200


def claims(token: str) -> dict[str, Any]:
    return _decoded(token.split(".")[1])


def header(token: str) -> dict[str, Any]:
    return _decoded(token.partition(".")[0])


def session_id(held: dict[str, Any]) -> str:
    return str(claims(held["access_token"])["sid"])


def _decoded(part: str) -> dict[str, Any]:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def problem(answer: TestResponse, status: int, code: str, detail: str | None = None) -> dict:
    """Return the problem details of an answer, after holding them to CONTRACT section 1."""
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json"), (
        answer.status_code,
        answer.text,
    )
    found = answer.get_json()
    assert found.keys() >= PROBLEM_MEMBERS
    assert found["status"] == status
    assert found["success"] is False
    assert found["request_id"] == answer.headers["X-Request-Id"]
    assert found["type"].endswith(f"#{code}")
    for error in found["errors"]:
        assert error.keys() == {"code", "message", "field"}
        assert error["code"] == code
    if len(found["errors"]) == 1:
        assert found["errors"][0]["message"] == found["detail"]
    if detail is not None:
        assert found["detail"] == detail
    return found


def fields(found: dict[str, Any]) -> list[str | None]:
    """Return which inputs a problem names."""
    return [error["field"] for error in found["errors"]]


def count(app: Flask, model: type[database.Base]) -> int:
    with app.app_context():
        return database.rows(select(func.count()).select_from(model))[0][0]


def row_of(app: Flask, held: dict[str, Any]) -> database.Row:
    """Return the row behind these Tokens."""
    with app.app_context():
        statement = text("SELECT * FROM user_sessions WHERE CAST(id AS VARCHAR(36)) IN (:a, :b)")
        named = uuid.UUID(session_id(held))
        found = database.row(statement, {"a": str(named), "b": named.hex})
    assert found is not None
    return found


def reset_token_from_outbox(app: Flask) -> str:
    """Return the token of the newest reset link that waits to be mailed."""
    with app.app_context():
        statement = text("SELECT id FROM password_resets ORDER BY created_at DESC LIMIT 1")
        found = database.row(statement)
        assert found is not None
        return tokens.sign("reset", found.id)


def email_token(app: Flask, email: str) -> str:
    """Return the token of the link that confirms an address, as its mail has it."""
    with app.app_context():
        account = accounts.find_by_email(email)
        return tokens.sign("verify_email", f"{account.id}:{account.email}")


def change_token(app: Flask, purpose: str = "change_email") -> str:
    """Return the token of the newest link that confirms a change of address, or undoes it."""
    with app.app_context():
        statement = select(EmailChange.id, EmailChange.user_id)
        found = database.row(statement.order_by(EmailChange.created_at.desc()).limit(1))
        assert found is not None
        return tokens.sign(purpose, f"{found.user_id.hex}.{found.id}")


def registration_token(app: Flask) -> str:
    """Return the token of the newest link that makes a claim an account."""
    with app.app_context():
        statement = text("SELECT id FROM registrations ORDER BY created_at DESC LIMIT 1")
        found = database.row(statement)
        assert found is not None
        return tokens.sign("registration", found.id)


def is_moment(written: object) -> bool:
    """Return whether this is a time as the contract writes them: RFC 3339, UTC, ending in Z."""
    return (
        isinstance(written, str)
        and written.endswith("Z")
        and datetime.fromisoformat(written).utcoffset() is not None
    )


@pytest.fixture
def user(client: FlaskClient) -> dict[str, Any]:
    """Ada, registered."""
    return register(client)


@pytest.fixture
def held(client: FlaskClient, user: dict[str, Any]) -> dict[str, Any]:
    """The Tokens of Ada's first device."""
    return log_in(client)


@pytest.fixture
def stranger(client: FlaskClient) -> dict[str, Any]:
    """The Tokens of Grace, who is somebody else."""
    register(client, OTHER_EMAIL)
    return log_in(client, OTHER_EMAIL)


@pytest.fixture(scope="session")
def site(
    _sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[services.Site]:
    """A running server on which Ada has an account; rates are not limited."""
    path = tmp_path_factory.mktemp("site") / "authsite.db"
    path.write_bytes(_sqlite_template.read_bytes())
    environ = {"DATABASE_URL": f"sqlite:///{path}", "RATELIMIT_ENABLED": "0"}
    with services.Site(environ, workers=1) as site:
        body = {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"}
        answer = requests.post(f"{site.url}{V1}/auth/register", json=body, timeout=10)
        assert answer.status_code == 201
        yield site
