"""Rows and answers as Arrow has them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from backfill.errors import InvalidInput
from backfill.tables.column_types import AnswerColumn, ColumnType

__all__ = ["ArrowBlock", "add_columns", "add_fields", "make_array"]

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "json": pa.string()}


class ArrowBlock:
    """A record batch of `name`."""

    def __init__(self, batch: pa.RecordBatch, name: str) -> None:
        self.batch = batch
        self._name = name

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """The values of these columns, row by row."""
        if not columns:
            return [()] * len(self.batch)
        return list(zip(*(self._list(name) for name in columns), strict=True))

    def head(self, rows: int) -> "ArrowBlock":
        """The first rows alone."""
        return ArrowBlock(self.batch.slice(0, rows), self._name)

    def _list(self, name: str) -> list[Any]:
        column = self.batch.column(self.batch.schema.get_field_index(name))
        kind = column.type
        try:
            # Python has no times of single nanoseconds, and pandas', where it is there, would read otherwise.
            if pa.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns":
                column = column.cast(pa.string())
            return list(column.to_pylist())
        except (ValueError, ImportError, pa.ArrowException):
            message = f"Column {name!r} of {self._name} is of type {kind}, whose values have no text here."
            raise InvalidInput(message, param="input") from None


def add_fields(schema: pa.Schema, new: Sequence[AnswerColumn]) -> pa.Schema:
    """The schema with the new columns behind its own."""
    for column in new:
        schema = schema.append(pa.field(column.name, _find_type(column.type)))
    return schema


def add_columns(
    batch: pa.RecordBatch, schema: pa.Schema, new: Sequence[AnswerColumn], values: Sequence[Sequence[Any]]
) -> pa.RecordBatch:
    """The batch with the new columns, whose values come row by row; `schema` is that of `add_fields`."""
    arrays = [make_array(column, [row[place] for row in values]) for place, column in enumerate(new)]
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=schema)


def make_array(column: AnswerColumn, values: Sequence[Any]) -> pa.Array:
    """A new column; values that have no type of their own are JSON text."""
    if column.type.kind == "json":
        values = [None if value is None else msgspec.json.encode(value).decode() for value in values]
    return pa.array(values, _find_type(column.type))


def _find_type(kind: ColumnType) -> pa.DataType:
    if kind.kind == "list":
        assert kind.of is not None  # noqa: S101 - lists are of something
        return pa.list_(_find_type(kind.of))
    return _TYPES[kind.kind]
