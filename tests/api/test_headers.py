"""Header fields of every answer: security, caching, CORS, and what production adds."""

import pytest

from authsite import create_app, database
from tests import services
from tests.api.conftest import EMAIL, V1, bearer, is_live, log_in, problem, register, try_login

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'"
    " data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), camera=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
APP = "https://app.example.com"
BASE = "https://accounts.example.com"
PRODUCTION = {
    "APP_ENV": "production",
    "SECRET_KEY": services.SECRET_KEY,
    "PUBLIC_BASE_URL": BASE,
    "MAIL_SERVER": services.HOST,
}


def is_hardened(answer):
    """Hold an answer to every security header, each exactly once."""
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers.getlist(name) == [value], (name, answer.status_code)
    assert len(answer.headers.getlist("X-Request-Id")) == 1
    assert "Server" not in answer.headers
    assert "X-Powered-By" not in answer.headers
    return True


# Security headers


def test_every_status_carries_the_security_headers(client, held):
    """PG-11, PG-09"""
    answers = [
        client.get(f"{V1}/auth/me", headers=bearer(held)),
        client.options(f"{V1}/auth/me"),
        client.head(f"{V1}/auth/me", headers=bearer(held)),
        client.post(f"{V1}/auth/login", data="{", content_type="application/json"),
        client.get(f"{V1}/auth/me"),
        client.patch(
            f"{V1}/users/me/password",
            json={"current_password": "wrong one", "new_password": "some good new words"},
            headers=bearer(held),
        ),
        client.get(f"{V1}/nowhere"),
        client.put(f"{V1}/auth/me"),
        client.post(
            f"{V1}/auth/register",
            json={"email": EMAIL, "password": "three random words", "first_name": "A"},
        ),
        client.post(f"{V1}/auth/login", json={"email": "x" * 70_000}),
        client.post(f"{V1}/auth/login", data="{}", content_type="text/plain"),
        client.post(f"{V1}/auth/login", json={}),
    ]
    for _ in range(4):
        limited = client.post(f"{V1}/auth/password-reset/request", json={})
    answers.append(limited)
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 200, 200, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429]
    for answer in answers:
        assert is_hardened(answer)
        assert answer.headers["Cache-Control"] == "no-store"


def test_faults_carry_the_security_headers(make_app):
    """PG-11"""
    app = make_app(is_of_its_own=True)
    app.add_url_rule("/api/v1/fault", view_func=lambda: 1 / 0)
    answer = app.test_client().get(f"{V1}/fault")
    assert answer.status_code == 500
    assert is_hardened(answer)


def test_every_route_carries_the_security_headers(app, client):
    """PG-11: whatever it answers to nobody."""
    asked = 0
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<path:filename>", "app.css")
        path = "/".join("x" if part.startswith("<") else part for part in path.split("/"))
        for method in rule.methods & {"GET", "POST", "PATCH", "DELETE", "OPTIONS"}:
            with client.open(path, method=method) as answer:
                assert is_hardened(answer), path
            asked += 1
    assert asked > 30


def test_what_holds_secrets_is_never_stored(client, held):
    """PG-07, TK-14"""
    for path in ("/auth/me", "/users/me", "/sessions/me"):
        answer = client.get(V1 + path, headers=bearer(held))
        assert answer.headers.getlist("Cache-Control") == ["no-store"]


# CORS


def test_no_other_origin_may_read_by_default(client, held):
    """AP-01"""
    preflight = {"Access-Control-Request-Method": "GET"}
    for headers in ({}, *({"Origin": origin} for origin in (APP, "null", "http://localhost"))):
        for answer in (
            client.get(f"{V1}/auth/me", headers=bearer(held) | headers),
            client.get(f"{V1}/auth/me", headers=headers),
            client.options(f"{V1}/auth/me", headers=headers | preflight),
        ):
            assert not [name for name, _ in answer.headers if name.startswith("Access-Control-")]
            assert "Origin" in answer.headers["Vary"]


@pytest.fixture
def cors_client(make_app):
    return make_app(CORS_ORIGINS=f"{APP},https://other.example.org:8443").test_client()


