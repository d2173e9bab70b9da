"""What is said between the scaler and its Ray client, the child process that alone knows Ray."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from backfill.scaler.cluster import Placed

__all__ = ["Answer", "Hello", "Order"]


class Hello(msgspec.Struct, frozen=True):
    """The first line: which cluster. Nothing in it is secret."""

    address: str
    namespace: str
    installation: str
    """With what the names of all its actors begin."""
    config_file: str


class Order(msgspec.Struct, frozen=True):
    """Every further line."""

    what: Literal["list", "start", "drain", "remove"]
    engine: str = ""
    number: int = 0
    resources: Mapping[str, float] = {}


class Answer(msgspec.Struct, frozen=True):
    """What comes back for each line."""

    placed: Sequence[Placed] = ()
    error: str = ""
    """Why it was not done; empty: it was."""
    is_missing: bool = False
    """Ray is not installed, which does not heal by itself."""
