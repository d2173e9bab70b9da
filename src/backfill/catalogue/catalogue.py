"""The models that are known: the table that comes with the package, and a user's own over it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec

from backfill.batch import Batch, File, Price
from backfill.catalogue.loading import SHIPPED, Table, merge_tables, read_models, read_table
from backfill.catalogue.model import CatalogueModel
from backfill.index import MODELS_KEPT, Survey

__all__ = ["Catalogue"]

_UNKNOWN = Price()
_NO_PRICES = (None, None, None, None)


class Catalogue:
    """Models by id and by alias. A model that is not in it has no known price, and no discount."""

    def __init__(self, models: Iterable[CatalogueModel]) -> None:
        self.models = tuple(sorted(models, key=lambda model: model.id))
        """All of them, by id."""
        self._by_name = {name: model for model in self.models for name in (*model.aliases, model.id)}

    @classmethod
    def load(cls, file: Path | None = None, models: Table | None = None) -> Self:
        """The shipped table, over it the one in `file`, over both the one in the settings.

        What a table says of a model goes over what those below it say, member by member.

        Raises:
            InvalidConfig: a table cannot be read, or says something that has no meaning.

        """
        tables = [read_table(SHIPPED)]
        if file is not None:
            tables.append(read_table(file))
        if models:
            tables.append(models)
        return cls(read_models(merge_tables(tables)))

    def find(self, model: str) -> CatalogueModel | None:
        """The model with this id or alias."""
        return self._by_name.get(model)

    def resolve(self, model: str) -> str:
        """The id of the model that has this name as an alias; any other name is its own."""
        found = self._by_name.get(model)
        return model if found is None else found.id

    def price(self, model: str) -> Price:
        """What it costs; nothing is known, and nothing taken off, where the catalogue does not have it."""
        found = self._by_name.get(model)
        return _UNKNOWN if found is None else found.price

    async def note_prices(self, batch: Batch, _file: File, survey: Survey) -> Batch:
        """Appraise a new batch (`turns.Appraise`): give it the prices of its models as they are now."""
        named = set(survey.models) | ({batch.model_id} if batch.model_id else set())
        if len(survey.models) >= MODELS_KEPT:
            # There may be more in the file than the survey has; those that can have a price are here.
            named |= self._by_name.keys()
        prices = {name: self.price(name) for name in sorted(named)}
        priced = {name: price for name, price in prices.items() if msgspec.structs.astuple(price)[:4] != _NO_PRICES}
        return msgspec.structs.replace(batch, prices=priced)
