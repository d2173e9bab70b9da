"""Tables as batches of a server: what `download` puts beside their rows."""

import tempfile
from pathlib import Path

from backfill.cli.batch_groups import BatchGroup, find_group
from backfill.cli.connection import ask_server
from backfill.cli.console import emit, say
from backfill.cli.failures import ALL_ANSWERED, SOME_FAILED
from backfill.cli.remote import RemoteServer
from backfill.cli.table_options import TableOptions
from backfill.cli.tables import join_table, open_named
from backfill.errors import Conflict, InvalidInput
from backfill.local import check_target
from backfill.tables import check_same_form

__all__ = ["check_table_target", "download_table"]


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

        async def work(remote: RemoteServer) -> tuple[BatchGroup, list[Path]]:
            group = await find_group(remote, batch_id)
            group.check_ended()
            fetched = []
            for file_id in (*group.list_files("output_file_id"), *group.list_files("error_file_id")):
                fetched.append(Path(folder) / file_id)
                with fetched[-1].open("wb") as file:
                    await remote.download(file_id, file)
            return group, fetched

        group, fetched = ask_server(work, *server, as_json=as_json)
        reader = table.make_reader(group.summary["endpoint"])
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
