"""Settings: one environment in, one service out, or every reason why not."""

import base64
import io
import re
import subprocess
import sys
from email.utils import parseaddr

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis.strategies import integers
from sqlalchemy import text
from sqlalchemy.engine import make_url

from authsite import config, create_app, database, passwords
from authsite.config import ConfigError, looks
from authsite.extensions import limiter
from authsite.mail import outbox
from tests import factories, services

SECRET = "production-secret-0123456789-abcdefghijklm"
DEVELOPMENT = {"DATABASE_URL": services.UNUSED_DATABASE_URL, "SECRET_KEY": SECRET}
PRODUCTION = {
    "APP_ENV": "production",
    "SECRET_KEY": SECRET,
    "DATABASE_URL": "postgres://user:pw@db.example.com/authsite",
    "PUBLIC_BASE_URL": "https://accounts.example.com",
    "MAIL_SERVER": "smtp.example.com",
}


WEBHOOK_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
PLACEHOLDERS = [
    "change-me-to-at-least-32-random-bytes",
    "your-secret-key-change-in-production",
    "your-super-secret-key-change-this-in-production",
    "development-secret-key-do-not-use-in-production",
    "acme_Change_In_Production_4f9c01d7b2aa",
    "your_secret_key_here_8d2f6c1e9b7a5043",
    "CHANGEME-CHANGEME-CHANGEME-CHANGEME-1",
    "django-insecure-kf93kd02k#k3kd0f%30dk3",
    "please-change-this-before-you-go-live!",
    "replace-with-output-of-openssl-rand-hex",
    "<generate-one-with-token-urlsafe-48-it>",
    "${SECRET_KEY_OF_THE_PRODUCTION_CLUSTER}",
    "{{ lookup('vault', 'authsite/secret') }}",
    "this-is-my-super-secret-jwt-signing-key",
    "not-a-secret-only-to-get-docker-started",
    "0123456789abcdef" * 4,
    "abcdefghijklmnopqrstuvwxyz0123456789",
    "k3yk3yk9" * 8,
    "correct horse battery staple once more!",
]
LOGO = "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4="
ORIGINS = ["https://a.example", "https://xn--bcher-kva.example:8443"]


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
        ("PUBLIC_BASE_URL", "PUBLIC_BASE_URL", "http://localhost:5000"),
        ("TRUSTED_HOSTS", "TRUSTED_HOSTS", None),
        ("TRUSTED_PROXY_HOPS", "TRUSTED_PROXY_HOPS", 0),
        ("MAIL_SERVER", "MAIL_SERVER", None),
        ("MAIL_PORT", "MAIL_PORT", 25),
        ("MAIL_USERNAME", "MAIL_USERNAME", None),
        ("MAIL_PASSWORD", "MAIL_PASSWORD", None),
        ("MAIL_USE_TLS", "MAIL_USE_TLS", False),
        ("MAIL_USE_SSL", "MAIL_USE_SSL", False),
        ("MAIL_DEFAULT_SENDER", "MAIL_DEFAULT_SENDER", '"authsite" <no-reply@localhost>'),
        ("PRODUCT_URL", "PRODUCT_URL", None),
        ("PRODUCT_NAME", "PRODUCT_NAME", "authsite"),
        ("LOGO_URL", "LOGO_URL", None),
        ("ACCENT_COLOR", "ACCENT_COLOR", None),
        ("SUPPORT_EMAIL", "SUPPORT_EMAIL", None),
        ("PRIVACY_URL", "PRIVACY_URL", None),
        ("TERMS_URL", "TERMS_URL", None),
        ("RESET_PASSWORD_URL", "RESET_PASSWORD_URL", None),
        ("SITE_NAME", "SITE_NAME", "authsite"),
        ("CORS_ORIGINS", "CORS_ORIGINS", []),
        ("SERVICE_CLIENTS", "SERVICE_CLIENTS", []),
        ("TRUSTED_BROWSER_DAYS", "TRUSTED_BROWSER_DAYS", 30),
        ("PASSKEY_RP_ID", "PASSKEY_RP_ID", "localhost"),
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
            ("DATABASE_URL", text, "SQLALCHEMY_DATABASE_URI", "postgresql+psycopg://u:p@h/d?user=x")
            for text in (
                "postgres://u:p@h/d?user=x",
                "Postgres://u:p@h/d?user=x",
                "postgresql://u:p@h/d?user=x",
                "postgresql+psycopg://u:p@h/d?user=x",
            )
        ),
        ("DATABASE_URL", "SQLite:////tmp/a.db", "SQLALCHEMY_DATABASE_URI", "sqlite:////tmp/a.db"),
        ("REDIS_URL", "redis://:p@h:6379/1", "REDIS_URL", "redis://:p@h:6379/1"),
        ("REDIS_URL", "REDISS://h", "REDIS_URL", "rediss://h"),
        *(
            ("REDIS_URL", f"redis://h/0?{options}", "REDIS_URL", f"redis://h/0?{options}")
            for options in ("socket_timeout=2", "health_check_interval=30&client_name=x")
        ),
        (
            "REDIS_URL",
            "rediss://h?ssl_cert_reqs=none",
            "REDIS_URL",
            "rediss://h?ssl_cert_reqs=none",
        ),
        ("REDIS_TLS_VERIFY", "None", "REDIS_TLS_VERIFY", "none"),
        *(
            ("PUBLIC_BASE_URL", text, "PUBLIC_BASE_URL", meant)
            for text, meant in (
                ("https://a.example.com/", "https://a.example.com"),
                ("HTTPS://A.Example.com", "https://a.example.com"),
                ("https://a.example.com.:443", "https://a.example.com"),
                ("http://localhost:80", "http://localhost"),
                ("http://localhost:5000/", "http://localhost:5000"),
                ("https://Bücher.example", "https://xn--bcher-kva.example"),
                ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
                ("http://[::1]:5000", "http://[::1]:5000"),
                ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
            )
        ),
        *(
            ("TRUSTED_HOSTS", text, "TRUSTED_HOSTS", [*meant, "localhost"])
            for text, meant in (
                ("a.example, .b.example", ["a.example", ".b.example"]),
                ("A.Example,", ["a.example"]),
                ("bücher.example", ["xn--bcher-kva.example"]),
                ("a.example,\n  b.example", ["a.example", "b.example"]),
                ("localhost", []),
            )
        ),
        ("TRUSTED_PROXY_HOPS", "2", "TRUSTED_PROXY_HOPS", 2),
        *(
            ("MAIL_SERVER", text, "MAIL_SERVER", meant)
            for text, meant in (
                ("SMTP.example.com", "smtp.example.com"),
                ("mail", "mail"),
                ("mail_relay", "mail_relay"),
                ("[::1]", "::1"),
                ("smtp.bücher.example", "smtp.xn--bcher-kva.example"),
            )
        ),
        ("MAIL_PORT", "587", "MAIL_PORT", 587),
        *(("MAIL_USE_TLS", yes, "MAIL_USE_TLS", True) for yes in ("1", "true", "Yes", "ON")),
        *(("MAIL_USE_SSL", no, "MAIL_USE_SSL", False) for no in ("0", "false", "No", "OFF")),
        *(
            ("MAIL_DEFAULT_SENDER", text, "MAIL_DEFAULT_SENDER", meant)
            for text, meant in (
                ("hi@example.com", '"authsite" <hi@example.com>'),
                ("<hi@Example.com>", '"authsite" <hi@example.com>'),
                ("Example <hi@example.com>", '"Example" <hi@example.com>'),
                ("Example, Inc. <hi@example.com>", '"Example, Inc." <hi@example.com>'),
                ('"Example, Inc." <hi@example.com>', '"Example, Inc." <hi@example.com>'),
                (r'"The \"Best\"" <hi@example.com>', r'"The \"Best\"" <hi@example.com>'),
                ("Bücher <hi@bücher.example>", '"Bücher" <hi@xn--bcher-kva.example>'),
            )
        ),
        ("SITE_NAME", "Acme Notes", "SITE_NAME", "Acme Notes"),
        *(
            (name, "HTTPS://A.example:443, https://bücher.example:8443", name, ORIGINS)
            for name in ("CORS_ORIGINS", "FORWARD_AUTH_ORIGINS")
        ),
        (
            "WEBHOOK_URLS",
            "HTTPS://A.example/Hooks?k=V,https://bücher.example",
            "WEBHOOK_URLS",
            ["https://a.example/Hooks?k=V", "https://xn--bcher-kva.example"],
        ),
        *(
            (name, "HTTPS://App.example/Home?a=b", name, "https://app.example/Home?a=b")
            for name in ("PRODUCT_URL", "PRIVACY_URL", "TERMS_URL")
        ),
        ("PRODUCT_NAME", "Acme Notes", "PRODUCT_NAME", "Acme Notes"),
        *(("LOGO_URL", text, "LOGO_URL", text) for text in ("/logo.svg?v=2", LOGO)),
        *(
            ("ACCENT_COLOR", text, "ACCENT_COLOR", meant)
            for text, meant in (
                ("#3056D3, #9DB5FF", ("#3056d3", "#9db5ff")),
                ("#717171", ("#717171", "#a6a6a6")),
                ("#b3005e", ("#b3005e", "#dd8cb7")),
            )
        ),
        ("SUPPORT_EMAIL", "Help@Example.com", "SUPPORT_EMAIL", "Help@example.com"),
        *(
            ("RESET_PASSWORD_URL", text, "RESET_PASSWORD_URL", meant)
            for text, meant in (
                ("HTTPS://App.example/Reset", "https://app.example/Reset"),
                ("https://bücher.example:8443", "https://xn--bcher-kva.example:8443"),
            )
        ),
        ("PASSWORD_MIN_LENGTH", "15", "PASSWORD_MIN_LENGTH", 15),
        ("REFRESH_GRACE_SECONDS", "0", "REFRESH_GRACE_SECONDS", 0),
        ("REFRESH_GRACE_SECONDS", "60", "REFRESH_GRACE_SECONDS", 60),
        ("REFRESH_LOST_ANSWER_SECONDS", "0", "REFRESH_LOST_ANSWER_SECONDS", 0),
        ("REFRESH_LOST_ANSWER_SECONDS", "604800", "REFRESH_LOST_ANSWER_SECONDS", 604_800),
        ("MAX_SESSIONS_PER_USER", "5", "MAX_SESSIONS_PER_USER", 5),
        ("RATELIMIT_ENABLED", "0", "RATELIMIT_ENABLED", False),
        ("LOG_FORMAT", "JSON", "LOG_FORMAT", "json"),
        ("LOG_FORMAT", "text", "LOG_FORMAT", "text"),
        ("PORT", "8080", "PORT", 8080),
        ("WEB_CONCURRENCY", "4", "WORKERS", 4),
    ],
)
def test_every_variable_is_converted(variable, text, setting, value):
    """DP-07 among them: Heroku's postgres:// gets its driver."""
    beside = {"WEBHOOK_SECRETS": WEBHOOK_SECRET, "TRUSTED_PROXY_HOPS": "1"}
    assert load(**beside | {variable: text})[setting] == value


