"""The answers about models, as `schemas` has the others."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["EstimateAnswer", "ModelAnswer", "ModelPage", "SupportedModelAnswer", "SupportedModelPage"]

_Dollars = Annotated[float | None, Field(ge=0, description="US dollars for a million tokens; null: not known.")]
_Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
_Date = Annotated[str, Field(json_schema_extra={"format": "date"})]
_Context = Annotated[int | None, Field(description="Prompt and answer together, in tokens; null: not known.")]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Pricing(_Answer):
    input: _Dollars
    cached_input: Annotated[_Dollars, Field(description="null: as other input.")]
    output: _Dollars
    hourly: Literal[0]
    base: Literal[0]
    finetune: Literal[0]
    audio_per_minute: Annotated[_Dollars, Field(description="US dollars for a minute of audio; null: not known.")]


class ModelAnswer(_Answer):
    """A model that requests may name."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Field(description="Not known: always 0.")]
    owned_by: str
    type: str
    display_name: str
    organization: str | None
    link: None
    license: None
    context_length: _Context
    endpoints: list[str]
    pricing: Annotated[
        _Pricing | None, Field(description="null for newer clients of Together's where input or output is not known.")
    ]
    batch_discount_percent: Annotated[int, Field(ge=0, le=100)]
    price_source: Annotated[str | None, Field(description="Who says what it costs.")]
    price_date: Annotated[_Date | None, Field(description="When that was read.")]
    retired: Annotated[_Date | None, Field(description="Since when whoever set the price does not offer the model.")]


class ModelPage(_Answer):
    """The models that requests may name."""

    object: Literal["list"]
    data: list[ModelAnswer]


class _SupportedPricing(_Answer):
    input: _Dollars
    output: _Dollars
    cachedInput: _Dollars  # noqa: N815 - as Together's clients read it


class SupportedModelAnswer(_Answer):
    """The same for Together's clients of 3.x."""

    id: str
    name: str
    displayName: str  # noqa: N815
    displayType: str  # noqa: N815
    publisher: str
    status: Literal["SUPPORTED_MODEL_STATUS_SUPPORTED"]
    products: list[Literal["PRODUCT_SERVERLESS"]]
    capabilities: list[str]
    inputModalities: list[str]  # noqa: N815
    outputModalities: list[str]  # noqa: N815
    baseModel: Literal[""]  # noqa: N815
    baseModelId: Literal[""]  # noqa: N815
    deploymentProfiles: list[str]  # noqa: N815
    createdAt: _Time  # noqa: N815
    updatedAt: _Time  # noqa: N815
    contextLength: str | None  # noqa: N815
    pricing: _SupportedPricing


class SupportedModelPage(_Answer):
    """All of them, on one page."""

    data: list[SupportedModelAnswer]
    next_cursor: None


_Amount = Annotated[str | None, Field(description="US dollars; null: a price that it needs is not known.")]


class _Estimated(_Answer):
    requests: int
    prompt_tokens: int
    completion_tokens: int
    list_price: _Amount
    batch_price: _Amount
    saved: _Amount


class _EstimatedModel(_Estimated):
    model: str
    batch_discount_percent: int


class EstimateAnswer(_Estimated):
    """What a batch would cost, and when it would be done."""

    object: Literal["estimate"]
    currency: str
    models: list[_EstimatedModel]
    estimated_seconds: Annotated[int | None, Field(description="null: nothing tells how fast the engines are.")]
    estimated_completion_at: _Time | None
    warning: Annotated[str | None, Field(description="Why the window will probably not do.")]
