"""What the lines of an error file say went wrong, and which of them say the same. Pure."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

__all__ = ["Failure", "FailureGroup", "name_group", "normalise", "read_failed_line", "render_group"]

_MESSAGE_LENGTH = 300
# What differs from line to line while the reason is the same, each as one mark. In this order: a number may stand
# inside all the others.
_VARIABLE = re.compile(
    r"""(?P<text>"[^"]*"|`[^`]*`|(?<!\w)'[^']*'(?!\w))"""
    r"""|(?P<link>\b[a-z][a-z0-9+.-]*://\S+)"""
    r"""|(?P<id>\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b)"""
    r"""|(?P<number>\d+(?:[.,:]\d+)*)""",
    re.IGNORECASE | re.VERBOSE,
)
_MARKS = {"text": '"…"', "link": "URL", "id": "ID", "number": "N"}


class Failure(NamedTuple):
    """Why one line has no answer."""

    custom_id: str | None
    """None: the line is no request."""
    code: str
    message: str


class FailureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of a batch that failed for the same reason."""

    id: str
    """The same for the same reason, in every batch."""
    code: str
    reason: str
    """The message of each, but for what differs between them."""
    example: str
    """The message of the first in the file."""
    count: int
    custom_ids: tuple[str, ...]
    """Of some of them."""
    first_at_ms: int | None = None
    """When the first of them failed, ms since the epoch; None: they were left undone, or the journal is gone."""
    last_at_ms: int | None = None


def read_failed_line(line: bytes) -> Failure:
    """What a line of an error file, in either dialect, says of its request."""
    told: dict[str, Any] = msgspec.json.decode(line)
    response = told.get("response")
    error, status = told.get("error"), None
    if response is not None:
        error, status = response["body"].get("error"), response["status_code"]
    if not isinstance(error, dict):
        return Failure(told["custom_id"], f"http_{status}", str(error))
    code = next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), f"http_{status}")
    return Failure(told["custom_id"], code, str(error.get("message", "")))


def normalise(message: str) -> str:
    """The message with a mark for each quoted text, link, id and number in it, cut to size."""
    shown = _VARIABLE.sub(lambda found: _MARKS[found.lastgroup or "number"], message[: 4 * _MESSAGE_LENGTH])
    return shown if len(shown) <= _MESSAGE_LENGTH else shown[: _MESSAGE_LENGTH - 1] + "…"


def name_group(code: str, reason: str) -> str:
    """The id of the group of all lines with this code and normalised message."""
    return hashlib.sha256(f"{code}\0{reason}".encode()).hexdigest()[:16]


def render_group(group: FailureGroup) -> dict[str, Any]:
    """A group as the API tells of it."""
    return {
        "id": group.id,
        "object": "batch.failure_group",
        "code": group.code,
        "reason": group.reason,
        "example": group.example,
        "count": group.count,
        "custom_ids": list(group.custom_ids),
        "first_at": _render_time(group.first_at_ms),
        "last_at": _render_time(group.last_at_ms),
    }


def _render_time(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
