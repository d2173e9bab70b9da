"""Input files for tests: requests that carry a marker which the null engine notes in its log."""

import json
from typing import Any

__all__ = ["marker_of", "request_line", "request_lines"]


def marker_of(number: int) -> str:
    """What the null engine calls the request of `number`."""
    return f"{number:06d}"


def request_line(number: int, *, custom_id: str | None = None, model: str | None = "m", **body: Any) -> bytes:
    """One chat request with its marker in the text, without a line end."""
    members: dict[str, Any] = {} if model is None else {"model": model}
    members["messages"] = [{"role": "user", "content": f"marker-{marker_of(number)} hello"}]
    return json.dumps({"custom_id": custom_id or f"request-{number}", "body": members | body}).encode()


def request_lines(count: int, first: int = 0) -> bytes:
    """A file of `count` requests, numbered from `first` on."""
    return b"".join(request_line(number) + b"\n" for number in range(first, first + count))
