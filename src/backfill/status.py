"""What the dispatcher tells of its replicas, for whoever shows it: the nouns of `/metrics` and of `backfill status`."""

from enum import StrEnum

import msgspec

__all__ = ["Bottleneck", "ReplicaState", "ReplicaStatus"]


class Bottleneck(StrEnum):
    """What keeps a replica from doing more."""

    WORK = "work"
    """Nothing: there are no more lines for it."""
    ENGINE = "engine"
    """It computes as fast as it can: more requests in flight give no more tokens."""
    UPSTREAM_LIMIT = "upstream_limit"
    """It answers 429, or asks to wait."""
    CEILING = "ceiling"
    """The configured concurrency."""
    DISK = "disk"
    """The journal's disk does not keep up."""
    BACKFILL = "backfill"
    """This process: its event loop has no time left."""
    UNKNOWN = "unknown"
    """Still being found out."""


class ReplicaState(StrEnum):
    """How a replica is."""

    DOWN = "down"
    """Not started: nothing needed it so far, or another replica has its memory."""
    STARTING = "starting"
    UP = "up"
    PROBING = "probing"
    """It failed; one request at a time tries whether it is well again."""
    PAUSED = "paused"
    """It failed or asked to wait; nothing is sent for a while."""


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, now."""

    name: str
    state: ReplicaState
    bottleneck: Bottleneck
    in_flight: int
    """Requests that are with the engine."""
    concurrency_limit: int
    """Requests that it is given at most, as found so far."""
    concurrency_ceiling: int
    """As configured."""
    requests_per_s: float
    """Answers over the last seconds."""
    completion_tokens_per_s: float
    answered: int
    """Since the server started; so are those below."""
    lost: int
    """Requests that came to nothing and were tried again."""
    rate_limited: int
    """Requests answered with 429."""
    reused: int
    """Lines answered with the answer of an identical one."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    waiting_in_engine: int | None = None
    """As the engine's own gauges say; None where it has none."""
    kv_cache_use: float | None = None
    """From 0 to 1."""
    trouble: str | None = None
    """Why nothing is sent to it now."""
