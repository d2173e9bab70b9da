"""Rows with their numbers, and what they are called: ids must tell rows apart."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from backfill.errors import InvalidInput
from backfill.tables.requests import RequestBuilder
from backfill.tables.table import Table

__all__ = ["RowIds", "number_rows"]


class RowIds:
    """The ids so far."""

    def __init__(self, table: Table, builder: RequestBuilder) -> None:
        self._table = table
        self._builder = builder
        self._first: dict[str, int] = {}

    def check(self, number: int, values: Sequence[Any]) -> None:
        """Raise InvalidInput if a row before had the same id, Unsendable if this one has none."""
        column = self._builder.plan.id_column
        if column is None:
            return
        name = self._builder.name_row(values)
        first = self._first.setdefault(name, number)
        if first != number:
            message = (
                f"{self._table.name} has the id {name!r} twice in the column {column!r}, in the rows {first + 1} and "
                f"{number + 1}; ids must tell rows apart."
            )
            raise InvalidInput(message, param="id", code="duplicate_id")


def number_rows(
    table: Table, builder: RequestBuilder, limit: int | None, start: int = 0
) -> Iterator[tuple[int, Sequence[Any]]]:
    """The rows from row `start` on, before row `limit`, each with its number and the values that its request needs."""
    rows = (values for block in table.read(start) for values in block.take(builder.columns))
    return enumerate(islice(rows, None if limit is None else max(0, limit - start)), start)
