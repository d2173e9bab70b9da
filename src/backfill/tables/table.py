"""What every table is, whatever file or object it lies in: columns, and blocks of rows in order."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from backfill.errors import InvalidInput
from backfill.tables.column_types import AnswerColumn

__all__ = ["BLOCK_BYTES", "BLOCK_ROWS", "Block", "Table", "TableWriter", "hash_file"]

BLOCK_ROWS = 1000
BLOCK_BYTES = 4 << 20
"""A block ends at so many rows or bytes, whichever comes first, but has one row at least."""


class Block(Protocol):
    """Some rows that follow each other."""

    def __len__(self) -> int: ...

    def take(self, columns: Sequence[str]) -> Sequence[Sequence[Any]]:
        """The values of these columns, row by row; a column that a row lacks is None there."""

    def head(self, rows: int) -> "Block":
        """The first rows alone."""


class TableWriter(Protocol):
    """Writes the rows that a table has, with new columns behind theirs."""

    def write(self, block: Any, values: Sequence[Sequence[Any]]) -> None:
        """A block of the table that is read, and the values of its rows, a list a row in the order of the columns."""

    def finish(self) -> None:
        """Write what is still held back; the file stays open."""


class Table(Protocol):
    """Rows that can be read as often as one likes, from any of them on."""

    @property
    def name(self) -> str:
        """As messages call it."""

    @property
    def columns(self) -> Sequence[str]:
        """Their names, in order."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def note(self) -> str | None:
        """What was assumed of the file, if a person should know."""

    def fingerprint(self) -> str:
        """Tells one content of the table from another; raises InvalidInput. Blocks on disk."""

    def read(self, start: int = 0) -> Iterator[Block]:
        """The rows from number `start` on. Blocks on disk."""

    def begin(self, file: BinaryIO, new: Sequence[AnswerColumn]) -> TableWriter:
        """Write a table of the same form to `file`, with new columns."""


def hash_file(path: Path) -> str:
    """The SHA-256 of a file; raises InvalidInput if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput(f"The table {path} cannot be read: {error.strerror}.", param="input") from None
