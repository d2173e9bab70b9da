"""Tables as CSV: cells between commas, semicolons or tabs, read and written as they are.

A cell is text and stays so, also where a spreadsheet would take it for a formula.
"""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from backfill.errors import InvalidInput
from backfill.inflation import open_unpacked
from backfill.tables.column_types import AnswerColumn
from backfill.tables.row_faults import RowFaults
from backfill.tables.row_limits import RowLines, check_column_count
from backfill.tables.table import BLOCK_BYTES, BLOCK_ROWS, hash_file
from backfill.tables.values import render_cell

__all__ = ["CsvTable"]

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_LOOK_BYTES = 1 << 16
_RECORDS_COMPARED = 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


class _CsvBlock:
    def __init__(self, cells: list[list[str]], header: Sequence[str]) -> None:
        self.cells = cells
        self._header = header

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, columns: Sequence[str]) -> list[tuple[str, ...]]:
        places = [self._header.index(name) for name in columns]
        return [tuple([row[place] for place in places]) for row in self.cells]

    def head(self, rows: int) -> "_CsvBlock":
        return _CsvBlock(self.cells[:rows], self._header)


class CsvTable:
    """A CSV file in UTF-8 whose first line names the columns.

    It is read through once, to see that every row is whole.
    """

    def __init__(self, path: Path, delimiter: str | None = None, name: str | None = None) -> None:
        """Raises InvalidInput, with the line, if it is no such file.

        `delimiter`: None, to look for it. `name`: as messages call it, if not by its path.
        """
        self.name = str(path) if name is None else name
        self._path = path
        beginning = _read_beginning(path, self.name)
        self._has_mark = beginning.startswith(_BYTE_ORDER_MARK)
        self._line_end = "\r\n" if b"\r\n" in beginning else "\n"
        self.delimiter = delimiter or _find_delimiter(beginning.removeprefix(_BYTE_ORDER_MARK).decode(errors="replace"))
        self.note = f"cells are separated by {_DELIMITERS[self.delimiter]}" if self.delimiter != "," else None
        # The library's own limit of 128 kB is for files that one does not trust.
        csv.field_size_limit(sys.maxsize)
        self.columns, self.rows = self._inspect()

    def read(self, start: int = 0) -> Iterator[_CsvBlock]:
        """The rows from number `start` on."""
        with _open_text(self._path) as file:
            rows = self._parse(file)
            next(rows, None)
            for _ in islice(rows, start):
                pass
            yield from self._gather(rows)

    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return hash_file(self._path)

    def begin(self, file: BinaryIO, new: Sequence[AnswerColumn]) -> "_CsvWriter":
        """Write in the same form."""
        if self._has_mark:
            file.write(_BYTE_ORDER_MARK)
        header = [*self.columns, *(column.name for column in new)]
        return _CsvWriter(file, self.delimiter, self._line_end, header)

    def _gather(self, rows: Iterator[list[str]]) -> Iterator[_CsvBlock]:
        gathered: list[list[str]] = []
        size = 0
        for row in rows:
            gathered.append(row)
            size += sum(map(len, row))
            if len(gathered) == BLOCK_ROWS or size >= BLOCK_BYTES:
                yield _CsvBlock(gathered, self.columns)
                gathered, size = [], 0
        if gathered:
            yield _CsvBlock(gathered, self.columns)

    def _inspect(self) -> tuple[list[str], int]:
        with _open_text(self._path) as file:
            faults = RowFaults(self.name)
            rows = self._parse(file, faults)
            header = next(rows, None)
            if header is None:
                raise InvalidInput(
                    f"{self.name} is empty; the first line of a CSV file names its columns.", param="input"
                )
            check_column_count(header, self.name)
            count = sum(1 for _ in rows)
            faults.check()
            return header, count

    def _parse(self, file: io.TextIOBase, faults: RowFaults | None = None) -> Iterator[list[str]]:
        lines = RowLines(file, self.name)
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        width = 0
        try:
            for row in reader:
                lines.begin_row()
                # Only a line without anything has no cell.
                if not row:
                    continue
                width = width or len(row)
                if len(row) != width and faults is not None:
                    cells = f"{len(row)} cell{'s' if len(row) > 1 else ''}"
                    faults.add(reader.line_num, f"the row has {cells} where the header has {width}")
                yield row
        except csv.Error as error:
            if faults is not None:
                faults.check()
            message = f"{self.name}:{reader.line_num}: the row is not CSV: {_name_fault(str(error))}."
            raise InvalidInput(message, param="input") from None
        except UnicodeDecodeError:
            message = f"{self.name} is not UTF-8 behind line {reader.line_num}; save it as UTF-8."
            raise InvalidInput(message, param="input") from None


class _CsvWriter:
    def __init__(self, file: BinaryIO, delimiter: str, line_end: str, header: list[str]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
        self._writer = csv.writer(self._text, delimiter=delimiter, lineterminator=line_end)
        self._writer.writerow(header)

    def write(self, block: _CsvBlock, values: Sequence[Sequence[Any]]) -> None:
        added = ([render_cell(value) for value in each] for each in values)
        self._writer.writerows([*cells, *each] for cells, each in zip(block.cells, added, strict=True))

    def finish(self) -> None:
        self._text.detach()


def _open_text(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(open_unpacked(path), encoding="utf-8-sig", newline="")


def _read_beginning(path: Path, name: str) -> bytes:
    with open_unpacked(path) as file:
        beginning = file.read(_LOOK_BYTES)
    if beginning.startswith(_WIDE_MARKS):
        raise InvalidInput(f"{name} is UTF-16; save it as UTF-8.", param="input")
    return beginning


def _find_delimiter(beginning: str) -> str:
    """The one that cuts all of the first rows into as many cells, and those into the most; a comma if none does."""
    best, most = ",", 1
    for delimiter in _DELIMITERS:
        rows: list[list[str]] = []
        try:
            rows.extend(
                islice(filter(None, csv.reader(io.StringIO(beginning), delimiter=delimiter)), _RECORDS_COMPARED)
            )
        except csv.Error:
            continue
        if len(beginning) >= _LOOK_BYTES // 2 and len(rows) > 1 and len(rows) < _RECORDS_COMPARED:
            rows.pop()  # it may be cut off
        widths = {len(row) for row in rows}
        if len(widths) == 1 and (width := widths.pop()) > most:
            best, most = delimiter, width
    return best


def _name_fault(reason: str) -> str:
    if "unexpected end" in reason:
        return "a quoted cell is never closed"
    if "expected after" in reason:
        return "something follows the closing quote of a cell"
    return reason
