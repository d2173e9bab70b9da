"""`backfill make` and `backfill join`: tables and the files of any server with a Batch API."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from backfill.cli.console import emit, say, write_out
from backfill.cli.failures import ALL_ANSWERED, SOME_FAILED, end_on_error
from backfill.cli.options import AsJson, Endpoint
from backfill.cli.table_options import TableOptions, takes_table_options
from backfill.errors import Conflict, InvalidInput
from backfill.local import check_target, replacing
from backfill.tables import (
    AnswerReader,
    RequestBuilder,
    ResultFiles,
    RowIds,
    Table,
    Unsendable,
    check_known,
    check_new,
    check_same_form,
    number_rows,
    open_table,
)
from backfill.tables import join as join_results
from backfill.turns import check_endpoint

__all__ = [
    "RequestLines",
    "check_apart",
    "check_columns",
    "check_ids",
    "join",
    "join_table",
    "make",
    "open_named",
    "preview",
    "preview_table",
    "tell_left_out",
    "write_requests",
]

_SHOWN_MAX = 5
TableName = Annotated[
    str, typer.Argument(metavar="TABLE", help="CSV, TSV, Parquet, JSON lines of rows, or hf://OWNER/NAME.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


@takes_table_options
def make(  # noqa: PLR0913 - an option each
    input_name: TableName,
    output_path: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Where the requests go, a line each."),
    ] = None,
    *,
    table: TableOptions,
    endpoint: Endpoint = "/v1/chat/completions",
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model that each request names.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the requests of a table's rows as JSON lines, for any server with a Batch API."""
    with end_on_error(as_json=as_json):
        builder = RequestBuilder(table.make_plan(table.choose_endpoint(check_endpoint(endpoint)), model))
        rows = open_named(input_name)
        check_columns(rows, builder)
        if table.preview is not None:
            preview(rows, builder, table.preview, as_json=as_json)
            return
        if output_path is None:
            raise InvalidInput("-o says where the requests go; --preview only shows them.", param="output")
        check_apart(input_name, output_path)
        check_target(output_path, force=force)
        with replacing(output_path) as file:
            written, left_out = write_requests(rows, builder, file, table.limit)
    tell_left_out(left_out)
    say(f"{written:,} requests: {output_path}")
    if as_json:
        emit({"event": "made", "requests": written, "left_out": len(left_out), "output": str(output_path)})
    raise typer.Exit(SOME_FAILED if left_out else ALL_ANSWERED)


@takes_table_options
def join(  # noqa: PLR0913 - an option each
    input_name: TableName,
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS.jsonl...", help="Output and error files, in any order.")
    ],
    output_path: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Where the table with answers goes.")
    ],
    *,
    table: TableOptions,
    endpoint: Endpoint = "/v1/chat/completions",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Put answers beside the rows that they are about. Takes the options with which the requests were made."""
    with end_on_error(as_json=as_json):
        reader = table.make_reader(table.choose_endpoint(check_endpoint(endpoint)))
        check_same_form(input_name, output_path)
        check_apart(input_name, output_path)
        check_target(output_path, force=force)
        joined = join_table(open_named(input_name), results, reader, table.id_column, output_path)
    say(f"{joined['rows']:,} rows, {joined['failed']:,} without an answer: {output_path}")
    if joined["unknown"]:
        say(f"{joined['unknown']:,} results belong to no row of the table", label="warning", style="yellow")
    if as_json:
        emit({"event": "joined", **joined, "output": str(output_path)})
    raise typer.Exit(SOME_FAILED if joined["failed"] else ALL_ANSWERED)


def join_table(
    rows: Table, results: Sequence[Path], reader: AnswerReader, id_column: str | None, output_path: Path
) -> dict[str, int]:
    """Write the table with the answers in these files; how it went."""
    if id_column is not None:
        check_known([id_column], rows.columns, table=rows.name, asked_by="--id")
    check_new([column.name for column in reader.columns], rows.columns, table=rows.name)
    with ResultFiles(results) as found, replacing(output_path) as file:
        return join_results(rows, found, reader, id_column, file)._asdict()


def open_named(name: str) -> Table:
    """The table of that name; says what was assumed of it."""
    table = open_table(name)
    if table.note:
        say(f"{name}: {table.note}")
    return table


def check_columns(table: Table, builder: RequestBuilder) -> None:
    """Raise InvalidInput if the table lacks a column that the requests need."""
    plan = builder.plan
    for option, name in (("--id", plan.id_column), ("--image", plan.image_column), ("--audio", plan.audio_column)):
        if name is not None:
            check_known([name], table.columns, table=table.name, asked_by=option)
    check_known(builder.columns, table.columns, table=table.name, asked_by="--prompt")


def check_apart(source: str, target: Path) -> None:
    """Raise Conflict if the one is the other."""
    if Path(source).resolve() == target.resolve():
        raise Conflict("Input and output must be two different files.", code="same_file")


class RequestLines:
    """The requests of a table's rows; as often as one likes, from any row on."""

    def __init__(self, table: Table, builder: RequestBuilder, limit: int | None) -> None:
        self._table = table
        self._builder = builder
        self._limit = limit

    def build(self, left_out: list[str], start: int = 0) -> Iterator[tuple[int, bytes]]:
        """The number of a row and its line; why others have none comes into `left_out`.

        Raises InvalidInput if two have one id, of those from row `start` on.
        """
        ids = RowIds(self._table, self._builder)
        for number, values in number_rows(self._table, self._builder, self._limit, start):
            try:
                line = self._builder.build(number, values)
                ids.check(number, values)
            except Unsendable as error:
                left_out.append(f"row {number + 1}: {error}")
                continue
            yield number, line


