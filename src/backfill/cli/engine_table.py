"""Engines in words: a table with a row for each, and a sentence for each of which there is something to say."""

import io
import shutil
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from backfill.status import Bottleneck, ReplicaStatus
from backfill.wire.engine_words import explain_cost, explain_engine
from backfill.wire.words import name_rate

__all__ = ["draw_engines", "explain_cost", "explain_engine"]

_WORDS = {
    Bottleneck.WORK: "no work",
    Bottleneck.ENGINE: "engine",
    Bottleneck.UPSTREAM_LIMIT: "rate limit",
    Bottleneck.CEILING: "concurrency",
    Bottleneck.LIVE_TRAFFIC: "live traffic",
    Bottleneck.DISK: "disk",
    Bottleneck.BACKFILL: "Backfill",
    Bottleneck.UNKNOWN: "",
}


def draw_engines(engines: Sequence[ReplicaStatus]) -> Iterator[str]:
    """The lines of the table, as wide as the terminal at most, then the sentences."""
    table = Table(box=None, pad_edge=False, header_style="none", padding=(0, 2, 0, 0))
    table.add_column("engine", overflow="fold")
    table.add_column("state")
    table.add_column("in flight / limit", justify="right")
    table.add_column("requests/s", justify="right")
    table.add_column("tokens/s", justify="right")
    table.add_column("bottleneck", no_wrap=True)
    for engine in engines:
        table.add_row(
            engine.name,
            engine.state.value,
            _name_load(engine),
            name_rate(engine.requests_per_s),
            name_rate(engine.completion_tokens_per_s),
            _WORDS[engine.bottleneck],
        )
    # Into a text first: the command's results go through one place, which knows what a closed pipe means.
    drawn = io.StringIO()
    Console(file=drawn, width=shutil.get_terminal_size().columns, color_system=None, markup=False).print(table)
    yield from (line.rstrip() for line in drawn.getvalue().splitlines())
    sentences = [sentence for engine in engines if (sentence := explain_engine(engine))]
    sentences += [sentence for engine in engines if (sentence := explain_cost(engine))]
    if sentences:
        yield from ("", *sentences)


def _name_load(engine: ReplicaStatus) -> str:
    load = f"{engine.in_flight} / {engine.concurrency_limit}"
    if engine.batch_limit is not None:
        return f"{engine.in_flight} + {engine.live_in_flight} live / {engine.batch_limit} ({engine.concurrency_limit})"
    is_full = engine.concurrency_limit == engine.concurrency_ceiling
    return load if is_full else f"{load} ({engine.concurrency_ceiling})"
