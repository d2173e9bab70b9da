"""Result files of whatever server, beside the rows that they are about."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

from backfill.errors import InvalidInput
from backfill.tables.answers import NOT_RUN, AnswerReader, read_result_line
from backfill.tables.requests import row_id
from backfill.tables.table import Table
from backfill.tables.values import NoText, render_text

__all__ = ["Joined", "ResultFiles", "join"]

_OFFSET_BITS = 48


class Joined(NamedTuple):
    """How the rows of a table fared."""

    rows: int
    failed: int
    """Rows with an error, those without a result among them."""
    unknown: int
    """Results that belong to no row."""


class ResultFiles:
    """Output and error files, in any order; holds in memory where each custom id stands, and no result."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Reads them through once; raises InvalidInput, with the line, if one is no result file."""
        self._places: dict[str, int] = {}
        with ExitStack() as stack:
            self._files = [stack.enter_context(_open(path)) for path in paths]
            for number, path in enumerate(paths):
                self._index(number, path)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._places)

    def find(self, custom_id: str) -> bytes | None:
        """The result with this id: its answer if there are several and one is an answer."""
        place = self._places.get(custom_id)
        if place is None:
            return None
        file = self._files[place >> _OFFSET_BITS]
        file.seek(place & ((1 << _OFFSET_BITS) - 1))
        return file.readline()

    def _index(self, number: int, path: Path) -> None:
        offset = 0
        for line_number, line in enumerate(self._files[number], start=1):
            start, offset = offset, offset + len(line)
            if not line.strip():
                continue
            result = read_result_line(line)
            if result is None or (result.response is None and result.error is None):
                message = (
                    f"{path}:{line_number}: the line is no result: it has no custom_id, or neither response nor error."
                )
                raise InvalidInput(message, param="results")
            if result.custom_id is None:
                continue  # of a line that was no request
            is_answer = result.response is not None and result.response.status_code < 400
            if is_answer or result.custom_id not in self._places:
                self._places[result.custom_id] = number << _OFFSET_BITS | start


def join(table: Table, results: ResultFiles, reader: AnswerReader, id_column: str | None, target: BinaryIO) -> Joined:
    """Write the table with its answers. A row without a result says so in its error."""
    writer = table.begin(target, reader.columns)
    at_error = [column.name for column in reader.columns].index(reader.error_column)
    failed = found = row = 0
    for block in table.read():
        values = []
        for custom_id in _name_rows(block.take([id_column] if id_column else []), row, id_column):
            line = None if custom_id is None else results.find(custom_id)
            result = None if line is None else read_result_line(line)
            found += result is not None
            values.append(reader.fail(NOT_RUN) if result is None else reader.read_result(result))
            failed += values[-1][at_error] is not None
        writer.write(block, values)
        row += len(block)
    writer.finish()
    return Joined(row, failed, max(0, len(results) - found))


def _name_rows(rows: Sequence[Sequence[Any]], first: int, id_column: str | None) -> Iterator[str | None]:
    for number, row in enumerate(rows, start=first):
        if id_column is None:
            yield row_id(number)
            continue
        try:
            yield render_text(row[0])
        except NoText:
            yield None


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInput(f"The results {path} cannot be read: {error.strerror}.", param="results") from None