def test_a_colour_is_measured_on_the_grounds_that_pages_have():
    """Both modes of app.css, whose figures the check repeats."""
    style = (services.ROOT / "authsite/static/app.css").read_text()
    found = re.findall(r"--ground: (#\w+); --card: (#\w+);", style)
    by_mode = [{re.sub("^#(.)(.)(.)$", r"#\1\1\2\2\3\3", each) for each in pair} for pair in found]

    assert by_mode == [set(looks.GROUNDS["light"]), set(looks.GROUNDS["dark"])]


@settings(deadline=None, database=None)
@given(integers(0, 0xFFFFFF))
def test_no_colour_passes_that_cannot_be_read(number):
    """WCAG 2.2, SC 1.4.3: as text, and under the text of a button, hovered or pressed."""
    color = f"#{number:06x}"
    try:
        accent = looks.accent(color)
    except ValueError as refusal:
        assert color in str(refusal)  # noqa: PT017
        assert any(looks.contrast(color, ground) < 4.5 for ground in looks.GROUNDS["light"])
        return
    for color, mode in ((accent.light, "light"), (accent.dark, "dark")):
        assert all(looks.contrast(color, ground) >= 4.5 for ground in looks.GROUNDS[mode])
    assert looks.contrast(accent.light, "#ffffff") >= 4.5
    pressed = looks.mixed(accent.light, "#000000", 0.9)
    assert looks.contrast(pressed, looks.mixed("#ffffff", "#000000", 0.9)) >= 4.5
    assert looks.contrast(looks.mixed(accent.dark, "#000000", 0.9), "#000000") >= 4.5


