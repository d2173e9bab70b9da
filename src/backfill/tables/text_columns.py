"""Rows of tables that have no types as Parquet: each column of theirs is text, and the new ones have their types."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from backfill.tables.arrow import ArrowBlock
from backfill.tables.column_types import AnswerColumn
from backfill.tables.parquet_table import ParquetTable, ParquetWriter
from backfill.tables.table import Block, Table, TableWriter
from backfill.tables.values import NoText, render_text

__all__ = ["begin_parquet"]


def begin_parquet(
    table: Table | None, columns: Sequence[str], new: Sequence[AnswerColumn], sink: BinaryIO
) -> TableWriter:
    """Write rows as Parquet: those of a Parquet file with their own types, all others as text."""
    return table.begin(sink, new) if isinstance(table, ParquetTable) else _TextWriter(columns, new, sink)


class _TextWriter:
    def __init__(self, columns: Sequence[str], new: Sequence[AnswerColumn], sink: BinaryIO) -> None:
        self._columns = columns
        self._schema = pa.schema([pa.field(name, pa.string()) for name in columns])
        self._writer = ParquetWriter(sink, self._schema, new)

    def write(self, block: Block, values: Sequence[Sequence[Any]]) -> None:
        rows = block.take(self._columns)
        arrays = [pa.array([_render(row[place]) for row in rows], pa.string()) for place in range(len(self._columns))]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._writer.write(ArrowBlock(batch, "the table"), values)

    def finish(self) -> None:
        self._writer.finish()


def _render(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return render_text(value)
    except NoText:
        return None
