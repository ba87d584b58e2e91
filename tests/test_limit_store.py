"""The store of the limits, without a request: connections that are kept, and that the store closes."""

import pytest
import redis

from authsite import create_app
from authsite.web import limit_store
from tests import services


@pytest.fixture
def store(valkey_url, sqlite_url):
    app = create_app(
        {
            "DATABASE_URL": sqlite_url,
            "SECRET_KEY": services.SECRET_KEY,
            "REDIS_URL": f"{valkey_url}?client_name=limits",
        }
    )
    return app.extensions["limit_store"]


@pytest.fixture
def valkey(valkey_url):
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
        yield client


def ids_of_connections(valkey):
    return [each["id"] for each in valkey.client_list() if each["name"] == "limits"]


@pytest.mark.redis
def test_one_request_after_another_goes_over_one_connection(store, valkey):
    store.hit("one", 1000)
    before = ids_of_connections(valkey)
    for _ in range(50):
        store.hit("one", 1000)

    assert len(before) == 1
    assert ids_of_connections(valkey) == before


@pytest.mark.redis
def test_a_connection_that_the_store_has_closed_is_replaced_and_the_count_goes_on(
    store, valkey, monkeypatch
):
    """FA-03"""
    monkeypatch.setattr(limit_store, "TRUSTED_SECONDS", 0)
    hits = []
    for _ in range(4):
        hits.append(store.hit("closed", 3).is_allowed)
        for each in ids_of_connections(valkey):
            valkey.client_kill_filter(_id=each)

    assert hits == [True, True, True, False]


@pytest.mark.redis
def test_one_that_it_closes_in_the_midst_costs_no_request(store, valkey):
    """FA-03"""
    assert store.hit("midst", 2).is_allowed
    for each in ids_of_connections(valkey):
        valkey.client_kill_filter(_id=each)

    assert store.hit("midst", 2).is_allowed
