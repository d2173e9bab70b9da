"""The results of a batch as a table: every row in the order of the input, also while the batch runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import msgspec

from backfill.batch import Batch, Outcome
from backfill.errors import Conflict, NotFound
from backfill.index import LineIndex
from backfill.intake import TableOrigin, read_origin
from backfill.journal import Fold, JournalHold
from backfill.store import Blobs, index_key
from backfill.tables import (
    Block,
    Form,
    NameBlock,
    Question,
    RequestBuilder,
    ResultWriter,
    Table,
    Unsendable,
    read_result_line,
    row_id,
)
from backfill.web.api.cut_stream import CutStream
from backfill.web.api.services import Services
from backfill.wire.results import render_failure, render_rest

__all__ = ["MEDIA_TYPES", "ResultTableStream", "open_table_stream"]

MEDIA_TYPES = {Form.CSV: "text/csv; charset=utf-8", Form.PARQUET: "application/vnd.apache.parquet"}
_ENDINGS = {Form.CSV: "csv", Form.PARQUET: "parquet"}
_UNFINISHED = "there is no answer yet [unfinished]"
_NOT_SENT = "nothing was asked about this row [not_sent]"
_NAMES_AT_ONCE = 500


async def open_table_stream(services: Services, batch: Batch, form: Form, hold: JournalHold) -> "ResultTableStream":
    """The table as an answer; `hold` is released at its end, or by the caller if this raises.

    Raises:
        Conflict: the table of which the batch was made was deleted.
        InvalidInput: what the form takes is not installed, or it takes no such table.

    """
    origin = await asyncio.to_thread(read_origin, services.blobs, batch.input_file_id)
    table = await _find_table(services, batch, origin)
    question = Question(endpoint=batch.endpoint) if origin is None else origin.question
    rows = await services.intake.tables.run(lambda: _ResultRows(services.blobs, batch, question, table, form))
    try:
        # While the status can still say that this failed.
        first = await services.intake.tables.run(rows.read_piece)
    except BaseException:
        rows.close()
        raise
    return ResultTableStream(services, rows, first or b"", hold, form)


async def _find_table(services: Services, batch: Batch, origin: TableOrigin | None) -> Table | None:
    if origin is None or origin.table_file_id is None:
        return None
    try:
        file = await services.metadata.get_file(origin.table_file_id, batch.owner)
        return await services.intake.tables.open(file)
    except NotFound:
        message = (
            f"The table of batch {batch.id} was deleted. Its results are there without format; "
            "`backfill download --table` puts them beside the rows of a copy."
        )
        raise Conflict(message, code="table_deleted") from None


class _ResultRows:
    """Reads what became of each line. Blocks on disk: call it in worker threads; one at a time goes in."""

    def __init__(self, blobs: Blobs, batch: Batch, question: Question, table: Table | None, form: Form) -> None:
        self._batch = batch
        self._table = table
        self._limit = question.limit
        self._builder = None if table is None else RequestBuilder(question.make_plan())
        self._reader = question.make_reader([] if table is None else list(table.columns))
        self._index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
        self._fold = Fold(blobs, batch.id, len(self._index))
        self._fold.refresh()
        self._line = 0
        self._lock = threading.Lock()
        self._pieces = self._make_pieces(form)

    @property
    def batch_id(self) -> str:
        """Whose results these are."""
        return self._batch.id

    def read_piece(self) -> bytes | None:
        """The next bytes of the table, which may be none yet; None behind its end."""
        with self._lock:
            return next(self._pieces, None)

    def close(self) -> None:
        """Give all descriptors back, once nobody reads."""
        with self._lock:
            self._pieces.close()
            self._fold.close()

    def _make_pieces(self, form: Form) -> Generator[bytes, None, None]:
        writer = ResultWriter(self._table, self._reader.columns, form)
        for block, values in self._read_names() if self._table is None else self._read_table(self._table):
            yield writer.write(block, values)
        yield writer.finish()

    def _read_names(self) -> Iterator[tuple[Block, list[list[Any]]]]:
        for start in range(0, len(self._index), _NAMES_AT_ONCE):
            lines = range(start, min(start + _NAMES_AT_ONCE, len(self._index)))
            yield NameBlock([self._name_line(line) for line in lines]), [self._read_line(line) for line in lines]

    def _read_table(self, table: Table) -> Iterator[tuple[Block, list[list[Any]]]]:
        left = table.rows if self._limit is None else self._limit
        row = 0
        for whole in table.read():
            block = whole if len(whole) <= left else whole.head(left)
            yield block, self._read_rows(block, row)
            row += len(block)
            left -= len(block)
            if left <= 0:
                return

    def _read_rows(self, block: Block, first: int) -> list[list[Any]]:
        assert self._builder is not None  # noqa: S101 - there is a table
        return [
            self._read_row(number, values) for number, values in enumerate(block.take(self._builder.columns), first)
        ]

    def _read_row(self, number: int, values: Any) -> list[Any]:
        # Lines stand in the order of the rows; a row about which nothing could be asked has none.
        if self._line < len(self._index) and self._name_row(number, values) == self._name_line(self._line):
            self._line += 1
            return self._read_line(self._line - 1)
        obstacle = self._builder.find_obstacle(values) if self._builder is not None else None
        return self._reader.fail(f"{obstacle} [not_sent]" if obstacle else _NOT_SENT)

    def _name_row(self, number: int, values: Any) -> str | None:
        assert self._builder is not None  # noqa: S101 - there is a table
        if self._builder.plan.id_column is None:
            return row_id(number)
        try:
            return self._builder.name_row(values)
        except Unsendable:
            return None

    def _name_line(self, line: int) -> str:
        name: str = msgspec.json.decode(self._index.custom_id_json(line))
        return name

    def _read_line(self, line: int) -> list[Any]:
        entry = self._fold.find(line)
        if entry is not None:
            body = self._fold.read_body(entry)
            if entry.outcome is Outcome.ANSWERED:
                return self._reader.read(body)
            return self._read_failure(render_failure(self._batch, line, b'""', entry.outcome, entry.status, body))
        if self._batch.state.is_final:
            return self._read_failure(render_rest(self._batch, line, b'""'))
        return self._reader.fail(_UNFINISHED)

    def _read_failure(self, rendered: bytes) -> list[Any]:
        result = read_result_line(rendered)
        assert result is not None  # noqa: S101 - we have just rendered it
        return self._reader.read_result(result)


class ResultTableStream(CutStream):
    """Sends a table. Owns its rows, and closes them."""

    def __init__(self, services: Services, rows: _ResultRows, first: bytes, hold: JournalHold, form: Form) -> None:
        """`first` was read already; `hold` keeps the journal where it is."""
        disposition = f'attachment; filename="{rows.batch_id}.{_ENDINGS[form]}"'
        super().__init__(services.stopping, {"content-type": MEDIA_TYPES[form], "content-disposition": disposition})
        self._run = services.intake.tables.run
        self._rows = rows
        self._first = first
        self._hold = hold

    async def close(self) -> None:
        """Give all descriptors back, and the journal free."""
        try:
            await self._run(self._rows.close)
        finally:
            self._hold.release()

    async def make_pieces(self) -> AsyncIterator[bytes]:
        """The bytes of the table."""
        piece: bytes | None = self._first
        while piece is not None:
            if piece:
                yield piece
            piece = await self._run(self._rows.read_piece)