@pytest.mark.parametrize("password", ["p@ss, word", "'quoted'", '"', "p\\w", "%41"])
def test_a_password_may_hold_anything_that_can_be_sent(password):
    assert load(MAIL_USERNAME="user", MAIL_PASSWORD=password)["MAIL_PASSWORD"] == password


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("APP_ENV", "staging"),
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL", "authsite.db"),
        *(
            ("DATABASE_URL", f"{scheme}://h/d")
            for scheme in (
                "postgresql+asyncpg",
                "postgresql+psycopg2",
                "sqlite+aiosqlite",
                "prisma",
            )
        ),
        *(
            ("DATABASE_URL", f"postgres://{rest}")
            for rest in (
                *("u:p@h:port/d", "u:p@one:5432,two:5432/d", "u:p?w@h/d"),
                *(
                    "u:p@ss/w:rd@127.0.0.1/d",
                    "u:p@ss@h/d",
                    "u:p@s/s@h/d",
                    "u:p@s#s@h/d",
                    "u@x:p@/@h",
                ),
                *(
                    "h/d?schema=public",
                    "h/d?pgbouncer=true",
                    "h/d?autocommit=true",
                    "h/d?sslmode=on",
                ),
                *("h/d?sslmode=require&sslmode=disable", "h/d?connect_timeout=soon"),
                *("h/d?sslrootcert=/not/there.pem", "h/d?target_session_attrs=read-only"),
                *(
                    "h/d?options=-c%20statement_timeout%3D0",
                    "h/d?options=-cTimeZone%3DEurope/Paris",
                ),
            )
        ),
        *(
            ("DATABASE_URL", f"sqlite:{rest}")
            for rest in (
                *("////tmp/a.db?mode=ro", "///file:a.db?uri=true", "////tmp", "////not/there/a.db"),
                *("///not-there/a.db", "//tmp/a.db", "//", "///", "///:memory:"),
            )
        ),
        *(
            ("REDIS_URL", text)
            for text in (
                *("http://h", "h:6379", "redis://", "redis:///0", "unix:///run/redis.sock"),
                *("redis://h/name", "redis://h:port", "redis://h:0", "redis://h/0#1"),
                *("redis://:pa/ss@h", "redis://:pa#ss@h", "redis://:pa?s=s@h"),
                *("redis://h?unknown=1", "redis://h?socket_timeout=soon", "redis://h?db=1&db=2"),
                *(
                    "redis://h?ssl_cert_reqs=none",
                    "rediss://h?ssl_cert_reqs=maybe",
                    "redis://h?db=",
                ),
                *("rediss://h?ssl_ca_certs=/not/there.pem", "redis://h?nonsense"),
            )
        ),
        ("REDIS_TLS_VERIFY", "maybe"),
        ("PUBLIC_BASE_URL", "accounts.example.com"),
        ("PUBLIC_BASE_URL", "ftp://example.com"),
        ("PUBLIC_BASE_URL", "https://"),
        ("PUBLIC_BASE_URL", "https://example.com/?x=1"),
        ("PUBLIC_BASE_URL", "https://example.com/#x"),
        *(
            ("PUBLIC_BASE_URL", text)
            for text in (
                *("http://[broken", "https://example.com/accounts", "https://example.com//"),
                *("https://example.com/?", "https://user@example.com", "https://u:p@example.com"),
                *("https://example.com:0", "https://example.com:65536", "https://example.com:port"),
                *("https://exa mple.com", "https://example..com", "https://-example.com"),
                *("https://my_site.example.com", "https://*.example.com", "https://256.1.1.1"),
                *(
                    f"https://{'a' * 64}.example",
                    "https://\N{ZERO WIDTH SPACE}",
                    "https:/example.com",
                ),
            )
        ),
        *(
            ("PASSKEY_RP_ID", text)
            for text in (
                *("https://localhost", "localhost:5000", "127.0.0.1", "[::1]", "localhost/", "*"),
                *("example.com", "accounts.localhost", "a b"),
            )
        ),
        *(
            ("TRUSTED_HOSTS", text)
            for text in (
                *("*", "*.example.com", "https://example.com", "example.com:8000", "example.com/"),
                *("example.com,*", "[::1]", "::1", ".", "a b", "example.com;b.example"),
            )
        ),
        *(
            ("MAIL_SERVER", text)
            for text in (
                *("smtp.example.com:587", "smtp://smtp.example.com", "smtp.example.com/", "a b"),
                *("user@smtp.example.com", "smtp..example.com"),
            )
        ),
        *(
            ("MAIL_DEFAULT_SENDER", text)
            for text in (
                *("Example", "example.com", "hi@", "@example.com", "hi@example.com, b@example.com"),
                *(
                    "hi@example.com,b@example.com",
                    "A <a@example.com>, B <b@example.com>",
                    "hi@exa mple",
                ),
                *(
                    "Example <hi>",
                    "Example hi@example.com",
                    "hi.@example.com",
                    "jürgen@example.com",
                ),
                *("Example <hi@example.com> x", "hi@*.example.com", "Example <>"),
            )
        ),
        ("MAIL_USERNAME", "jürgen"),
        ("MAIL_PASSWORD", "paßwort"),
        ("SITE_NAME", "x" * 129),
        ("GEOIP_DATABASE", "/not/there.mmdb"),
        ("GEOIP_DATABASE", "/tmp"),
        ("GEOIP_DATABASE", __file__),
        *(("LOG_FORMAT", text) for text in ("jsonl", "logfmt")),
        *(("PORT", text) for text in ("0", "65536", "http", "80:80", "9" * 5000)),
        *(
            ("WEBHOOK_URLS", text)
            for text in (
                *("https://a.example:99999/", "https://u@a.example/", "https://a_b.example/"),
                *("https://169.254.169.254/", "https://[fd00:ec2::254]", "https://100.100.100.200"),
                *("https://[::ffff:169.254.169.254]/", "https://[fe80::1]/"),
            )
        ),
        *(
            (name, text)
            for name in ("PRODUCT_URL", "PRIVACY_URL", "TERMS_URL")
            for text in (
                *(
                    "/home",
                    "app.example",
                    "javascript:alert(1)",
                    "data:text/html,x",
                    "//app.example",
                ),
                *("https://u:p@app.example/", "https://app.example/a b", "https://app.example/#x"),
                *("https://app.example\\@evil.example/", f"https://app.example/{'x' * 2048}"),
            )
        ),
        ("PRODUCT_NAME", "x" * 129),
        *(
            ("ACCENT_COLOR", text)
            for text in (
                *("red", "#fff", "3056d3", "#3056d3ff", "#3056dg", "rgb(0,0,0)", "#000000;}*{x:y"),
                *("#000000,#ffffff,#000000", "#000000,", "#ffcc00", "#727272", "#000000,#3056d3"),
            )
        ),
        *(
            ("LOGO_URL", text)
            for text in (
                *("logo.svg", "//cdn.example/logo.svg", "https://cdn.example/logo.svg", "/a b.svg"),
                *("/\\cdn.example/x", "data:text/html,x", "data:image/svg+xml,<svg x=y/>"),
                *("javascript:x", f"data:image/png;base64,{'A' * 16384}", "data:image/png"),
            )
        ),
        *(
            ("SUPPORT_EMAIL", text)
            for text in (
                "help",
                "Help <help@example.com>",
                "a@example.com,b@example.com",
                "<a@b.c>",
            )
        ),
        *(
            ("RESET_PASSWORD_URL", text)
            for text in (
                *("/reset", "app.example/reset", "javascript:alert(1)", "https://u@app.example/r"),
                *("https://app.example/r?a=b", "https://app.example/r?", "https://app.example/r#x"),
                *("https://app.example/a b", f"https://app.example/{'x' * 2048}"),
            )
        ),
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
        ("CORS_ORIGINS", "https://a.example?"),
        ("CORS_ORIGINS", "https://user@a.example"),
        ("CORS_ORIGINS", "https://a.example:0"),
        ("CORS_ORIGINS", "https://*.a.example"),
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


