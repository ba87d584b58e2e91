"""The two cookies on a product's host: each is that host's alone."""

from datetime import timedelta

from flask import Response, current_app

NONCE_LIFETIME = timedelta(minutes=10)


def app_name() -> str:
    return _prefix() + "authsite-app"


def nonce_name() -> str:
    return _prefix() + "authsite-nonce"


def put(answer: Response, name: str, value: str, max_age: timedelta | None) -> None:
    """Set a cookie; without a `max_age` it ends with the browser."""
    answer.set_cookie(name, value, max_age=max_age, **_attributes())  # type: ignore[arg-type]


def drop(answer: Response, name: str) -> None:
    answer.delete_cookie(name, **_attributes())  # type: ignore[arg-type]


def _prefix() -> str:
    return "__Host-" if current_app.config["SESSION_COOKIE_SECURE"] else ""


def _attributes() -> dict[str, object]:
    return {
        "path": "/",
        "secure": current_app.config["SESSION_COOKIE_SECURE"],
        "httponly": True,
        "samesite": "Lax",
    }
