"""A service that is handed a token asks whose it is, and learns of an end at once (RFC 7662, RFC 7009)."""

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
import requests
import time_machine
import trustme
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession

from authsite import accounts, clock, database, service_clients, sessions
from authsite.crypto import tokens
from authsite.database.models import UserSession
from tests import services
from tests.api.conftest import EMAIL, V1, bearer, claims, is_live, log_in, problem, refresh, row_of
from tests.factories import PASSWORD

NAME, SECRET, NEXT_SECRET = "billing", "s-" + "1" * 41, "s-" + "2" * 41


def entry(name: str, secret: str) -> str:
    return f"{name}:{hashlib.sha256(secret.encode()).hexdigest()}"


@pytest.fixture
def app(make_app):
    listed = ",".join([entry(NAME, SECRET), entry(NAME, NEXT_SECRET), entry("wiki", "w" * 43)])
    return make_app(SERVICE_CLIENTS=listed)


def basic(name: str = NAME, secret: str = SECRET) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


def introspect(client, token: str, headers: dict[str, str] | None = None, **form: str):
    return client.post(
        f"{V1}/auth/introspect",
        data={"token": token, **form},
        headers=basic() if headers is None else headers,
        base_url=client.application.config["PUBLIC_BASE_URL"],
    )


def revoke(client, token: str, **how):
    return client.post(f"{V1}/auth/revoke", data={"token": token}, **how)


def test_a_service_learns_whose_token_it_was_handed(client, held, user):
    answer = introspect(client, held["access_token"], token_type_hint="access_token")
    said = claims(held["access_token"])
    assert (answer.status_code, answer.get_json()) == (
        200,
        {
            "active": True,
            "token_type": "Bearer",
            "iss": "authsite",
            "sub": user["id"],
            "sid": said["sid"],
            "iat": said["iat"],
            "exp": said["iat"] + 900,
            "client_id": NAME,
        },
    )
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("headers", [basic(secret=NEXT_SECRET), basic("wiki", "w" * 43)])
def test_a_secret_may_be_changed_for_the_next_and_each_service_has_its_own(client, held, headers):
    assert introspect(client, held["access_token"], headers).get_json()["active"] is True


def end_by_logging_out(client, held):
    client.post(f"{V1}/auth/logout", headers=bearer(held))


def end_by_command(client, held):
    with client.application.app_context():
        assert sessions.end_all(accounts.find_by_email(EMAIL).id, reason="revoked") == 1


def deactivate(client, held):
    with client.application.app_context():
        accounts.deactivate(EMAIL)


def revoke_by_refresh_token(client, held):
    assert revoke(client, held["refresh_token"]).status_code == 200


def reuse(client, held):
    refresh(client, refresh(client, held["refresh_token"]).get_json()["refresh_token"])
    assert refresh(client, held["refresh_token"]).status_code == 401


@pytest.mark.parametrize(
    "end", [end_by_logging_out, end_by_command, deactivate, revoke_by_refresh_token, reuse]
)
def test_a_token_whose_session_has_ended_is_inactive_at_the_next_question(client, held, end):
    """SE-02, SE-14"""
    assert introspect(client, held["access_token"]).get_json()["active"] is True
    end(client, held)
    answer = introspect(client, held["access_token"])
    assert (answer.status_code, answer.data) == (200, b'{"active":false}')


@pytest.mark.parametrize(
    "token", ["x", "a.b.c", "\x00", "\ud800".encode(errors="surrogatepass"), "é" * 5000, "." * 9000]
)
def test_text_that_is_no_token_is_inactive(client, token):
    """TK-10"""
    assert introspect(client, token).data == b'{"active":false}'


def test_neither_a_refresh_token_nor_an_expired_one_is_active(client, held):
    """TK-05"""
    assert introspect(client, held["refresh_token"]).data == b'{"active":false}'
    with time_machine.travel(clock.now() + timedelta(minutes=16)):
        assert introspect(client, held["access_token"]).data == b'{"active":false}'


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(secret="x" * 43),
        basic("payroll"),
        basic("", ""),
        basic(NAME, hashlib.sha256(SECRET.encode()).hexdigest()),
        {"Authorization": "Basic é"},
        {"Authorization": "Basic " + "A" * 9000},
        {"Authorization": "Basic /w=="},
        {"Authorization": f"Bearer {SECRET}"},
    ],
    ids=str,
)
def test_who_does_not_know_the_secret_learns_nothing(client, held, headers):
    answer = introspect(client, held["access_token"], headers)
    found = problem(answer, 401, "invalid_client", "The service's name or secret is wrong")
    assert found["error"] == "invalid_client"
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert "active" not in found


