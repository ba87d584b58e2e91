"""Guards over the whole: what must hold of every route, error and setting, those of tomorrow included."""

import inspect
import re
import subprocess

import click
import pytest
from flask.cli import FlaskGroup, ScriptInfo
from werkzeug.routing import Rule

from authsite import config, create_app, errors
from authsite.web import headers, problems
from tests import services

README = (services.ROOT / "README.md").read_text()

PUBLIC_API = {
    "api.accounts.register",
    "api.accounts.confirm_registration",
    "api.accounts.login",
    "api.accounts.login_oauth",
    "api.accounts.refresh_token",
    "api.second_steps.complete_login",
    "api.passkeys.passkey_sign_in_options",
    "api.passkeys.login_with_passkey",
    "api.passwords.request_password_reset",
    "api.passwords.confirm_password_reset",
    "api.services.revoke_token",
    "api.documentation.openapi_document",
    "api.documentation.docs",
}
# By a service's own name and secret.
FOR_SERVICES = {"api.services.introspect_token"}


@pytest.fixture(scope="module")
def rules() -> list[Rule]:
    app = create_app(
        {"DATABASE_URL": services.UNUSED_DATABASE_URL, "SECRET_KEY": services.SECRET_KEY}
    )
    return list(app.url_map.iter_rules())


@pytest.fixture(scope="module")
def bare_client():
    app = create_app(
        {"DATABASE_URL": services.UNUSED_DATABASE_URL, "SECRET_KEY": services.SECRET_KEY}
    )
    return app.test_client()


def test_every_api_route_demands_a_token_unless_it_is_on_the_short_public_list(rules, bare_client):
    guarded = [rule for rule in rules if rule.rule.startswith("/api/")]
    assert len(guarded) > 15
    for rule in guarded:
        if rule.endpoint in PUBLIC_API:
            continue
        for method in rule.methods - {"OPTIONS", "HEAD"}:
            answer = bare_client.open(_address(rule), method=method, json={})
            assert answer.status_code == 401, (method, rule.rule)
            scheme = "Basic" if rule.endpoint in FOR_SERVICES else "Bearer"
            assert answer.headers["WWW-Authenticate"].partition(" ")[0] == scheme


def _pages(rules: list[Rule]) -> list[Rule]:
    """Not what proxies ask, which changes nothing, nor what checks its Origin: a sign-out, a proof."""
    others = ("/api/", "/.authsite/", "/session/", *headers.FOR_PROXIES)
    return [rule for rule in rules if not rule.rule.startswith(others)]


def test_every_page_that_changes_something_demands_a_csrf_token(rules, bare_client):
    posts = [rule for rule in _pages(rules) if "POST" in rule.methods]
    assert len(posts) > 8
    for rule in posts:
        answer = bare_client.post(_address(rule), data={"email": "ada@example.com"})
        assert answer.status_code == 400, rule.rule


def test_no_page_changes_anything_by_a_method_other_than_post(rules):
    for rule in _pages(rules):
        assert rule.methods <= {"GET", "HEAD", "OPTIONS", "POST"}, rule.rule


def test_every_failure_has_a_status():
    failures = {
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, errors.AuthsiteError) and each is not errors.AuthsiteError
    }
    assert failures == set(problems.STATUSES)


def test_every_setting_stands_in_readme():
    for variable in config.VARIABLES:
        assert f"`{variable}`" in README, variable


def test_every_route_stands_in_readme(rules):
    for rule in rules:
        if rule.endpoint == "static":
            continue
        shown = re.sub(r"<(?:\w+:)?\w+>", "{id}", rule.rule).removeprefix("/api/v1")
        assert f"`{shown}`" in README, rule.rule


def test_every_command_stands_in_readme():
    """Those that come with what is installed, too."""
    app = create_app(
        {"DATABASE_URL": services.UNUSED_DATABASE_URL, "SECRET_KEY": services.SECRET_KEY}
    )
    group = FlaskGroup(create_app=lambda: app)
    names = group.list_commands(click.Context(group, obj=ScriptInfo(create_app=lambda: app)))
    assert {"limiter", "worker"} <= set(names)
    for name in names:
        assert f"flask {name}" in README, name


@pytest.mark.site
def test_the_top_level_holds_nothing_but_the_agreed_names():
    listing = subprocess.run(
        ["git", "ls-files"], cwd=services.ROOT, capture_output=True, text=True, check=False
    )
    top = {line.split("/")[0] for line in listing.stdout.splitlines()}
    agreed = {"authsite", "migrations", "tests", "instance", "wsgi.py", "setup.cfg"}
    agreed |= {"requirements.txt", "Procfile", "README.md"}
    assert {each for each in top if not each.startswith(".")} <= agreed


def _address(rule: Rule) -> str:
    return re.sub(r"<(?:\w+:)?\w+>", "01a214d0-0a14-7a82-b9ec-9e64ba990d5e", rule.rule)


def test_only_the_web_floor_knows_the_request():
    for name, source in _modules():
        if name.split(".")[0] not in {"web", "pages", "api", "forwarding"}:
            assert not re.search(r"from flask import [^\n]*\b(request|g|session)\b", source), name


def test_nothing_changes_an_event_that_was_written():
    """LIFE section 1: account_events is append-only."""
    for name, source in _modules():
        assert not re.search(r"update\(\s*AccountEvent|UPDATE account_events", source), name


def test_only_the_clock_reads_the_time():
    for name, source in _modules():
        if name != "clock":
            assert not re.search(r"datetime\.(now|utcnow|today)\(", source), name


def _modules() -> list[tuple[str, str]]:
    package = services.ROOT / "authsite"
    return [
        (".".join(path.relative_to(package).with_suffix("").parts), path.read_text())
        for path in package.rglob("*.py")
    ]
