"""Settings: one environment in, one service out, or every reason why not."""

import subprocess
import sys

import pytest

from authsite import config, create_app
from authsite.config import ConfigError
from tests import services

SECRET = "production-secret-0123456789-abcdefghijklm"
DEVELOPMENT = {"DATABASE_URL": "sqlite:///:memory:", "SECRET_KEY": SECRET}
PRODUCTION = {
    "APP_ENV": "production",
    "SECRET_KEY": SECRET,
    "DATABASE_URL": "postgres://user:pw@db.example.com/authsite",
    "PUBLIC_BASE_URL": "https://accounts.example.com",
    "MAIL_SERVER": "smtp.example.com",
}


def load(**environ: str) -> dict:
    return config.load(DEVELOPMENT | environ)


def problems(environ: dict) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        config.load(environ)
    return refused.value.problems


@pytest.mark.parametrize(
    ("variable", "setting", "default"),
    [
        ("APP_ENV", "APP_ENV", "development"),
        ("SECRET_KEY_FALLBACKS", "SECRET_KEY_FALLBACKS", []),
        ("REDIS_URL", "REDIS_URL", None),
        ("REDIS_TLS_VERIFY", "REDIS_TLS_VERIFY", "required"),
        ("PUBLIC_BASE_URL", "PUBLIC_BASE_URL", "http://127.0.0.1:5000"),
        ("TRUSTED_HOSTS", "TRUSTED_HOSTS", None),
        ("TRUSTED_PROXY_HOPS", "TRUSTED_PROXY_HOPS", 0),
        ("MAIL_SERVER", "MAIL_SERVER", None),
        ("MAIL_PORT", "MAIL_PORT", 25),
        ("MAIL_USERNAME", "MAIL_USERNAME", None),
        ("MAIL_PASSWORD", "MAIL_PASSWORD", None),
        ("MAIL_USE_TLS", "MAIL_USE_TLS", False),
        ("MAIL_USE_SSL", "MAIL_USE_SSL", False),
        ("MAIL_DEFAULT_SENDER", "MAIL_DEFAULT_SENDER", "no-reply@127.0.0.1"),
        ("SITE_NAME", "SITE_NAME", "authsite"),
        ("CORS_ORIGINS", "CORS_ORIGINS", []),
        ("SERVICE_CLIENTS", "SERVICE_CLIENTS", []),
        ("TRUSTED_BROWSER_DAYS", "TRUSTED_BROWSER_DAYS", 30),
        ("PASSWORD_MIN_LENGTH", "PASSWORD_MIN_LENGTH", 8),
        ("REFRESH_GRACE_SECONDS", "REFRESH_GRACE_SECONDS", 30),
        ("REFRESH_LOST_ANSWER_SECONDS", "REFRESH_LOST_ANSWER_SECONDS", 86_400),
        ("MAX_SESSIONS_PER_USER", "MAX_SESSIONS_PER_USER", 100),
        ("RATELIMIT_ENABLED", "RATELIMIT_ENABLED", True),
        ("GEOIP_DATABASE", "GEOIP_DATABASE", None),
        ("WEB_CONCURRENCY", "WORKERS", 1),
    ],
)
@pytest.mark.parametrize("unset", [{}, "", "   "])
def test_what_is_not_set_has_its_default(variable, setting, default, unset):
    """Empty and blank are not set: a shell and a panel write them so."""
    assert load(**({} if unset == {} else {variable: unset}))[setting] == default


