"""One table from environment variables to settings; every problem is reported at once."""

import base64
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

INSTANCE = Path(__file__).resolve().parent.parent / "instance"

EXAMPLE_SECRETS = frozenset(
    {
        "change-me-to-at-least-32-random-bytes",
        "your-secret-key-change-in-production",
        "your-super-secret-key-change-this-in-production",
        "development-secret-key-do-not-use-in-production",
    }
)
SERVICE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
MIN_SECRET_BYTES = 32
MAX_WEBHOOK_URL = 2048
WEBHOOK_EVENTS = (
    *("user.created", "user.updated", "user.deactivated", "user.activated", "user.deleted"),
    "session.ended",
)
MIN_PASSWORD_LENGTH = 8


class ConfigError(Exception):
    """The environment does not describe a service that may start; the text names every problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("Refusing to start:\n" + "\n".join(f"  - {each}" for each in problems))
        self.problems = problems


def load(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return Flask settings from environment variables, or raise ConfigError."""
    problems: list[str] = []
    settings: dict[str, Any] = {}
    for variable, (setting, convert, default) in VARIABLES.items():
        text = environ.get(variable, "").strip()
        try:
            settings[setting] = convert(text) if text else default
        except ValueError as error:
            problems.append(f"{variable} {error}")
            settings[setting] = default
    settings["IS_PRODUCTION"] = settings["APP_ENV"] == "production" or "DYNO" in environ
    settings["MIGRATE_AT_START"] = False
    if "DYNO" in environ:
        settings["SQLALCHEMY_DATABASE_URI"] = _with_tls(settings["SQLALCHEMY_DATABASE_URI"])
    if settings["FORWARD_AUTH_ORIGINS"] and not settings["TRUSTED_PROXY_HOPS"]:
        problems.append(
            "FORWARD_AUTH_ORIGINS needs TRUSTED_PROXY_HOPS=1 or more: without a proxy nobody forwards"
        )
    if settings["WEBHOOK_URLS"] and not settings["WEBHOOK_SECRETS"]:
        problems.append(
            "WEBHOOK_URLS needs WEBHOOK_SECRETS, by which receivers know who is telling"
        )
    if settings["IS_PRODUCTION"]:
        problems += _production_problems(settings)
        if environ.get("FLASK_DEBUG", "").lower() not in {"", "0", "false", "no"}:
            # `flask run` would set the debugger up by itself, whatever the application's settings say.
            problems.append("FLASK_DEBUG is for development only")
    else:
        _fill_in_for_development(settings)
    if problems:
        raise ConfigError(problems)
    return settings | _derived(settings)


def _production_problems(settings: Mapping[str, Any]) -> list[str]:
    checks = [
        (not settings["SECRET_KEY"], "SECRET_KEY is not set"),
        (
            any(
                _is_weak(each)
                for each in (settings["SECRET_KEY"], *settings["SECRET_KEY_FALLBACKS"])
            ),
            f"SECRET_KEY and SECRET_KEY_FALLBACKS need at least {MIN_SECRET_BYTES} random bytes each,"
            " and none may be a published example",
        ),
        (
            not settings["SQLALCHEMY_DATABASE_URI"]
            or settings["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"),
            "DATABASE_URL must name a PostgreSQL database",
        ),
        (
            not settings["PUBLIC_BASE_URL"].startswith("https://"),
            "PUBLIC_BASE_URL must be set and start with https://",
        ),
        (
            not all(each.startswith("https://") for each in settings["FORWARD_AUTH_ORIGINS"]),
            "FORWARD_AUTH_ORIGINS must list https:// origins",
        ),
        (not settings["MAIL_SERVER"], "MAIL_SERVER is not set"),
        (
            not all(each.startswith("https://") for each in settings["WEBHOOK_URLS"]),
            "WEBHOOK_URLS must all start with https://",
        ),
        (
            not settings["REDIS_URL"] and settings["WORKERS"] > 1,
            "REDIS_URL is not set, and more than one worker needs it to share rate limits",
        ),
        (not settings["RATELIMIT_ENABLED"], "RATELIMIT_ENABLED=0 is for development only"),
    ]
    return [problem for is_wrong, problem in checks if is_wrong]


