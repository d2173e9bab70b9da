"""What intake learned of every line in its one pass, as columns; and of the file as a whole, as a survey.

A line is known by its number among the requests of its file, from 0; blank lines have none. The index never holds
a body: it says where the body lies. Stored beside the file as

    magic (8 bytes) | header length (u32) | header (JSON) | columns | CRC-32 of all before it (u32)

with every number little-endian, so that an index can be read by another machine than the one that wrote it. The
magic says which columns there are: an index of before the prefix hashes is read as one of prompts that share nothing,
one of before the shapes as one of lines of which each will do, and shapes of before pictures and clips as those of
lines that may name one. Up to the fourth form lines that are no requests had no row.
"""

import struct
import sys
import zlib
from array import array
from collections.abc import Sequence

import msgspec

from backfill.batch import ENDPOINTS, BatchProblem, Reservation
from backfill.errors import StoreCorrupt

__all__ = [
    "DEFAULT_ANSWER_TOKENS",
    "MODELS_KEPT",
    "NEEDS_KEPT",
    "OTHER_MODELS",
    "OTHER_TARGET",
    "PREFIX_LEVELS",
    "PREFIX_MARKS",
    "UNKNOWN_SHAPE",
    "EndpointSurvey",
    "IndexBuilder",
    "LineFacts",
    "LineIndex",
    "LineKind",
    "Survey",
    "Target",
    "sum_needs",
]

DEFAULT_ANSWER_TOKENS = 256
"""How long an answer is taken to be where the request sets no limit."""
MODELS_KEPT = 100
"""How many model ids a survey has at most."""
NEEDS_KEPT = 100
"""Models of one file whose tokens are told apart: those that need the most."""
OTHER_MODELS = "*"
"""All further models of a file together, under the name that they have in the settings too."""
Target = tuple[str | None, str | None]
"""A line's own `method` and `url`."""
OTHER_TARGET: Target = ("POST", "(one of very many)")
"""Of lines whose own target was not kept, since there are too many of them in the file."""
PREFIX_LEVELS = 8
PREFIX_MARKS = tuple(256 << level for level in range(PREFIX_LEVELS))
"""How many beginnings of a prompt are hashed; each is twice as long as the one before."""
UNKNOWN_SHAPE = 0b1011_1111
"""The shape (`wire.line_shape`) of a line of which nothing was noted: it has whatever an endpoint may need."""
_NOT_NOTED = 0b1011_1000
_IS_FAULT = 0b0100_0000

# Typecode and numbers a line of each column, in the order in which they are stored.
_FIRST_COLUMNS = {
    "body_offsets": ("Q", 1),
    "body_lengths": ("I", 1),
    "models": ("I", 1),
    "token_estimates": ("I", 1),
    "custom_id_ends": ("I", 1),
}
_SECOND_COLUMNS = _FIRST_COLUMNS | {
    "answer_tokens": ("I", 1),
    "prefix_hashes": ("I", PREFIX_LEVELS),
    "body_digests": ("Q", 1),
}
_THIRD_COLUMNS = _SECOND_COLUMNS | {"shapes": ("B", 1)}
_COLUMNS = _THIRD_COLUMNS | {"targets": ("B", 1)}
_THIRD_MAGIC = b"BFINDEX3"
_MAGIC = b"BFINDEX5"
_STORED_COLUMNS = {
    b"BFINDEX1": _FIRST_COLUMNS,
    b"BFINDEX2": _SECOND_COLUMNS,
    _THIRD_MAGIC: _THIRD_COLUMNS,
    b"BFINDEX4": _THIRD_COLUMNS,
    _MAGIC: _COLUMNS,
}
# Shapes of the third form had three bits for members, and above a fourth the number of a fault.
_THIRD_SHAPES = bytes(shape % 8 | _NOT_NOTED if shape < 16 else _IS_FAULT | shape >> 4 for shape in range(256))
# What holds for every line of an index that was stored without the column.
_ABSENT_NUMBERS = {
    "answer_tokens": DEFAULT_ANSWER_TOKENS,
    "prefix_hashes": 0,
    "body_digests": 0,
    "shapes": UNKNOWN_SHAPE,
    "targets": 0,
}

