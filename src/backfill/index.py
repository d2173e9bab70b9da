"""What intake learned of every line in its one pass, as columns; and of the file as a whole, as a survey.

A line is known by its number among the requests of its file, from 0; blank lines have none. The index never holds
a body: it says where the body lies. Stored beside the file as

    magic (8 bytes) | header length (u32) | header (JSON) | columns | CRC-32 of all before it (u32)

with every number little-endian, so that an index can be read by another machine than the one that wrote it.
"""

import sys
import zlib
from array import array
from collections.abc import Sequence

import msgspec

from backfill.batch import BatchProblem
from backfill.errors import StoreCorrupt

__all__ = ["EndpointSurvey", "IndexBuilder", "LineIndex", "Survey"]

_MAGIC = b"BFINDEX1"
_MOST_U32 = 2**32 - 1
# typecode of each column, in the order in which they are stored
_COLUMNS = {"body_offsets": "Q", "body_lengths": "I", "models": "I", "token_estimates": "I", "custom_id_ends": "I"}


class EndpointSurvey(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a file's lines would not do for one endpoint: the first few reasons, and how many there are."""

    problems: tuple[BatchProblem, ...] = ()
    problem_count: int = 0


class Survey(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is true of a file as a whole. Kept in the file's row, so that a batch is judged without reading the file."""

    lines: int = 0
    token_estimate: int = 0
    models: tuple[str, ...] = ()
    """The first few distinct model ids."""
    lines_without_model: int = 0
    first_without_model: int | None = None
    problems: tuple[BatchProblem, ...] = ()
    """The first few reasons that hold for every endpoint."""
    problem_count: int = 0
    endpoints: dict[str, EndpointSurvey] = {}
    targets: dict[str, EndpointSurvey] = {}
    """The same for the lines' own `method` and `url`, which count in OpenAI's dialect only."""


class _Header(msgspec.Struct, frozen=True):
    lines: int
    model_names: tuple[str | None, ...]
    custom_ids_size_bytes: int


class LineIndex:
    """Columns over the requests of one file; row i is line i."""

    def __init__(
        self,
        *,
        columns: dict[str, "array[int]"],
        model_names: Sequence[str | None],
        custom_ids: bytes,
    ) -> None:
        self.body_offsets = columns["body_offsets"]
        self.body_lengths = columns["body_lengths"]
        self.models = columns["models"]
        """Position in `model_names`."""
        self.token_estimates = columns["token_estimates"]
        """Prompt and answer together, roughly."""
        self.model_names = tuple(model_names)
        """None stands for a line that names no model."""
        self._custom_id_ends = columns["custom_id_ends"]
        self._custom_ids = custom_ids

    def __len__(self) -> int:
        return len(self.body_offsets)

    def custom_id_json(self, line: int) -> bytes:
        """The line's custom id as a JSON string, quotes included."""
        start = self._custom_id_ends[line - 1] if line else 0
        return self._custom_ids[start : self._custom_id_ends[line]]

    def encode(self) -> bytes:
        """The whole index as the bytes that `decode` reads."""
        header = msgspec.json.encode(_Header(len(self), self.model_names, len(self._custom_ids)))
        parts = [_MAGIC, len(header).to_bytes(4, "little"), header]
        columns = {
            "body_offsets": self.body_offsets,
            "body_lengths": self.body_lengths,
            "models": self.models,
            "token_estimates": self.token_estimates,
            "custom_id_ends": self._custom_id_ends,
        }
        parts += [_to_little_endian(columns[name]) for name in _COLUMNS]
        parts.append(self._custom_ids)
        content = b"".join(parts)
        return content + zlib.crc32(content).to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> "LineIndex":
        """Read what `encode` wrote; raises StoreCorrupt if these are not those bytes."""
        content = memoryview(data)[:-4]
        if data[:8] != _MAGIC or zlib.crc32(content) != int.from_bytes(data[-4:], "little"):
            message = "The line index of a file is damaged."
            raise StoreCorrupt(message)
        position = 12 + int.from_bytes(data[8:12], "little")
        header = msgspec.json.decode(data[12:position], type=_Header)
        columns: dict[str, array[int]] = {}
        for name, typecode in _COLUMNS.items():
            column = array(typecode)
            size = header.lines * column.itemsize
            column.frombytes(content[position : position + size])
            columns[name] = _from_little_endian(column)
            position += size
        custom_ids = bytes(content[position : position + header.custom_ids_size_bytes])
        return cls(columns=columns, model_names=header.model_names, custom_ids=custom_ids)


class IndexBuilder:
    """Grows an index line by line."""

    def __init__(self) -> None:
        self._columns: dict[str, array[int]] = {name: array(typecode) for name, typecode in _COLUMNS.items()}
        # By name: this is called for every line, and a look-up in the dictionary costs as much as the append.
        self._body_offsets = self._columns["body_offsets"]
        self._body_lengths = self._columns["body_lengths"]
        self._line_models = self._columns["models"]
        self._token_estimates = self._columns["token_estimates"]
        self._custom_id_ends = self._columns["custom_id_ends"]
        self._models: dict[str | None, int] = {}
        self._custom_ids = bytearray()

    def add(
        self, body_offset: int, body_length: int, model: str | None, token_estimate: int, custom_id_json: bytes
    ) -> None:
        """Append the next line; `body_offset` counts from the start of the file."""
        self._body_offsets.append(body_offset)
        self._body_lengths.append(body_length)
        self._line_models.append(self._models.setdefault(model, len(self._models)))
        self._token_estimates.append(min(token_estimate, _MOST_U32))
        self._custom_ids += custom_id_json
        self._custom_id_ends.append(len(self._custom_ids))

    @property
    def model_names(self) -> tuple[str | None, ...]:
        """The distinct models so far, in order of appearance."""
        return tuple(self._models)

    def build(self) -> LineIndex:
        """The index of all lines added."""
        return LineIndex(columns=self._columns, model_names=tuple(self._models), custom_ids=bytes(self._custom_ids))


def _to_little_endian(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


def _from_little_endian(column: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        column.byteswap()
    return column
