"""What pictures and clips that requests name may be, and where they may come from."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from backfill.config.places import check_places
from backfill.config.sections import Section

__all__ = ["MediaConfig"]

_MIB = 1024 * 1024


class MediaConfig(Section):
    """Fetching of what requests name by a link, and what is taken of it."""

    links: Literal["fetch", "pass", "refuse"] = "fetch"
    """fetch: Backfill does, and engines see bytes; pass: engines other than the built-in get the link, and may fetch
    from wherever they can; refuse: such requests fail."""
    allow_http: bool = False
    """True: links may begin with http:// too."""
    allow: tuple[str, ...] = ()
    """Private places that may be fetched from: names of hosts, addresses or networks ("10.0.0.0/8")."""
    proxy: str = ""
    """URL of a proxy through which all is fetched; it then decides what may be reached."""
    picture_size_bytes: int = Field(20 * _MIB, gt=0)
    picture_pixels: int = Field(50_000_000, gt=0)
    """Width times height, at most."""
    audio_size_bytes: int = Field(1024 * _MIB, gt=0)
    audio_length_s: float = Field(4 * 3600.0, gt=0)
    connections: int = Field(16, ge=1)
    """Fetches at a time."""
    connections_per_host: int = Field(4, ge=1)
    connect_timeout_s: float = Field(20.0, gt=0)
    read_timeout_s: float = Field(30.0, gt=0)
    """How long a server may say nothing in the middle of what it sends."""
    fetch_timeout_s: float = Field(600.0, gt=0)
    """How long one fetch may take from start to end."""
    tries: int = Field(5, ge=1)
    """How often a link is tried at most, apart from the tries of the request."""
    cache_size_bytes: int = Field(10 * 1024 * _MIB, gt=0)
    """What fetched files may take of the disk, of all batches together; what no request needs now goes first."""

    @field_validator("allow")
    @classmethod
    def _check_allow(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_places(value)

    @field_validator("proxy")
    @classmethod
    def _check_proxy(cls, value: str) -> str:
        # Not told what it is: there may be a password in it.
        if value and not (value.startswith(("http://", "https://")) and urlsplit(value).hostname):
            raise ValueError("must begin with http:// or https:// and name a host")
        return value
