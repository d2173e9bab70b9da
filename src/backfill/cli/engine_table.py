"""Engines in words: a table with a row for each, and a sentence for each of which there is something to say."""

import io
import shutil
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from backfill.status import Bottleneck, ReplicaState, ReplicaStatus

__all__ = ["draw_engines", "explain_engine"]

_WORDS = {
    Bottleneck.WORK: "no work",
    Bottleneck.ENGINE: "engine",
    Bottleneck.UPSTREAM_LIMIT: "rate limit",
    Bottleneck.CEILING: "concurrency",
    Bottleneck.DISK: "disk",
    Bottleneck.BACKFILL: "Backfill",
    Bottleneck.UNKNOWN: "",
}
_SENTENCES = {
    Bottleneck.ENGINE: "the engine is the limit",
    Bottleneck.UPSTREAM_LIMIT: "its rate limit is the limit",
    Bottleneck.CEILING: "the configured concurrency is the limit",
    Bottleneck.DISK: "the journal's disk is the limit",
    Bottleneck.BACKFILL: "Backfill's own process is the limit",
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
            _name_rate(engine.requests_per_s),
            _name_rate(engine.completion_tokens_per_s),
            _WORDS[engine.bottleneck],
        )
    # Into a text first: the command's results go through one place, which knows what a closed pipe means.
    drawn = io.StringIO()
    Console(file=drawn, width=shutil.get_terminal_size().columns, color_system=None, markup=False).print(table)
    yield from (line.rstrip() for line in drawn.getvalue().splitlines())
    sentences = [sentence for engine in engines if (sentence := explain_engine(engine))]
    if sentences:
        yield from ("", *sentences)


def explain_engine(engine: ReplicaStatus) -> str | None:
    """What keeps the engine from doing more, in a sentence; None where nothing is known or wrong."""
    if engine.trouble:
        return f"{engine.name}: {engine.trouble}"
    if engine.bottleneck is Bottleneck.UNKNOWN:
        return None
    if engine.bottleneck is Bottleneck.WORK:
        return None if engine.state is ReplicaState.DOWN else f"{engine.name}: has no work"
    return f"{engine.name}: {_SENTENCES[engine.bottleneck]} ({_name_progress(engine)})"


def _name_progress(engine: ReplicaStatus) -> str:
    load = f"{engine.in_flight:,} of {engine.concurrency_limit:,} requests in flight"
    # Embeddings have no completion tokens.
    if engine.completion_tokens_per_s:
        return f"{load}, {_name_rate(engine.completion_tokens_per_s)} tokens/s"
    return f"{load}, {_name_rate(engine.requests_per_s)} requests/s"


def _name_load(engine: ReplicaStatus) -> str:
    load = f"{engine.in_flight} / {engine.concurrency_limit}"
    is_full = engine.concurrency_limit == engine.concurrency_ceiling
    return load if is_full else f"{load} ({engine.concurrency_ceiling})"


def _name_rate(per_s: float) -> str:
    """Small rates with decimals, so that a slow engine does not look like one that stands still."""
    if 0 < per_s < 0.995:
        return f"{per_s:.2f}"
    return f"{per_s:.1f}" if 0 < per_s < 9.95 else f"{per_s:,.0f}"
