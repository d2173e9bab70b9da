"""What a link may look like, and what is said of it: never what makes it a secret."""

import re

from yarl import URL

from backfill.media.failures import MediaRefused
from backfill.network import AddressRules, describe_link, parse_address, read_link

__all__ = ["check_link", "has_scheme", "parse_link"]

_LONGEST = 8192
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:")
_SCHEMES = ("https:", "http:")


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
    link = read_link(text)
    if link is None:
        raise MediaRefused("The link cannot be read as a URL with a scheme and a host.")
    return link


def check_link(link: URL, rules: AddressRules, *, allow_http: bool) -> None:
    """Refuse what no connection is needed to judge: scheme, credentials, and an address that is written out."""
    if link.scheme == "http" and not allow_http:
        raise MediaRefused(f"{describe_link(link)} is not taken: only https: is (media.allow_http).")
    if link.user is not None or link.password is not None:
        raise MediaRefused(f"{describe_link(link)} is not taken with a user or a password in it.")
    host = link.host or ""
    if parse_address(host) is not None and not rules.allows_name(link.raw_host or "") and not rules.allows(host):
        raise MediaRefused(f"{describe_link(link)} is not at a public address (media.allow).")
