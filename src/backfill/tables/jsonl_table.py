"""Tables as JSON lines: an object a row, whose members are columns. What a row says is passed on byte by byte."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from backfill.errors import InvalidInput
from backfill.inflation import open_unpacked
from backfill.tables.column_types import AnswerColumn
from backfill.tables.json_fault import explain_json
from backfill.tables.row_faults import RowFaults
from backfill.tables.row_limits import ROW_LENGTH_MAX, check_column_count
from backfill.tables.table import BLOCK_BYTES, BLOCK_ROWS, hash_file

__all__ = ["JsonlTable"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
# JSON allows these inside a string, but many readers end a line there.
_SEPARATORS = {b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029", b"\xc2\x85": b"\\u0085"}
_Row = tuple[bytes, dict[str, Any]]


class _JsonlBlock:
    def __init__(self, rows: list[_Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        return [tuple([row.get(name) for name in columns]) for _, row in self.rows]

    def head(self, rows: int) -> "_JsonlBlock":
        return _JsonlBlock(self.rows[:rows])


class JsonlTable:
    """A file with one JSON object a line; its columns are the members of all rows together.

    It is read through once, to know them and to see that each line is an object.
    """

    note: str | None = None

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Raises InvalidInput, with the line, if it is none; `name`: as messages call it, if not by its path."""
        self.name = str(path) if name is None else name
        self._path = path
        columns: dict[str, None] = {}
        self.rows = 0
        faults = RowFaults(self.name)
        for _, row in self._parse(faults):
            self.rows += 1
            if not columns.keys() >= row.keys():
                columns |= dict.fromkeys(row)
                check_column_count(columns, self.name)
        faults.check()
        self.columns = list(columns)

    def read(self, start: int = 0) -> Iterator[_JsonlBlock]:
        """The rows from number `start` on."""
        gathered: list[_Row] = []
        size = 0
        for number, row in enumerate(self._parse()):
            if number < start:
                continue
            gathered.append(row)
            size += len(row[0])
            if len(gathered) == BLOCK_ROWS or size >= BLOCK_BYTES:
                yield _JsonlBlock(gathered)
                gathered, size = [], 0
        if gathered:
            yield _JsonlBlock(gathered)

    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return hash_file(self._path)

    def begin(self, file: BinaryIO, new: Sequence[AnswerColumn]) -> "_JsonlWriter":
        """Write the rows with further members."""
        return _JsonlWriter(file, [column.name for column in new])

    def _parse(self, faults: RowFaults | None = None) -> Iterator[_Row]:
        with open_unpacked(self._path) as file:
            number = 0
            while line := file.readline(ROW_LENGTH_MAX):
                number += 1
                if len(line) >= ROW_LENGTH_MAX:
                    message = f"{self.name}:{number}: the row is longer than {ROW_LENGTH_MAX >> 20} MiB."
                    raise InvalidInput(message, param="input")
                text = line.removeprefix(_BYTE_ORDER_MARK).strip() if number == 1 else line.strip()
                if text and (row := _read_row(text, number, faults)) is not None:
                    yield text, row


def _read_row(text: bytes, number: int, faults: RowFaults | None) -> dict[str, Any] | None:
    try:
        row = _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        if faults is not None:
            faults.add(number, f"the line is not JSON: {explain_json(text)}")
        return None
    if isinstance(row, dict):
        return row
    if faults is not None:
        faults.add(number, "the line is no JSON object, as each row of a table is")
    return None


class _JsonlWriter:
    def __init__(self, file: BinaryIO, names: Sequence[str]) -> None:
        self._file = file
        self._names = names

    def write(self, block: _JsonlBlock, values: Sequence[Sequence[Any]]) -> None:
        names = self._names
        lines = []
        for (text, row), each in zip(block.rows, values, strict=True):
            added = _encode(dict(zip(names, each, strict=True)))
            if not added.isascii():
                for separator, escape in _SEPARATORS.items():
                    added = added.replace(separator, escape)
            lines.append(b"%b%b%b\n" % (text[:-1], b"," if row else b"", added[1:]))
        self._file.write(b"".join(lines))

    def finish(self) -> None:
        """Nothing is held back."""
