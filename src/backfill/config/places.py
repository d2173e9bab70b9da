"""Private places that the operator opens to what strangers name."""

import ipaddress
import re

__all__ = ["check_places"]

# Letters of other scripts too, as a browser shows such a name; an underscore, as machines have them in some networks.
_HOST = re.compile(r"[\w.-]{1,253}")


def check_places(value: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError unless all are names of hosts, addresses or networks."""
    for entry in value:
        if not _is_network(entry) and not _HOST.fullmatch(entry):
            message = f"{entry!r} is no network, no address and no name of a host (without scheme and port)"
            raise ValueError(message)
    return value


def _is_network(entry: str) -> bool:
    try:
        ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return True