def write_requests(table: Table, builder: RequestBuilder, file: BinaryIO, limit: int | None) -> tuple[int, list[str]]:
    """Write a line for each row; how many, and why the others have none. Raises InvalidInput if two have one id."""
    written = 0
    left_out: list[str] = []
    for _, line in RequestLines(table, builder, limit).build(left_out):
        file.write(line)
        written += 1
    return written, left_out


def tell_left_out(reasons: Sequence[str]) -> None:
    """Say which rows nothing can be asked about: the first few, and how many there are."""
    for reason in reasons[:_SHOWN_MAX]:
        say(f"left out: {reason}", label="warning", style="yellow")
    if len(reasons) > _SHOWN_MAX:
        say(f"{len(reasons):,} rows are left out in all", label="warning", style="yellow")


def check_ids(table: Table, builder: RequestBuilder, limit: int | None) -> None:
    """Raise InvalidInput if two rows have one id; those without any fail by themselves."""
    ids = RowIds(table, builder)
    for number, values in number_rows(table, builder, limit):
        with suppress(Unsendable):
            ids.check(number, values)


def preview(table: Table, builder: RequestBuilder, count: int, *, as_json: bool) -> None:
    """Show what the first rows would ask."""
    for number, values in number_rows(table, builder, count):
        try:
            line = builder.build(number, values)
        except Unsendable as error:
            write_out(
                msgspec.json.encode({"row": number, "error": str(error)}).decode()
                if as_json
                else f"--- row {number + 1}: not sent: {error}"
            )
            continue
        if as_json:
            write_out(line.decode().rstrip("\n"))
        else:
            _show(number, msgspec.json.decode(line)["body"])
    say(f"{table.rows:,} rows in all; nothing was sent")


def preview_table(name: str, options: TableOptions, endpoint: str, *, as_json: bool) -> None:
    """Show what the first rows would ask, and send nothing."""
    builder = RequestBuilder(options.make_plan(endpoint, None))
    table = open_named(name)
    check_columns(table, builder)
    preview(table, builder, options.preview or 0, as_json=as_json)


def _show(number: int, body: dict[str, Any]) -> None:
    write_out(f"--- row {number + 1}")
    for message in body.pop("messages", ()):
        content: Any = message["content"]
        parts: list[dict[str, Any]] = [{"text": content}] if isinstance(content, str) else content
        for part in parts:
            write_out(f"{message['role']}: {part['text']}" if "text" in part else f"image: {part['image_url']['url']}")
    for name in ("prompt", "input"):
        if name in body:
            write_out(f"{name}: {body.pop(name)}")
    if body:
        write_out(f"besides: {msgspec.json.encode(body).decode()}")
