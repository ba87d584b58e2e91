"""What proxies in front write of a request, in each of their spellings."""

import pytest
from flask import Flask, request, request_started

from authsite import create_app
from authsite.web import limits
from tests import services
from tests.pages.conftest import Browser


@pytest.fixture
def seen(make_app):
    """Return a function that tells which scheme and address the service sees through so many proxies."""

    def look(hops: int, **headers: str) -> tuple[str, str]:
        app = make_app(TRUSTED_PROXY_HOPS=str(hops))
        found = []

        def note(_app: Flask) -> None:
            address = limits.canonical_address(request.remote_addr)
            found.append((request.scheme, str(address)))

        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with request_started.connected_to(note, app):
            app.test_client().get("/healthz", headers=named)
        return found[0]

    return look


@pytest.mark.parametrize(
    ("hops", "written", "scheme"),
    [
        (1, "https", "https"),
        (2, "https", "https"),
        (2, "HTTPS", "https"),
        (2, "http, https", "https"),
        (2, "https, http", "http"),
        (0, "https", "http"),
    ],
)
def test_the_nearest_proxy_tells_the_scheme(seen, hops, written, scheme):
    """DP-05: a network before the platform's router appends the address and leaves the scheme to it."""
    assert seen(hops, X_Forwarded_Proto=written)[0] == scheme


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:51234", "203.0.113.7"),
        ("[2001:db8::7]:51234", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::7%eth0", "fe80::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::ffff:203.0.113.7]:51234", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7:51234", "203.0.113.7"),
    ],
)
def test_an_address_is_read_however_a_proxy_writes_it(seen, written, address):
    assert seen(1, X_Forwarded_For=written)[1] == address


PRODUCTION = {
    "APP_ENV": "production",
    "PUBLIC_BASE_URL": "https://accounts.example.com",
    "MAIL_SERVER": "127.0.0.1",
}


@pytest.mark.parametrize("host", ["10.0.0.7:8000", "[::1]:8000", "nobody.example", "", "a b"])
def test_a_probe_may_name_any_host(host):
    """DP-04 is for people: a balancer asks an instance by its address, and restarted it for ever."""
    environ = PRODUCTION | {
        "SECRET_KEY": services.SECRET_KEY,
        "DATABASE_URL": "postgresql://127.0.0.1:9/none",
    }
    client = create_app(environ).test_client()
    assert client.get("/healthz", headers={"Host": host}).status_code == 200
    assert client.get("/readyz", headers={"Host": host}).status_code == 503
    secure = {"wsgi.url_scheme": "https"}
    page = client.get("/login", headers={"Host": host}, environ_overrides=secure)
    assert page.status_code == 400


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "null"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, False),
    ],
    ids=str,
)
def test_a_page_whose_referrer_is_kept_back_is_still_our_own(app, headers, is_taken):
    """PG-03: a proxy that adds `Referrer-Policy: no-referrer` made every form another site's."""
    browser = Browser(app)
    token = browser.csrf_token("/login")
    fields = {"email": "ada@example.com", "password": "a wrong guess", "csrf_token": token}
    answer = browser.client.post("/login", data=fields, headers=headers)
    assert answer.status_code == (422 if is_taken else 403)
