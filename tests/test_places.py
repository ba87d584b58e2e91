"""Places: only from a file of one's own, and an ornament that no sign-in depends on."""

import socket

import maxminddb
import pytest

from authsite.clients import places
from authsite.clients.places import Place


@pytest.fixture
def database_url(sqlite_url):
    """One database is enough: places read none."""
    return sqlite_url


@pytest.fixture(autouse=True)
def _no_file_is_remembered():
    places._reader.cache_clear()
    yield
    places._reader.cache_clear()


@pytest.fixture
def located(make_app, tmp_path):
    """Return a function that asks a configured application where an address is."""

    def locate(address: str | None, content: bytes | None = None) -> Place:
        path = tmp_path / "places.mmdb"
        if content is not None:
            path.write_bytes(content)
        app = make_app()
        app.config["GEOIP_DATABASE"] = str(path)  # which was good at the start
        with app.app_context():
            return places.locate(address)

    return locate


def test_without_a_file_nothing_is_known_and_nobody_is_asked(app_context, monkeypatch):
    """PR-04: no address leaves the house."""

    def refuse(*arguments):
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert places.locate("203.0.113.7") == Place(None, None)


@pytest.mark.parametrize("content", [None, b"", b"not a database", b"\xab\xcd\xefMaxMind.com" * 99])
def test_a_missing_or_broken_file_leaves_the_place_unknown(located, content):
    """PR-04: and raises nothing, for a sign-in would fail with it."""
    assert located("203.0.113.7", content) == Place(None, None)


def test_a_directory_in_place_of_the_file_leaves_the_place_unknown(make_app, tmp_path):
    app = make_app()
    app.config["GEOIP_DATABASE"] = str(tmp_path)
    with app.app_context():
        assert places.locate("203.0.113.7") == Place(None, None)


def test_a_sign_in_works_with_a_broken_file(make_app, tmp_path):
    """SE-01, PR-04: from the request to the row."""
    path = tmp_path / "places.mmdb"
    path.write_bytes(b"not a database")
    app = make_app()
    app.config["GEOIP_DATABASE"] = str(path)
    client = app.test_client()
    details = {"email": "ada@example.com", "password": "three random words", "first_name": "Ada"}
    client.post("/api/v1/auth/register", json=details)
    tokens = client.post("/api/v1/auth/login", json=details)
    assert tokens.status_code == 200

    bearer = {"Authorization": f"Bearer {tokens.json['access_token']}"}
    [session] = client.get("/api/v1/sessions/me", headers=bearer).json["sessions"]
    assert (session["location_city"], session["location_country"]) == (None, None)


@pytest.mark.parametrize("address", [None, "", "not an address", "999.1.1.1"])
def test_what_is_no_address_is_nowhere(located, address):
    assert located(address, b"") == Place(None, None)


class Reader:
    """Stands in for a file that the repository does not carry: what a reader answers for an address."""

    def __init__(self, found: object) -> None:
        self.found = found

    def get(self, address: str) -> object:
        return self.found


@pytest.mark.parametrize(
    ("found", "place"),
    [
        (
            {"city": {"names": {"en": "London"}}, "country": {"names": {"en": "United Kingdom"}}},
            Place("London", "United Kingdom"),
        ),
        ({"country": {"names": {"en": "France"}}}, Place(None, "France")),
        ({"city": {"names": {"de": "Wien"}}}, Place()),
        ({"city": None, "country": {}}, Place()),
        ({"country": "FR"}, Place()),
        ({}, Place()),
        (None, Place()),
        ("text", Place()),
    ],
)
def test_what_the_file_says_is_read_as_far_as_it_goes(located, monkeypatch, found, place):
    monkeypatch.setattr(maxminddb, "open_database", lambda path: Reader(found))

    assert located("203.0.113.7") == place
