"""What is wrong with rows of a file, told together: the first in full, and where the others are."""

from backfill.errors import InvalidInput

__all__ = ["RowFaults"]

_LISTED_MAX = 10


class RowFaults:
    """Collects rows that will not do."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._first = ""
        self._lines: list[int] = []
        self._count = 0

    def add(self, line: int, reason: str) -> None:
        """Note that the row that ends in this line, from 1, will not do."""
        self._count += 1
        if self._count == 1:
            self._first = f"{self._name}:{line}: {reason}"
        elif len(self._lines) < _LISTED_MAX:
            self._lines.append(line)

    def check(self) -> None:
        """Raise InvalidInput if there is any."""
        if not self._count:
            return
        others = ""
        if self._lines:
            more = self._count - 1 - len(self._lines)
            listed = ", ".join(map(str, self._lines)) + (f" and {more:,} more" if more else "")
            others = f" The same kind of thing is wrong in line{'s' if self._count > 2 else ''} {listed}."
        raise InvalidInput(f"{self._first}.{others}", param="input")
