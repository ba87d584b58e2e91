"""Addresses to which nothing is sent, whoever names them: there a cloud tells a machine its credentials."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Where Amazon, Google, Oracle and Alibaba have it beside 169.254.169.254, which is link-local.
METADATA = frozenset(
    map(
        ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "100.100.100.200"),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


def is_forbidden(address: str) -> bool:
    """Return whether an address is link-local or one of a cloud's metadata, however written."""
    parsed = ip_address(address.partition("%")[0])
    return any(
        each is not None and (each.is_link_local or each in METADATA)
        for each in (parsed, _inside(parsed))
    )


def _inside(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address to which an IPv6 one leads."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
