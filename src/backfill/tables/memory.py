"""Tables that lie in memory: lists of dicts, and whatever speaks Arrow's C stream (pandas, polars, DuckDB, pyarrow)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import msgspec

from backfill.errors import InvalidInput
from backfill.tables.column_types import AnswerColumn
from backfill.tables.table import BLOCK_ROWS, Block, Table, TableWriter
from backfill.tables.values import NoText, render_text

__all__ = ["MemoryTable", "is_arrow", "open_rows"]

_encode = msgspec.json.Encoder().encode
Rows = Sequence[Mapping[str, Any]]


class _RowBlock:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        return [tuple([row.get(name) for name in columns]) for row in self._rows]

    def head(self, rows: int) -> "_RowBlock":
        return _RowBlock(self._rows[:rows])


class MemoryTable:
    """Rows that somebody else holds; they are read and never written."""

    note: str | None = None

    def __init__(self, name: str, columns: Sequence[str], rows: int) -> None:
        self.name = name
        self.columns = columns
        self.rows = rows

    def fingerprint(self, columns: Sequence[str] | None = None) -> str:
        """A hash of the values of these columns, or of all."""
        digest = hashlib.sha256()
        for block in self.read():
            for row in block.take(self.columns if columns is None else columns):
                digest.update(_encode([_describe(value) for value in row]))
        return digest.hexdigest()

    def read(self, start: int = 0) -> Iterator[Block]:
        """The rows from number `start` on."""
        raise NotImplementedError

    def begin(self, file: BinaryIO, new: Sequence[AnswerColumn]) -> TableWriter:
        """Nobody asks for it: answers go back to who holds the rows."""
        raise NotImplementedError


class _RowTable(MemoryTable):
    def __init__(self, rows: Sequence[Any]) -> None:
        columns: dict[str, None] = {}
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                message = f"Row {number + 1} is of type {type(row).__name__}; a table is a list of dicts."
                raise InvalidInput(message, param="table")
            if not columns.keys() >= row.keys():
                columns |= dict.fromkeys(row)
        super().__init__("the table", list(columns), len(rows))
        self._rows = rows

    def read(self, start: int = 0) -> Iterator[_RowBlock]:
        for at in range(start, len(self._rows), BLOCK_ROWS):
            yield _RowBlock(self._rows[at : at + BLOCK_ROWS])


class _ArrowTable(MemoryTable):
    def __init__(self, table: Any) -> None:
        super().__init__("the table", table.column_names, table.num_rows)
        self._table = table

    def read(self, start: int = 0) -> Iterator[Block]:
        from backfill.tables.arrow import ArrowBlock  # noqa: PLC0415 - large, and only some have it

        for batch in self._table.slice(start).to_batches(max_chunksize=BLOCK_ROWS):
            yield ArrowBlock(batch, self.name)


def is_arrow(rows: Any) -> bool:
    """Whether it speaks Arrow's C stream."""
    return hasattr(rows, "__arrow_c_stream__")


def open_rows(rows: Any) -> Table:
    """A table of what is in memory: a list of dicts, or a pyarrow.Table; raises InvalidInput."""
    if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
        return _RowTable(rows)
    return _ArrowTable(rows)


def _describe(value: Any) -> str:
    try:
        return f"{type(value).__name__} {render_text(value)}"
    except NoText:
        return f"{type(value).__name__} {value!r}"
