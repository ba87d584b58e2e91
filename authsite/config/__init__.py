"""One table from environment variables to settings; every problem is reported at once.

Nothing of the rest of the package is imported: gunicorn's settings load this folder by its path.
"""

import difflib
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import hosts, looks, stores, values
from .values import WEBHOOK_EVENTS

INSTANCE = Path(__file__).resolve().parent.parent.parent / "instance"
MIN_PASSWORD_LENGTH = 8
NEARLY = 0.85  # of two names: one letter too few, too many or another one in seven
# A password may hold anything; elsewhere quotation marks around the whole come from a file that keeps them.
SECRETS = frozenset({"SECRET_KEY", "SECRET_KEY_FALLBACKS", "MAIL_USERNAME", "MAIL_PASSWORD"})
_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ConfigError(Exception):
    """The environment does not describe a service that may start; the text names every problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("Refusing to start:\n" + "\n".join(f"  - {each}" for each in problems))
        self.problems = problems


def load(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return Flask settings from environment variables, or raise ConfigError."""
    settings, problems = _converted(environ)
    settings["IS_PRODUCTION"] = settings["APP_ENV"] == "production" or "DYNO" in environ
    settings["MIGRATE_AT_START"] = False
    if "DYNO" in environ:
        settings["SQLALCHEMY_DATABASE_URI"] = stores.with_tls(settings["SQLALCHEMY_DATABASE_URI"])
        if not environ.get("TRUSTED_PROXY_HOPS", "").strip():
            settings["TRUSTED_PROXY_HOPS"] = 1
    checks = _checks(settings, environ)
    if settings["IS_PRODUCTION"]:
        checks += _production_checks(settings, environ)
    for name, is_wrong, text in checks:
        if is_wrong:
            problems.setdefault(name, text)  # what could not be read is named already
    if problems:
        raise ConfigError([f"{name} {text}" for name, text in problems.items()])
    if not settings["IS_PRODUCTION"]:
        _fill_in_for_development(settings)
    return settings | _derived(settings)


