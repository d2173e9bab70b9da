"""Members of a create call that metadata may hold too, for clients that can send no others."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

__all__ = ["NAME_LENGTH_MAX", "BatchName", "describe_members", "find_name"]

NAME_LENGTH_MAX = 256
# Line ends and what a terminal obeys; marks that turn the reading direction, which make a name look like another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# An attempt is known again by all that it asks for. What came later counts only where it is said, so that a request
# of before is still known.
_LATER_MEMBERS = frozenset({"name"})

BatchName = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH_MAX)]
"""What an owner calls a batch; several may have the same name."""


def find_name(name: str | None, metadata: Mapping[str, str] | None) -> str | None:
    """The name as it was given, or what the metadata calls the batch: one line that no terminal obeys."""
    given = (metadata or {}).get("name", "") if name is None else name
    return _CONTROL.sub(" ", given)[:NAME_LENGTH_MAX].strip() or None


def describe_members(wanted: BaseModel) -> dict[str, Any]:
    """All that is asked for, as `read_attempt` takes it."""
    members = wanted.model_dump()
    return {name: value for name, value in members.items() if value is not None or name not in _LATER_MEMBERS}