@pytest.mark.parametrize("variable", sorted(config.VARIABLES))
@pytest.mark.parametrize("text", ["a\nb", "a\x00b", "\ud800", "a\x1bb", "a\u2028b"])
def test_no_variable_holds_a_character_that_breaks_a_line_or_no_text_has(variable, text):
    """It would come to stand in a header, a page or a log."""
    [problem, *more] = problems(DEVELOPMENT | {variable: text})

    assert problem.startswith(f"{variable} ")
    assert len(more) <= 1  # a name without its password


@pytest.mark.parametrize("mark", ["'", '"'])
@pytest.mark.parametrize("variable", sorted(set(config.VARIABLES) - config.SECRETS))
def test_quotation_marks_that_a_file_has_kept_are_refused(variable, mark):
    """Docker's --env-file keeps them: a site called "Example", with them."""
    [problem] = problems(DEVELOPMENT | {variable: f"{mark}example{mark}"})

    assert re.match(f"{variable} (has quotation marks|must)", problem)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"MAIL_USE_TLS": "1", "MAIL_USE_SSL": "1"}, "MAIL_USE_TLS and MAIL_USE_SSL are two ways"),
        ({"MAIL_SERVER": "h", "MAIL_PORT": "465"}, "set MAIL_USE_SSL=1"),
        ({"MAIL_SERVER": "h", "MAIL_PORT": "465", "MAIL_USE_TLS": "1"}, "set MAIL_USE_SSL=1"),
        ({"MAIL_SERVER": "h", "MAIL_PORT": "587", "MAIL_USE_SSL": "1"}, "set MAIL_USE_TLS=1"),
        ({"MAIL_USERNAME": "user"}, "MAIL_PASSWORD and MAIL_USERNAME go together"),
        ({"MAIL_PASSWORD": "word"}, "MAIL_PASSWORD and MAIL_USERNAME go together"),
        ({"FORWARD_AUTH_ORIGINS": "https://a.example"}, "TRUSTED_PROXY_HOPS=1 or more"),
        ({"WEBHOOK_URLS": "https://a.example"}, "needs WEBHOOK_SECRETS"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(environ, said):
    [problem] = problems(DEVELOPMENT | environ)

    assert said in problem


@pytest.mark.parametrize(
    "environ",
    [
        {"MAIL_SERVER": "h", "MAIL_PORT": "465", "MAIL_USE_SSL": "1"},
        {"MAIL_SERVER": "h", "MAIL_PORT": "587", "MAIL_USE_TLS": "1"},
        {"MAIL_SERVER": "h", "MAIL_PORT": "2525", "MAIL_USE_SSL": "1"},
    ],
)
def test_settings_that_work_together_are_not(environ):
    assert load(**environ)["MAIL_SERVER"] == "h"


def test_what_a_database_url_says_is_kept_beside_our_own():
    """Never dropped, and never in the way of what the service depends on."""
    url = "postgres://h/d?options=-csearch_path%3Dx&connect_timeout=2&application_name=y"
    arguments = load(DATABASE_URL=url)["SQLALCHEMY_ENGINE_OPTIONS"]["connect_args"]
    options = arguments.pop("options").split(" ")

    assert "-csearch_path=x" in options
    assert options[-2:] == ["-c", "timezone=UTC"]
    assert "statement_timeout=8000" in options
    assert arguments == {}  # what the URL says of connect_timeout is not said again


@pytest.mark.postgresql
def test_postgresql_hears_every_option_of_its_url(postgresql_url):
    """As the server itself answers."""
    more = "options=-csearch_path%3Dpublic%20-cwork_mem%3D5MB&application_name=Notes"
    app = create_app(DEVELOPMENT | {"DATABASE_URL": f"{postgresql_url}?{more}"})
    names = ("work_mem", "search_path", "application_name", "statement_timeout", "timezone")
    with app.app_context():
        answered = [database.row(text(f"SHOW {name}"))[0] for name in names]
        database.engine().dispose()

    assert answered == ["5MB", "public", "Notes", "8s", "UTC"]


@pytest.mark.redis
@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("socket_timeout=2", "socket_timeout", 2),
        ("health_check_interval=30", "health_check_interval", 30),
        ("client_name=notes", "client_name", "notes"),
        ("protocol=3", "protocol", 3),
    ],
)
def test_the_limiters_store_hears_every_option_of_its_url(valkey_url, option, name, value):
    """Before what we would choose ourselves; and it counts with it."""
    app = create_app(DEVELOPMENT | {"REDIS_URL": f"{valkey_url}?{option}"})
    store = app.extensions["limit_store"]
    hits = [store.hit(f"test-{option}", 2).is_allowed for _ in range(3)]
    pool = limiter.storage.storage.connection_pool

    assert hits == [True, True, False]
    assert pool.connection_kwargs[name] == value
    pool.disconnect()


