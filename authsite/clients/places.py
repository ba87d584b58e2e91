"""Where an address is, from a local GeoIP database if one is configured; nobody is asked over a network."""

from functools import lru_cache
from typing import Any, NamedTuple

from flask import current_app

from .. import events


class Place(NamedTuple):
    city: str | None = None
    country: str | None = None


def locate(address: str | None) -> Place:
    """Return the city and country of an IP address, as far as they are known."""
    path = current_app.config["GEOIP_DATABASE"]
    if not path or not address:
        return Place()
    try:
        found = _reader(path).get(address)
        return Place(_name(found, "city"), _name(found, "country"))
    except (
        Exception
    ) as error:  # a missing library or file, a corrupt one, an address it does not cover
        events.record("place", outcome="error", error=type(error).__name__)
        return Place()  # a place is an ornament: nobody's sign-in fails for it


@lru_cache(maxsize=1)
def _reader(path: str) -> Any:
    import maxminddb  # optional: only who configures a database needs the library

    return maxminddb.open_database(path)


def _name(found: Any, part: str) -> str | None:
    name = ((found or {}).get(part) or {}).get("names", {}).get("en")
    return str(name) if name else None
