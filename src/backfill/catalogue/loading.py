"""Tables of models are read, laid over each other, and checked as a whole."""

import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backfill.batch import Price
from backfill.catalogue.cost import BILLIONTHS
from backfill.catalogue.model import CatalogueModel
from backfill.config import CatalogueConfig, CatalogueModelConfig
from backfill.errors import InvalidConfig
from backfill.validation import describe_fault

__all__ = ["SHIPPED", "Table", "merge_tables", "read_models", "read_table"]

SHIPPED = Path(__file__).with_name("models.toml")

Table = Mapping[str, CatalogueModelConfig]
"""Model id -> what is said of it."""

_PRICES = ("input_per_million", "cached_input_per_million", "output_per_million", "audio_per_minute")
_WHENCE = ("price_source", "price_date")


def read_table(path: Path) -> Table:
    """The tables of a catalogue file.

    Raises:
        InvalidConfig: the file cannot be read, is no TOML, or says something that has no meaning.

    """
    try:
        # From text: a price that went through a float would not be the one that is written.
        raw = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _refuse(path, f"is not valid TOML: byte {error.start + 1} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise _refuse(path, f"is not valid TOML: {error}") from None
    if "file" in raw:
        raise _refuse(path, "must not name another file: 'file' is a setting of [catalogue]", "file")
    try:
        return CatalogueConfig.model_validate(raw).models
    except ValidationError as error:
        raise _refuse(path, *_explain(error)) from None


def merge_tables(tables: Iterable[Table]) -> dict[str, dict[str, Any]]:
    """What is said of each model, later tables over earlier ones, member by member."""
    merged: dict[str, dict[str, Any]] = {}
    for table in tables:
        for identity, model in table.items():
            said = model.model_dump(exclude_unset=True)
            known = merged.setdefault(identity, {})
            if any(price in said for price in _PRICES):
                # Who set the old price, and when it was read, says nothing of the new one.
                for member in _WHENCE:
                    known.pop(member, None)
            known.update(said)
    return merged


def read_models(merged: Mapping[str, Mapping[str, Any]]) -> list[CatalogueModel]:
    """The models; raises InvalidConfig if a name stands for two of them."""
    models = [_make(identity, CatalogueModelConfig.model_validate(members)) for identity, members in merged.items()]
    taken = {model.id: model.id for model in models}
    for model in models:
        for alias in model.aliases:
            if taken.setdefault(alias, model.id) != model.id:
                message = (
                    f"The catalogue's alias {alias!r} of {model.id!r} is not valid: it stands for {taken[alias]!r}."
                )
                raise InvalidConfig(message, param=f"models.{model.id}.aliases")
    return models


def _make(identity: str, said: CatalogueModelConfig) -> CatalogueModel:
    prices = {price: _count_billionths(getattr(said, price)) for price in _PRICES}
    return CatalogueModel(
        id=identity,
        aliases=tuple(alias for alias in said.aliases if alias != identity),
        type=said.type,
        endpoints=said.endpoints,
        context_length=said.context_length,
        price=Price(**prices, discount_percent=said.discount_percent),
        price_source=said.price_source,
        price_date=said.price_date,
        retired=said.retired,
    )


def _count_billionths(dollars: Decimal | None) -> int | None:
    return None if dollars is None else int(dollars * BILLIONTHS)


def _explain(error: ValidationError) -> tuple[str, str]:
    """The end of a sentence about the first fault, and the key at fault."""
    first = error.errors()[0]
    dotted = ".".join(f'"{part}"' if "/" in str(part) or "." in str(part) else str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner = CatalogueModelConfig if len(first["loc"]) > 1 else CatalogueConfig
        known = ", ".join(sorted(set(owner.model_fields) - {"file"}))
        return f"has an unknown key: {dotted}; known there: {known}", dotted
    reason = ("" if first["type"] == "value_error" else "it ") + describe_fault(first)
    return f"is not valid at {dotted}: {reason}", dotted


def _refuse(path: Path, fault: str, param: str | None = None) -> InvalidConfig:
    return InvalidConfig(f"The catalogue file {path} {fault}.", param=param)
