"""The floor: the least that the same work allows in Python. A bare WSGI function, PyJWT, one statement.

It reads and writes the same tables and takes the same tokens as the service does, so that both can be
driven with one script. It refuses what a signature or a row refuses; it limits, logs and explains nothing.
The page's floor is Flask with a form, its CSRF token and a template, and nothing else.
"""

import base64
import hashlib
import hmac
import os
import queue
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import jwt
import orjson
import psycopg
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from flask import Flask
from flask_wtf import FlaskForm
from flask_wtf.csrf import CSRFProtect
from psycopg.rows import dict_row
from wtforms import BooleanField, EmailField, PasswordField

from authsite.crypto import tokens

DSN = os.environ["FLOOR_DSN"]
SECRET = os.environ["SECRET_KEY"]
KEYS = {
    purpose: tokens.derived_key(SECRET, purpose.audience)
    for purpose in (tokens.ACCESS, tokens.REFRESH)
}
HEADERS = {purpose: tokens._header(purpose, SECRET) for purpose in KEYS}
ASSERTION_KEY = tokens.derived_key(SECRET, "assertion")
SERVICE_DIGEST = hashlib.sha256(b"secret of the benchmark").digest()
HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)

IS_LIVE = "s.ended_at IS NULL AND s.expires_at > %(now)s AND u.is_active"
ME = f"""
    SELECT u.id, u.email, u.first_name, u.last_name, u.phone_number, u.is_active, u.is_superuser,
           u.created_at, u.updated_at
    FROM user_sessions s JOIN users u ON u.id = s.user_id
    WHERE s.id = %(sid)s AND s.user_id = %(sub)s AND {IS_LIVE}
"""
LIST = f"""
    SELECT s.id, s.device_name, s.device_id, s.ip_address, s.location_city, s.location_country,
           s.last_used_at, s.created_at, s.expires_at, s.browser, s.os, s.device_type
    FROM user_sessions s JOIN users u ON u.id = s.user_id
    WHERE s.user_id = %(sub)s AND {IS_LIVE}
    ORDER BY s.last_used_at DESC
"""
ROTATE = """
    UPDATE user_sessions s
    SET previous_jti = refresh_jti, refresh_jti = %(new)s, rotated_at = %(now)s, last_used_at = %(now)s,
        expires_at = least(absolute_expires_at, %(until)s)
    WHERE id = %(sid)s AND user_id = %(sub)s AND refresh_jti = %(jti)s AND ended_at IS NULL
      AND expires_at > %(now)s AND EXISTS (SELECT FROM users u WHERE u.id = s.user_id AND u.is_active)
    RETURNING expires_at
"""
BY_EMAIL = "SELECT id, password_hash FROM users WHERE email = %(email)s AND is_active"
INSERT = """
    INSERT INTO user_sessions (id, user_id, entrance, refresh_jti, rotated_at, device_name, browser,
        device_type, ip_address, user_agent, created_at, last_used_at, expires_at, absolute_expires_at)
    VALUES (%(sid)s, %(sub)s, 'api', %(new)s, %(now)s, 'curl', 'curl', 'cli', %(ip)s, %(agent)s,
        %(now)s, %(now)s, %(until)s, %(absolute)s)
"""

Answer = tuple[str, Any]
_idle: queue.LifoQueue[psycopg.Connection[Any]] = queue.LifoQueue()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/login":
        return page_app(environ, start_response)
    status, body = WORK[path](environ)
    content = orjson.dumps(body, option=orjson.OPT_UTC_Z)
    start_response(
        status,
        [("Content-Type", "application/json"), ("Content-Length", str(len(content)))],
    )
    return [content]


def healthz(environ: dict[str, Any]) -> Answer:
    return "200 OK", {}


def me(environ: dict[str, Any]) -> Answer:
    found = _rows(ME, _bearer(environ) | {"now": datetime.now(UTC)})
    return ("200 OK", found[0]) if found else ("401 Unauthorized", {})


def sessions(environ: dict[str, Any]) -> Answer:
    caller = _bearer(environ)
    found = _rows(LIST, caller | {"now": datetime.now(UTC)})
    current = uuid.UUID(caller["sid"])
    for row in found:
        row["is_current"] = row["id"] == current
    if not any(row["is_current"] for row in found):
        return "401 Unauthorized", {}
    return "200 OK", {"sessions": found, "total": len(found)}


def refresh(environ: dict[str, Any]) -> Answer:
    claims = _claims(_body(environ)["refresh_token"], tokens.REFRESH)
    now, new = datetime.now(UTC), tokens.new_jti()
    moved = _rows(ROTATE, claims | {"new": new, "now": now, "until": now + timedelta(days=7)})
    if not moved:
        return "401 Unauthorized", {}
    return _tokens(claims["sub"], claims["sid"], new, now, moved[0]["expires_at"])