@pytest.mark.parametrize(
    ("variable", "text", "setting", "value"),
    [
        ("APP_ENV", " Development ", "APP_ENV", "development"),
        ("SECRET_KEY", f" {SECRET}\n", "SECRET_KEY", SECRET),
        ("SECRET_KEY_FALLBACKS", "one, two,,", "SECRET_KEY_FALLBACKS", ["one", "two"]),
        *(
            ("DATABASE_URL", text, "SQLALCHEMY_DATABASE_URI", "postgresql+psycopg://u:p@h/d?x=1")
            for text in (
                "postgres://u:p@h/d?x=1",
                "postgresql://u:p@h/d?x=1",
                "postgresql+psycopg://u:p@h/d?x=1",
            )
        ),
        ("DATABASE_URL", "sqlite:////data/a.db", "SQLALCHEMY_DATABASE_URI", "sqlite:////data/a.db"),
        ("REDIS_URL", "redis://:p@h:6379/1", "REDIS_URL", "redis://:p@h:6379/1"),
        ("REDIS_URL", "rediss://h", "REDIS_URL", "rediss://h"),
        ("REDIS_TLS_VERIFY", "None", "REDIS_TLS_VERIFY", "none"),
        ("PUBLIC_BASE_URL", "https://a.example.com/", "PUBLIC_BASE_URL", "https://a.example.com"),
        ("TRUSTED_HOSTS", "a.example, .b.example", "TRUSTED_HOSTS", ["a.example", ".b.example"]),
        ("TRUSTED_PROXY_HOPS", "2", "TRUSTED_PROXY_HOPS", 2),
        ("MAIL_SERVER", "smtp.example.com", "MAIL_SERVER", "smtp.example.com"),
        ("MAIL_PORT", "587", "MAIL_PORT", 587),
        ("MAIL_USERNAME", "user", "MAIL_USERNAME", "user"),
        ("MAIL_PASSWORD", "p@ss,word", "MAIL_PASSWORD", "p@ss,word"),
        *(("MAIL_USE_TLS", yes, "MAIL_USE_TLS", True) for yes in ("1", "true", "Yes", "ON")),
        *(("MAIL_USE_SSL", no, "MAIL_USE_SSL", False) for no in ("0", "false", "No", "OFF")),
        ("MAIL_DEFAULT_SENDER", "hi@example.com", "MAIL_DEFAULT_SENDER", "hi@example.com"),
        ("SITE_NAME", "Acme Notes", "SITE_NAME", "Acme Notes"),
        ("CORS_ORIGINS", "https://a.example", "CORS_ORIGINS", ["https://a.example"]),
        ("PASSWORD_MIN_LENGTH", "15", "PASSWORD_MIN_LENGTH", 15),
        ("REFRESH_GRACE_SECONDS", "0", "REFRESH_GRACE_SECONDS", 0),
        ("REFRESH_GRACE_SECONDS", "60", "REFRESH_GRACE_SECONDS", 60),
        ("REFRESH_LOST_ANSWER_SECONDS", "0", "REFRESH_LOST_ANSWER_SECONDS", 0),
        ("REFRESH_LOST_ANSWER_SECONDS", "604800", "REFRESH_LOST_ANSWER_SECONDS", 604_800),
        ("MAX_SESSIONS_PER_USER", "5", "MAX_SESSIONS_PER_USER", 5),
        ("RATELIMIT_ENABLED", "0", "RATELIMIT_ENABLED", False),
        ("GEOIP_DATABASE", "/data/city.mmdb", "GEOIP_DATABASE", "/data/city.mmdb"),
        ("WEB_CONCURRENCY", "4", "WORKERS", 4),
    ],
)
def test_every_variable_is_converted(variable, text, setting, value):
    """DP-07 among them: Heroku's postgres:// gets its driver."""
    assert load(**{variable: text})[setting] == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("APP_ENV", "staging"),
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL", "authsite.db"),
        ("REDIS_URL", "http://h"),
        ("REDIS_URL", "h:6379"),
        ("REDIS_TLS_VERIFY", "maybe"),
        ("PUBLIC_BASE_URL", "accounts.example.com"),
        ("PUBLIC_BASE_URL", "ftp://example.com"),
        ("PUBLIC_BASE_URL", "https://"),
        ("PUBLIC_BASE_URL", "https://example.com/?x=1"),
        ("PUBLIC_BASE_URL", "https://example.com/#x"),
        ("PUBLIC_BASE_URL", "http://[broken"),
        *(("TRUSTED_PROXY_HOPS", text) for text in ("-1", "one", "1.0", "11", "٢", "0x1")),
        *(("MAIL_PORT", text) for text in ("0", "65536", "smtp")),
        *(("MAIL_USE_TLS", text) for text in ("2", "maybe")),
        ("MAIL_USE_SSL", "starttls"),
        ("SERVICE_CLIENTS", "billing"),
        ("SERVICE_CLIENTS", "billing:secret"),
        ("SERVICE_CLIENTS", f"bill ing:{'0' * 64}"),
        ("SERVICE_CLIENTS", f"billing:{'0' * 63}"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "null"),
        ("CORS_ORIGINS", "https://a.example, b.example"),
        ("CORS_ORIGINS", "https://a.example/"),
        ("CORS_ORIGINS", "https://a.example/path"),
        *(("PASSWORD_MIN_LENGTH", text) for text in ("7", "0", "65", "-8", "eight")),
        *(("REFRESH_GRACE_SECONDS", text) for text in ("61", "-1", "0.5")),
        *(("REFRESH_LOST_ANSWER_SECONDS", text) for text in ("604801", "-1", "0.5")),
        *(("MAX_SESSIONS_PER_USER", text) for text in ("0", "-1", "many")),
        ("RATELIMIT_ENABLED", "sometimes"),
        *(("WEB_CONCURRENCY", text) for text in ("0", "auto")),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(variable, text):
    """Everywhere, not only in production: a typing error must not become a default."""
    [problem] = problems(DEVELOPMENT | {variable: text})

    assert problem.startswith(f"{variable} ")


