"""The next lines of a lane, put in such an order that those which name the same go one after the other.

So a picture that many lines name is fetched for all of them at once, also where they stand far apart; an engine that
keeps what it made of a picture meets it again soon; and what was fetched may leave the disk sooner.
"""

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

    from backfill.dispatch.lane import Group
    from backfill.media import Named

__all__ = ["MediaWindow", "SeenLine"]

LINES_MAX = 4096


class SeenLine(NamedTuple):
    """A line whose body was looked at."""

    line: int
    group: "Group"
    named: "Named"


class MediaWindow:
    """Lines go in as they are planned; what names the same as one that is there goes beside it."""

    def __init__(self) -> None:
        self.size = 0
        """How many lines."""
        self._lines: dict[Hashable, deque[SeenLine]] = {}

    @property
    def is_full(self) -> bool:
        """Whether no more should be looked at before some are taken."""
        return self.size >= LINES_MAX

    def add(self, seen: SeenLine) -> None:
        """Put a line in."""
        # Lines that begin alike go together first of all.
        key = (id(seen.group) if seen.group.prefix else 0, *(one.source for one in seen.named.fetched))
        self._lines.setdefault(key, deque()).append(seen)
        self.size += 1

    def pop(self) -> SeenLine | None:
        """The next line; None if there is none."""
        for key, lines in self._lines.items():
            seen = lines.popleft()
            self.size -= 1
            if not lines:
                del self._lines[key]
            return seen
        return None