def test_a_users_own_token_asks_nothing_about_others(client, held):
    answer = introspect(client, held["access_token"], bearer(held))
    problem(answer, 401, "invalid_client")


@pytest.mark.parametrize(
    "where", [{"query_string": {"client_secret": SECRET}}, {"query_string": {"token": "x"}}]
)
def test_secrets_in_the_query_are_refused(client, held, where):
    answer = client.post(
        f"{V1}/auth/introspect",
        data={"token": held["access_token"]},
        headers=basic(),
        **where,
    )
    problem(answer, 400, "malformed_request")


def test_a_secret_in_the_body_is_refused(client, held):
    only_there = introspect(client, held["access_token"], {}, client_id=NAME, client_secret=SECRET)
    problem(only_there, 401, "invalid_client")
    twice = introspect(client, held["access_token"], client_secret=SECRET)
    problem(twice, 400, "malformed_request")


@pytest.mark.parametrize("path", ["introspect", "revoke"])
def test_without_a_token_there_is_nothing_to_answer(client, path):
    answer = client.post(f"{V1}/auth/{path}", data={"token": ""}, headers=basic())
    problem(answer, 400, "malformed_request")
    answer = client.post(f"{V1}/auth/{path}", json={"token": "x"}, headers=basic())
    problem(answer, 415, "unsupported_media_type")


def test_no_page_of_another_origin_may_read_the_answer(make_app):
    """AP-01: not even of a listed one; a service's secret has no place in a browser."""
    origin = "https://app.example.com"
    client = make_app(CORS_ORIGINS=origin, SERVICE_CLIENTS=entry(NAME, SECRET)).test_client()
    answer = introspect(client, "x", basic() | {"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers
    asked = client.options(f"{V1}/auth/introspect", headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in asked.headers
    assert "Access-Control-Allow-Origin" in revoke(client, "x", headers={"Origin": origin}).headers


def test_only_wrong_secrets_are_counted(client, held):
    """LT-03: ten a minute from one address are evaluated; right ones go on."""
    for _ in range(10):
        problem(introspect(client, "x", basic(secret="wrong")), 401, "invalid_client")
    problem(introspect(client, "x", basic(secret="wrong")), 429, "rate_limited")
    for _ in range(70):
        assert introspect(client, held["access_token"]).get_json()["active"] is True


def test_a_services_secret_opens_no_other_route(client, held):
    for rule in client.application.url_map.iter_rules():
        if not rule.endpoint.startswith("api.") or rule.arguments:
            continue
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            if rule.endpoint != "api.services.introspect_token":
                answer = client.open(rule.rule, method=method, json={}, headers=basic())
                # What is for everybody, and says nothing of anybody.
                is_open = rule.endpoint.startswith("api.documentation") or (
                    rule.rule == f"{V1}/auth/passkey/options"
                )
                assert (answer.status_code < 300) == is_open, (method, rule.rule)
    assert is_live(client, held)


def test_a_question_is_one_read_and_touches_nothing(app, client, held, sent_statements):
    """The product's traffic is not the device's: neither a write nor a hit of a limit."""
    before = row_of(app, held)
    with time_machine.travel(clock.now() + timedelta(minutes=5)), sent_statements() as sent:
        answer = introspect(client, held["access_token"])
    assert answer.get_json()["active"] is True
    assert len(sent) == 1
    assert sent[0].startswith("SELECT")
    assert row_of(app, held) == before
    assert "RateLimit" not in answer.headers


def test_a_question_that_is_answered_leaves_no_line_and_no_token_in_the_log(client, held, caplog):
    """LG-01"""
    caplog.clear()
    introspect(client, held["access_token"])
    assert caplog.records == []
    introspect(client, held["access_token"], basic(secret="wrong"))
    logged = [record.facts for record in caplog.records]
    assert [each["event"] for each in logged] == ["service_client", "request"]
    assert held["access_token"] not in str(logged)
    assert "wrong" not in str(logged)


def test_an_unknown_service_is_compared_as_often_as_a_wrong_secret(app, monkeypatch, client):
    """LT-02: every entry, whatever the name."""
    compared = []
    right = service_clients.hmac.compare_digest

    def compare(one, other):
        compared.append(len(one))
        return right(one, other)

    monkeypatch.setattr(service_clients.hmac, "compare_digest", compare)
    counts = []
    for headers in (basic(secret="wrong"), basic("payroll"), basic()):
        compared.clear()
        introspect(client, "x", headers)
        counts.append(list(compared))
    # Who is not let in below Flask is compared once more by its view.
    assert counts[0] == counts[1] == 2 * counts[2] == 6 * [32]


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=8)], ids=["fresh", "expired"])
def test_whoever_holds_a_token_may_end_its_session(client, held, app, which, age):
    other = log_in(client)
    with time_machine.travel(clock.now() + age):
        answer = revoke(client, held[which])
    assert (answer.status_code, answer.data) == (200, b"")
    assert not is_live(client, held)
    assert is_live(client, other)
    assert row_of(app, held).end_reason == "logged_out"