def test_unknown_variables_are_nobodys_business():
    """A panel sets dozens; and no Flask setting can be reached by one (DP-03)."""
    settings = load(TESTING="1", FLASK_TESTING="1", DEBUG="1", WTF_CSRF_ENABLED="0", PATH="/bin")

    assert "TESTING" not in settings
    assert "WTF_CSRF_ENABLED" not in settings
    assert settings["DEBUG"] is False


@pytest.mark.parametrize("names", [{}, {"APP_ENV": "development"}, {"APP_ENV": ""}])
def test_a_dyno_is_production_whatever_is_set(names):
    """CONTRACT §6: nobody has to remember it on Heroku."""
    environ = {name: value for name, value in PRODUCTION.items() if name != "APP_ENV"}

    assert config.load(environ | names | {"DYNO": "web.1"})["IS_PRODUCTION"] is True
    assert not load()["IS_PRODUCTION"]


def test_a_complete_production_starts():
    """DP-01, DP-03: none of the refusals is a false alarm, and nothing of development is left on."""
    app = create_app(PRODUCTION)

    assert app.config["IS_PRODUCTION"]
    assert app.config["TRUSTED_HOSTS"] == ["accounts.example.com"]
    assert app.config["MAIL_DEFAULT_SENDER"] == "no-reply@accounts.example.com"
    assert app.config["SESSION_COOKIE_NAME"] == "__Host-authsite"
    assert app.config["SESSION_COOKIE_SECURE"] is True
    assert app.config["MIGRATE_AT_START"] is False
    assert not app.debug
    assert not app.testing


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"SECRET_KEY": ""}, "SECRET_KEY"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY"),
        ({"SECRET_KEY": SECRET[:31]}, "SECRET_KEY"),
        ({"SECRET_KEY": "a" * 64}, "SECRET_KEY"),
        *(({"SECRET_KEY": example}, "SECRET_KEY") for example in sorted(config.EXAMPLE_SECRETS)),
        ({"SECRET_KEY_FALLBACKS": f"{SECRET[::-1]},short"}, "SECRET_KEY"),
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"DATABASE_URL": "sqlite:///authsite.db"}, "DATABASE_URL"),
        ({"PUBLIC_BASE_URL": ""}, "PUBLIC_BASE_URL"),
        ({"PUBLIC_BASE_URL": "http://accounts.example.com"}, "PUBLIC_BASE_URL"),
        ({"MAIL_SERVER": ""}, "MAIL_SERVER"),
        ({"WEB_CONCURRENCY": "2"}, "REDIS_URL"),
        ({"RATELIMIT_ENABLED": "0"}, "RATELIMIT_ENABLED"),
        *(({"FLASK_DEBUG": text}, "FLASK_DEBUG") for text in ("1", "true", "on", "yes")),
    ],
)
def test_production_refuses_what_is_not_safe(changed, named):
    """DP-01, DP-02, DP-03."""
    [problem] = problems(PRODUCTION | changed)

    assert named in problem


