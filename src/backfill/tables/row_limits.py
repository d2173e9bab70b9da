"""How large a row may be: nothing of a table may need more memory than a few of its rows."""

from collections.abc import Collection, Iterator
from typing import Protocol

from backfill.errors import InvalidInput

__all__ = ["COLUMNS_MAX", "ROW_LENGTH_MAX", "RowLines", "check_column_count"]

ROW_LENGTH_MAX = 64 << 20
"""Of a row of text, in bytes or characters."""
COLUMNS_MAX = 10_000


class _Lines(Protocol):
    def readline(self, size: int, /) -> str: ...


class RowLines:
    """The lines of a text, for a reader that makes rows of one or of several; the reader says when one is whole."""

    def __init__(self, file: _Lines, name: str) -> None:
        self._file = file
        self._name = name
        self._number = 0
        self._length = 0

    def __iter__(self) -> Iterator[str]:
        """Raises InvalidInput as soon as a row is longer than one may be."""
        read = self._file.readline
        while line := read(ROW_LENGTH_MAX):
            self._number += 1
            self._length += len(line)
            if self._length >= ROW_LENGTH_MAX:
                raise _make_length_error(self._name, self._number)
            yield line

    def begin_row(self) -> None:
        """The row so far is whole."""
        self._length = 0


def check_column_count(columns: Collection[str], name: str) -> None:
    """Raise InvalidInput if these are more columns than a table may have."""
    if len(columns) > COLUMNS_MAX:
        message = f"{name} has more than {COLUMNS_MAX:,} columns, which is the most that a table may have."
        raise InvalidInput(message, param="input")


def _make_length_error(name: str, line: int) -> InvalidInput:
    message = (
        f"{name}:{line}: the row is longer than {ROW_LENGTH_MAX >> 20} MiB, the most that a row may have; "
        "a quoted cell may not have been closed."
    )
    return InvalidInput(message, param="input")
