"""Fold the journal into the output and error files, and close the batch in one write. Calls no engine."""

from backfill.deliver.deliverer import Deliverer
from backfill.deliver.gather import Gathered, gather

__all__ = ["Deliverer", "Gathered", "gather"]
