"""What a link may look like, and what is said of it: never what makes it a secret."""

import re
from ipaddress import IPv6Address

from yarl import URL

from backfill.media.addresses import AddressRules, parse_address
from backfill.media.failures import MediaRefused

__all__ = ["check_link", "describe_link", "has_scheme", "parse_link"]

_LONGEST = 8192
_LONGEST_SHOWN = 200
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:")
_SCHEMES = ("https:", "http:")
# What may stand in a link as it is (RFC 3986). Signatures are made over these very characters, so they stay.
_PLAIN = re.compile(r"(?:[A-Za-z0-9:/?#\[\]@!$&'()*+,;=._~-]|%[0-9A-Fa-f]{2})+")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_BRACKETS_IN_PATH = re.compile(r"https?://[^/?#]*[/?#].*[\[\]]", re.IGNORECASE)


def has_scheme(text: str) -> bool:
    """Whether it begins as a URL does."""
    return _SCHEME.match(text) is not None


def parse_link(text: str) -> URL:
    """Read a link with http: or https:; raises MediaRefused. Which host it has is not judged here."""
    if len(text) > _LONGEST:
        raise MediaRefused(f"The link is longer than {_LONGEST} characters.")
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise MediaRefused(
            "What is named is neither a link (https:), nor a data: URL, nor the id of an uploaded file (file-…)."
        )
    if scheme[0].lower() not in _SCHEMES:
        raise MediaRefused(
            f"{scheme[0].lower()} is not taken: only https: and data: URLs and ids of uploaded files are."
        )
    if not text.isprintable():
        raise MediaRefused("The link has characters that no URL has.")
    try:
        is_plain = _PLAIN.fullmatch(text) is not None and not _BRACKETS_IN_PATH.match(text)
        link = URL(text, encoded=is_plain)
        # Some parts are only read when they are asked for.
        has_host = _is_host(link.raw_host or "") and link.port is not None
    except ValueError:
        has_host = False
        link = URL()
    if not has_host:
        raise MediaRefused("The link cannot be read as a URL with a scheme and a host.")
    return link


def _is_host(host: str) -> bool:
    return _HOST.fullmatch(host) is not None or isinstance(parse_address(host), IPv6Address)


def check_link(link: URL, rules: AddressRules, *, allow_http: bool) -> None:
    """Refuse what no connection is needed to judge: scheme, credentials, and an address that is written out."""
    if link.scheme == "http" and not allow_http:
        raise MediaRefused(f"{describe_link(link)} is not taken: only https: is (media.allow_http).")
    if link.user is not None or link.password is not None:
        raise MediaRefused(f"{describe_link(link)} is not taken with a user or a password in it.")
    host = link.host or ""
    if parse_address(host) is not None and not rules.allows_name(link.raw_host or "") and not rules.allows(host):
        raise MediaRefused(f"{describe_link(link)} is not at a public address (media.allow).")


def describe_link(link: URL) -> str:
    """The link without credentials, query and fragment, fit for a message."""
    host = link.raw_host or ""
    if ":" in host:
        host = f"[{host}]"
    port = "" if link.explicit_port is None else f":{link.explicit_port}"
    shown = f"{link.scheme}://{host}{port}{link.raw_path}"
    return shown if len(shown) <= _LONGEST_SHOWN else shown[: _LONGEST_SHOWN - 1] + "…"