@pytest.mark.parametrize("origin", [APP, "https://other.example.org:8443"])
def test_a_listed_origin_may_read_every_answer(cors_client, origin):
    """AP-01: problems too, or its page could not tell its user what is wrong."""
    register(cors_client)
    held = log_in(cors_client)
    for answer in (
        cors_client.get(f"{V1}/auth/me", headers=bearer(held) | {"Origin": origin}),
        cors_client.get(f"{V1}/auth/me", headers={"Origin": origin}),
        cors_client.get(f"{V1}/nowhere", headers={"Origin": origin}),
        cors_client.post(f"{V1}/auth/login", json={}, headers={"Origin": origin}),
    ):
        assert answer.headers.getlist("Access-Control-Allow-Origin") == [origin]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "Origin" in answer.headers["Vary"]
        exposed = answer.headers["Access-Control-Expose-Headers"]
        assert {"Retry-After", "RateLimit", "X-Request-Id"} <= set(exposed.split(", "))


def test_a_listed_origin_is_told_what_it_may_send_before_it_has_a_token(cors_client, subtests):
    """AP-01: a preflight never carries the token that it asks about."""
    for path, methods in (
        ("/auth/login", {"POST"}),
        ("/auth/me", {"GET"}),
        ("/users/me", {"GET", "PATCH", "DELETE"}),
        ("/users/me/password", {"PATCH"}),
        ("/auth/logout", {"POST"}),
        ("/sessions/x", {"PATCH", "DELETE"}),
        ("/sessions/me/others", {"DELETE"}),
    ):
        with subtests.test(path):
            answer = cors_client.options(
                V1 + path,
                headers={
                    "Origin": APP,
                    "Access-Control-Request-Method": min(methods),
                    "Access-Control-Request-Headers": "authorization,content-type",
                },
            )
            assert answer.status_code == 200
            assert answer.headers["Access-Control-Allow-Origin"] == APP
            allowed = set(answer.headers["Access-Control-Allow-Methods"].split(", "))
            assert methods <= allowed <= methods | {"HEAD", "OPTIONS"}
            assert (
                answer.headers["Access-Control-Allow-Headers"]
                == "Authorization, Content-Type, X-Device-Id, X-Request-Id"
            )
            assert "Access-Control-Allow-Credentials" not in answer.headers


def test_an_origin_that_is_not_listed_to_the_letter_may_not(cors_client, subtests):
    """AP-01"""
    preflight = {"Access-Control-Request-Method": "GET"}
    for origin in (
        "https://app.example.com.evil.example",
        "https://evil.example/https://app.example.com",
        "https://sub.app.example.com",
        "http://app.example.com",
        "https://app.example.com:444",
        "https://app.example.com/",
        "HTTPS://APP.EXAMPLE.COM",
        "https://app.example.com, https://evil.example",
        "null",
        "*",
        "",
    ):
        with subtests.test(origin):
            for answer in (
                cors_client.get(f"{V1}/auth/me", headers={"Origin": origin}),
                cors_client.options(f"{V1}/auth/me", headers={"Origin": origin} | preflight),
            ):
                assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
                assert "Origin" in answer.headers["Vary"]


def test_pages_are_never_shared_with_another_origin(cors_client):
    """AP-01"""
    answer = cors_client.get("/healthz", headers={"Origin": APP})
    assert "Access-Control-Allow-Origin" not in answer.headers


# Production


@pytest.fixture
def production(empty_postgresql_url):
    """Make the application as it is deployed; production takes no SQLite."""
    made = []

    def make(**environ):
        app = create_app({**PRODUCTION, "DATABASE_URL": empty_postgresql_url, **environ})
        app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            database.engine().dispose()


@pytest.mark.postgresql
def test_the_api_refuses_plain_http_and_does_not_redirect(production):
    """DP-05: the password has gone over the wire by then; a redirect would hide it."""
    client = production().test_client()
    base = {"base_url": "http://accounts.example.com"}
    body = {"email": EMAIL, "password": "three random words", "first_name": "Ada"}
    for answer in (
        client.get(f"{V1}/auth/me", **base),
        client.post(f"{V1}/auth/register", json=body, **base),
        client.get(f"{V1}/nowhere", **base),
        client.options(f"{V1}/auth/me", **base),
    ):
        problem(answer, 403, "forbidden", "Use https")
        assert "Location" not in answer.headers
        assert is_hardened(answer)
    answer = client.post(f"{V1}/auth/register", json=body, base_url=BASE)
    assert answer.status_code == 201


