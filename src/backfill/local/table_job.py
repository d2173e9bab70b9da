"""A table that is to be run: what of it is asked, and what must be the same when the run is gone on with."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from backfill.errors import Conflict
from backfill.store import sync_folder, telling
from backfill.tables import AnswerReader, Block, RequestBuilder, Table

__all__ = ["CHUNK_ROWS", "TableJob"]

CHUNK_ROWS = 50_000
"""Rows of one batch: what a batch keeps in memory does not grow with the table."""
_RECORD = "table.json"


class _Record(msgspec.Struct):
    """What lies in the state folder."""

    input: str
    asked: dict[str, Any]
    rows: int
    chunk_rows: int


@dataclass(frozen=True)
class TableJob:
    """Rows, what is asked about each, and what becomes of the answers."""

    table: Table
    builder: RequestBuilder
    reader: AnswerReader
    model_id: str | None = None
    """Model of requests that name none."""
    limit: int | None = None
    chunk_rows: int = CHUNK_ROWS
    known_fingerprint: str | None = None
    """That of the table, if it is known; of what is asked for, where others of its columns may change."""

    @property
    def rows(self) -> int:
        """How many rows are run."""
        return self.table.rows if self.limit is None else min(self.limit, self.table.rows)

    @property
    def chunks(self) -> int:
        """How many batches that takes."""
        return -(-self.rows // self.chunk_rows)

    def size_of(self, chunk: int) -> int:
        """How many rows a chunk has."""
        return min(self.chunk_rows, self.rows - chunk * self.chunk_rows)

    def read(self, start: int = 0) -> Iterator[Block]:
        """The blocks of the rows that are run, from row `start` on."""
        left = self.rows - start
        for block in self.table.read(start) if left > 0 else ():
            yield block if len(block) <= left else block.head(left)
            left -= len(block)
            if left <= 0:
                return

    def begin(self, state: Path) -> None:
        """Note in the state folder what is run, or see that it is the same as what was begun there. Blocks on disk.

        Raises:
            Conflict: something else was begun; the message says what changed.

        """
        wanted = _Record(
            self.known_fingerprint or self.table.fingerprint(), self.builder.plan.describe(), self.rows, self.chunk_rows
        )
        path = state / _RECORD
        try:
            begun = msgspec.json.decode(path.read_bytes(), type=_Record)
        except FileNotFoundError:
            _write_private(path, msgspec.json.encode(wanted))
            return
        except msgspec.DecodeError:
            raise Conflict(f"The run in {state.name} cannot be read. Use --force to throw it away.") from None
        changed = _name_changes(begun, wanted)
        if changed:
            message = (
                f"Since the run in {state.name} began, {changed} changed. Use --force to throw it away and start over."
            )
            raise Conflict(message, code="run_changed")


def _write_private(path: Path, data: bytes) -> None:
    """Whole or not at all, and for nobody else to read: prompts stand in it."""
    temporary = path.with_name(f"{path.name}.partial")
    with telling("write", path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)


def _name_changes(begun: _Record, wanted: _Record) -> str:
    names = ["the table" if begun.input != wanted.input else ""]
    asked = begun.asked.keys() | wanted.asked.keys()
    # As JSON has them both: tuples became lists.
    now = msgspec.json.decode(msgspec.json.encode(wanted.asked))
    names += [f"the {name}" for name in sorted(asked) if begun.asked.get(name) != now.get(name)]
    if begun.input == wanted.input and begun.rows != wanted.rows:
        names.append("the limit")
    if begun.chunk_rows != wanted.chunk_rows:
        names.append("this version's way to cut tables")
    *others, last = [name for name in names if name] or [""]
    return f"{', '.join(others)} and {last}" if others else last
