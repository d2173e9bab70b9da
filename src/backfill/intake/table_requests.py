"""A new file of requests, made of the rows of an uploaded table; it remembers of which, and what was asked."""

from collections.abc import Iterator
from typing import NamedTuple

from backfill.batch import File, FileStatus
from backfill.errors import InvalidInput
from backfill.index import Survey
from backfill.intake.file_limits import FileLimits
from backfill.intake.scanner import LineScanner
from backfill.intake.table_origin import TableOrigin, write_origin
from backfill.intake.upload import Intake, new_file_id
from backfill.tables import (
    Question,
    RequestBuilder,
    RowIds,
    Table,
    Unsendable,
    check_known,
    check_new,
    number_rows,
)

__all__ = ["LeftOut", "MadeRequests", "TablePreview", "make_requests", "preview_requests"]

_PIECE_BYTES = 1 << 18
_LISTED_MAX = 20
_SAMPLE_ROWS = 1000
_SAMPLE_BYTES = 1 << 21


class LeftOut(NamedTuple):
    """A row about which nothing can be asked."""

    row: int
    """From 1."""
    reason: str


class TablePreview(NamedTuple):
    """What a table would ask, by its first rows."""

    rows: int
    """Of the table, as far as they are asked about."""
    looked_at: int
    """How many of them were."""
    lines: list[bytes]
    """The first requests."""
    left_out: list[LeftOut]
    """Of those that were looked at."""
    survey: Survey
    """Of those as well."""


class MadeRequests(NamedTuple):
    """A file of requests."""

    file: File
    left_out: list[LeftOut]
    """The first few."""
    left_out_count: int


async def preview_requests(
    intake: Intake, source: File, question: Question, limits: FileLimits, shown: int
) -> TablePreview:
    """The requests of the first rows, and what they need; nothing is kept. Raises as `make_requests`."""
    table, builder = await _begin(intake, source, question, limits)
    length_max = intake.limits.custom_id_length

    def look() -> TablePreview:
        return _look(table, builder, question.limit, shown, length_max)

    return await intake.tables.run(look)


async def make_requests(
    intake: Intake, source: File, question: Question, purpose: str, limits: FileLimits, now_ms: int
) -> MadeRequests:
    """Seal the requests about the rows of `source`, a file of the same owner, as a file for a batch.

    Raises:
        InvalidInput: the table is none, lacks a column, or has one of that name already; the question makes no sense;
            an id is there twice; or nothing can be asked about any row.
        TooLarge: the requests are more bytes than a file may have.
        StoreUnavailable: the disk takes no more.

    """
    table, builder = await _begin(intake, source, question, limits)
    lines = _Lines(table, builder, question.limit)
    upload = intake.begin(new_file_id(), limits, purpose)
    try:
        while piece := await intake.tables.run(lines.read_piece):
            await upload.feed(piece)
        if not lines.written:
            reason = f" Row {lines.left_out[0].row}: {lines.left_out[0].reason}." if lines.left_out else ""
            message = f"{source.filename} has no row about which something can be asked.{reason}"
            raise InvalidInput(message, param="prompt", code="no_rows")
        origin = TableOrigin(question, source.id)
        await intake.tables.run(lambda: write_origin(intake.blobs, upload.file_id, origin))
        draft = File(
            id=upload.file_id,
            owner=source.owner,
            filename=f"{source.filename.rpartition('.')[0] or source.filename}_requests.jsonl",
            purpose=purpose,
            status=FileStatus.RESERVED,
            created_at_ms=now_ms,
        )
        return MadeRequests(await upload.seal(draft), lines.left_out, lines.left_out_count)
    finally:
        upload.abort()


async def _begin(intake: Intake, source: File, question: Question, limits: FileLimits) -> tuple[Table, RequestBuilder]:
    builder = RequestBuilder(question.make_plan())
    table = await intake.tables.open(source)
    plan = builder.plan
    columns = list(table.columns)
    for name, member in (
        (plan.id_column, "id_column"),
        (plan.image_column, "image_column"),
        (plan.audio_column, "audio_column"),
    ):
        if name is not None:
            check_known([name], columns, table=table.name, asked_by=member)
    check_known(builder.columns, columns, table=table.name, asked_by="prompt")
    if plan.schema is not None:
        names = [column.name for column in plan.schema.columns]
        check_new(names, columns, table=table.name, renamed_by="columns or schema must name")
    rows = _count_rows(table, question.limit)
    if rows > limits.lines:
        whose = "your key" if limits.is_own else "limits.lines"
        message = (
            f"{table.name} has {rows:,} rows to ask about; a batch may have {limits.lines:,} requests ({whose}). "
            "The member limit takes only the first ones."
        )
        raise InvalidInput(message, param="limit", code="too_many_requests")
    return table, builder


def _count_rows(table: Table, limit: int | None) -> int:
    return table.rows if limit is None else min(table.rows, limit)


def _look(table: Table, builder: RequestBuilder, limit: int | None, shown: int, id_length: int) -> TablePreview:
    scanner = LineScanner(lines_limit=_SAMPLE_ROWS, custom_id_length=id_length)
    lines: list[bytes] = []
    left_out: list[LeftOut] = []
    looked_at = size = 0
    for number, values in number_rows(table, builder, min(limit or _SAMPLE_ROWS, _SAMPLE_ROWS)):
        looked_at += 1
        try:
            line = builder.build(number, values)
        except Unsendable as error:
            left_out.append(LeftOut(number + 1, str(error)))
            continue
        scanner.feed(line)
        size += len(line)
        if len(lines) < shown:
            lines.append(line)
        elif size >= _SAMPLE_BYTES:
            break
    return TablePreview(_count_rows(table, limit), looked_at, lines, left_out, scanner.finish()[1])


class _Lines:
    """The requests, a piece of some rows at a time. Blocks on disk: call it in a worker thread."""

    def __init__(self, table: Table, builder: RequestBuilder, limit: int | None) -> None:
        self.written = 0
        self.left_out: list[LeftOut] = []
        self.left_out_count = 0
        self._builder = builder
        self._ids = RowIds(table, builder)
        self._pieces = self._make_pieces(table, limit)

    def read_piece(self) -> bytes:
        """The next ones; nothing at the end."""
        return next(self._pieces, b"")

    def _make_pieces(self, table: Table, limit: int | None) -> Iterator[bytes]:
        found: list[bytes] = []
        size = 0
        for number, values in number_rows(table, self._builder, limit):
            try:
                line = self._builder.build(number, values)
                self._ids.check(number, values)
            except Unsendable as error:
                self.left_out_count += 1
                if len(self.left_out) < _LISTED_MAX:
                    self.left_out.append(LeftOut(number + 1, str(error)))
                continue
            self.written += 1
            found.append(line)
            size += len(line)
            if size >= _PIECE_BYTES:
                yield b"".join(found)
                found, size = [], 0
        if found:
            yield b"".join(found)