@pytest.mark.parametrize("token", ["x", "a.b.c", "\x00", "é"])
def test_revoking_what_is_no_token_is_answered_alike_and_ends_nothing(client, held, token):
    answer = revoke(client, token)
    assert (answer.status_code, answer.data) == (200, b"")
    assert is_live(client, held)


def test_a_token_signed_with_another_secret_ends_nothing(client, held, app):
    said = claims(held["refresh_token"])
    with app.app_context():
        app.config["SECRET_KEY"] = "x" * 40
        forged = tokens.refresh_token(
            user_id=said["sub"],
            session_id=said["sid"],
            jti=said["jti"],
            issued_at=clock.now(),
            expires_at=clock.now() + timedelta(days=1),
        )
        app.config["SECRET_KEY"] = services.SECRET_KEY
    assert revoke(client, forged).status_code == 200
    assert is_live(client, held)


def test_revoking_twice_or_after_the_row_has_gone_changes_nothing(client, held, app):
    assert revoke(client, held["refresh_token"]).status_code == 200
    first = row_of(app, held)
    assert revoke(client, held["access_token"]).status_code == 200
    assert row_of(app, held) == first
    with app.app_context():
        database.run(UserSession.__table__.delete())
    assert revoke(client, held["refresh_token"]).status_code == 200


def test_revoking_is_limited_by_address(client):
    for _ in range(10):
        assert revoke(client, "x").status_code == 200
    problem(revoke(client, "x"), 429, "rate_limited")


