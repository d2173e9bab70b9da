"""What a server does, live in a terminal: its engines and the batches that are under way."""

import asyncio
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from backfill.cli.connection import KeyVariable, Url, ask_server
from backfill.cli.console import write_out
from backfill.cli.engine_table import draw_engines
from backfill.cli.following import name_status
from backfill.cli.remote import UNREACHABLE, RemoteServer
from backfill.errors import BackfillError
from backfill.status import ReplicaStatus
from backfill.wire.words import name_duration

__all__ = ["draw_overview", "top"]

_BATCHES = 50
_BAR_CELLS = 20
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_ENDED_SHOWN = 5
_Batch = dict[str, Any]


def top(
    *,
    every_s: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.2, help="How often it is asked.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end, as without a terminal.")] = False,
    url: Url = None,
    api_key_env: KeyVariable = None,
) -> None:
    """Show what a server does, live; Ctrl-C ends it."""

    async def work(server: RemoteServer) -> None:
        if once or not sys.stdout.isatty():
            for line in await _look(server):
                write_out(line)
            return
        await _follow(server, every_s)

    try:
        ask_server(work, url, api_key_env, as_json=False)
    except KeyboardInterrupt:
        raise typer.Exit from None


async def _follow(server: RemoteServer, every_s: float) -> None:
    lines = await _look(server)
    with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        while True:
            height = shutil.get_terminal_size().lines
            live.update(Text("\n".join(lines[: max(1, height - 1)]), no_wrap=True, overflow="ellipsis"), refresh=True)
            await asyncio.sleep(every_s)
            try:
                lines = await _look(server)
            except BackfillError as error:
                if error.code != UNREACHABLE:
                    raise
                # It may be restarted; what was seen last stays.
                lines = [f"{server.url} does not answer, trying again", *lines[1:]]


async def _look(server: RemoteServer) -> list[str]:
    engines, batches = await asyncio.gather(server.list_engines(), server.list_newest_batches(_BATCHES))
    heading = f"{server.url}  {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return [heading, "", *draw_overview(engines, batches, time.time())]


def draw_overview(engines: Sequence[ReplicaStatus], batches: Sequence[_Batch], now_s: float) -> Iterator[str]:
    """The lines: engines as `backfill status` has them, then batches under way, then those that ended last."""
    yield from draw_engines(engines)
    under_way = [batch for batch in batches if batch["status"] not in _ENDED]
    ended = [batch for batch in batches if batch["status"] in _ENDED][:_ENDED_SHOWN]
    for heading, some in (("under way", under_way), ("ended", ended)):
        if some:
            yield from ("", heading, *(_draw_batch(batch, now_s) for batch in some))
    if not batches:
        yield from ("", "no batches yet")


def _draw_batch(batch: _Batch, now_s: float) -> str:
    counts = batch["request_counts"]
    total, failed = counts["total"], counts["failed"]
    done = counts["completed"] + failed
    cells = round(_BAR_CELLS * done / total) if total else 0
    parts = [
        batch["id"][-12:],
        f"{name_status(batch):11}",
        "█" * cells + "░" * (_BAR_CELLS - cells),
        f"{done:,}/{total:,}",
    ]
    if failed:
        parts.append(f"{failed:,} failed")
    if batch.get("estimated_completion_at") and batch["status"] not in _ENDED:
        parts.append(f"about {name_duration(max(0.0, batch['estimated_completion_at'] - now_s))} left")
    name = batch.get("name") or (batch.get("metadata") or {}).get("name") or batch.get("model")
    if name:
        parts.append("".join(c if c.isprintable() else " " for c in name[:60]))
    if batch.get("waiting"):
        parts.append(f"waits: {batch['waiting']['message']}")
    return "  ".join(parts)
