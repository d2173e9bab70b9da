"""Tables of the Hugging Face hub: `hf://OWNER/NAME`, with a configuration and a split if need be.

hf://OWNER/NAME[/CONFIGURATION][@SPLIT]     the split `train` where none is named
"""

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import datasets

from backfill.errors import InvalidInput
from backfill.tables.arrow import ArrowBlock
from backfill.tables.column_types import AnswerColumn
from backfill.tables.parquet_table import ParquetWriter
from backfill.tables.table import BLOCK_ROWS

__all__ = ["HubTable"]

_NAME = re.compile(r"hf://(?P<path>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<configuration>[\w.-]+))?(?:@(?P<split>[\w.\[\]:%-]+))?")


class HubTable:
    """A split of a dataset, kept where the package `datasets` keeps it; its answers go into a Parquet file."""

    note: str | None = None

    def __init__(self, name: str) -> None:
        """Fetches the dataset if it is not here; raises InvalidInput if it is not to be had."""
        found = _NAME.fullmatch(name)
        if found is None:
            message = f"{name} names no dataset; write hf://OWNER/NAME, hf://OWNER/NAME/CONFIGURATION or hf://OWNER/NAME@SPLIT."
            raise InvalidInput(message, param="input")
        self.name = name
        try:
            self._dataset = datasets.load_dataset(
                found["path"], found["configuration"], split=found["split"] or "train"
            ).with_format("arrow")
        except Exception as error:  # noqa: BLE001 - a dozen kinds, of several packages: no network, no such name, no leave
            reason = " ".join(str(error).split())
            raise InvalidInput(
                f"{name} is not to be had: {reason}", param="input", code="dataset_unavailable"
            ) from None
        self.columns: Sequence[str] = self._dataset.column_names
        self.rows: int = self._dataset.num_rows

    def read(self, start: int = 0) -> Iterator[ArrowBlock]:
        """The rows from number `start` on."""
        for at in range(start, self.rows, BLOCK_ROWS):
            for batch in self._dataset[at : at + BLOCK_ROWS].to_batches():
                yield ArrowBlock(batch, self.name)

    def fingerprint(self) -> str:
        """That of the package, which depends on the files of the split."""
        return str(self._dataset._fingerprint)  # noqa: SLF001 - the package has no other way to it

    def begin(self, file: BinaryIO, new: Sequence[AnswerColumn]) -> ParquetWriter:
        """Write Parquet."""
        return ParquetWriter(file, self._dataset.features.arrow_schema, new)