@pytest.fixture
def service_site(tmp_path, _sqlite_template):
    path = tmp_path / "authsite.db"
    path.write_bytes(_sqlite_template.read_bytes())
    environ = {
        "DATABASE_URL": f"sqlite:///{path}",
        "RATELIMIT_ENABLED": "0",
        "SERVICE_CLIENTS": entry(NAME, SECRET),
    }
    with services.Site(environ, workers=1) as site:
        body = {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"}
        assert requests.post(f"{site.url}{V1}/auth/register", json=body, timeout=10).ok
        yield site


@pytest.mark.site
def test_an_oauth_library_introspects_and_revokes(service_site):
    """Authlib, as a service that is handed a token."""
    url = f"{service_site.url}{V1}/auth"
    credentials = {"username": EMAIL, "password": PASSWORD}
    held = requests.post(f"{url}/login/oauth", data=credentials, timeout=10).json()
    with AuthlibSession(NAME, SECRET) as service:
        answer = service.introspect_token(f"{url}/introspect", token=held["access_token"])
        assert answer.json()["active"] is True
        answer = service.revoke_token(f"{url}/revoke", token=held["refresh_token"])
        assert answer.status_code == 200
        answer = service.introspect_token(f"{url}/introspect", token=held["access_token"])
        assert answer.json() == {"active": False}


# Debian's own, whose default would believe an answer until the token expires: this one asks each time. It
# does so by https alone, and a second host of the same server ends TLS before the account service.
APACHE_MODULES = "mpm_event authn_core authz_core authz_user ssl proxy proxy_http auth_openidc"
APACHE = """
ServerName products.localhost
Listen {host}:{port}
Listen {host}:{tls_port}
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
Mutex file:{folder} default
ErrorLog {folder}/error.log
OIDCCryptoPassphrase not-used-by-a-resource-server
OIDCCABundlePath {folder}/ca.pem
OIDCOAuthIntrospectionEndpoint https://{host}:{tls_port}{path}
OIDCOAuthIntrospectionEndpointAuth client_secret_basic
OIDCOAuthClientID {name}
OIDCOAuthClientSecret {secret}
OIDCOAuthTokenIntrospectionInterval -1
OIDCOAuthRemoteUserClaim sub
<VirtualHost {host}:{port}>
    DocumentRoot {folder}/pages
    <Location />
        AuthType oauth20
        Require user {user}
    </Location>
</VirtualHost>
<VirtualHost {host}:{tls_port}>
    SSLEngine on
    SSLCertificateFile {folder}/server.pem
    ProxyPass / {account}/
</VirtualHost>
"""


@pytest.fixture
def apache(service_site):
    """The address of pages that Apache shows to Ada alone, by her access token."""
    program, modules = "/usr/sbin/apache2", "/usr/lib/apache2/modules"
    if not (Path(program).exists() and Path(modules, "mod_auth_openidc.so").exists()):
        services.missing("No mod_auth_openidc: install apache2 and libapache2-mod-auth-openidc")
    folder = Path(tempfile.mkdtemp(prefix="apache"))  # where its own user may read
    folder.chmod(0o755)
    (folder / "pages").mkdir()
    (folder / "pages/report").write_text("the figures")
    held = log_in_at(service_site)
    me = requests.get(f"{service_site.url}{V1}/auth/me", headers=bearer(held), timeout=10).json()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert(services.HOST)
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    port = services.free_port()
    text = "".join(
        f"LoadModule {each}_module {modules}/mod_{each}.so\n" for each in APACHE_MODULES.split()
    ) + APACHE.format(
        host=services.HOST,
        port=port,
        tls_port=services.free_port(),
        name=NAME,
        secret=SECRET,
        user=me["id"],
        folder=folder,
        path=f"{V1}/auth/introspect",
        account=service_site.url,
    )
    if os.geteuid() == 0:
        text += "User www-data\nGroup www-data\n"
    (folder / "apache.conf").write_text(text)
    process = subprocess.Popen([program, "-f", f"{folder}/apache.conf", "-D", "FOREGROUND"])
    try:
        services.wait_until(lambda: services.listens(port), what="Apache")
        yield f"http://{services.HOST}:{port}/report"
    finally:
        process.terminate()
        process.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def log_in_at(site, email=EMAIL):
    body = {"email": email, "password": PASSWORD}
    return requests.post(f"{site.url}{V1}/auth/login", json=body, timeout=10).json()


@pytest.mark.site
def test_apache_asks_of_each_request_and_refuses_the_next_after_an_end(apache, service_site):
    """mod_auth_openidc as a resource server, by RFC 7662 alone."""

    def ask(headers):
        answer = requests.get(apache, headers=headers, timeout=10)
        return answer.status_code, answer.text == "the figures"

    one, other = log_in_at(service_site), log_in_at(service_site)
    stranger = {"email": "grace@example.com", "password": PASSWORD, "first_name": "Grace"}
    assert requests.post(f"{service_site.url}{V1}/auth/register", json=stranger, timeout=10).ok
    for headers in ({}, {"Authorization": "Bearer x"}, {"Remote-User": "x"}):
        assert ask(headers) == (401, False)
    assert ask({"Authorization": f"Bearer {one['refresh_token']}"}) == (401, False)
    assert ask(bearer(log_in_at(service_site, "grace@example.com"))) == (401, False)
    assert [ask(bearer(each)) for each in (one, other, one)] == [(200, True)] * 3
    assert requests.post(
        f"{service_site.url}{V1}/auth/logout", json={}, headers=bearer(one), timeout=10
    ).ok
    assert ask(bearer(one)) == (401, False)
    assert ask(bearer(other)) == (200, True)