@pytest.mark.parametrize(
    ("sender", "shown", "address"),
    [
        ("Example, Inc. <hi@example.com>", "Example, Inc.", "hi@example.com"),
        ("Bücher & Söhne <hi@bücher.example>", "Bücher & Söhne", "hi@xn--bcher-kva.example"),
        (r'"The \"Best\"" <hi@example.com>', 'The "Best"', "hi@example.com"),
        ("hi@example.com", 'The "Best", Ltd. & Söhne', "hi@example.com"),
        ("", 'The "Best", Ltd. & Söhne', "no-reply@localhost"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_sender_arrives_as_it_was_meant(make_app, mailbox, sender, shown, address):
    """With its address, whatever its name."""
    server = {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(mailbox.port)}
    app = make_app(MAIL_DEFAULT_SENDER=sender, SITE_NAME='The "Best", Ltd. & Söhne', **server)
    with app.app_context():
        account = factories.account()
        passwords.request_reset(account.email, device_name="curl", ip_address=None)
        assert outbox.deliver() == (1, 0)

    assert parseaddr(str(mailbox.messages[0]["From"])) == (shown, address)
    contact = app.test_client().get("/.well-known/security.txt").text
    assert (f"mailto:{address}" in contact) == (not address.startswith("no-reply@"))


@pytest.mark.parametrize("rest", ["u@server:p@h/d", "u:a/b:c#d@h/d", "u:p%40q@h/d%40e", "h/d"])
def test_a_database_url_that_can_be_read_in_one_way_is_taken(rest):
    """A user's name may hold an @, as some hosts give it; and a password what is no @ or ?."""
    url = load(DATABASE_URL=f"postgres://{rest}")["SQLALCHEMY_DATABASE_URI"]

    assert make_url(url).host == "h"


def test_the_example_of_settings_can_be_uncommented():
    """No line of it is a value that only looks like one: a command would be the secret."""
    text = re.sub(r"^# (?=[A-Z_]+=)", "", (services.ROOT / ".env.example").read_text(), flags=re.M)
    environ = dotenv_values(stream=io.StringIO(text))

    assert {"SECRET_KEY", "DATABASE_URL", "MAIL_SERVER"} < set(environ) <= set(config.VARIABLES)
    assert environ["SECRET_KEY"] == ""
    assert (
        load(**environ | {"SECRET_KEY": SECRET})["PUBLIC_BASE_URL"]
        == "https://accounts.example.com"
    )


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


def test_a_dyno_has_the_one_proxy_of_its_platform():
    """CONTRACT §6: without it every page would lead to itself."""
    assert config.load(PRODUCTION | {"DYNO": "web.1"})["TRUSTED_PROXY_HOPS"] == 1
    assert (
        config.load(PRODUCTION | {"DYNO": "web.1", "TRUSTED_PROXY_HOPS": "2"})["TRUSTED_PROXY_HOPS"]
        == 2
    )
    assert config.load(PRODUCTION)["TRUSTED_PROXY_HOPS"] == 0


def test_a_complete_production_starts():
    """DP-01, DP-03: none of the refusals is a false alarm, and nothing of development is left on."""
    app = create_app(PRODUCTION)

    assert app.config["IS_PRODUCTION"]
    assert app.config["TRUSTED_HOSTS"] == ["accounts.example.com"]
    assert app.config["MAIL_DEFAULT_SENDER"] == '"authsite" <no-reply@accounts.example.com>'
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
        *(({"SECRET_KEY": example}, "SECRET_KEY") for example in PLACEHOLDERS),
        ({"SECRET_KEY_FALLBACKS": f"{SECRET[::-1]},short"}, "SECRET_KEY"),
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"DATABASE_URL": "sqlite:///authsite.db"}, "DATABASE_URL"),
        ({"PUBLIC_BASE_URL": ""}, "PUBLIC_BASE_URL"),
        ({"PUBLIC_BASE_URL": "http://accounts.example.com"}, "PUBLIC_BASE_URL"),
        ({"PUBLIC_BASE_URL": "https://[2001:db8::1]"}, "PUBLIC_BASE_URL"),
        ({"PUBLIC_BASE_URL": "https://203.0.113.7"}, "MAIL_DEFAULT_SENDER"),
        ({"DYNO": "web.1", "TRUSTED_PROXY_HOPS": "0"}, "TRUSTED_PROXY_HOPS"),
        ({"MAIL_SERVER": ""}, "MAIL_SERVER"),
        *(
            ({name: "http://app.example/"}, name)
            for name in ("PRODUCT_URL", "PRIVACY_URL", "TERMS_URL")
        ),
        ({"RESET_PASSWORD_URL": "http://app.example/reset"}, "RESET_PASSWORD_URL"),
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
        {"SECRET_KEY": "6b1f0c9e4d7a8352f1e0b9c8d7a6450392817f6e5d4c3b2a190817263544e3d2"},
        {"SECRET_KEY": "kP3v-_Xq9ZtL0mRwY8bN5cJh2FgD7sKaE4uT6iWo1Q"},
        {"SECRET_KEY": "wooden Kayak 7 melts above Tromsø, loudly"},
        {"PUBLIC_BASE_URL": "HTTPS://Accounts.Example.com"},
        {"WEBHOOK_URLS": "HTTPS://a.example", "WEBHOOK_SECRETS": WEBHOOK_SECRET},
        {"FORWARD_AUTH_ORIGINS": "HTTPS://a.example", "TRUSTED_PROXY_HOPS": "1"},
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


BROKEN = {
    "SECRET_KEY": "",
    "SECRET_KEY_FALLBACKS": "",
    "DATABASE_URL": "mysql://u:hunter2@h/d",
    "REDIS_URL": "http://u:hunter2@h",
    "MAIL_PASSWORD": "ß",
    "MAIL_USERNAME": "ß",
    "WEBHOOK_SECRETS": "",
    "SERVICE_CLIENTS": ":secret",
}


def test_a_refusal_repeats_no_secret():
    """LG-01: it goes to a log."""
    environ = PRODUCTION | {name: f"hunter2{each}" for name, each in BROKEN.items()}
    with pytest.raises(ConfigError) as refused:
        config.load(environ)

    assert len(refused.value.problems) == len(BROKEN)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *(
            ("DATABASE_URL", f"postgres://u:{password}@h/d")
            for password in (
                *("x?hunter2=1", "x?hunter2", "x?y=hunter2", "x?hunter2/"),
                *("x@hunter2", "x@y/hunter2", "hunter2@x/y:z", "x@hunter2:y"),
            )
        ),
        *(
            ("REDIS_URL", f"redis://:{password}@h/0")
            for password in (
                *("x?hunter2=1", "x?hunter2", "x#hunter2", "x/hunter2", "hunter2:1/"),
                "x@y/hunter2",
            )
        ),
    ],
)
def test_no_piece_of_a_password_in_a_url_is_repeated(variable, text):
    """LG-01: also where it reads like an option."""
    with pytest.raises(ConfigError) as refused:
        config.load(PRODUCTION | {variable: text})

    assert "hunter2" not in str(refused.value)


