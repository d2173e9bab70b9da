"""Where the requests of a batch come from: a file of them, or a table whose rows are asked about.

Either is read twice where it is cut into parts, and never copied.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from backfill.cli.problems import name_unreadable
from backfill.cli.table_options import TableOptions
from backfill.cli.tables import RequestLines, check_columns, open_named, tell_left_out
from backfill.errors import InvalidInput
from backfill.inflation import name_unpacked
from backfill.tables import RequestBuilder, is_table

__all__ = ["FileSource", "RequestSource", "TableSource", "find_source"]

_PIECE_BYTES = 1 << 18
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")


class RequestSource(Protocol):
    """Lines in order, each at a place from which it can be read again."""

    name: str
    """As messages call it."""
    filename: str
    """As a server calls what is uploaded."""

    def list_lines(self, size_limit_bytes: int) -> Iterator[tuple[int, bytes]]:
        """The place of each line and the line with its end; raises InvalidInput if one is longer than the limit."""

    def read(self, start: int, size_bytes: int) -> Iterator[bytes]:
        """The bytes of whole lines from a place on, in pieces; fewer if there are no more."""


class FileSource:
    """A file of requests; the place of a line is where it begins."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidInput if it cannot be read."""
        self.name, self.filename = str(path), path.name
        self.path = path
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise name_unreadable(self.path, error) from None

    def may_exceed(self, lines: int, size_bytes: int) -> bool:
        """Whether it has more bytes or lines, blank ones too; of what can be read only once nobody knows."""
        # What is compressed is unpacked by the server, which sees how much that is.
        if not self.path.is_file() or next(self.read(0, 4), b"").startswith(_COMPRESSED):
            return False
        if self.path.stat().st_size > size_bytes:
            return True
        return sum(piece.count(b"\n") for piece in self.read(0, size_bytes)) >= lines

    def list_lines(self, size_limit_bytes: int) -> Iterator[tuple[int, bytes]]:
        """The lines of the file."""
        number = start = 0
        try:
            with self.path.open("rb") as file:
                while line := file.readline(size_limit_bytes + 1):
                    number += 1
                    if len(line) > size_limit_bytes:
                        raise _name_longer(f"{self.name}:{number}: the line", size_limit_bytes)
                    yield start, line
                    start += len(line)
        except OSError as error:
            raise name_unreadable(self.path, error) from None

    def read(self, start: int, size_bytes: int) -> Iterator[bytes]:
        """The bytes of the file."""
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                while size_bytes and (piece := file.read(min(size_bytes, _PIECE_BYTES))):
                    yield piece
                    size_bytes -= len(piece)
        except OSError as error:
            raise name_unreadable(self.path, error) from None


class TableSource:
    """A table; the place of a line is the number of its row."""

    def __init__(self, name: str, options: TableOptions, endpoint: str) -> None:
        """Raises InvalidInput if the table cannot be read or lacks a column."""
        builder = RequestBuilder(options.make_plan(endpoint, None))
        table = open_named(name)
        check_columns(table, builder)
        self.name = name
        self.filename = f"{Path(name_unpacked(name)).stem}.jsonl"
        self._lines = RequestLines(table, builder, options.limit)

    def list_lines(self, size_limit_bytes: int) -> Iterator[tuple[int, bytes]]:
        """A request for each row about which something can be asked; says in the end which rows are left out."""
        left_out: list[str] = []
        for row, line in self._lines.build(left_out):
            if len(line) > size_limit_bytes:
                raise _name_longer(f"{self.name}: the request of row {row + 1}", size_limit_bytes)
            yield row, line
        tell_left_out(left_out)

    def read(self, start: int, size_bytes: int) -> Iterator[bytes]:
        """The requests of the rows from number `start` on."""
        pending: list[bytes] = []
        pending_bytes = 0
        for _, line in self._lines.build([], start):
            pending.append(line)
            pending_bytes += len(line)
            size_bytes -= len(line)
            if pending_bytes >= _PIECE_BYTES or size_bytes <= 0:
                yield b"".join(pending)
                pending, pending_bytes = [], 0
            if size_bytes <= 0:
                return
        yield b"".join(pending)


def _name_longer(line: str, size_limit_bytes: int) -> InvalidInput:
    return InvalidInput(f"{line} has more than the {size_limit_bytes:,} bytes that the server takes.", param="input")


def find_source(name: str, table: TableOptions, endpoint: str) -> FileSource | TableSource:
    """The requests behind a name; raises InvalidInput."""
    if table.is_asked or is_table(name):
        return TableSource(name, table, endpoint)
    table.refuse_all("is for tables, and goes with --prompt")
    return FileSource(Path(name))
