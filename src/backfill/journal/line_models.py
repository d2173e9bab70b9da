"""Which model each line of a batch is for, as what is used is told by model."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from backfill.batch import Batch
from backfill.index import LineIndex

__all__ = ["MODELS_MAX", "OTHER_MODELS", "LineModels"]

MODELS_MAX = 100
"""So many models of a batch are told apart: its row must not grow with the number of its lines."""
OTHER_MODELS = "*"
"""The others, under the name that they have in the settings too."""


class LineModels(NamedTuple):
    """A number for each line, and what the numbers stand for."""

    numbers: Sequence[int]
    names: tuple[str, ...]

    @classmethod
    def unknown(cls, lines: int, name: str = "") -> "LineModels":
        """One model for all lines."""
        return cls(bytes(lines), (name,))

    @classmethod
    def of_batch(cls, batch: Batch, index: LineIndex) -> "LineModels":
        """As the lines name them, or else the batch; those that have a price are never among the others."""
        names = [batch.model_id or "" if name is None else name for name in index.model_names]
        if len(names) <= MODELS_MAX:
            return cls(index.models, tuple(names))
        by_worth = sorted(range(len(names)), key=lambda number: names[number] not in batch.prices)
        kept = {number: place for place, number in enumerate(by_worth[:MODELS_MAX])}
        numbers = array("I", (kept.get(number, MODELS_MAX) for number in index.models))
        return cls(numbers, (*(names[number] for number in kept), OTHER_MODELS))
