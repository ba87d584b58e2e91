"""The database's and the limiter's addresses: an option in one works, or is refused by its name.

The libraries that will use an address look at it here, imported late: few addresses need both.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

# libpq names an option's value wrong only when it connects.
CHOICES = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "channel_binding": {"disable", "prefer", "require"},
    "gssencmode": {"disable", "prefer", "require"},
    "sslnegotiation": {"postgres", "direct"},
    "target_session_attrs": {"any", "read-write", "primary", "prefer-standby"},
    "load_balance_hosts": {"disable", "random"},
}
COUNTS = {
    *("port", "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval"),
    *("keepalives_count", "tcp_user_timeout"),
}
FILES = {
    *("sslcert", "sslkey", "sslrootcert", "sslcrl"),
    *("ssl_certfile", "ssl_keyfile", "ssl_ca_certs", "ssl_ca_path"),
}
# Said for each connection. What depends on UTC, or on a statement's end before its caller gives up, is ours.
TIME_LIMITS = "-c statement_timeout=8000 -c lock_timeout=6000"
# As SQLAlchemy reads them: a password ends at its first @.
_CREDENTIALS = re.compile("^[^:]+://[^:/?]*(:[^@?]*)?@")
OWN_PARAMETERS = re.compile(r"(statement_timeout|lock_timeout|timezone)\s*=", re.IGNORECASE)


def database_url(text: str, *, instance: Path) -> str:
    """Return the URL with psycopg 3 named as the driver; Heroku writes `postgres://`."""
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if separator and scheme in {"sqlite", "sqlite+pysqlite"}:
        _check_file(rest, instance)
        return f"sqlite://{rest}"
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ValueError(
            "must begin with postgresql:// or sqlite:// (the driver is psycopg 3, and no other)"
        )
    url = f"postgresql+psycopg://{rest}"
    _check_postgresql(url)
    return url


def _check_file(rest: str, instance: Path) -> None:
    if "?" in rest:
        raise ValueError("takes no options for SQLite")
    path = instance / rest.removeprefix("/")
    # In memory each process would have tables of its own, or none.
    if not rest.startswith("/") or rest == "/:memory:" or path.is_dir():
        raise ValueError("must name a file, like sqlite:////var/lib/authsite/authsite.db")
    if not path.parent.is_dir() and path.parent != instance:
        raise ValueError("names a file in a folder that is not there: make the folder first")


def _check_postgresql(url: str) -> None:
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
        # A piece of a password would be taken for an option, for the host, or for the database's name.
        if "@" in _CREDENTIALS.sub("", url, count=1):
            raise ValueError
    except (ArgumentError, ValueError):
        raise ValueError(
            "cannot be read: percent-encode user and password, @ as %40, / as %2F, : as %3A, ? as %3F;"
            " several hosts as ?host=one:5432&host=two:5432"
        ) from None
    options: dict[str, Any] = dict(parsed.query)
    for name in options:
        try:
            make_conninfo("", **{name: ""})
        except ProgrammingError:
            raise ValueError(
                f"has an option that PostgreSQL does not know: {_shown(name)}"
            ) from None
    for name, value in options.items():
        if name != "host" and not _is_possible(name, value):
            raise ValueError(f"has a value that cannot be for its option {name}")
    if OWN_PARAMETERS.search(options.get("options", "")):
        raise ValueError(
            "must leave statement_timeout, lock_timeout and timezone to the service in its options"
        )


def _is_possible(name: str, value: Any) -> bool:
    if not isinstance(value, str):
        return False  # given twice
    if name in COUNTS:
        return bool(re.fullmatch("[0-9]{1,9}", value))
    return value in CHOICES.get(name, {value}) and _is_there(name, value)


def _is_there(name: str, value: str) -> bool:
    """Return whether the file exists that an option for TLS names; other options name none."""
    is_file = name in FILES and value != "system"
    return not is_file or Path(value).expanduser().exists()


def with_tls(url: str | None) -> str | None:
    """Ask for TLS where the URL does not say: left alone, libpq would go on without it."""
    if not url or url.startswith("sqlite") or "sslmode" in _option_names(url):
        return url
    return f"{url}{'&' if '?' in url else '?'}sslmode=require"


def engine_options(url: str) -> dict[str, Any]:
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
        "connect_args": _connect_args(url),
    }


def _connect_args(url: str) -> dict[str, Any]:
    """Return what goes beside the URL and, where both name it, instead of it."""
    from sqlalchemy.engine import make_url

    given = make_url(url).query
    parameters = [TIME_LIMITS, str(given.get("options", "")), "-c timezone=UTC"]
    arguments: dict[str, Any] = {"options": " ".join(filter(None, parameters))}
    if "connect_timeout" not in given:
        arguments["connect_timeout"] = 5
    return arguments


def redis_url(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    url = f"{scheme.lower()}://{rest}"
    if not separator or scheme.lower() not in {"redis", "rediss"}:
        raise ValueError("must begin with redis:// or rediss://")
    try:
        parts = urlsplit(url)
        is_readable = parts.hostname and parts.port != 0 and not parts.fragment
        is_readable = is_readable and "@" not in parts.path + parts.query
    except ValueError:
        is_readable = False
    if not is_readable:
        raise ValueError(
            "cannot be read: it must name a host, and a password has @ as %40, / as %2F, ? as %3F, # as %23"
        )
    if not re.fullmatch("/?[0-9]{0,5}", parts.path):
        raise ValueError(
            "must end in the number of a database, like redis://redis.example.com:6379/0"
        )
    _check_redis(url, parse_qsl(parts.query, keep_blank_values=True))
    return url


def _check_redis(url: str, options: Iterable[tuple[str, str]]) -> None:
    from redis import ConnectionPool, RedisError

    base, _, query = url.partition("?")
    names = [name for name, _ in options]
    if query and not names:
        raise ValueError("has options that cannot be read")
    for name, value in options:
        try:
            if not value or names.count(name) > 1 or not _is_there(name, value):
                raise ValueError
            ConnectionPool.from_url(f"{base}?{name}={value}").make_connection()
        except (ValueError, TypeError, AttributeError, RedisError):
            raise ValueError(
                f"has an option that is not known, or a value that it cannot have: {_shown(name)}"
            ) from None


def _option_names(url: str) -> set[str]:
    return {name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}


def _shown(name: str) -> str:
    """Return an option's name for a message."""
    return name if re.fullmatch("[A-Za-z_]{1,40}", name) else "one without a name"
