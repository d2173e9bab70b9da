"""Tables as batches of a server: what `submit` sends of one, and what `download` puts beside its rows."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backfill.cli.connection import ask_server
from backfill.cli.console import emit, say
from backfill.cli.failures import ALL_ANSWERED, SOME_FAILED
from backfill.cli.following import FINAL
from backfill.cli.remote import RemoteServer
from backfill.cli.table_options import TableOptions
from backfill.cli.tables import check_columns, join_table, open_named, tell_left_out, write_requests
from backfill.errors import Conflict, InvalidInput
from backfill.inflation import name_unpacked
from backfill.local import check_target
from backfill.tables import RequestBuilder, check_same_form, is_table

__all__ = ["check_ended", "check_table_target", "download_table", "file_of_requests"]

_Batch = dict[str, Any]


@contextmanager
def file_of_requests(name: str, table: TableOptions, endpoint: str) -> Iterator[Path]:
    """The file to upload: the one of this name, or, while this lasts, one with the requests of a table's rows."""
    if not table.is_asked and not is_table(name):
        table.refuse_all("is for tables, and goes with --prompt")
        yield Path(name)
        return
    builder = RequestBuilder(table.make_plan(endpoint, None))
    rows = open_named(name)
    check_columns(rows, builder)
    with tempfile.TemporaryDirectory(prefix="backfill-") as folder:
        path = Path(folder) / f"{Path(name_unpacked(name)).stem}.jsonl"
        with path.open("wb") as file:
            written, left_out = write_requests(rows, builder, file, table.limit)
        tell_left_out(left_out)
        if not written:
            raise InvalidInput(f"{name} has no row about which something can be asked.", param="input")
        yield path


def check_ended(batch: _Batch) -> None:
    """Raise Conflict if a batch has no results yet."""
    if batch["status"] not in FINAL:
        message = f"The batch has not ended ({batch['status']}); `backfill watch {batch['id']}` waits for it."
        raise Conflict(message, code="batch_not_ended")


def download_table(
    batch_id: str,
    name: str,
    output_path: Path,
    table: TableOptions,
    server: tuple[str | None, str | None],
    *,
    as_json: bool,
) -> int:
    """Write a table with the answers of its batch; the exit code. `server`: as `ask_server` has its URL and key."""
    with tempfile.TemporaryDirectory(prefix="backfill-") as folder:

        async def work(remote: RemoteServer) -> tuple[_Batch, list[Path]]:
            batch = await remote.get_batch(batch_id)
            check_ended(batch)
            fetched = []
            for file_id in (batch["output_file_id"], batch["error_file_id"]):
                if file_id:
                    fetched.append(Path(folder) / file_id)
                    with fetched[-1].open("wb") as file:
                        await remote.download(file_id, file)
            return batch, fetched

        batch, fetched = ask_server(work, *server, as_json=as_json)
        reader = table.make_reader(batch["endpoint"])
        joined = join_table(open_named(name), fetched, reader, table.id_column, output_path)
    say(f"{joined['rows']:,} rows, {joined['failed']:,} without an answer: {output_path}")
    if joined["unknown"]:
        say(f"{joined['unknown']:,} results belong to no row of the table", label="warning", style="yellow")
    if as_json:
        emit({"batch_id": batch_id, **joined, "output": str(output_path)})
    return SOME_FAILED if joined["failed"] else ALL_ANSWERED


def check_table_target(name: str, output_path: Path | None, *, force: bool) -> Path:
    """Where a table with answers goes; raises InvalidInput or Conflict if it cannot go there."""
    if output_path is None:
        raise InvalidInput("With --table, -o FILE says where the table with its answers goes.", param="output")
    check_same_form(name, output_path)
    if Path(name).resolve() == output_path.resolve():
        raise Conflict("Input and output must be two different files.", code="same_file")
    check_target(output_path, force=force)
    return output_path
