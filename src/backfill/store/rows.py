"""Rows of the database as files and batches, and the other way round."""

from typing import Any

import msgspec
from sqlalchemy.engine import Row

from backfill.batch import Batch, BatchProblem, Counts, File

__all__ = ["encode_values", "to_batch", "to_file", "to_values"]


def _to_dict(row: Row[Any]) -> dict[str, Any]:
    # SQLAlchemy's own keys are a subclass of str, which msgspec does not take.
    return {str(name): value for name, value in row._asdict().items()}


def to_file(row: Row[Any]) -> File:
    """The file of a row."""
    return msgspec.convert(_to_dict(row), File)


def to_batch(row: Row[Any]) -> Batch:
    """The batch of a row."""
    # Columns that are no field of a batch are passed over.
    return msgspec.convert(_to_dict(row), Batch)


def to_values(batch: Batch) -> dict[str, Any]:
    """The columns of a batch's row."""
    return encode_values(msgspec.structs.asdict(batch))


def encode_values(values: dict[str, Any]) -> dict[str, Any]:
    """Nested structs as what a JSON column takes."""
    nested = (BatchProblem, Counts, tuple, dict)
    return {name: msgspec.to_builtins(value) if isinstance(value, nested) else value for name, value in values.items()}