def login(environ: dict[str, Any]) -> Answer:
    given = _body(environ)
    found = _rows(BY_EMAIL, {"email": given["email"]})
    try:
        HASHER.verify(found[0]["password_hash"], given["password"])
    except (IndexError, VerifyMismatchError):
        return "401 Unauthorized", {}
    now = datetime.now(UTC)
    row = {
        "sid": str(uuid.uuid4()),
        "sub": str(found[0]["id"]),
        "new": tokens.new_jti(),
        "now": now,
        "until": now + timedelta(days=7),
        "absolute": now + timedelta(days=30),
        "ip": environ["REMOTE_ADDR"],
        "agent": environ.get("HTTP_USER_AGENT"),
    }
    _run(INSERT, row)
    return _tokens(row["sub"], row["sid"], row["new"], now, row["until"])


def forward_auth(environ: dict[str, Any]) -> Answer:
    found = _rows(ME, _bearer(environ) | {"now": datetime.now(UTC)})
    if not found:
        return "401 Unauthorized", {}
    now, user = int(datetime.now(UTC).timestamp()), found[0]
    claims = {"sub": str(user["id"]), "email": user["email"], "iat": now, "exp": now + 60}
    return "200 OK", {"assertion": jwt.encode(claims, ASSERTION_KEY, algorithm="HS256")}


def introspect(environ: dict[str, Any]) -> Answer:
    _, _, encoded = environ["HTTP_AUTHORIZATION"].partition(" ")
    name, _, secret = base64.b64decode(encoded).decode().partition(":")
    if not hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), SERVICE_DIGEST):
        return "401 Unauthorized", {}
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode()
    claims = _claims(parse_qs(body)["token"][0], tokens.ACCESS)
    found = _rows(ME, claims | {"now": datetime.now(UTC)})
    said = {each: claims[each] for each in ("sub", "sid", "iat", "exp")}
    return "200 OK", {"active": True, "client_id": name} | said if found else {"active": False}


WORK: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "/healthz": healthz,
    "/api/v1/auth/me": me,
    "/api/v1/sessions/me": sessions,
    "/api/v1/auth/refresh": refresh,
    "/api/v1/auth/login": login,
    "/forward-auth": forward_auth,
    "/api/v1/auth/introspect": introspect,
}


def _rows(statement: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    connection = _connection()
    found = connection.execute(statement, values).fetchall()
    _idle.put(connection)
    return found


def _run(statement: str, values: dict[str, Any]) -> None:
    connection = _connection()
    connection.execute(statement, values)
    _idle.put(connection)


def _connection() -> psycopg.Connection[Any]:
    try:
        return _idle.get_nowait()
    except queue.Empty:
        return psycopg.connect(DSN, autocommit=True, prepare_threshold=0, row_factory=dict_row)


def _bearer(environ: dict[str, Any]) -> dict[str, Any]:
    return _claims(environ["HTTP_AUTHORIZATION"].removeprefix("Bearer "), tokens.ACCESS)


def _body(environ: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    return body


def _claims(token: str, purpose: tokens.Purpose) -> dict[str, Any]:
    return jwt.decode(
        token,
        KEYS[purpose],
        algorithms=["HS256"],
        audience=purpose.audience,
        issuer=tokens.ISSUER,
        options={"require": ["iss", "sub", "sid", "jti", "iat", "exp", "aud"]},
    )


def _tokens(sub: str, sid: str, jti: str, now: datetime, until: datetime) -> Answer:
    def encode(purpose: tokens.Purpose, jti: str, until: datetime) -> str:
        claims = {"iss": tokens.ISSUER, "aud": purpose.audience, "sub": sub, "sid": sid, "jti": jti}
        claims |= {"iat": int(now.timestamp()), "exp": int(until.timestamp())}
        return jwt.encode(claims, KEYS[purpose], algorithm="HS256", headers=HEADERS[purpose])

    access = encode(tokens.ACCESS, tokens.new_jti(), now + tokens.ACCESS_LIFETIME)
    return "200 OK", {
        "access_token": access,
        "refresh_token": encode(tokens.REFRESH, jti, until),
        "token_type": "bearer",
        "expires_in": 900,
    }


page_app = Flask("floor")
page_app.config["SECRET_KEY"] = SECRET
CSRFProtect(page_app)


class LoginForm(FlaskForm):
    email = EmailField("Email address")
    password = PasswordField("Password")
    remember = BooleanField("Keep me signed in on this device")


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sign in</title></head><body>
<main><h1>Sign in</h1><form method="post" novalidate>{{ form.csrf_token }}
{% for field in (form.email, form.password, form.remember) %}<p>{{ field.label }} {{ field }}</p>{% endfor %}
<button>Sign in</button></form></main></body></html>"""


TEMPLATE = page_app.jinja_env.from_string(PAGE)


@page_app.get("/login")
def login_page() -> str:
    return TEMPLATE.render(form=LoginForm())
