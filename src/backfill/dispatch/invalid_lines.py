"""Lines of the input that are no requests: each fails by itself in a batch that passes over them, with its number.

Where a line stands in the file is counted when it is told, in one pass over the content: the index knows requests by
their number, and blank lines have none.
"""

from array import array
from collections.abc import Iterator

import msgspec

from backfill.batch import Batch, BatchProblem, Dialect
from backfill.index import LineIndex
from backfill.store import BlobReader
from backfill.wire import Fault, explain_no_request, find_target_problem, is_request, quote, read_fault

__all__ = ["InvalidLines", "find_invalid_lines"]

_PIECE_BYTES = 1 << 20


class InvalidLines:
    """Those without an outcome, in order; what is wrong with them is read from the content."""

    def __init__(self, index: LineIndex, endpoint: str, lines: "array[int]") -> None:
        self.lines = lines
        self._index = index
        self._endpoint = endpoint

    def explain(self, source: BlobReader) -> Iterator[tuple[int, BatchProblem]]:
        """Each line, and what is wrong with it. Blocks on disk; raises StoreUnavailable."""
        index = self._index
        counter = _LineCounter(source)
        repeated = {index.custom_id_json(line) for line in self.lines if not is_request(index.shapes[line])}
        repeated.discard(b"null")
        first_use: dict[bytes, int] = {}
        invalid = iter(self.lines)
        next_invalid = next(invalid, -1)
        for line in range(len(index)):
            custom_id = index.custom_id_json(line) if repeated else b""
            if line != next_invalid and custom_id not in repeated:
                continue
            number = counter.count_to(index.body_offsets[line])
            if line == next_invalid:
                yield line, self._explain(line, number, first_use.get(custom_id, 0), source)
                next_invalid = next(invalid, -1)
            first_use.setdefault(custom_id, number)

    def _explain(self, line: int, number: int, first_use: int, source: BlobReader) -> BatchProblem:
        index = self._index
        match read_fault(index.shapes[line]):
            case Fault.NO_REQUEST:
                problem = explain_no_request(source.read(index.body_offsets[line], index.body_lengths[line]))
            case Fault.REPEATED:
                custom_id: str = msgspec.json.decode(index.custom_id_json(line))
                message = f"custom_id {quote(custom_id)} is used by line {first_use} already."
                problem = BatchProblem("duplicate_custom_id", message, param="custom_id")
            case _:
                found = find_target_problem(index.target_names[index.targets[line]], self._endpoint)
                assert found is not None  # noqa: S101 - that is why it is among them
                problem = found
        return BatchProblem(problem.code, problem.message, number, problem.param)


def find_invalid_lines(index: LineIndex, outcomes: bytes | bytearray, batch: Batch) -> InvalidLines:
    """Those of a batch without an outcome; `outcomes` has one byte a line: its `batch.Outcome`, 0 for none."""
    shapes = {shape for shape in set(index.shapes) if not is_request(shape)}
    targets = _find_wrong_targets(index, batch)
    lines = array("I")
    if shapes or targets:
        kinds = zip(index.shapes, index.targets, strict=True)
        lines.extend(
            line
            for line, (shape, target) in enumerate(kinds)
            if (shape in shapes or target in targets) and not outcomes[line]
        )
    return InvalidLines(index, batch.endpoint, lines)


def _find_wrong_targets(index: LineIndex, batch: Batch) -> set[int]:
    """Numbers of the targets that keep a line from the batch's endpoint; for other batches the file was judged."""
    if batch.dialect is not Dialect.OPENAI or not batch.skips_invalid_lines or not index.has_every_line:
        return set()
    names = enumerate(index.target_names)
    return {number for number, target in names if find_target_problem(target, batch.endpoint) is not None}


class _LineCounter:
    """Counts line ends from the start of the content; asked for ever later places."""

    def __init__(self, source: BlobReader) -> None:
        self._source = source
        self._offset = 0
        self._line_ends = 0
        self._piece = b""
        self._piece_offset = 0

    def count_to(self, offset: int) -> int:
        """The number, from 1, of the line that holds the byte at `offset`."""
        while self._offset < offset:
            start = self._offset - self._piece_offset
            if start >= len(self._piece):
                self._piece_offset = self._offset
                self._piece = self._source.read(self._offset, _PIECE_BYTES)
                if not self._piece:
                    break
                continue
            end = min(len(self._piece), offset - self._piece_offset)
            self._line_ends += self._piece.count(b"\n", start, end)
            self._offset = self._piece_offset + end
        return self._line_ends + 1
