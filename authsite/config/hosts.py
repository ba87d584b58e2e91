"""Hosts and addresses, each in its one spelling: small letters, ASCII, no port that goes without saying.

Names have no case and, beyond ASCII, two spellings; browsers, proxies and certificates use the one that these
functions return. They raise ValueError with what to write.
"""

import re
from collections.abc import Callable
from email.utils import quote
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import quote as percent_encoded

import idna

from . import metadata
from .values import items

MAX_URL = 2048
DEFAULT_PORTS = {"http": "80", "https": "443"}
_LABEL = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_URL = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@:\\\[\]]+)(?::([0-9]{1,5}))?([/?][^\s#]*)?", re.IGNORECASE
)
_SENDER = re.compile(r"(?:(?P<name>[^<>]*)<(?P<within>[^<>\s]+)>|(?P<alone>[^<>\s]+))")
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


def host(text: str) -> str:
    """Return a name or an address as it stands in a URL."""
    if text.startswith("["):
        return f"[{IPv6Address(text.strip('[]'))}]"
    name = text.removesuffix(".").lower()
    if not name.isascii():
        name = idna.encode(name, uts46=True, std3_rules=True).decode()
    if name.rpartition(".")[2].isdigit():
        return str(IPv4Address(name))
    if len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError
    return name


def is_ipv4(name: str) -> bool:
    """Return whether a host is an address and no name."""
    return name.rpartition(".")[2].isdigit()


def is_address(name: str) -> bool:
    """Return whether a host is no name, of either version."""
    return is_ipv4(name) or ":" in name


def passkey_rp_id(text: str) -> str:
    """Return the name that passkeys are bound to; addresses have none (WebAuthn §4, RP ID)."""

    def convert(each: str) -> str:
        name = host(each)
        if is_address(name):
            raise ValueError
        return name

    return _or_say(
        "must be a host name alone, like example.com: no scheme, port or path, and no address",
        convert,
        text,
    )


def is_within(name: str, domain: str) -> bool:
    """Return whether a host is a domain or below it; a domain like `com` or `co.uk` is nobody's."""
    if name == domain:
        return True
    # The list of what nobody can register comes with the library, and it is long.
    from fido2.rpid import verify_rp_id

    return verify_rp_id(domain, f"https://{name}")


def base_url(text: str) -> str:
    return _or_say(
        "must be an address like https://accounts.example.com: the whole host is the service's,"
        " so no path, user, ? or #",
        _origin,
        text.removesuffix("/"),
    )


def origins(text: str) -> list[str]:
    say = "must list exact origins, like https://app.example.com, without a path"
    return list(dict.fromkeys(_or_say(say, _origin, each) for each in items(text)))


def trusted_hosts(text: str) -> list[str]:
    """Return host names; one with a dot before it stands for every name below it too."""

    def convert(each: str) -> str:
        name = host(each.removeprefix("."))
        if name.startswith("["):
            raise ValueError
        return f".{name}" if each.startswith(".") else name

    say = (
        "must list host names alone, like accounts.example.com, or .example.com for it and every name"
        " below it: no scheme, port, path or *"
    )
    return [_or_say(say, convert, each) for each in items(text)]


def mail_server(text: str) -> str:
    """Return a host to connect to: a service of a private network may have a name that no URL has."""

    def convert(name: str) -> str:
        if ":" in name:
            return str(IPv6Address(name.strip("[]")))
        return name.lower() if re.fullmatch("[A-Za-z0-9_-]*_[A-Za-z0-9_-]*", name) else host(name)

    return _or_say(
        "must be a host alone, like smtp.example.com: no scheme or path, and the port in MAIL_PORT",
        convert,
        text,
    )


def sender(text: str) -> str:
    """Return what stands after `From:`; the name may hold commas, in quotation marks or without."""

    def convert(given: str) -> str:
        found = _SENDER.fullmatch(given)
        if found is None:
            raise ValueError
        name = (found["name"] or "").strip()
        if re.fullmatch('".*"', name):
            name = re.sub(r"\\(.)", r"\1", name[1:-1])
        local, _, domain = (found["within"] or found["alone"]).rpartition("@")
        if len(local) > 64 or not _LOCAL_PART.fullmatch(local):
            raise ValueError
        address = f"{local}@{host(domain)}"
        return named_sender(name, address) if name else address

    return _or_say(
        'must be one address, or a name and an address, like "Example, Inc." <accounts@example.com>',
        convert,
        text,
    )


def mail_address(text: str) -> str:
    def convert(given: str) -> str:
        if "<" in given:
            raise ValueError
        return sender(given)

    return _or_say("must be one address alone, like support@example.com", convert, text)


def mailto(address: str) -> str:
    """Return the link that begins a mail (RFC 6068); an address may hold what splits a URL."""
    local, _, domain = address.rpartition("@")
    return f"mailto:{percent_encoded(local, safe='')}@{domain}"


def named_sender(name: str, address: str) -> str:
    """Return what stands after `From:` for a name of any characters."""
    return f'"{quote(name)}" <{address}>'


def page_url(text: str) -> str:
    """Return the address of a page of somebody else's."""
    return _or_say(
        "must be the address of a page, like https://app.example.com/home, without a user, a password"
        " or a #",
        _address,
        text,
    )


def bare_page_url(text: str) -> str:
    """Return the address of a page to which a query is added."""
    if "?" in text:
        raise ValueError("must be the address of a page, without ? or #: ?token= is added to it")
    return page_url(text)


def webhook_urls(text: str) -> list[str]:
    say = (
        "must list addresses like https://app.example.com/hooks, separated by commas,"
        " without a user, a password or a #, and none of a cloud's metadata"
    )
    return list(dict.fromkeys(_or_say(say, _receiver, each) for each in items(text)))


def _receiver(url: str) -> str:
    """Return an address to which a webhook may go, as far as it says itself; a name is looked up later."""
    name = _parts(url)[1]
    if (name.startswith("[") or is_ipv4(name)) and metadata.is_forbidden(name.strip("[]")):
        raise ValueError
    return _address(url)


def _address(url: str) -> str:
    """Return a whole address, its host in the one spelling."""
    scheme, name, port, rest = _parts(url)
    if len(url) > MAX_URL or not re.fullmatch("[!-~]*", rest):
        raise ValueError
    return f"{scheme}://{name}{':' if port else ''}{port}{rest}"


def _origin(text: str) -> str:
    """Return an origin as a browser names it."""
    scheme, name, port, rest = _parts(text)
    if rest:
        raise ValueError
    return f"{scheme}://{name}" + (f":{port}" if port not in {"", DEFAULT_PORTS[scheme]} else "")


def _parts(url: str) -> tuple[str, str, str, str]:
    """Return scheme, host, port and all that follows."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError
    scheme, name, port, rest = found.groups("")
    if port and not 1 <= int(port) <= 65535:
        raise ValueError
    return scheme.lower(), host(name), port and str(int(port)), rest


def _or_say(sentence: str, convert: Callable[[str], str], text: str) -> str:
    try:
        return convert(text)
    except (ValueError, AddressValueError):
        raise ValueError(sentence) from None
