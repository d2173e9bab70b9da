"""`backfill serve`: the HTTP server, with the dispatcher and the engines behind it."""

import os
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from backfill import scaler
from backfill.cli.console import emit, write_out
from backfill.cli.failures import end_on_error
from backfill.cli.logs import configure_logs
from backfill.cli.options import ConfigFile, Deterministic
from backfill.config import Role, load_config
from backfill.engines import make_deterministic
from backfill.server import serve as serve_forever

__all__ = ["serve"]


def serve(  # noqa: PLR0913 - the options of a command
    config_file: ConfigFile = None,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(metavar="N", help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where files, batches and journals are kept.")
    ] = None,
    role: Annotated[
        Role | None,
        typer.Option(
            help="all: everything, alone on the data directory. api and work: side by side on one. "
            "scale: keeps workers on Ray."
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --role work: the one engine that it has.")
    ] = None,
    *,
    deterministic: Deterministic = False,
    as_json: Annotated[bool, typer.Option("--json", help="Events and logs as JSON lines.")] = False,
) -> None:
    """Serve the API and work on batches until stopped."""
    configure_logs(as_json=as_json)
    ports = {"server.port": port, "server.work_port": port}
    given = {"server.host": host, "data_dir": data_dir, "server.role": role, "server.engine": engine} | ports
    with end_on_error(as_json=as_json):
        config = load_config(config_file, overrides={key: value for key, value in given.items() if value is not None})
        if deterministic:
            config = make_deterministic(config)
        if config.server.role is Role.SCALE:
            uvloop.run(scaler.serve_scaler(config, lambda: _announce_scaler(as_json=as_json)))
        else:
            uvloop.run(serve_forever(config, lambda url: _announce(url, as_json=as_json)))


def _announce_scaler(*, as_json: bool) -> None:
    if as_json:
        emit({"event": "ready", "url": "", "pid": os.getpid()})
    else:
        write_out("Backfill keeps workers on Ray.")


def _announce(url: str, *, as_json: bool) -> None:
    if as_json:
        emit({"event": "ready", "url": url, "pid": os.getpid()})
    elif not url:
        write_out("Backfill works on batches.")
    else:
        write_out(f"Backfill serves at {url} (Together's SDK v3: base_url={url!r}, v1 and v2: {url + '/v1'!r})")