def run(program: list[str], **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *program],
        cwd=services.ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


GUNICORN = ["-m", "gunicorn", "--config", "authsite/server/gunicorn_conf.py", "wsgi:app"]


@pytest.mark.site
@pytest.mark.parametrize(
    "program",
    [
        ["-m", "flask", "--help"],
        ["-m", "flask", "session-stats"],
        ["-m", "flask", "check-config"],
        ["-m", "flask", "db", "upgrade"],
        ["-m", "flask", "run", "--port", "1"],
        ["-m", "flask", "no-such-command"],
        ["-c", "import wsgi"],
        GUNICORN,
    ],
    ids=" ".join,
)
def test_a_refusal_is_the_list_alone(program):
    """DP-01: every problem, status 1, and no traceback in which the list would drown."""
    ended = run(program, APP_ENV="production", MAIL_PORT="smtp", LOG_FORMAT="xml")

    assert (ended.returncode, ended.stdout) == (1, "")
    first, *listed = ended.stderr.splitlines()
    assert first == "Refusing to start:"
    assert [each.split()[:2] for each in listed] == [
        ["-", name]
        for name in (
            *("MAIL_PORT", "LOG_FORMAT", "SECRET_KEY", "DATABASE_URL", "PUBLIC_BASE_URL"),
            "MAIL_SERVER",
        )
    ]


