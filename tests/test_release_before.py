"""What the release before gave out goes on for its lifetime: made here as it made them, by hand."""

import hashlib
import re
from datetime import timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from itsdangerous import URLSafeTimedSerializer
from sqlalchemy import select, update

from authsite import accounts, clock, database, passwords
from authsite.database.models import PasswordReset, UserSession
from tests import factories, services
from tests.factories import NEW_PASSWORD


def key(purpose: str) -> bytes:
    derivation = HKDF(SHA256(), length=32, salt=None, info=f"authsite {purpose}".encode())
    return derivation.derive(services.SECRET_KEY.encode())


@pytest.fixture
def ada(app_context):
    return factories.account()


def old_reset_link(account) -> str:
    """Ask for a link and return it as it was: the id of the request and nothing else."""
    passwords.request_reset(account.email, device_name="curl", ip_address=None)
    [row] = database.rows(select(PasswordReset.id).where(PasswordReset.ended_at.is_(None)))
    how = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    return URLSafeTimedSerializer([key("reset")], salt="reset", signer_kwargs=how).dumps(row.id)


def old_cookie(app, held, csrf_token: str) -> str:
    """Return a browser's cookie as it was: the id of the session, and not the user's."""
    content = {
        "_permanent": True,
        "csrf_token": csrf_token,
        "id": str(held.session_id),
        "secret": held.cookie_secret,
    }
    return app.session_interface.get_signing_serializer(app).dumps(content)


def old_refresh_token(held) -> str:
    claims = {
        "iss": "authsite",
        "aud": "authsite:refresh",
        "sub": str(held.user_id),
        "sid": str(held.session_id),
        "jti": held.jti,
        "iat": int(held.issued_at.timestamp()),
        "exp": int(held.expires_at.timestamp()),
    }
    header = {"typ": "rt+jwt", "kid": hashlib.sha256(key("kid")).hexdigest()[:16]}
    return jwt.encode(claims, key("authsite:refresh"), algorithm="HS256", headers=header)


def test_a_cookie_that_names_no_user_goes_on_and_names_one_from_then_on(app, client, ada):
    """SE-02: the next page that is asked for costs no look-up."""
    held = factories.grant(ada, entrance="page")
    client.set_cookie("authsite", old_cookie(app, held, "x" * 40))

    assert client.get("/account").status_code == 200
    renewed = app.session_interface.get_signing_serializer(app).loads(
        client.get_cookie("authsite").value
    )
    assert (renewed["id"], renewed["user"]) == (str(held.session_id), str(ada.id))
    assert renewed["secret"] == held.cookie_secret
    assert client.get("/account/devices").status_code == 200


@pytest.mark.parametrize("fault", ["ended", "gone", "secret"])
def test_a_cookie_that_names_no_user_opens_no_more_than_its_session(app, client, ada, fault):
    """SE-02."""
    held = factories.grant(ada, entrance="page")
    cookie = old_cookie(app, held, "x" * 40)
    row = UserSession.__table__.c.id == held.session_id
    if fault == "ended":
        values = {"ended_at": clock.now(), "end_reason": "revoked"}
        database.run(update(UserSession).where(row).values(**values))
    elif fault == "gone":
        database.run(UserSession.__table__.delete().where(row))
    else:
        cookie = old_cookie(app, held._replace(cookie_secret="guessed"), "x" * 40)
    client.set_cookie("authsite", cookie)

    assert client.get("/account").location.startswith("/login")


def test_a_reset_link_that_names_no_user_works_once(app, client, ada):
    """RS-01, RS-02: on the page."""
    answer = client.get(f"/reset-password?token={old_reset_link(ada)}", follow_redirects=True)
    token = re.findall(r'name="csrf_token" value="([^"]+)"', answer.text)[-1]
    form = {"csrf_token": token, "password": NEW_PASSWORD}

    assert client.post("/reset-password", data=form).status_code == 303
    assert accounts.authenticate(ada.email, NEW_PASSWORD).account.id == ada.id


def test_a_reset_link_that_names_no_user_works_in_the_api_for_its_hour(client, ada, time_machine):
    """RS-01, RS-02."""
    now = clock.now()
    time_machine.move_to(now, tick=False)
    link, path = old_reset_link(ada), "/api/v1/auth/password-reset/confirm"
    body = {"token": link, "new_password": NEW_PASSWORD}
    time_machine.move_to(now + timedelta(minutes=61), tick=False)
    assert client.post(path, json=body).status_code == 400

    time_machine.move_to(now + timedelta(minutes=59), tick=False)
    assert [client.post(path, json=body).status_code for _ in range(2)] == [200, 400]


def test_a_refresh_token_of_then_is_good_once_and_its_successor_after_it(client, ada):
    """NE-01: the wire's form has not changed."""
    token = old_refresh_token(factories.grant(ada))

    answer = client.post("/api/v1/auth/refresh", json={"refresh_token": token})
    assert answer.status_code == 200, answer.text
    successor = answer.get_json()["refresh_token"]
    assert client.post("/api/v1/auth/refresh", json={"refresh_token": successor}).status_code == 200
