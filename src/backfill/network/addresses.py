"""Which addresses of the network may be fetched from: the public ones, and what the operator allows."""

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

__all__ = ["AddressRules", "is_public", "parse_address"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# What the registries of special addresses hold, as of 2026; the standard library's own tables lag behind them.
_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
            # A public address that a cloud answers to its own machines, with what only they may know.
            "168.63.129.16/32",
        ),
    )
)
# Only this part of the address space is given out as global unicast.
_GLOBAL_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")))
_MAPPED = IPv6Network("::ffff:0:0/96")
_TRANSLATED = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
# The interface identifiers of ISATAP, the universal bit set or not: an IPv4 address follows.
_ISATAP = (0x00005EFE, 0x02005EFE)
_32_BITS = 0xFFFFFFFF


def parse_address(host: str) -> Address | None:
    """The address that a host is written as, if it is one; None: a name."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _unwrap(address: Address) -> tuple[Address, ...]:
    """The address, and the IPv4 address that it leads to if it is one in another form."""
    if isinstance(address, IPv4Address):
        return (address,)
    bits = int(address)
    if address in _MAPPED or address in _TRANSLATED:
        return (address, IPv4Address(bits & _32_BITS))
    if address in _SIX_TO_FOUR:
        return (address, IPv4Address(bits >> 80 & _32_BITS))
    if bits >> 32 & _32_BITS in _ISATAP:
        return (address, IPv4Address(bits & _32_BITS))
    return (address,)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet may be behind it: not this machine, its networks, or what only they reach."""
    forms = _unwrap(address)
    inner = forms[-1]
    if isinstance(inner, IPv4Address):
        outer_is_good = address is inner or address in _MAPPED or address in _TRANSLATED or address in _GLOBAL_V6
        return outer_is_good and not any(inner in network for network in _NOT_PUBLIC_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


class AddressRules:
    """The public addresses, and the operator's exceptions."""

    def __init__(self, allow: Iterable[str] = ()) -> None:
        """`allow`: names of hosts, addresses, and networks, as the setting `media.allow` has them."""
        names: set[str] = set()
        networks: list[Network] = []
        for entry in allow:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                names.add(_fold(entry))
        self._names = frozenset(names)
        self._networks = tuple(networks)

    def allows_name(self, host: str) -> bool:
        """Whether the operator allows the host by its name, in either spelling, wherever that leads."""
        return _fold(host) in self._names

    def allows(self, address: str) -> bool:
        """Whether a connection may be made to it; what cannot be read as an address is not allowed."""
        parsed = parse_address(address)
        if parsed is None:
            return False
        if is_public(parsed):
            return True
        return any(form in network for form in _unwrap(parsed) for network in self._networks)


def _fold(host: str) -> str:
    folded = host.lower().rstrip(".")
    try:
        return folded.encode("idna").decode()
    except UnicodeError:
        return folded
