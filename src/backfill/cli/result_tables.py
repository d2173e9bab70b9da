"""`backfill download --format`: the results of a batch as a table that the server makes."""

from enum import StrEnum
from pathlib import Path
from typing import Any

from backfill.cli.batch_groups import FINAL, GROUP_PREFIX
from backfill.cli.connection import ask_server
from backfill.cli.console import emit, say
from backfill.cli.failures import ALL_ANSWERED, SOME_FAILED
from backfill.cli.following import count_lines
from backfill.cli.remote import RemoteServer
from backfill.errors import InvalidInput
from backfill.local import check_target, replacing

__all__ = ["ResultForm", "choose_form", "download_as_table"]


class ResultForm(StrEnum):
    """Forms in which results can be had."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


def choose_form(form: ResultForm | None, errors_path: Path | None, table_name: str | None) -> ResultForm:
    """The form that is meant; raises InvalidInput for options that do not go with it."""
    if form is None or form is ResultForm.JSONL:
        return ResultForm.JSONL
    for option, value in (("errors", errors_path), ("table", table_name)):
        if value is not None:
            message = f"--{option} does not go with --format {form}: the table that the server makes has all rows."
            raise InvalidInput(message, param=option)
    return form


def download_as_table(
    batch_id: str,
    form: ResultForm,
    output_path: Path | None,
    server: tuple[str | None, str | None],
    *,
    force: bool,
    as_json: bool,
) -> int:
    """Write the table, also of a batch that runs; the exit code. `server`: as `ask_server` has its URL and key."""
    if batch_id.startswith(GROUP_PREFIX):
        message = (
            f"{batch_id} stands for several batches, and the server makes the table of one; name one of them, or have "
            "--table put the answers beside the rows."
        )
        raise InvalidInput(message, param="format")
    path = output_path or Path(f"{batch_id}.{form}")
    check_target(path, force=force)

    async def work(remote: RemoteServer) -> dict[str, Any]:
        batch = await remote.get_batch(batch_id)
        with replacing(path) as target:
            await remote.download_table(batch_id, form, target)
        return batch

    batch = ask_server(work, *server, as_json=as_json)
    has_ended = batch["status"] in FINAL
    say(f"{'all rows' if has_ended else 'all rows, with what is finished so far'}: {path}")
    if as_json:
        emit({"batch_id": batch_id, "output": str(path), "is_whole": has_ended})
    return ALL_ANSWERED if has_ended and not count_lines(batch).failed else SOME_FAILED
