"""More requests than one batch may have, cut into parts at line ends, each of which a server takes."""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import xxhash

from backfill.batch import BatchProblem
from backfill.cli.console import say
from backfill.cli.problems import name_problem
from backfill.cli.request_source import RequestSource
from backfill.errors import InvalidInput
from backfill.wire import parse_line, quote

__all__ = ["Cut", "LineCheck", "Part", "PartLimits", "cut"]

_SHOWN_MAX = 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class PartLimits(NamedTuple):
    """What one part may hold."""

    lines: int
    size_bytes: int

    def write(self) -> str:
        """As it stands in the metadata of a batch."""
        return f"{self.lines}/{self.size_bytes}"

    @classmethod
    def read(cls, written: str) -> Self:
        """What `write` wrote; raises ValueError."""
        lines, size_bytes = map(int, written.split("/"))
        return cls(lines, size_bytes)


class Part(NamedTuple):
    """Lines that follow each other."""

    number: int
    """Counted from 1."""
    first_line: int
    """The number of its first line, counted from 1."""
    requests: int
    start: int
    """Its place, as the source counts."""
    size_bytes: int
    sha256: str


class Cut(NamedTuple):
    """All parts, and the digest of their bytes together."""

    parts: list[Part]
    sha256: str
    limits: PartLimits


class _Growing:
    """A part as it is filled."""

    def __init__(self, first_line: int, start: int) -> None:
        self.first_line = first_line
        self.start = start
        self.requests = self.size_bytes = 0
        self._digest = hashlib.sha256()

    def has_room(self, line: bytes, limits: PartLimits) -> bool:
        return self.requests < limits.lines and self.size_bytes + len(line) <= limits.size_bytes

    def add(self, line: bytes, *, is_request: bool) -> None:
        self.requests += is_request
        self.size_bytes += len(line)
        self._digest.update(line)

    def close(self, number: int) -> Part:
        return Part(number, self.first_line, self.requests, self.start, self.size_bytes, self._digest.hexdigest())


def cut(source: RequestSource, limits: PartLimits, look: Callable[[bytes], object] | None = None) -> Cut:
    """Cut where the next request would be one too many, or have a byte too many; `look` is shown each line.

    Blank lines count as none, and make no part of their own. Memory does not grow with the source.
    """
    whole = hashlib.sha256()
    parts: list[Part] = []
    growing: _Growing | None = None
    for number, (start, line) in enumerate(source.list_lines(limits.size_bytes), start=1):
        whole.update(line)
        if look is not None:
            look(line)
        is_request = not line.isspace()
        if growing is not None and not growing.has_room(line, limits):
            parts.append(growing.close(len(parts) + 1))
            growing = None
        if growing is None:
            if not is_request:
                continue
            growing = _Growing(number, start)
        growing.add(line, is_request=is_request)
    if growing is not None:
        parts.append(growing.close(len(parts) + 1))
    return Cut(parts, whole.hexdigest(), limits)


class LineCheck:
    """What makes a file no batch, whichever part it is in; ids that two parts have would be seen by nobody else.

    Keeps eight bytes a line.
    """

    def __init__(self, source: RequestSource, limits: PartLimits, custom_id_length: int, *, skips_faults: bool) -> None:
        """`skips_faults`: lines that are no requests go to the error file; only ids that are doubled are refused."""
        self._skips_faults = skips_faults
        self._source = source
        self._limits = limits
        self._custom_id_length = custom_id_length
        self._digests = array("Q")
        self._line = 0
        self._problems: list[BatchProblem] = []
        self._count = 0

    def look(self, line: bytes) -> None:
        """Look at the next line."""
        self._line += 1
        found = self._parse(line, self._line)
        if isinstance(found, BatchProblem):
            if not self._skips_faults:
                self._note(found, self._line)
        elif found is not None:
            self._digests.append(_hash(found))

    def finish(self) -> None:
        """Raise InvalidInput, once the first problems were shown, if there are any."""
        for line, custom_id, first in self._find_doubled():
            message = f"custom_id {quote(custom_id)} is used by line {first} already."
            self._note(BatchProblem("duplicate_custom_id", message, param="custom_id"), line)
        if not self._count:
            return
        name = self._source.name
        for problem in sorted(self._problems, key=lambda each: each.line or 0):
            say(name_problem(name, problem))
        message = (
            f"{name} has {self._count:,} problem{'s' if self._count > 1 else ''}; nothing was sent. "
            f"`backfill check {name}` names all."
        )
        raise InvalidInput(message, param="input", code="invalid_input_file")

    def _parse(self, line: bytes, number: int) -> str | BatchProblem | None:
        """The custom id of a line, or what is wrong with it; None if it is blank."""
        text = line.rstrip(b"\r\n")
        if number == 1:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        if not text or text.isspace():
            return None
        parsed = parse_line(text, self._custom_id_length)
        return parsed if isinstance(parsed, BatchProblem) else parsed.custom_id

    def _note(self, problem: BatchProblem, line: int) -> None:
        self._count += 1
        if len(self._problems) < _SHOWN_MAX:
            self._problems.append(BatchProblem(problem.code, problem.message, param=problem.param, line=line))

    def _find_doubled(self) -> Iterator[tuple[int, str, int]]:
        """Lines whose custom id a line before has, and which line that is."""
        doubled = _find_equal(self._digests)
        if not doubled:
            return
        # Different ids may have one digest, seldom; the ids themselves decide.
        first: dict[str, int] = {}
        for number, (_, line) in enumerate(self._source.list_lines(self._limits.size_bytes), start=1):
            custom_id = self._parse(line, number)
            if isinstance(custom_id, str) and _hash(custom_id) in doubled:
                before = first.setdefault(custom_id, number)
                if before != number:
                    yield number, custom_id, before


def _hash(custom_id: str) -> int:
    return xxhash.xxh3_64_intdigest(custom_id.encode(errors="surrogatepass"))


def _find_equal(digests: "array[int]") -> frozenset[int]:
    """The digests that are there more than once."""
    import numpy as np  # noqa: PLC0415 - large, and few files are so large

    ordered = np.sort(np.frombuffer(digests, dtype=np.uint64))
    return frozenset(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
