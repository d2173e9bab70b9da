"""Models and what they cost, as clients read them.

There is one object for OpenAI's clients and Together's up to 2.x, and another for Together's 3.x, which looks for the
models of others in a list of their own. A price that is not known is null, one of zero is 0.

The command line of Together's 2.x compares prices with 0, and breaks off at a null: it, and with it every client of
Together's but those of 1.x, finds no prices at all where input or output has none. Those of 1.x want the object.
"""

from collections.abc import Sequence
from typing import Any

from backfill.batch import AUDIO_ENDPOINTS, Price
from backfill.catalogue import CatalogueModel, to_dollars
from backfill.status import ServedModel

__all__ = ["render_model", "render_model_list", "render_supported_list", "render_supported_model"]

# What a model is that is served at these endpoints and no others.
_TYPES = (
    (frozenset({"/v1/embeddings"}), "embedding"),
    (frozenset(AUDIO_ENDPOINTS), "transcribe"),
    (frozenset({"/v1/rerank", "/v1/score"}), "rerank"),
    (frozenset({"/v1/moderations"}), "moderation"),
    (frozenset({"/v1/images/generations"}), "image"),
)
# When the model was made is not known; clients want a time.
_CREATED = 0
_CREATED_AT = "1970-01-01T00:00:00Z"
_CAPABILITIES = {"embedding": "CAPABILITY_EMBEDDING", "rerank": "CAPABILITY_RERANKING"}
_MODALITIES = {
    "audio": ("MODALITY_TEXT", "MODALITY_AUDIO"),
    "image": ("MODALITY_TEXT", "MODALITY_IMAGE"),
    "transcribe": ("MODALITY_AUDIO", "MODALITY_TEXT"),
    "video": ("MODALITY_TEXT", "MODALITY_VIDEO"),
}
_TEXT = ("MODALITY_TEXT", "MODALITY_TEXT")


def render_model(served: ServedModel, known: CatalogueModel | None, *, whole_pricing: bool = False) -> dict[str, Any]:
    """A model with the members that either dialect's clients look for.

    `whole_pricing`: no `pricing` at all where a part of it is not known.
    """
    known = known or CatalogueModel(id=served.id)
    organization = _name_organization(served.id)
    return {
        "id": served.id,
        "object": "model",
        "created": _CREATED,
        "owned_by": organization or "backfill",
        "type": _name_type(served, known),
        "display_name": served.id,
        "organization": organization,
        "link": None,
        "license": None,
        "context_length": known.context_length,
        "endpoints": list(served.endpoints),
        "pricing": _render_pricing(known.price, whole=whole_pricing),
        "batch_discount_percent": known.price.discount_percent,
        "price_source": known.price_source or None,
        "price_date": known.price_date,
        "retired": known.retired,
    }


def render_model_list(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """OpenAI's list."""
    return {"object": "list", "data": models}


def render_supported_model(served: ServedModel, known: CatalogueModel | None) -> dict[str, Any]:
    """A model with all that Together's 3.x insists on."""
    known = known or CatalogueModel(id=served.id)
    kind = _name_type(served, known)
    reads, writes = _MODALITIES.get(kind, _TEXT)
    price = known.price
    return {
        "id": served.id,
        "name": served.id,
        "displayName": served.id,
        "displayType": kind,
        "publisher": _name_organization(served.id) or "backfill",
        "status": "SUPPORTED_MODEL_STATUS_SUPPORTED",
        "products": ["PRODUCT_SERVERLESS"],
        "capabilities": [_CAPABILITIES.get(kind, "CAPABILITY_CHAT")],
        "inputModalities": [reads],
        "outputModalities": [writes],
        "baseModel": "",
        "baseModelId": "",
        "deploymentProfiles": [],
        "createdAt": _CREATED_AT,
        "updatedAt": _CREATED_AT,
        # A string there.
        "contextLength": None if known.context_length is None else str(known.context_length),
        "pricing": {
            "input": to_dollars(price.input_per_million),
            "output": to_dollars(price.output_per_million),
            "cachedInput": to_dollars(price.cached_input_per_million),
        },
    }


def render_supported_list(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The list of Together's 3.x: all on one page."""
    return {"data": models, "next_cursor": None}


def _render_pricing(price: Price, *, whole: bool) -> dict[str, float | None] | None:
    if whole and None in (price.input_per_million, price.output_per_million):
        return None
    return {
        "input": to_dollars(price.input_per_million),
        "cached_input": to_dollars(price.cached_input_per_million),
        "output": to_dollars(price.output_per_million),
        "audio_per_minute": to_dollars(price.audio_per_minute),
        # Nothing is charged for any of these here, and clients want numbers.
        "hourly": 0,
        "base": 0,
        "finetune": 0,
    }


def _name_organization(identity: str) -> str | None:
    return identity.partition("/")[0] if "/" in identity else None


def _name_type(served: ServedModel, known: CatalogueModel) -> str:
    endpoints = frozenset(served.endpoints)
    return next((kind for only, kind in _TYPES if endpoints and endpoints <= only), known.type)
