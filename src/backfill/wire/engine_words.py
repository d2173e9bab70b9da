"""What keeps an engine from doing more, and what would help, in sentences. Pure."""

from backfill.status import Bottleneck, ReplicaState, ReplicaStatus
from backfill.wire.words import name_amount, name_duration, name_rate

__all__ = ["explain_cost", "explain_engine", "find_help", "name_progress"]

_SENTENCES = {
    Bottleneck.ENGINE: "the engine is the limit",
    Bottleneck.UPSTREAM_LIMIT: "its rate limit is the limit",
    Bottleneck.CEILING: "the configured concurrency is the limit",
    Bottleneck.LIVE_TRAFFIC: "live requests go first",
    Bottleneck.DISK: "the journal's disk is the limit",
    Bottleneck.BACKFILL: "Backfill's own process is the limit",
}
_HELP = {
    Bottleneck.ENGINE: "more or faster hardware, or another replica",
    Bottleneck.UPSTREAM_LIMIT: "a higher limit at whoever runs it",
    Bottleneck.CEILING: "a higher concurrency in its settings",
    Bottleneck.LIVE_TRAFFIC: "another replica for live requests",
    Bottleneck.DISK: "a faster disk for the data directory",
    Bottleneck.BACKFILL: "fewer open pages, or a second server for other batches",
}


def explain_engine(engine: ReplicaStatus) -> str | None:
    """What keeps the engine from doing more, in a sentence; None where nothing is known or wrong."""
    if engine.trouble:
        return f"{engine.name}: {engine.trouble}"
    if engine.bottleneck is Bottleneck.UNKNOWN:
        return None
    if engine.bottleneck is Bottleneck.WORK:
        return None if engine.state is ReplicaState.DOWN else f"{engine.name}: has no work"
    return f"{engine.name}: {_SENTENCES[engine.bottleneck]} ({name_progress(engine)})"


def explain_cost(engine: ReplicaStatus) -> str | None:
    """What its hardware cost for what it computed since the server started; None where nobody said what it costs."""
    if engine.hardware_cost_per_million is None:
        return None
    currency = engine.currency or "usd"
    spent = name_amount(engine.hardware_cost_per_million, currency)
    told = f"{engine.name}: {spent} of hardware for a million tokens, {name_duration(engine.busy_ms / 1000)} at work"
    if engine.list_price_per_million is None:
        return told
    return f"{told}; at list price {name_amount(engine.list_price_per_million, currency)}"


def name_progress(engine: ReplicaStatus) -> str:
    """How much is with it, and how fast it is."""
    limit = engine.concurrency_limit if engine.batch_limit is None else engine.batch_limit
    load = f"{engine.in_flight:,} of {limit:,} requests in flight"
    if engine.live_in_flight:
        load = f"{engine.live_in_flight:,} live, {load}"
    # Embeddings have no completion tokens.
    if engine.completion_tokens_per_s:
        return f"{load}, {name_rate(engine.completion_tokens_per_s)} tokens/s"
    return f"{load}, {name_rate(engine.requests_per_s)} requests/s"


def find_help(engine: ReplicaStatus) -> str | None:
    """What would let it do more; None where nothing would, or it is not known."""
    return None if engine.trouble else _HELP.get(engine.bottleneck)
