"""`backfill recover`: files whose rows a lost or older database does not have."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from backfill.cli.console import emit, say, write_out
from backfill.cli.failures import SOME_FAILED, end_on_error
from backfill.cli.options import AsJson, ConfigFile
from backfill.config import load_config
from backfill.intake import Recovery
from backfill.intake import recover as recover_files
from backfill.store import choose_driver

__all__ = ["recover"]


def recover(
    config_file: ConfigFile = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where files, batches and journals are kept.")
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take files in again whose rows the database has lost. Exits with 1 if something cannot be had again."""
    with end_on_error(as_json=as_json):
        config = load_config(config_file, overrides={} if data_dir is None else {"data_dir": data_dir})
        driver = choose_driver(config.store, config.data_dir)
        recovery = asyncio.run(recover_files(config.data_dir, driver, config.store, is_trial=dry_run))
        if as_json:
            emit(_describe(recovery, is_trial=dry_run))
        else:
            _report(recovery, is_trial=dry_run)
    raise typer.Exit(SOME_FAILED if recovery.damaged or recovery.journals else 0)


def _describe(recovery: Recovery, *, is_trial: bool) -> dict[str, object]:
    return {
        "event": "recovered",
        "dry_run": is_trial,
        "adopted": [file.id for file in recovery.adopted],
        "repeated": [file.id for file in recovery.repeated],
        "damaged": recovery.damaged,
        "journals": recovery.journals,
    }


def _report(recovery: Recovery, *, is_trial: bool) -> None:
    for file in recovery.adopted:
        write_out(f"{file.id}  {file.filename}  {file.size_bytes:,} bytes, {file.line_count:,} lines")
    for file in recovery.repeated:
        write_out(f"{file.id}  {file.filename}  is gathered again when its batch ends")
    for file_id, reason in recovery.damaged.items():
        write_out(f"{file_id}  cannot be had again: {reason}")
    for batch_id in recovery.journals:
        write_out(f"batch {batch_id}  has no row, and none can be made; create it again of the same file")
    files, lost = len(recovery.adopted), len(recovery.damaged) + len(recovery.journals)
    say(f"{files:,} files {'can be taken in again' if is_trial else 'taken in again'}")
    if lost:
        say(f"{lost:,} {'would be put aside' if is_trial else 'put aside'} in blobs/unrecovered of the data directory")
