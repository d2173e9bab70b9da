"""`backfill gc`: what is over, by the ages of the settings, and can go."""

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from backfill.cli.connection import URL_VARIABLE, KeyVariable, ask_server
from backfill.cli.console import emit, say, write_out
from backfill.cli.failures import end_on_error
from backfill.cli.options import AsJson, ConfigFile
from backfill.cli.remote import RemoteServer
from backfill.config import load_config
from backfill.errors import BackfillError, StoreBusy

__all__ = ["gc"]

_Object = dict[str, Any]


def gc(
    config_file: ConfigFile = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where files, batches and journals are kept.")
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help=f"A running server, by its settings; {URL_VARIABLE} if one runs."),
    ] = None,
    api_key_env: KeyVariable = None,
    as_json: AsJson = False,
) -> None:
    """Remove what is older than the settings allow; a server that runs does this by itself."""
    if url is not None:
        found = ask_server(
            lambda server: server.collect(is_trial=dry_run, data_dir=None), url, api_key_env, as_json=as_json
        )
    else:
        found = _collect(config_file, data_dir, api_key_env, is_trial=dry_run, as_json=as_json)
    if as_json:
        told = {name: found[name] for name in ("dry_run", "size_bytes", "removed")}
        emit({"event": "collected"} | told)
    else:
        _report(found)


def _collect(
    config_file: Path | None, data_dir: Path | None, api_key_env: str | None, *, is_trial: bool, as_json: bool
) -> _Object:
    """In the data directory, or by the server that works in it."""
    # Loads the store, which a server that is named has loaded itself.
    from backfill.intake import collect  # noqa: PLC0415

    with end_on_error(as_json=as_json):
        config = load_config(config_file, overrides={} if data_dir is None else {"data_dir": data_dir})
        try:
            leftovers = asyncio.run(collect(config, is_trial=is_trial))
        except StoreBusy:
            leftovers = None
    if leftovers is None:
        return _ask_holder(config.data_dir, api_key_env, as_json=as_json)
    return {
        "dry_run": is_trial,
        "size_bytes": sum(leftover.size_bytes for leftover in leftovers),
        "removed": [leftover._asdict() for leftover in leftovers],
    }


def _ask_holder(data_dir: Path, api_key_env: str | None, *, as_json: bool) -> _Object:
    """Ask the server that works there; the one that answers says whether it is that one."""
    place = data_dir.resolve()

    async def work(server: RemoteServer) -> _Object:
        try:
            return await server.collect(is_trial=False, data_dir=place)
        except BackfillError as error:
            message = (
                f"A server works in {data_dir}, and the one at {server.url} did not do this: {error.message} "
                f"--url or {URL_VARIABLE} names another; --dry-run needs none."
            )
            raise StoreBusy(message) from None

    return ask_server(work, os.environ.get(URL_VARIABLE), api_key_env, as_json=as_json)


def _report(found: _Object) -> None:
    counts: Counter[str] = Counter()
    for leftover in found["removed"]:
        counts[leftover["kind"]] += 1
        write_out(f"{leftover['kind']:10}  {leftover['name']}  {leftover['size_bytes']:,} bytes")
    told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())) or "nothing"
    say(f"{'would go' if found['dry_run'] else 'removed'}: {told}; {found['size_bytes']:,} bytes")
