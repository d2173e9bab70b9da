"""Tables as Parquet, through pyarrow: row groups are streamed, and every input column goes out as it came in."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from backfill.errors import InvalidInput
from backfill.tables.arrow import ArrowBlock, add_columns, add_fields
from backfill.tables.column_types import AnswerColumn
from backfill.tables.row_limits import check_column_count
from backfill.tables.table import BLOCK_BYTES, hash_file

__all__ = ["ParquetTable", "ParquetWriter"]

_BATCH_ROWS_MAX = 8192
_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 32 << 20
_CODECS = {"UNCOMPRESSED": "none", "SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd"}


class ParquetTable:
    """A Parquet file."""

    note: str | None = None

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Raises InvalidInput if it is no Parquet file; `name`: as messages call it, if not by its path."""
        self.name = str(path) if name is None else name
        self._path = path
        with self._open() as file:
            self._schema = file.schema_arrow
            metadata = file.metadata
            self.rows = metadata.num_rows
            self._group_rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
            size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
            columns = metadata.row_group(0) if self._group_rows else None
            codec = columns.column(0).compression if columns is not None and columns.num_columns else "SNAPPY"
        self._codec = _CODECS.get(codec, "snappy")
        self._batch_rows = max(1, min(_BATCH_ROWS_MAX, BLOCK_BYTES * max(1, self.rows) // max(1, size)))
        self.columns = self._schema.names
        check_column_count(self.columns, self.name)

    def read(self, start: int = 0) -> Iterator[ArrowBlock]:
        """The rows from number `start` on."""
        groups = list(range(len(self._group_rows)))
        while groups and start >= self._group_rows[groups[0]]:
            start -= self._group_rows[groups.pop(0)]
        if not groups:
            return
        with self._open() as file:
            # Threads would read ahead, as far as memory goes.
            for batch in file.iter_batches(self._batch_rows, row_groups=groups, use_threads=False):
                rest = batch.slice(min(start, len(batch)))
                start -= len(batch) - len(rest)
                if len(rest):
                    yield ArrowBlock(rest, self.name)

    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return hash_file(self._path)

    def begin(self, file: BinaryIO, new: Sequence[AnswerColumn]) -> "ParquetWriter":
        """Write with the same schema, metadata and compression."""
        return ParquetWriter(file, self._schema, new, self._codec)

    def _open(self) -> parquet.ParquetFile:
        try:
            return parquet.ParquetFile(self._path, pre_buffer=False, memory_map=False)
        except pa.ArrowException as error:
            message = f"{self.name} is not a Parquet file: {str(error).splitlines()[0]}"
            raise InvalidInput(message, param="input") from None


class ParquetWriter:
    """Rows with new columns, in row groups of their own."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, new: Sequence[AnswerColumn], codec: str = "snappy") -> None:
        self._new = new
        self._schema = add_fields(schema, new)
        self._writer = parquet.ParquetWriter(file, self._schema, compression=codec)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = self._pending_bytes = 0

    def write(self, block: ArrowBlock, values: Sequence[Sequence[Any]]) -> None:
        """Take a block and what is new in it."""
        batch = add_columns(block.batch, self._schema, self._new, values)
        self._pending.append(batch)
        self._pending_rows += len(batch)
        self._pending_bytes += batch.nbytes
        if self._pending_rows >= _GROUP_ROWS or self._pending_bytes >= _GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write the last rows and the end of the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            rows = pa.Table.from_batches(self._pending, self._schema)
            self._writer.write_table(rows, row_group_size=max(1, len(rows)))
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0
