"""What proxies in front write of a request, in each of their spellings."""

import pytest
from flask import Flask, request, request_started

from authsite.web import limits


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
