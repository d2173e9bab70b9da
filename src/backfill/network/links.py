"""What a link leads to, and what is said of it: never what makes it a secret."""

import re
from ipaddress import IPv6Address

from yarl import URL

from backfill.network.addresses import parse_address

__all__ = ["describe_link", "read_link"]

_LONGEST_SHOWN = 200
# What may stand in a link as it is (RFC 3986). Signatures are made over these very characters, so they stay.
_PLAIN = re.compile(r"(?:[A-Za-z0-9:/?#\[\]@!$&'()*+,;=._~-]|%[0-9A-Fa-f]{2})+")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_BRACKETS_IN_PATH = re.compile(r"https?://[^/?#]*[/?#].*[\[\]]", re.IGNORECASE)


def read_link(text: str) -> URL | None:
    """A link with a scheme and a host that there can be; None: it is none. Where the host is is not judged here."""
    try:
        is_plain = _PLAIN.fullmatch(text) is not None and not _BRACKETS_IN_PATH.match(text)
        link = URL(text, encoded=is_plain)
        # Some parts are only read when they are asked for.
        has_host = _is_host(link.raw_host or "") and link.port is not None
    except ValueError:
        return None
    return link if has_host else None


def describe_link(link: URL) -> str:
    """The link without credentials, query and fragment, fit for a message."""
    host = link.raw_host or ""
    if ":" in host:
        host = f"[{host}]"
    port = "" if link.explicit_port is None else f":{link.explicit_port}"
    shown = f"{link.scheme}://{host}{port}{link.raw_path}"
    return shown if len(shown) <= _LONGEST_SHOWN else shown[: _LONGEST_SHOWN - 1] + "…"


def _is_host(host: str) -> bool:
    return _HOST.fullmatch(host) is not None or isinstance(parse_address(host), IPv6Address)
