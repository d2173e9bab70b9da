"""What `GET /v1/engines` answers, as a model: see `schemas`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["EnginePage"]

_Count = Annotated[int, Field(ge=0)]
_Rate = Annotated[float, Field(ge=0)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Engine(_Answer):
    object: Literal["engine"]
    name: str
    state: Literal["down", "starting", "up", "probing", "paused"]
    bottleneck: Annotated[
        Literal["work", "engine", "upstream_limit", "ceiling", "live_traffic", "disk", "backfill", "unknown"],
        Field(description="What keeps it from doing more."),
    ]
    in_flight: Annotated[_Count, Field(description="Requests that are with it.")]
    concurrency_limit: Annotated[_Count, Field(description="Requests that it is given at most, as found so far.")]
    concurrency_ceiling: Annotated[_Count, Field(description="As configured.")]
    requests_per_s: Annotated[_Rate, Field(description="Answers over the last seconds.")]
    completion_tokens_per_s: _Rate
    answered: Annotated[_Count, Field(description="Since the server started, as the counts below.")]
    lost: Annotated[_Count, Field(description="Requests that came to nothing and were tried again.")]
    rate_limited: Annotated[_Count, Field(description="Requests answered with 429.")]
    reused: Annotated[_Count, Field(description="Lines answered with the answer of an identical one.")]
    preempted: Annotated[_Count, Field(description="Requests cancelled to make a place for a live one.")]
    prompt_tokens: _Count
    completion_tokens: _Count
    cached_tokens: _Count
    busy_ms: Annotated[_Count, Field(description="How long it had requests of batches to answer.")]
    hardware_cost_per_million: Annotated[
        str | None, Field(description="What its time cost for a million tokens; null if its settings do not say.")
    ]
    list_price_per_million: Annotated[str | None, Field(description="What they cost at list price; null: not known.")]
    currency: Annotated[str | None, Field(description="That of these two.")]
    live_in_flight: Annotated[_Count, Field(description="Live requests that are with it.")]
    batch_limit: Annotated[_Count | None, Field(description="What live requests leave of the limit; null: all.")]
    waiting_in_engine: Annotated[_Count | None, Field(description="By its own gauges; null if it has none.")]
    kv_cache_use: Annotated[float | None, Field(ge=0, le=1, description="By its own gauges; null if it has none.")]
    trouble: Annotated[str | None, Field(description="Why nothing is sent to it now.")]


class EnginePage(_Answer):
    """Every replica that lines are sent to."""

    object: Literal["list"]
    data: list[_Engine]