@pytest.mark.postgresql
def test_the_scheme_is_the_proxys_word_only_where_a_proxy_is_trusted(production):
    """DP-05, LT-10"""
    base = {"base_url": "http://accounts.example.com"}
    forwarded = {"X-Forwarded-Proto": "https"}
    answer = production().test_client().get(f"{V1}/auth/me", headers=forwarded, **base)
    problem(answer, 403, "forbidden", "Use https")
    behind = production(TRUSTED_PROXY_HOPS="1").test_client()
    answer = behind.get(f"{V1}/auth/me", headers=forwarded, **base)
    problem(answer, 401, "not_authenticated")


@pytest.mark.postgresql
def test_production_says_https_only_and_development_does_not(production):
    """DP-06"""
    client = production().test_client()
    for path in (f"{V1}/auth/me", f"{V1}/nowhere", "/healthz"):
        for base_url in (BASE, "http://accounts.example.com"):
            value = client.get(path, base_url=base_url).headers["Strict-Transport-Security"]
            age, _, rest = value.partition("; ")
            assert int(age.removeprefix("max-age=")) >= 31_536_000
            assert rest == "includeSubDomains"


def test_development_is_silent_about_https(client):
    """DP-06"""
    assert "Strict-Transport-Security" not in client.get(f"{V1}/auth/me").headers


@pytest.mark.postgresql
@pytest.mark.parametrize("host", ["evil.example", "accounts.example.com.evil.example", "127.0.0.1"])
def test_a_foreign_host_is_refused_everywhere(production, host):
    """DP-04"""
    client = production().test_client()
    body = {"email": EMAIL, "password": "three random words", "first_name": "Ada"}
    for answer in (
        client.get(f"{V1}/auth/me", base_url=f"https://{host}"),
        client.get(f"{V1}/nowhere", base_url=f"https://{host}"),
        client.post(f"{V1}/auth/register", json=body, base_url=f"https://{host}"),
    ):
        problem(answer, 400, "malformed_request")
        assert is_hardened(answer)
        assert host not in answer.text
    register_again = client.post(f"{V1}/auth/register", json=body, base_url=BASE)
    assert register_again.status_code == 201


@pytest.mark.postgresql
def test_other_hosts_can_be_trusted(production):
    """DP-04: beside the own one, to which every link leads; in whatever letters."""
    client = production(
        TRUSTED_HOSTS="One.Example.com,.two.example.com,bücher.example"
    ).test_client()
    for host, status in (
        ("one.example.com", 401),
        ("ONE.example.com", 401),
        ("two.example.com", 401),
        ("eu.two.example.com:8443", 401),
        ("xn--bcher-kva.example", 401),
        ("accounts.example.com", 401),
        ("three.example.com", 400),
        ("attwo.example.com", 400),
    ):
        assert client.get(f"{V1}/auth/me", base_url=f"https://{host}").status_code == status


@pytest.mark.postgresql
def test_a_forwarded_host_is_nobodys_word(production):
    """DP-04, RS-05"""
    client = production(TRUSTED_PROXY_HOPS="1").test_client()
    headers = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "Forwarded": "host=evil.example",
    }
    answer = client.get(f"{V1}/nowhere", base_url=BASE, headers=headers)
    assert problem(answer, 404, "not_found")["type"].startswith(BASE)
    assert "evil" not in answer.text


@pytest.mark.postgresql
def test_in_production_problems_name_the_public_address(production):
    client = production().test_client()
    register_and_me = client.get(f"{V1}/auth/me", base_url=BASE)
    found = problem(register_and_me, 401, "not_authenticated")
    assert found["type"] == f"{BASE}/api/v1/docs#not_authenticated"


def test_an_api_answer_is_the_same_with_and_without_an_origin(client, user):
    """SE-22"""
    held = try_login(client, headers={"Origin": "https://evil.example"}).get_json()
    assert is_live(client, held)