def _converted(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings, and by the variable's name what is wrong with those that cannot be read."""
    settings: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for variable, (setting, convert, default) in VARIABLES.items():
        text = environ.get(variable, "").strip()
        settings[setting] = default
        try:
            if text:
                settings[setting] = convert(_usable(variable, text))
        except ValueError as error:
            problems[variable] = str(error)
    return settings, problems


def _usable(variable: str, text: str) -> str:
    """Return the text, a list on one line; raise ValueError for what no setting can hold."""
    text = re.sub(r",\s*[\r\n]\s*", ",", text)
    if _UNUSABLE.search(text):
        raise ValueError("holds a character that cannot be used, such as a line end: write it anew")
    if variable not in SECRETS and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise ValueError("has quotation marks around it, which are kept here: write it without")
    return text


Check = tuple[str, bool, str]


def _checks(settings: Mapping[str, Any], environ: Mapping[str, str]) -> list[Check]:
    """Return what must hold of several settings together, everywhere."""
    port = settings["MAIL_PORT"] if settings["MAIL_SERVER"] else None
    own_host = urlsplit(settings["PUBLIC_BASE_URL"] or "http://localhost").hostname or ""
    return [
        (
            "PASSKEY_RP_ID",
            not hosts.is_within(own_host, settings["PASSKEY_RP_ID"] or own_host),
            "must be the host of PUBLIC_BASE_URL, or a domain that it is in and that one can register",
        ),
        (
            "FORWARD_AUTH_ORIGINS",
            bool(settings["FORWARD_AUTH_ORIGINS"]) and not settings["TRUSTED_PROXY_HOPS"],
            "needs TRUSTED_PROXY_HOPS=1 or more: without a proxy nobody forwards",
        ),
        (
            "WEBHOOK_URLS",
            bool(settings["WEBHOOK_URLS"]) and not settings["WEBHOOK_SECRETS"],
            "needs WEBHOOK_SECRETS, by which receivers know who is telling",
        ),
        (
            "TRUSTED_PROXY_HOPS",
            "DYNO" in environ and not settings["TRUSTED_PROXY_HOPS"],
            "must be 1 or more on Heroku, whose router ends TLS",
        ),
        (
            "MAIL_USE_TLS",
            settings["MAIL_USE_TLS"] and settings["MAIL_USE_SSL"],
            "and MAIL_USE_SSL are two ways: set MAIL_USE_SSL=1 for port 465, else MAIL_USE_TLS=1",
        ),
        (
            "MAIL_PORT",
            port == 465 and not settings["MAIL_USE_SSL"],
            "465 speaks TLS from the first byte: set MAIL_USE_SSL=1, and MAIL_USE_TLS not",
        ),
        (
            "MAIL_PORT",
            port == 587 and settings["MAIL_USE_SSL"],
            "587 begins without TLS: set MAIL_USE_TLS=1, and MAIL_USE_SSL not",
        ),
        (
            "MAIL_PASSWORD",
            bool(settings["MAIL_USERNAME"]) != bool(settings["MAIL_PASSWORD"]),
            "and MAIL_USERNAME go together: set both, or neither",
        ),
    ]


def _production_checks(settings: Mapping[str, Any], environ: Mapping[str, str]) -> list[Check]:
    """Return what production refuses beside."""
    base_url: str = settings["PUBLIC_BASE_URL"]
    host = urlsplit(base_url).hostname or ""
    secret_keys = (
        f"needs at least {values.MIN_SECRET_BYTES} random bytes, and no example: python3 -c"
    )
    secret_keys += " 'import secrets; print(secrets.token_urlsafe(48))' prints one"
    database: str = settings["SQLALCHEMY_DATABASE_URI"] or "sqlite"
    return [
        ("SECRET_KEY", not settings["SECRET_KEY"], f"is not set; it {secret_keys}"),
        ("SECRET_KEY", values.is_weak(settings["SECRET_KEY"] or ""), secret_keys),
        (
            "SECRET_KEY_FALLBACKS",
            any(map(values.is_weak, settings["SECRET_KEY_FALLBACKS"])),
            f"must list secrets that a site has used: each {secret_keys}",
        ),
        ("DATABASE_URL", database.startswith("sqlite"), "must name a PostgreSQL database"),
        (
            "PUBLIC_BASE_URL",
            not base_url.startswith("https://") or ":" in host,
            "must be set and start with https:// and a name, like https://accounts.example.com",
        ),
        (
            "FORWARD_AUTH_ORIGINS",
            not all(each.startswith("https://") for each in settings["FORWARD_AUTH_ORIGINS"]),
            "must list https:// origins",
        ),
        *(
            (
                name,
                not (settings[name] or "https://").startswith("https://"),
                "must start with https://",
            )
            for name in ("PRODUCT_URL", "PRIVACY_URL", "TERMS_URL")
        ),
        (
            "RESET_PASSWORD_URL",
            not (settings["RESET_PASSWORD_URL"] or "https://").startswith("https://"),
            "must start with https://: who reads the link may set the password",
        ),
        ("MAIL_SERVER", not settings["MAIL_SERVER"], "is not set"),
        (
            "MAIL_DEFAULT_SENDER",
            not settings["MAIL_DEFAULT_SENDER"] and hosts.is_ipv4(host),
            "must be set where PUBLIC_BASE_URL has no name, like accounts@example.com",
        ),
        (
            "WEBHOOK_URLS",
            not all(each.startswith("https://") for each in settings["WEBHOOK_URLS"]),
            "must all start with https://",
        ),
        (
            "REDIS_URL",
            not settings["REDIS_URL"] and settings["WORKERS"] > 1,
            "is not set, and more than one worker needs it to share rate limits",
        ),
        ("RATELIMIT_ENABLED", not settings["RATELIMIT_ENABLED"], "must stay 1 in production"),
        (
            # `flask run` would set the debugger up by itself, whatever the application's settings say.
            "FLASK_DEBUG",
            environ.get("FLASK_DEBUG", "").lower() not in {"", "0", "false", "no"},
            "is for development only",
        ),
    ]


def _fill_in_for_development(settings: dict[str, Any]) -> None:
    # Only the database that we choose ourselves is migrated unasked.
    settings["MIGRATE_AT_START"] = not settings["SQLALCHEMY_DATABASE_URI"]
    try:
        settings["SECRET_KEY"] = settings["SECRET_KEY"] or _development_secret()
        if not settings["SQLALCHEMY_DATABASE_URI"]:
            INSTANCE.mkdir(exist_ok=True)
            database = INSTANCE / "authsite.db"
            database.touch(mode=0o600)  # and so are the files that SQLite lays beside it
            settings["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{database}"
    except OSError as error:
        told = f"{INSTANCE} cannot be written ({error.strerror}): set SECRET_KEY and DATABASE_URL"
        raise ConfigError([told]) from None
    settings["PUBLIC_BASE_URL"] = settings["PUBLIC_BASE_URL"] or "http://localhost:5000"


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
        "PASSKEY_RP_ID": settings["PASSKEY_RP_ID"] or (None if hosts.is_address(host) else host),
        "LOG_FORMAT": settings["LOG_FORMAT"] or ("json" if is_production else "text"),
        "TRUSTED_HOSTS": _trusted_hosts(settings, host),
        # Where only the hand-off answers: a second login page there would be a phishing aid.
        "PRODUCT_HOSTS": frozenset(map(_host_of, settings["FORWARD_AUTH_ORIGINS"]))
        - {_host_of(settings["PUBLIC_BASE_URL"])},
        "MAIL_DEFAULT_SENDER": _named(
            settings["MAIL_DEFAULT_SENDER"] or f"no-reply@{host}", settings["SITE_NAME"]
        ),
        "PRODUCT_NAME": settings["PRODUCT_NAME"] or settings["SITE_NAME"],
        "SUPPORT_URL": settings["SUPPORT_EMAIL"] and hosts.mailto(settings["SUPPORT_EMAIL"]),
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
        "SQLALCHEMY_ENGINE_OPTIONS": stores.engine_options(settings["SQLALCHEMY_DATABASE_URI"]),
        "DELIVER_MAIL_AFTER_COMMIT": True,
    }


def _trusted_hosts(settings: Mapping[str, Any], own: str) -> list[str] | None:
    """Return the hosts to answer to, None for any; on a product's host only the hand-off does."""
    if not settings["TRUSTED_HOSTS"] and not settings["IS_PRODUCTION"]:
        return None
    # Every link leads to our own: it need not be repeated.
    listed = [*settings["TRUSTED_HOSTS"], own, *map(_host_of, settings["FORWARD_AUTH_ORIGINS"])]
    return list(dict.fromkeys(listed))


def _named(sender: str, name: str) -> str:
    """Return the sender with this name, unless the operator has given it one."""
    return sender if "<" in sender else hosts.named_sender(name, sender)


def _host_of(origin: str) -> str:
    return urlsplit(origin).netloc


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Return by name those variables that no setting has, each with the setting that is all but so called.

    A name that is a setting's with a word before or after it is another program's. PORT is too short to be
    told from others.
    """
    meant: dict[str, str] = {}
    known = [name for name in VARIABLES if len(name) > len("PORT")]
    for name in sorted(set(environ) - set(VARIABLES)):
        if re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,63}", name):
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=NEARLY)
            if near and not re.search(f"(^|_){near[0]}_|_{near[0]}$", name):
                meant[name] = near[0]
    return meant


def _database_url(text: str) -> str:
    return stores.database_url(text, instance=INSTANCE)


VARIABLES: dict[str, tuple[str, Callable[[str], Any], Any]] = {
    "APP_ENV": ("APP_ENV", values.one_of("development", "production"), "development"),
    "SECRET_KEY": ("SECRET_KEY", str, None),
    "SECRET_KEY_FALLBACKS": ("SECRET_KEY_FALLBACKS", values.items, []),
    "DATABASE_URL": ("SQLALCHEMY_DATABASE_URI", _database_url, None),
    "REDIS_URL": ("REDIS_URL", stores.redis_url, None),
    "REDIS_TLS_VERIFY": ("REDIS_TLS_VERIFY", values.one_of("required", "none"), "required"),
    "PUBLIC_BASE_URL": ("PUBLIC_BASE_URL", hosts.base_url, ""),
    "TRUSTED_HOSTS": ("TRUSTED_HOSTS", hosts.trusted_hosts, []),
    "TRUSTED_PROXY_HOPS": ("TRUSTED_PROXY_HOPS", values.integer(0, 10), 0),
    "MAIL_SERVER": ("MAIL_SERVER", hosts.mail_server, None),
    "MAIL_PORT": ("MAIL_PORT", values.integer(1, 65535), 25),
    "MAIL_USERNAME": ("MAIL_USERNAME", values.ascii_only, None),
    "MAIL_PASSWORD": ("MAIL_PASSWORD", values.ascii_only, None),
    "MAIL_USE_TLS": ("MAIL_USE_TLS", values.flag, False),
    "MAIL_USE_SSL": ("MAIL_USE_SSL", values.flag, False),
    "MAIL_DEFAULT_SENDER": ("MAIL_DEFAULT_SENDER", hosts.sender, None),
    "PASSKEY_RP_ID": ("PASSKEY_RP_ID", hosts.passkey_rp_id, None),
    "SITE_NAME": ("SITE_NAME", values.site_name, "authsite"),
    "PRODUCT_URL": ("PRODUCT_URL", hosts.page_url, None),
    "PRODUCT_NAME": ("PRODUCT_NAME", values.site_name, None),
    "LOGO_URL": ("LOGO_URL", looks.logo, None),
    "ACCENT_COLOR": ("ACCENT_COLOR", looks.accent, None),
    "SUPPORT_EMAIL": ("SUPPORT_EMAIL", hosts.mail_address, None),
    "PRIVACY_URL": ("PRIVACY_URL", hosts.page_url, None),
    "TERMS_URL": ("TERMS_URL", hosts.page_url, None),
    "RESET_PASSWORD_URL": ("RESET_PASSWORD_URL", hosts.bare_page_url, None),
    "CORS_ORIGINS": ("CORS_ORIGINS", hosts.origins, []),
    "WEBHOOK_URLS": ("WEBHOOK_URLS", hosts.webhook_urls, []),
    "WEBHOOK_SECRETS": ("WEBHOOK_SECRETS", values.webhook_secrets, []),
    "WEBHOOK_EVENTS": ("WEBHOOK_EVENTS", values.webhook_events, list(WEBHOOK_EVENTS)),
    "SERVICE_CLIENTS": ("SERVICE_CLIENTS", values.service_clients, []),
    "EMAIL_VERIFICATION": (
        "EMAIL_VERIFICATION",
        values.one_of("off", "optional", "required"),
        "optional",
    ),
    "FORWARD_AUTH_ORIGINS": ("FORWARD_AUTH_ORIGINS", hosts.origins, []),
    "PASSWORD_MIN_LENGTH": ("PASSWORD_MIN_LENGTH", values.integer(MIN_PASSWORD_LENGTH, 64), 8),
    "REFRESH_GRACE_SECONDS": ("REFRESH_GRACE_SECONDS", values.integer(0, 60), 30),
    "REFRESH_LOST_ANSWER_SECONDS": (
        "REFRESH_LOST_ANSWER_SECONDS",
        values.integer(0, 604_800),
        86_400,
    ),
    "ACTIVITY_KEEP_DAYS": ("ACTIVITY_KEEP_DAYS", values.integer(30, 400), 90),
    "ACCOUNT_DELETION_DAYS": ("ACCOUNT_DELETION_DAYS", values.integer(0, 30), 7),
    "STEP_UP_MINUTES": ("STEP_UP_MINUTES", values.integer(1, 15), 10),
    "EMAIL_UNDO_DAYS": ("EMAIL_UNDO_DAYS", values.integer(0, 30), 7),
    "TRUSTED_BROWSER_DAYS": ("TRUSTED_BROWSER_DAYS", values.integer(0, 365), 30),
    "DEVICE_BOUND_SESSIONS": ("DEVICE_BOUND_SESSIONS", values.flag, False),
    "MAX_SESSIONS_PER_USER": ("MAX_SESSIONS_PER_USER", values.integer(1, 10_000), 100),
    "RATELIMIT_ENABLED": ("RATELIMIT_ENABLED", values.flag, True),
    "GEOIP_DATABASE": ("GEOIP_DATABASE", values.geoip_database, None),
    "LOG_FORMAT": ("LOG_FORMAT", values.one_of("json", "text"), None),
    "PORT": ("PORT", values.integer(1, 65535), None),
    "WEB_CONCURRENCY": ("WORKERS", values.integer(1, 256), 1),
}