@pytest.mark.site
def test_the_debugger_keeps_production_from_starting():
    """DP-03: `flask --debug` would bring it up, so it does not start at all."""
    ended = run(["-m", "flask", "--debug", "run", "--port", "1"], **PRODUCTION)

    assert ended.returncode == 1
    assert ended.stderr == "Refusing to start:\n  - FLASK_DEBUG is for development only\n"


@pytest.mark.site
def test_good_settings_are_called_good_without_asking_anybody():
    """None of the hosts in them exists. A name that is all but a setting's is told, and never its value."""
    ended = run(["-m", "flask", "check-config"], **PRODUCTION, SECRET_KEYS="hunter2", PATH="/bin")

    assert (ended.returncode, ended.stdout) == (0, "The settings are good.\n")
    assert ended.stderr == "SECRET_KEYS is no setting. Is SECRET_KEY meant?\n"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MAIL_SERVR", "MAIL_SERVER"),
        ("MIAL_SERVER", "MAIL_SERVER"),
        ("mail_server", "MAIL_SERVER"),
        ("SECRET_KEYS", "SECRET_KEY"),
        ("PUBLIC_BASEURL", "PUBLIC_BASE_URL"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("WEBHOOK_URL", "WEBHOOK_URLS"),
        ("APP_EVN", "APP_ENV"),
        ("WEB_CONCURENCY", "WEB_CONCURRENCY"),
    ],
)
def test_a_misspelt_setting_is_named(name, meant):
    assert config.misspelt({name: "x"}) == {name: meant}