@pytest.mark.parametrize(
    "changed",
    [
        {"SECRET_KEY": SECRET[:32]},
        {"WEB_CONCURRENCY": "2", "REDIS_URL": "redis://h"},
        {"WEB_CONCURRENCY": "1"},
        {"FLASK_DEBUG": "0"},
        {"SECRET_KEY_FALLBACKS": SECRET[::-1]},
        {"TRUSTED_HOSTS": "other.example.com"},
    ],
)
def test_production_does_not_refuse_what_is(changed):
    """DP-01, DP-02."""
    assert config.load(PRODUCTION | changed)["IS_PRODUCTION"]


def test_every_problem_is_named_at_once():
    """DP-01: one deployment shows them all."""
    found = "\n".join(
        problems(
            {
                "APP_ENV": "production",
                "WEB_CONCURRENCY": "4",
                "RATELIMIT_ENABLED": "0",
                "MAIL_PORT": "smtp",
                "FLASK_DEBUG": "1",
            }
        )
    )

    for name in (
        *("SECRET_KEY", "DATABASE_URL", "PUBLIC_BASE_URL", "MAIL_SERVER", "REDIS_URL"),
        *("RATELIMIT_ENABLED", "MAIL_PORT", "FLASK_DEBUG"),
    ):
        assert name in found


def test_a_refusal_repeats_no_secret():
    """LG-01: it goes to a log."""
    environ = PRODUCTION | {"SECRET_KEY": "tiny-secret", "DATABASE_URL": "mysql://u:hunter2@h/d"}
    with pytest.raises(ConfigError) as refused:
        config.load(environ)

    assert "tiny-secret" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def flask(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=services.ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["session-stats"], {"APP_ENV": "production"}),
        (["--debug", "run", "--port", "1"], PRODUCTION),
    ],
)
def test_a_refused_production_ends_with_a_status_and_its_reasons(arguments, environ):
    """DP-01, DP-03: `flask --debug` would bring the debugger up, so it does not start at all."""
    ended = flask(*arguments, **environ)

    assert ended.returncode != 0
    assert "Refusing to start" in ended.stderr
    assert ("FLASK_DEBUG" in ended.stderr) == ("--debug" in arguments)


def test_development_needs_nothing_and_keeps_its_secret(tmp_path, monkeypatch):
    """A first start makes a secret; the second finds it, so sign-ins outlive a restart."""
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    first, second = config.load({}), config.load({})

    assert first["SECRET_KEY"] == second["SECRET_KEY"]
    assert len(first["SECRET_KEY"]) >= 32
    assert (tmp_path / "instance" / "development-secret").stat().st_mode & 0o077 == 0
    assert first["SQLALCHEMY_DATABASE_URI"].startswith(f"sqlite:///{tmp_path}")
    assert first["MIGRATE_AT_START"] is True


def test_a_database_that_was_chosen_is_not_migrated_unasked():
    assert load()["MIGRATE_AT_START"] is False


def test_production_writes_no_secret_of_its_own(tmp_path, monkeypatch):
    """DP-01: a secret that a dyno makes up would end every session at each restart."""
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    problems({"APP_ENV": "production"})

    assert not (tmp_path / "instance").exists()
