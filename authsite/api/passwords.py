"""Passwords: change, ask for a reset, reset."""

from typing import Any

from flask import Blueprint, Response

from .. import passwords
from ..clients import devices
from ..web import authentication, limits
from ..web.forms import ChangePasswordForm, EmailForm, ResetForm
from . import answers

blueprint = Blueprint("passwords", __name__)


@blueprint.patch("/users/me/password")
@limits.change_password
def change_current_user_password() -> Response:
    """Change the password, end all other sessions and give this one new tokens."""
    form = ChangePasswordForm.from_json()
    changed = passwords.change(
        authentication.current_session(),
        form.current_password.data or "",
        form.new_password.data or "",
        ip_address=authentication.remote_address(),
    )
    return answers.issued_tokens(changed.grant, **answers.message("Password changed successfully"))


@blueprint.post("/auth/password-reset/request")
@authentication.public
@limits.request_reset
def request_password_reset() -> dict[str, Any]:
    """Mail a reset link, if the address has an account; the answer does not tell."""
    form = EmailForm.from_json()
    client = authentication.client()
    passwords.request_reset(
        form.email.data or "",
        device_name=devices.describe(client.user_agent, dict(client.hints)).name,
        ip_address=client.ip_address,
    )
    return answers.message(
        "If your email is registered, you will receive a password reset link shortly"
    )


@blueprint.post("/auth/password-reset/confirm")
@authentication.public
@limits.confirm_reset
def confirm_password_reset() -> dict[str, Any]:
    """Set the password that a reset link allows and end every session."""
    form = ResetForm.from_json()
    client = authentication.client()
    passwords.reset(
        form.token.data or "",
        form.new_password.data or "",
        device_name=devices.describe(client.user_agent, dict(client.hints)).name,
        ip_address=client.ip_address,
    )
    return answers.message(
        "Password has been reset successfully. You can now log in with your new password."
    )
