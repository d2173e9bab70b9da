"""Tables of Python programs: what kind each is, and the same kind again with the answers in it."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from backfill.errors import InvalidInput
from backfill.tables import AnswerColumn, Table, open_rows, open_table

__all__ = ["GivenTable", "give_back", "take_table"]

_NEEDED = "pip install 'backfill[data]'"


class GivenTable(NamedTuple):
    """What a program gave, and how it is read."""

    kind: str
    """pandas, polars, duckdb, arrow, rows or path."""
    given: Any
    table: Table


def take_table(given: Any, columns: Sequence[str]) -> GivenTable:
    """Find out what kind of table it is; raises InvalidInput if it is none.

    `columns`: those that will be asked for, so that others of a DataFrame need not be of a type that Arrow has.
    """
    if isinstance(given, (str, PathLike)):
        return GivenTable("path", str(given), open_table(str(given)))
    if isinstance(given, Sequence):
        return GivenTable("rows", given, open_rows(given))
    if not hasattr(given, "__arrow_c_stream__"):
        message = (
            f"A table is a path, a list of dicts, or what speaks Arrow's C stream (a DataFrame of pandas or polars, a "
            f"relation of DuckDB, a pyarrow.Table); got {type(given).__name__}."
        )
        raise InvalidInput(message, param="table")
    library = type(given).__module__.partition(".")[0].lstrip("_")
    try:
        import pyarrow as pa  # noqa: PLC0415 - large, and only some have it
    except ImportError:
        message = f"A table of type {type(given).__name__} needs pyarrow: {_NEEDED}. A list of dicts needs nothing."
        raise InvalidInput(message, param="table", code="not_installed") from None
    source = given
    if library == "pandas":
        # A column of mixed objects, which Arrow has no type for, is nobody's business unless it is asked for.
        source = given[[name for name in given.columns if name in columns]]
    try:
        table = pa.table(source)
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"The table cannot be read through Arrow: {reason}", param="table") from None
    kind = library if library in {"pandas", "polars", "duckdb"} else "arrow"
    if library == "pandas":
        return GivenTable(kind, given, _Renamed(open_rows(table), list(map(str, given.columns)), len(given)))
    # A relation or a stream may give other rows, or none, when it is asked again.
    return GivenTable(kind, given if kind == "polars" else table, open_rows(table))


class _Renamed:
    """A table of which only some columns are read, and that knows the names of all."""

    def __init__(self, table: Table, columns: Sequence[str], rows: int) -> None:
        self._table = table
        self.columns = columns
        self.rows = rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)


def give_back(given: GivenTable, columns: Sequence[AnswerColumn], values: Sequence[Sequence[Any]]) -> Any:
    """The table with new columns, whose values come row by row; it is of the kind that was given, and a new one."""
    if given.kind == "rows":
        names = [column.name for column in columns]
        rows: Sequence[Mapping[str, Any]] = given.given
        return [{**row, **dict(zip(names, each, strict=True))} for row, each in zip(rows, values, strict=False)]
    from backfill.tables.arrow import make_array  # noqa: PLC0415 - large, and only some have it

    arrays = {column.name: make_array(column, [row[place] for row in values]) for place, column in enumerate(columns)}
    match given.kind:
        case "pandas":
            return _add_to_pandas(given.given.head(len(values)), arrays)
        case "polars":
            import polars as pl  # noqa: PLC0415 - whoever gives such a table has it

            added = [pl.Series(name, pl.from_arrow(array)) for name, array in arrays.items()]
            return given.given.head(len(values)).with_columns(added)
        case _:
            table = given.given.slice(0, len(values))
            for name, array in arrays.items():
                table = table.append_column(name, array)
            if given.kind == "duckdb":
                import duckdb  # noqa: PLC0415 - whoever gives such a table has it

                return duckdb.from_arrow(table)
            return table


def _add_to_pandas(frame: Any, arrays: Mapping[str, Any]) -> Any:
    import pandas as pd  # noqa: PLC0415 - whoever gives such a table has it
    import pyarrow as pa  # noqa: PLC0415

    # Whole numbers and truth values stay so beside those that are missing, and text is what pandas takes for it.
    types = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    text = pd.Series([], dtype="str").dtype
    if isinstance(text, pd.StringDtype):
        types[pa.string()] = text
    added = {name: array.to_pandas(types_mapper=types.get).set_axis(frame.index) for name, array in arrays.items()}
    return frame.assign(**added)
