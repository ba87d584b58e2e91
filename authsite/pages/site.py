"""What browsers, password managers, researchers and robots look for; nothing here reads a cookie."""

from datetime import timedelta

from flask import Blueprint, Response, current_app, jsonify, redirect, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

from .. import clock
from ..mail import emails
from ..web import headers, times

blueprint = Blueprint("site", __name__)

SECURITY_TXT_LIFETIME = timedelta(days=180)
CACHED_FOR_A_DAY = {"Cache-Control": "public, max-age=86400"}


@blueprint.get("/.well-known/change-password")
def change_password() -> BaseResponse:
    """Lead to the form for another password (W3C, a well-known URL for changing passwords)."""
    return redirect("/account/password")


@blueprint.get("/.well-known/passkey-endpoints")
def passkey_endpoints() -> Response:
    """Tell password managers where passkeys are added and managed (W3C, passkey endpoints)."""
    if current_app.config["PASSKEY_RP_ID"] is None:
        raise NotFound
    page = f"{current_app.config['PUBLIC_BASE_URL']}/account/passkeys"
    response = jsonify(enroll=page, manage=page)
    response.headers.extend(CACHED_FOR_A_DAY)
    return response


@blueprint.get("/.well-known/security.txt")
def security_txt() -> Response:
    """Tell whom to write to about a weakness (RFC 9116), where there is somebody."""
    sender = emails.read_sender()
    contact = current_app.config["SUPPORT_URL"] or (sender and f"mailto:{sender}")
    if contact is None:
        raise NotFound
    lines = [
        f"Contact: {contact}",
        f"Expires: {times.iso(clock.now() + SECURITY_TXT_LIFETIME)}",
        "Preferred-Languages: en",
        f"Canonical: {current_app.config['PUBLIC_BASE_URL']}/.well-known/security.txt",
    ]
    text = "".join(f"{line}\n" for line in lines)
    return Response(text, content_type="text/plain; charset=utf-8", headers=CACHED_FOR_A_DAY)


@blueprint.get("/robots.txt")
def robots() -> Response:
    """Keep search engines out: there is nothing here to find."""
    text = "User-agent: *\nDisallow: /\n"
    return Response(text, content_type="text/plain; charset=utf-8", headers=CACHED_FOR_A_DAY)


@blueprint.get(headers.ACCENT_CSS)
def accent() -> Response:
    """Return the style sheet with the operator's colour; without one there is none."""
    style = headers.accent_style()
    if style is None:
        raise NotFound
    is_current = request.full_path == headers.accent_url()
    kept = {"Cache-Control": headers.caching(is_current=is_current)}
    return Response(style, content_type="text/css; charset=utf-8", headers=kept)


@blueprint.get("/favicon.ico")
def favicon() -> Response:
    """Return the icon for who does not read the page's link to it."""
    response = current_app.send_static_file("favicon.ico")
    response.headers.extend(CACHED_FOR_A_DAY)
    return response