OTHER_PROGRAMS = """
    PATH PWD OLDPWD HOME HOSTNAME HOST LOGNAME USER SHELL SHLVL TERM LANG LC_ALL TZ MAIL MAILTO EDITOR
    PAGER DISPLAY TMPDIR SSH_AUTH_SOCK SSH_CONNECTION XDG_RUNTIME_DIR VIRTUAL_ENV PYTHONPATH PS1
    PYTHONUNBUFFERED LD_LIBRARY_PATH INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET CREDENTIALS_DIRECTORY
    DYNO REDIS_TLS_URL REDIS_HOST REDIS_PORT DATABASE_URL_RO DATABASE_CONNECTION_POOL_URL
    TEST_DATABASE_URL DB_DATABASE_URL HEROKU_POSTGRESQL_AMBER_URL HEROKU_APP_NAME HEROKU_RELEASE_VERSION
    SLUG_COMMIT GUNICORN_CMD_ARGS FORWARDED_ALLOW_IPS FLASK_APP FLASK_DEBUG FLASK_ENV FLASK_RUN_PORT
    FLASK_SKIP_DOTENV KUBERNETES_SERVICE_HOST KUBERNETES_PORT REDIS_SERVICE_PORT MAIL_PORT_25_TCP
    MAIL_SERVICE_HOST PORTS PORT0 PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGSSLMODE POSTGRES_USER
    POSTGRES_PASSWORD SECRET SECRET_KEY_BASE SECRET_TOKEN DJANGO_SECRET_KEY NODE_ENV RAILS_ENV
    NEXT_PUBLIC_BASE_URL MAILGUN_API_KEY SMTP_SERVER SMTP_PORT SMTP_PASSWORD SENTRY_DSN
    AWS_SECRET_ACCESS_KEY LOG_LEVEL CI GITHUB_TOKEN no_proxy http_proxy HTTPS_PROXY SSL_CERT_FILE
    REQUESTS_CA_BUNDLE COMMIT REVISION SITE EMAIL _
"""


def test_no_variable_of_another_program_is_taken_for_a_setting():
    """What shells, systemd, Heroku, Docker, Kubernetes, PostgreSQL and neighbours set; and every setting."""
    names = [*OTHER_PROGRAMS.split(), *config.VARIABLES]
    assert config.misspelt(dict.fromkeys(names, "x")) == {}


def test_development_needs_nothing_and_keeps_its_secret(tmp_path, monkeypatch):
    """A first start makes a secret; the second finds it, so sign-ins outlive a restart."""
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    first, second = config.load({}), config.load({})

    assert first["SECRET_KEY"] == second["SECRET_KEY"]
    assert len(first["SECRET_KEY"]) >= 32
    assert (tmp_path / "instance" / "development-secret").stat().st_mode & 0o077 == 0
    assert first["SQLALCHEMY_DATABASE_URI"].startswith(f"sqlite:///{tmp_path}")
    assert first["MIGRATE_AT_START"] is True


def test_a_folder_that_cannot_be_written_is_refused_with_what_to_set(tmp_path, monkeypatch):
    """Not by a traceback: it is the first thing that somebody sees of this."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "file" / "instance")
    [problem] = problems({})
    assert problem.endswith("cannot be written (Not a directory): set SECRET_KEY and DATABASE_URL")


def test_a_database_of_development_that_cannot_be_used_is_refused_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "INSTANCE", tmp_path)
    (tmp_path / "authsite.db").write_text(
        "This is no database of SQLite's: it is not to be opened."
    )
    with pytest.raises(config.ConfigError) as refusal:
        create_app({})
    [problem] = refusal.value.problems
    assert problem == "The database in instance/ cannot be used (DatabaseError): set DATABASE_URL"


def test_a_database_that_was_chosen_is_not_migrated_unasked():
    assert load()["MIGRATE_AT_START"] is False


def test_production_writes_no_secret_of_its_own(tmp_path, monkeypatch):
    """DP-01: a secret that a dyno makes up would end every session at each restart."""
    monkeypatch.setattr(config, "INSTANCE", tmp_path / "instance")
    problems({"APP_ENV": "production"})

    assert not (tmp_path / "instance").exists()


@pytest.mark.parametrize(
    ("base_url", "rp_id", "bound_to"),
    [
        ("https://accounts.example.com", "", "accounts.example.com"),
        ("https://accounts.example.com", "Example.com.", "example.com"),
        ("https://accounts.bücher.example", "bücher.example", "xn--bcher-kva.example"),
        ("https://accounts.example.co.uk", "example.co.uk", "example.co.uk"),
        ("http://127.0.0.1:5000", "", None),
        ("http://[::1]:5000", "", None),
    ],
)
def test_passkeys_are_bound_to_the_site_or_to_a_domain_that_it_is_in(base_url, rp_id, bound_to):
    assert load(PUBLIC_BASE_URL=base_url, PASSKEY_RP_ID=rp_id)["PASSKEY_RP_ID"] == bound_to


@pytest.mark.parametrize("rp_id", ["com", "co.uk", "other.example.co.uk", "ample.co.uk", "example"])
def test_a_name_that_no_browser_would_take_for_passkeys_is_refused(rp_id):
    environ = {"PUBLIC_BASE_URL": "https://accounts.example.co.uk", "PASSKEY_RP_ID": rp_id}
    found = problems(environ)
    assert any(each.startswith("PASSKEY_RP_ID must be the host of") for each in found), found