# A line in the making: one call packs all its numbers, where a column each would take a call each. Padded to 8 bytes,
# so that the rows can be read as u32 and as u64 numbers, and a column is every so many of them.
_ROW = struct.Struct(f"=QQIIIII{PREFIX_LEVELS}IBB2x")
_pack_row = _ROW.pack
_ROW_COLUMNS_U64 = ("body_offsets", "body_digests")
_ROW_COLUMNS_U32 = ("body_lengths", "models", "token_estimates", "custom_id_ends", "answer_tokens")
_ROW_SHAPE, _ROW_TARGET = _ROW.size - 4, _ROW.size - 3
# So many targets are told apart beside those of the known endpoints, and all fit a byte.
_ODD_TARGETS_KEPT = 200
_METHODS = ("POST", "FILE")


class EndpointSurvey(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why lines of a file would not do for one endpoint: the first few reasons, and how many there are."""

    problems: tuple[BatchProblem, ...] = ()
    problem_count: int = 0


class LineKind(msgspec.Struct, frozen=True, omit_defaults=True):
    """Lines that are alike in all that decides where they may go."""

    shape: int
    """As in the index."""
    has_model: bool
    method: str | None = None
    """The lines' own, cut where no endpoint is so long; so is `url`."""
    url: str | None = None
    count: int = 0
    first: tuple[int, ...] = ()
    """The first few lines; they count from 1, blank ones included."""


class Survey(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is true of a file as a whole. Kept in the file's row, so that a batch is judged without reading the file."""

    lines: int = 0
    token_estimate: int = 0
    models: tuple[str, ...] = ()
    """The first few distinct model ids."""
    lines_without_model: int = 0
    problems: tuple[BatchProblem, ...] = ()
    """The first few reasons why the file cannot be a batch, whatever the endpoint."""
    problem_count: int = 0
    kinds: tuple[LineKind, ...] = ()
    """What the lines are like, so that they can be judged for any endpoint when a batch is made."""
    own_problems: tuple[BatchProblem, ...] = ()
    """What is known more exactly of some lines than of their kind."""
    targets: dict[str, EndpointSurvey] = {}
    """Of files of before kinds were kept, as are the next two. Endpoint -> reasons against the whole file in the
    lines' own `method` and `url`, which count in OpenAI's dialect only."""
    endpoints: dict[str, EndpointSurvey] = {}
    """Endpoint -> requests that are not sent there, each for its own fault; the others of the file run."""
    without_model: dict[str, EndpointSurvey] = {}
    """Endpoint -> requests that would do but name no model, which they need if their batch names none."""
    needs: dict[str, Reservation] = {}
    """Model -> what its lines are taken to need; "" for lines without a model. See `sum_needs`."""


def sum_needs(index: "LineIndex") -> dict[str, Reservation]:
    """What the lines of each model are taken to need: of the NEEDS_KEPT that need the most, and of OTHER_MODELS."""
    names = index.model_names
    if len(names) == 1:
        answers = sum(index.answer_tokens)
        sums = [[len(index), sum(index.token_estimates) - answers, answers]]
    else:
        sums = [[0, 0, 0] for _ in names]
        for model, tokens, answer in zip(index.models, index.token_estimates, index.answer_tokens, strict=True):
            known = sums[model]
            known[0] += 1
            known[1] += tokens - answer
            known[2] += answer
    ranked = sorted(zip(names, sums, strict=True), key=lambda each: -sum(each[1][1:]))
    needs = {name or "": Reservation(*found) for name, found in ranked[:NEEDS_KEPT]}
    if rest := [found for _, found in ranked[NEEDS_KEPT:]]:
        needs[OTHER_MODELS] = Reservation(*(sum(column) for column in zip(*rest, strict=True)))
    return needs


class LineFacts(msgspec.Struct, gc=False):
    """What the index notes of one line."""

    body_start: int
    """Where the body begins, in bytes from the start of the line."""
    body_length: int
    model: str | None
    token_estimate: int
    """Prompt and answer together, roughly."""
    answer_tokens: int
    """How long the answer is expected to be."""
    prefix_hashes: tuple[int, ...]
    """PREFIX_LEVELS hashes of beginnings of the prompt, the shortest first; 0: the prompt is not as long as that."""
    body_digest: int
    """Hash of the body's bytes if it asks for the same answer each time; 0 if it does not."""
    shape: int
    """What decides to which endpoints the request can go, in one byte: `wire.line_shape`."""


class _Header(msgspec.Struct, frozen=True):
    lines: int
    model_names: tuple[str | None, ...]
    custom_ids_size_bytes: int
    target_names: tuple[Target, ...] = (OTHER_TARGET,)


class LineIndex:
    """Columns over the requests of one file; row i is line i."""

    def __init__(
        self,
        *,
        columns: dict[str, "array[int]"],
        model_names: Sequence[str | None],
        custom_ids: bytes,
        target_names: Sequence[Target] = (OTHER_TARGET,),
        has_every_line: bool = True,
    ) -> None:
        self.body_offsets = columns["body_offsets"]
        self.body_lengths = columns["body_lengths"]
        self.models = columns["models"]
        """Position in `model_names`."""
        self.token_estimates = columns["token_estimates"]
        """Prompt and answer together, roughly."""
        self.answer_tokens = columns["answer_tokens"]
        """How long each answer is expected to be."""
        self.prefix_hashes = columns["prefix_hashes"]
        """PREFIX_LEVELS a line, line after line: hashes of ever longer beginnings of the prompt, 0 past its end.

        A hint for ordering and nothing else, so that it does no harm if two beginnings have the same hash.
        """
        self.body_digests = columns["body_digests"]
        """Hash of the body's bytes if it asks for the same answer each time, else 0; for proof, compare the bytes."""
        self.shapes = columns["shapes"]
        """What decides to which endpoints each request can go: `wire.line_shape`."""
        self.targets = columns["targets"]
        """Position in `target_names`."""
        self.model_names = tuple(model_names)
        """None stands for a line that names no model."""
        self.target_names = tuple(target_names)
        """What lines say themselves of where they go, which one dialect demands and the other lets pass."""
        self.has_every_line = has_every_line
        """Whether lines that are no requests have a row, and each its own target; else it is of before that."""
        self._custom_id_ends = columns["custom_id_ends"]
        self._custom_ids = custom_ids

    def __len__(self) -> int:
        return len(self.body_offsets)

    def custom_id_json(self, line: int) -> bytes:
        """The line's custom id as a JSON string, quotes included; null for a line that has none."""
        start = self._custom_id_ends[line - 1] if line else 0
        return self._custom_ids[start : self._custom_id_ends[line]]

    def encode(self) -> bytes:
        """The whole index as the bytes that `decode` reads."""
        header = msgspec.json.encode(_Header(len(self), self.model_names, len(self._custom_ids), self.target_names))
        parts = [_MAGIC, len(header).to_bytes(4, "little"), header]
        columns = {
            "body_offsets": self.body_offsets,
            "body_lengths": self.body_lengths,
            "models": self.models,
            "token_estimates": self.token_estimates,
            "custom_id_ends": self._custom_id_ends,
            "answer_tokens": self.answer_tokens,
            "prefix_hashes": self.prefix_hashes,
            "body_digests": self.body_digests,
            "shapes": self.shapes,
            "targets": self.targets,
        }
        parts += [_to_little_endian(columns[name]) for name in _COLUMNS]
        parts.append(self._custom_ids)
        content = b"".join(parts)
        return content + zlib.crc32(content).to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> "LineIndex":
        """Read what `encode` wrote; raises StoreCorrupt if these are not those bytes."""
        content = memoryview(data)[:-4]
        stored = _STORED_COLUMNS.get(data[:8])
        if stored is None or zlib.crc32(content) != int.from_bytes(data[-4:], "little"):
            message = "The line index of a file is damaged."
            raise StoreCorrupt(message)
        position = 12 + int.from_bytes(data[8:12], "little")
        header = msgspec.json.decode(data[12:position], type=_Header)
        columns: dict[str, array[int]] = {}
        for name, (typecode, width) in _COLUMNS.items():
            column = array(typecode)
            count = header.lines * width
            if name in stored:
                size = count * column.itemsize
                column.frombytes(content[position : position + size])
                columns[name] = _from_little_endian(column)
                position += size
            else:
                columns[name] = array(typecode, [_ABSENT_NUMBERS[name]]) * count
        if data[:8] == _THIRD_MAGIC:
            columns["shapes"] = array("B", columns["shapes"].tobytes().translate(_THIRD_SHAPES))
        custom_ids = bytes(content[position : position + header.custom_ids_size_bytes])
        return cls(
            columns=columns,
            model_names=header.model_names,
            custom_ids=custom_ids,
            target_names=header.target_names,
            has_every_line="targets" in stored,
        )


class IndexBuilder:
    """Grows an index line by line."""

    def __init__(self) -> None:
        self._rows = bytearray()
        self._models: dict[str | None, int] = {}
        self._targets: dict[Target, int] = {OTHER_TARGET: 0}
        self._custom_ids = bytearray()

    def add(self, line_offset: int, line: LineFacts, custom_id_json: bytes, target: Target = (None, None)) -> None:
        """Append the next line; `line_offset` is where it begins, in bytes from the start of the file."""
        self._custom_ids += custom_id_json
        self._rows += _pack_row(
            line_offset + line.body_start,
            line.body_digest,
            line.body_length,
            self._models.setdefault(line.model, len(self._models)),
            line.token_estimate,
            len(self._custom_ids),
            line.answer_tokens,
            *line.prefix_hashes,
            line.shape,
            self._targets[target] if target in self._targets else self._add_target(target),
        )

    def _add_target(self, target: Target) -> int:
        method, url = target
        is_known = method in _METHODS and (url in ENDPOINTS or f"/v1{url}" in ENDPOINTS)
        if not is_known and len(self._targets) > _ODD_TARGETS_KEPT:
            return 0
        return self._targets.setdefault(target, len(self._targets))

    @property
    def model_names(self) -> tuple[str | None, ...]:
        """The distinct models so far, in order of appearance."""
        return tuple(self._models)

    def build(self) -> LineIndex:
        """The index of all lines added."""
        numbers = {"Q": array("Q", bytes(self._rows)), "I": array("I", bytes(self._rows))}
        columns: dict[str, array[int]] = {}
        for typecode, names, skipped in (("Q", _ROW_COLUMNS_U64, 0), ("I", _ROW_COLUMNS_U32, 4)):
            per_row = _ROW.size // numbers[typecode].itemsize
            columns |= {name: numbers[typecode][skipped + place :: per_row] for place, name in enumerate(names)}
        columns["prefix_hashes"] = self._gather_prefix_hashes(numbers["I"])
        columns["shapes"] = array("B", self._rows[_ROW_SHAPE :: _ROW.size])
        columns["targets"] = array("B", self._rows[_ROW_TARGET :: _ROW.size])
        return LineIndex(
            columns=columns,
            model_names=tuple(self._models),
            custom_ids=bytes(self._custom_ids),
            target_names=tuple(self._targets),
        )

    @staticmethod
    def _gather_prefix_hashes(numbers: "array[int]") -> "array[int]":
        per_row = _ROW.size // numbers.itemsize
        first = 4 + len(_ROW_COLUMNS_U32)
        gathered = array("I", [0]) * (len(numbers) // per_row * PREFIX_LEVELS)
        for level in range(PREFIX_LEVELS):
            gathered[level::PREFIX_LEVELS] = numbers[first + level :: per_row]
        return gathered


def _to_little_endian(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


def _from_little_endian(column: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        column.byteswap()
    return column
