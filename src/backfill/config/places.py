"""Places that the operator names: private ones that strangers may name too, and where processes find each other."""

import ipaddress
import re

__all__ = ["check_advertised", "check_places"]

# Letters of other scripts too, as a browser shows such a name; an underscore, as machines have them in some networks.
_HOST = re.compile(r"[\w.-]{1,253}")
_ADVERTISED = re.compile(r"(https?://)?(?P<host>[\w.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(:(?P<port>\d{1,5}))?/?")
_PORT_MAX = 65_535


def check_places(value: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError unless all are names of hosts, addresses or networks."""
    for entry in value:
        if not _is_network(entry) and not _HOST.fullmatch(entry):
            message = f"{entry!r} is no network, no address and no name of a host (without scheme and port)"
            raise ValueError(message)
    return value


def check_advertised(value: str) -> str:
    """Raises ValueError unless it is empty, a host, a host with a port, or a URL of these."""
    found = _ADVERTISED.fullmatch(value)
    if value and (found is None or int(found["port"] or 1) not in range(1, _PORT_MAX + 1)):
        raise ValueError("must be a host, a host with a port, or an http or https URL of these (an IPv6 one in [])")
    return value


def _is_network(entry: str) -> bool:
    try:
        ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return True
