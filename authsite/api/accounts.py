"""Accounts: register, log in, refresh, who am I, details."""

from typing import Any

from flask import Blueprint, Response, abort

from .. import accounts, passkeys, registrations, second_steps, sessions
from ..crypto import tokens
from ..errors import SecondStepRequired, UnsupportedGrantType
from ..web import authentication, limits
from ..web.forms import (
    ConfirmRegistrationForm,
    DetailsForm,
    LoginForm,
    OAuthPasswordForm,
    RefreshForm,
    RegisterForm,
    read_urlencoded,
)
from . import answers

blueprint = Blueprint("accounts", __name__)


@blueprint.post("/auth/register")
@authentication.public
@limits.register
def register() -> tuple[dict[str, Any], int]:
    """Create an account, or claim one where addresses are confirmed first."""
    form = RegisterForm.from_json()
    person: dict[str, Any] = {
        "email": form.email.data or "",
        "password": form.password.data or "",
        "first_name": form.first_name.data or "",
        "last_name": form.last_name.data or None,
        "phone_number": form.phone_number.data or None,
    }
    if not registrations.are_claims():
        return accounts.register(**person).account.public(), 201
    client = authentication.client()
    registrations.claim(
        **person, device_name=sessions.describe(client).name, ip_address=client.ip_address
    )
    return answers.message("Check your email to finish creating your account"), 202


@blueprint.post("/auth/register/confirm")
@authentication.public
@limits.confirm_registration
def confirm_registration() -> tuple[dict[str, Any], int]:
    """Make a claim an account, with its link and the password that was chosen."""
    form = ConfirmRegistrationForm.from_json()
    if not registrations.are_claims():
        abort(404)
    confirmed = registrations.confirm(form.token.data or "", password=form.password.data)
    return confirmed.account.public(), 201


@blueprint.post("/auth/login")
@authentication.public
@limits.login
def login() -> Response:
    """Sign a device in with e-mail and password."""
    form = LoginForm.from_json()
    return _log_in(form.email.data or "", form.password.data or "", entrance="api")


@blueprint.post("/auth/login/oauth")
@authentication.public
@limits.login_or_refresh
def login_oauth() -> Response:
    """Sign a device in with OAuth's password grant (RFC 6749 §4.3), or refresh its tokens (§6)."""
    members = read_urlencoded(
        ["username", "password", "grant_type", "refresh_token", "scope", "client_id"]
    )
    grant_type = members.get("grant_type") or "password"
    if grant_type == limits.REFRESH_GRANT:
        return _refreshed(RefreshForm.from_members(members))
    if grant_type != "password":
        raise UnsupportedGrantType(field="grant_type")
    form = OAuthPasswordForm.from_members(members)
    return _log_in(form.username.data or "", form.password.data or "", entrance="oauth")


@blueprint.post("/auth/refresh")
@authentication.public
@limits.refresh
def refresh_token() -> Response:
    """Change a refresh token for its successor."""
    return _refreshed(RefreshForm.from_json())


@blueprint.get("/auth/me")
@blueprint.get("/users/me", endpoint="get_current_user_profile")
@limits.read_account
def get_current_user_info() -> dict[str, Any]:
    """Return the account behind the token."""
    return authentication.current_session().account.public()


@blueprint.patch("/users/me")
@limits.update_account
def update_current_user() -> dict[str, Any]:
    """Change the details that are named."""
    form = DetailsForm.from_json()
    account = authentication.current_session().account
    return accounts.update_details(account.id, form.changes()).public()


def _log_in(email: str, password: str, *, entrance: str) -> Response:
    client = authentication.client(device_name=answers.NAMELESS.get(entrance))
    authenticated = accounts.authenticate(email, password)
    try:
        way = second_steps.require(authenticated, entrance=entrance)
    except SecondStepRequired as required:
        raise passkeys.offer(required) from None
    grant = sessions.start(
        authenticated.account,
        password_changed_at=authenticated.password_changed_at,
        client=client,
        entrance=entrance,
        signed_in_with=way,
    )
    return answers.issued_tokens(grant)


def _refreshed(form: RefreshForm) -> Response:
    claims = limits.verified(form.refresh_token.data or "")
    return answers.issued_tokens(rotated(claims, ip_address=authentication.remote_address()))


def rotated(claims: tokens.Claims, *, ip_address: str | None) -> sessions.Grant:
    """Change the refresh token that made these claims for its successor."""
    claims = tokens.unexpired(claims, tokens.REFRESH)
    return sessions.rotate(claims.session_id, claims.user_id, claims.jti, ip_address=ip_address)