def _is_weak(secret: str | None) -> bool:
    if not secret:
        return False  # reported as missing
    return (
        len(secret.encode()) < MIN_SECRET_BYTES or secret in EXAMPLE_SECRETS or len(set(secret)) < 8
    )


def _fill_in_for_development(settings: dict[str, Any]) -> None:
    # Only the database that we choose ourselves is migrated unasked.
    settings["MIGRATE_AT_START"] = not settings["SQLALCHEMY_DATABASE_URI"]
    settings["SECRET_KEY"] = settings["SECRET_KEY"] or _development_secret()
    if not settings["SQLALCHEMY_DATABASE_URI"]:
        INSTANCE.mkdir(exist_ok=True)
        database = INSTANCE / "authsite.db"
        database.touch(mode=0o600)  # and so are the files that SQLite lays beside it
        settings["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{database}"
    settings["PUBLIC_BASE_URL"] = settings["PUBLIC_BASE_URL"] or "http://127.0.0.1:5000"


def _development_secret() -> str:
    """Return a secret of this checkout's own, kept so that sign-ins outlive a restart."""
    path = INSTANCE / "development-secret"
    INSTANCE.mkdir(exist_ok=True)
    try:
        # Exclusive creation: of two processes starting at once, both use the winner's.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(secret := secrets.token_urlsafe(48))
    return secret


def _derived(settings: Mapping[str, Any]) -> dict[str, Any]:
    host = urlsplit(settings["PUBLIC_BASE_URL"]).hostname or ""
    is_production = settings["IS_PRODUCTION"]
    return {
        "DEBUG": False,
        "TRUSTED_HOSTS": _trusted_hosts(settings, host),
        # Where only the hand-off answers: a second login page there would be a phishing aid.
        "PRODUCT_HOSTS": frozenset(_host(each) for each in settings["FORWARD_AUTH_ORIGINS"])
        - {_host(settings["PUBLIC_BASE_URL"])},
        "MAIL_DEFAULT_SENDER": settings["MAIL_DEFAULT_SENDER"] or f"no-reply@{host}",
        # CONTRACT: 64 KiB for any body; forms are held to it as well as JSON.
        "MAX_CONTENT_LENGTH": 64 * 1024,
        "MAX_FORM_MEMORY_SIZE": 64 * 1024,
        "SESSION_COOKIE_NAME": "__Host-authsite" if is_production else "authsite",
        "SESSION_COOKIE_SECURE": is_production,
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_PATH": "/",
        # A login tab left open over lunch must still work: the token lives as long as the cookie.
        "WTF_CSRF_TIME_LIMIT": None,
        # pages/__init__.py asks for the token of every POST and compares the Origin; browsers that are
        # told to keep the Referer to themselves can sign in too.
        "WTF_CSRF_CHECK_DEFAULT": False,
        "WTF_CSRF_SSL_STRICT": False,
        "SQLALCHEMY_ENGINE_OPTIONS": _engine_options(settings["SQLALCHEMY_DATABASE_URI"]),
        "DELIVER_MAIL_AFTER_COMMIT": True,
    }


def _trusted_hosts(settings: Mapping[str, Any], own: str) -> list[str] | None:
    """Return the hosts to answer to, None for any; on a product's host only the hand-off does."""
    hosts: list[str] | None = settings["TRUSTED_HOSTS"] or (
        [own] if settings["IS_PRODUCTION"] else None
    )
    if hosts is None:
        return None
    return [*hosts, *(_host(each) for each in settings["FORWARD_AUTH_ORIGINS"])]


def _host(origin: str) -> str:
    return urlsplit(origin).netloc.lower()


def _engine_options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": 5}, "skip_autocommit_rollback": True}
    return {
        # Fewer than threads: a connection is held for a statement, not for a request. None is beyond the
        # size, for those are closed after each use: under load, a new server process for every statement.
        "pool_size": 10,
        "max_overflow": 0,
        "pool_timeout": 5,
        "pool_use_lifo": True,
        "isolation_level": "AUTOCOMMIT",
        "pool_recycle": 1800,
        "skip_autocommit_rollback": True,
        "connect_args": {
            "connect_timeout": 5,
            "options": "-c statement_timeout=8000 -c lock_timeout=6000 -c timezone=UTC",
        },
    }


def _flag(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be 1 or 0")


def _integer(lowest: int, highest: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(text)

    return convert


def _one_of(*words: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("must be one of " + ", ".join(words))
        return text.lower()

    return convert


def _list(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _origins(text: str) -> list[str]:
    origins = _list(text)
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or not parts.netloc or origin.count("/") != 2:
            raise ValueError("must list exact origins, like https://app.example.com")
    return origins


def _webhook_urls(text: str) -> list[str]:
    urls = list(dict.fromkeys(_list(text)))
    for url in urls:
        if not _is_webhook_url(url):
            raise ValueError(
                "must list addresses like https://app.example.com/hooks, separated by commas,"
                " without a user, a password or a #"
            )
    return urls


def _is_webhook_url(url: str) -> bool:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and "#" not in url
        and port != 0
        and len(url) <= MAX_WEBHOOK_URL
        and url.isascii()
        and not re.search(r"[\x00-\x20\x7f]", url)
    )


def _webhook_secrets(text: str) -> list[bytes]:
    """Return the keys of secrets in the form of Standard Webhooks: 24 to 64 bytes in Base64."""
    found = []
    for each in _list(text):
        prefix, _, encoded = each.partition("whsec_")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if prefix or not 24 <= len(key) <= 64:
            raise ValueError(
                "must list secrets like whsec_ and the Base64 of 24 to 64 random bytes, newest first"
            )
        found.append(key)
    return found


def _webhook_events(text: str) -> list[str]:
    wanted = _list(text)
    if not wanted or not set(wanted) <= set(WEBHOOK_EVENTS):
        raise ValueError("must list some of " + ", ".join(WEBHOOK_EVENTS))
    return wanted


def _service_clients(text: str) -> list[tuple[str, bytes]]:
    """Return (name, SHA-256 of the secret) by entry; a name may stand twice while its secret rotates."""
    entries = []
    for entry in _list(text):
        name, _, digest = entry.partition(":")
        if not SERVICE_NAME.fullmatch(name) or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise ValueError(
                "must list name:sha256, as `flask service-client NAME` prints them, separated by commas"
            )
        entries.append((name, bytes.fromhex(digest)))
    return entries


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be a web address, like https://accounts.example.com")
    return text.rstrip("/")


def _database_url(text: str) -> str:
    """Return the URL with psycopg 3 named as the driver; Heroku writes `postgres://`."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.split("+")[0] not in {"postgres", "postgresql", "sqlite"}:
        raise ValueError("must be a postgresql:// or sqlite:// URL")
    if scheme in {"postgres", "postgresql"}:
        scheme = "postgresql+psycopg"
    return f"{scheme}://{rest}"


def _with_tls(url: str | None) -> str | None:
    """Ask for TLS where the URL does not say: left alone, libpq would go on without it."""
    if not url or url.startswith("sqlite") or "sslmode=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}sslmode=require"


def _redis_url(text: str) -> str:
    if urlsplit(text).scheme not in {"redis", "rediss"}:
        raise ValueError("must be a redis:// or rediss:// URL")
    return text


VARIABLES: dict[str, tuple[str, Callable[[str], Any], Any]] = {
    "APP_ENV": ("APP_ENV", _one_of("development", "production"), "development"),
    "SECRET_KEY": ("SECRET_KEY", str, None),
    "SECRET_KEY_FALLBACKS": ("SECRET_KEY_FALLBACKS", _list, []),
    "DATABASE_URL": ("SQLALCHEMY_DATABASE_URI", _database_url, None),
    "REDIS_URL": ("REDIS_URL", _redis_url, None),
    "REDIS_TLS_VERIFY": ("REDIS_TLS_VERIFY", _one_of("required", "none"), "required"),
    "PUBLIC_BASE_URL": ("PUBLIC_BASE_URL", _base_url, ""),
    "TRUSTED_HOSTS": ("TRUSTED_HOSTS", _list, None),
    "TRUSTED_PROXY_HOPS": ("TRUSTED_PROXY_HOPS", _integer(0, 10), 0),
    "MAIL_SERVER": ("MAIL_SERVER", str, None),
    "MAIL_PORT": ("MAIL_PORT", _integer(1, 65535), 25),
    "MAIL_USERNAME": ("MAIL_USERNAME", str, None),
    "MAIL_PASSWORD": ("MAIL_PASSWORD", str, None),
    "MAIL_USE_TLS": ("MAIL_USE_TLS", _flag, False),
    "MAIL_USE_SSL": ("MAIL_USE_SSL", _flag, False),
    "MAIL_DEFAULT_SENDER": ("MAIL_DEFAULT_SENDER", str, None),
    "SITE_NAME": ("SITE_NAME", str, "authsite"),
    "CORS_ORIGINS": ("CORS_ORIGINS", _origins, []),
    "WEBHOOK_URLS": ("WEBHOOK_URLS", _webhook_urls, []),
    "WEBHOOK_SECRETS": ("WEBHOOK_SECRETS", _webhook_secrets, []),
    "WEBHOOK_EVENTS": ("WEBHOOK_EVENTS", _webhook_events, list(WEBHOOK_EVENTS)),
    "SERVICE_CLIENTS": ("SERVICE_CLIENTS", _service_clients, []),
    "EMAIL_VERIFICATION": (
        "EMAIL_VERIFICATION",
        _one_of("off", "optional", "required"),
        "optional",
    ),
    "FORWARD_AUTH_ORIGINS": ("FORWARD_AUTH_ORIGINS", _origins, []),
    "PASSWORD_MIN_LENGTH": ("PASSWORD_MIN_LENGTH", _integer(MIN_PASSWORD_LENGTH, 64), 8),
    "REFRESH_GRACE_SECONDS": ("REFRESH_GRACE_SECONDS", _integer(0, 60), 30),
    "REFRESH_LOST_ANSWER_SECONDS": ("REFRESH_LOST_ANSWER_SECONDS", _integer(0, 604_800), 86_400),
    "ACTIVITY_KEEP_DAYS": ("ACTIVITY_KEEP_DAYS", _integer(30, 400), 90),
    "STEP_UP_MINUTES": ("STEP_UP_MINUTES", _integer(1, 15), 10),
    "EMAIL_UNDO_DAYS": ("EMAIL_UNDO_DAYS", _integer(0, 30), 7),
    "TRUSTED_BROWSER_DAYS": ("TRUSTED_BROWSER_DAYS", _integer(0, 365), 30),
    "DEVICE_BOUND_SESSIONS": ("DEVICE_BOUND_SESSIONS", _flag, False),
    "MAX_SESSIONS_PER_USER": ("MAX_SESSIONS_PER_USER", _integer(1, 10_000), 100),
    "RATELIMIT_ENABLED": ("RATELIMIT_ENABLED", _flag, True),
    "GEOIP_DATABASE": ("GEOIP_DATABASE", str, None),
    "WEB_CONCURRENCY": ("WORKERS", _integer(1, 256), 1),
}
