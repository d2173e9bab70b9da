"""Rows and their answers as CSV or Parquet, whatever form the rows had, written to be sent while they are made."""

import csv
import io
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

from backfill.errors import InvalidInput
from backfill.tables.column_types import AnswerColumn
from backfill.tables.csv_table import CsvTable
from backfill.tables.opening import NO_PARQUET
from backfill.tables.recognition import Form
from backfill.tables.table import Block, Table, TableWriter
from backfill.tables.values import NoText, render_cell, render_text

__all__ = ["NAME_COLUMN", "NameBlock", "ResultWriter"]

NAME_COLUMN = "custom_id"
"""The column of rows that have nothing but their names."""


class NameBlock:
    """Rows of which only their custom ids are known."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def take(self, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """The names, if they are asked for."""
        return [tuple(name if column == NAME_COLUMN else None for column in columns) for name in self._names]

    def head(self, rows: int) -> "NameBlock":
        """The first rows alone."""
        return NameBlock(self._names[:rows])


class ResultWriter:
    """Takes blocks of rows with their answers, and gives the bytes of a file, piece by piece."""

    def __init__(self, table: Table | None, new: Sequence[AnswerColumn], form: Form) -> None:
        """`table`: whose rows come; None: those of `NameBlock`. Raises InvalidInput if they cannot be so written."""
        self._sink = _Sink()
        self._writer = _begin(table, new, form, cast("BinaryIO", self._sink))

    def write(self, block: Block, values: Sequence[Sequence[Any]]) -> bytes:
        """What there is to send after these rows; maybe nothing yet."""
        self._writer.write(block, values)
        return self._sink.take()

    def finish(self) -> bytes:
        """The end of the file."""
        self._writer.finish()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """Holds what was written until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size_bytes += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size_bytes

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts = []
        return taken


def _begin(table: Table | None, new: Sequence[AnswerColumn], form: Form, sink: BinaryIO) -> TableWriter:
    is_csv = form is Form.CSV
    if table is not None and isinstance(table, CsvTable) and is_csv:
        return table.begin(sink, new)
    columns = [NAME_COLUMN] if table is None else list(table.columns)
    if len(set(columns)) < len(columns):
        message = f"Several columns of {table.name if table else 'the table'} have one name; only CSV takes them."
        raise InvalidInput(message, param="format", code="ambiguous_column")
    if is_csv:
        return _CellWriter(sink, columns, new)
    try:
        from backfill.tables.text_columns import begin_parquet  # noqa: PLC0415 - large, and only some have it
    except ImportError:
        raise InvalidInput(NO_PARQUET, param="format", code="not_installed") from None
    return begin_parquet(table, columns, new, sink)


class _CellWriter:
    """Any rows as CSV."""

    def __init__(self, file: BinaryIO, columns: Sequence[str], new: Sequence[AnswerColumn]) -> None:
        self._columns = columns
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow([*columns, *(column.name for column in new)])

    def write(self, block: Block, values: Sequence[Sequence[Any]]) -> None:
        rows = block.take(self._columns)
        self._writer.writerows(
            [*map(_render, row), *map(render_cell, added)] for row, added in zip(rows, values, strict=True)
        )

    def finish(self) -> None:
        self._text.detach()


def _render(value: Any) -> str:
    try:
        return render_text(value)
    except NoText:
        # Binary data and the like has no text; the table that was sent still has it.
        return ""
