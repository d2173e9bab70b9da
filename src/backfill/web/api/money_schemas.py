"""The answers about usage and money as models, as `schemas` has the others."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AudioUsagePage", "CompletionsUsagePage", "Cost", "CostsPage", "EmbeddingsUsagePage", "UsageSummary"]

_Count = Annotated[int, Field(ge=0)]
_Length = Annotated[float, Field(ge=0)]
_Seconds = Annotated[int, Field(description="Unix time in seconds.")]
_Amount = Annotated[
    str | None,
    Field(pattern=r"^-?[0-9]+\.[0-9]{2,18}$", description="A decimal number; null if no price is known."),
]


# Members are called `list`, which hides the type.
_Names = list[str]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Sums(_Answer):
    requests: Annotated[_Count, Field(description="Those that have their outcome.")]
    answered: _Count
    failed: _Count
    input_tokens: Annotated[_Count, Field(description="As engines computed them; cached ones are among them.")]
    cached_tokens: _Count
    output_tokens: _Count
    audio_seconds: Annotated[_Length, Field(description="Of clips that were written down.")]
    reused_requests: Annotated[_Count, Field(description="Answered with the answer of an identical one: not paid.")]
    reused_input_tokens: _Count
    reused_output_tokens: _Count
    reused_audio_seconds: _Length
    list: Annotated[_Amount, Field(description="Left out with money.show_savings = false; so are the next two.")] = None
    discount: _Amount = None
    saved: Annotated[_Amount, Field(description="All requests at list price, reused ones too, less `paid`.")] = None
    paid: _Amount


class _ModelCost(_Sums):
    model: str | None


_ModelCosts = list[_ModelCost]


class Cost(_Answer):
    """What a batch costs so far, at the prices of when it was made."""

    currency: str
    list: _Amount = None
    discount: _Amount = None
    saved: _Amount = None
    paid: _Amount
    unpriced_models: Annotated[_Names, Field(description="Models without a known price: the sums are without them.")]
    models: _ModelCosts


class _UsageRow(_Sums):
    unpriced_models: _Names
    hour: str | None = None
    day: str | None = None
    model: str | None = None
    key: str | None = None
    key_name: str | None = None
    owner: str | None = None
    batch: str | None = None


class UsageSummary(_Answer):
    """What was used in a span of time, by what was asked for."""

    object: Literal["usage"]
    start_time: _Seconds
    end_time: _Seconds
    currency: str
    by: list[str]
    data: list[_UsageRow]
    total: _UsageRow
    has_more: Annotated[bool, Field(description="Rows were left out; the total is of all.")]


class _Result(_Answer):
    num_model_requests: _Count
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    model: str | None


class _CompletionsResult(_Result):
    object: Literal["organization.usage.completions.result"]
    input_tokens: _Count
    output_tokens: _Count
    input_cached_tokens: _Count
    input_uncached_tokens: _Count
    input_audio_tokens: _Count
    output_audio_tokens: _Count
    batch: bool | None
    service_tier: str | None
    api_source: str | None


class _EmbeddingsResult(_Result):
    object: Literal["organization.usage.embeddings.result"]
    input_tokens: _Count
    batch: bool | None = None
    service_tier: str | None = None
    api_source: str | None = None


class _AudioResult(_Result):
    object: Literal["organization.usage.audio_transcriptions.result"]
    seconds: _Count
    batch: bool | None = None
    service_tier: str | None = None
    api_source: str | None = None


class _Value(_Answer):
    value: float | None
    currency: str


class _CostResult(_Answer):
    object: Literal["organization.costs.result"]
    amount: _Value
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    api_source: str | None
    line_item: str | None
    quantity: int | None
    quantity_unit: Literal["tokens", "seconds"] | None
    unpriced_models: Annotated[list[str], Field(description="Not OpenAI's: what the amount leaves out.")]


class _Bucket(_Answer):
    object: Literal["bucket"]
    start_time: _Seconds
    end_time: _Seconds


class _CompletionsBucket(_Bucket):
    results: list[_CompletionsResult]


class _EmbeddingsBucket(_Bucket):
    results: list[_EmbeddingsResult]


class _AudioBucket(_Bucket):
    results: list[_AudioResult]


class _CostsBucket(_Bucket):
    results: list[_CostResult]


class _Page(_Answer):
    object: Literal["page"]
    has_more: bool
    next_page: str | None


class CompletionsUsagePage(_Page):
    """Buckets of time, and what was used in each."""

    data: list[_CompletionsBucket]


class EmbeddingsUsagePage(_Page):
    """Buckets of time, and what was used in each."""

    data: list[_EmbeddingsBucket]


class AudioUsagePage(_Page):
    """Buckets of time, and how much audio was written down in each."""

    data: list[_AudioBucket]


class CostsPage(_Page):
    """Days, and what is to be paid for each."""

    data: list[_CostsBucket]
