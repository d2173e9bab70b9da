"""Members of a create call that metadata may hold too, for clients that can send no others."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from backfill.errors import InvalidInput

__all__ = [
    "NAME_LENGTH_MAX",
    "BatchName",
    "OnInvalidLines",
    "describe_members",
    "find_name",
    "find_skips_invalid_lines",
]

NAME_LENGTH_MAX = 256
# Line ends and what a terminal obeys; marks that turn the reading direction, which make a name look like another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# An attempt is known again by all that it asks for. What came later counts only where it is said, so that a request
# of before is still known.
_LATER_MEMBERS = frozenset({"name", "on_invalid_lines", "requests", "webhook_url"})

BatchName = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH_MAX)]
"""What an owner calls a batch; several may have the same name."""
OnInvalidLines = Literal["fail", "error_file"]
"""Whether a line that is no request fails the batch, or only itself."""


def find_name(name: str | None, metadata: Mapping[str, str] | None) -> str | None:
    """The name as it was given, or what the metadata calls the batch: one line that no terminal obeys."""
    given = (metadata or {}).get("name", "") if name is None else name
    return _CONTROL.sub(" ", given)[:NAME_LENGTH_MAX].strip() or None


def find_skips_invalid_lines(choice: OnInvalidLines | None, metadata: Mapping[str, str] | None) -> bool | None:
    """What was chosen, if anything was; raises InvalidInput if the metadata has a word that is none."""
    word = (metadata or {}).get("on_invalid_lines") if choice is None else choice
    if word is None:
        return None
    if word not in {"fail", "error_file"}:
        message = f'metadata.on_invalid_lines must be "fail" or "error_file"; got {word[:64]!r}.'
        raise InvalidInput(message, param="metadata.on_invalid_lines")
    return word == "error_file"


def describe_members(wanted: BaseModel) -> dict[str, Any]:
    """All that is asked for, as `read_attempt` takes it."""
    members = wanted.model_dump()
    return {name: value for name, value in members.items() if value is not None or name not in _LATER_MEMBERS}
