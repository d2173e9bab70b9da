"""One pass over the bytes of a file, in whatever pieces they come: cut lines, check each, index it, keep no body."""

from typing import NamedTuple

import msgspec

from backfill.batch import BatchProblem
from backfill.index import (
    MODELS_KEPT,
    OTHER_TARGET,
    PREFIX_LEVELS,
    IndexBuilder,
    LineFacts,
    LineIndex,
    LineKind,
    Survey,
    Target,
    sum_needs,
)
from backfill.intake.file_format import FormatProbe
from backfill.wire import Fault, ParsedLine, parse_line, quote, read_fault, shape_of_fault

__all__ = ["LineScanner"]

PROBLEMS_KEPT = 20
KINDS_KEPT = 100
# No endpoint is so long, and of what else stands there a part says enough.
_TARGET_LENGTH = 200
_NO_REQUEST, _REPEATED = shape_of_fault(Fault.NO_REQUEST), shape_of_fault(Fault.REPEATED)
_NO_PREFIXES = (0,) * PREFIX_LEVELS
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


_encode = msgspec.json.Encoder().encode


class _Problems:
    """The first few problems, and how many there are."""

    def __init__(self, kept: int) -> None:
        self.first: list[BatchProblem] = []
        self.count = 0
        self._kept = kept

    def add(self, problem: BatchProblem, line_number: int) -> None:
        self.count += 1
        if len(self.first) < self._kept:
            self.first.append(msgspec.structs.replace(problem, line=line_number))


class _Traits(NamedTuple):
    """What decides where a line may go."""

    shape: int
    has_model: bool
    target: Target


class _Kind:
    """Lines alike in their traits: how many there are, and the numbers of the first few."""

    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.first: list[int] = []
        self.count = 0


class LineScanner:
    """Feed it the file's bytes in order, then ask for the index and the survey.

    Lines past `lines_limit` are counted but not looked at: the file cannot become a batch any more, and memory
    stays bounded. The first `problems_kept` problems are kept, and as many lines of each kind. A file that is no
    JSON lines at all has one problem, which says what it is.
    """

    def __init__(
        self,
        *,
        lines_limit: int,
        custom_id_length: int,
        problems_kept: int = PROBLEMS_KEPT,
        limit_name: str = "limits.lines",
    ) -> None:
        self._lines_limit = lines_limit
        self._limit_name = limit_name
        self._custom_id_length = custom_id_length
        self._index = IndexBuilder()
        self._problems = _Problems(problems_kept)
        self._problems_kept = problems_kept
        self._first_use: dict[str, int] = {}
        self._pending: list[bytes] = []
        self._offset = 0
        self._line_number = 0
        self._requests = 0
        self._token_estimate = 0
        self._format = FormatProbe()
        self._own_problems: dict[int, BatchProblem] = {}
        self._kinds: dict[_Traits, _Kind] = {}
        self._kind = _Kind()
        self._target = self._target_cut = OTHER_TARGET
        self._kind_traits = _Traits(-1, False, OTHER_TARGET)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        if self._format.problem is not None:
            return
        *lines, rest = data.split(b"\n")
        if lines:
            self._pending.append(lines[0])
            lines[0] = b"".join(self._pending)
            self._pending = []
            for line in lines:
                self._scan_line(line)
        if rest:
            self._pending.append(rest)

    def finish(self) -> tuple[LineIndex, Survey]:
        """Take the last line, if it had no line end, and give what was learned."""
        if self._pending:
            self._scan_line(b"".join(self._pending))
            self._pending = []
        self._format.finish(self._requests)
        if self._format.problem is not None:
            return IndexBuilder().build(), Survey(problems=(self._format.problem,), problem_count=1)
        self._judge_the_whole()
        names = [name for name in self._index.model_names if name is not None]
        nameless = (
            kind.count
            for traits, kind in self._kinds.items()
            if not traits.has_model and read_fault(traits.shape) is None
        )
        index = self._index.build()
        survey = Survey(
            lines=self._requests,
            token_estimate=self._token_estimate,
            models=tuple(names[:MODELS_KEPT]),
            lines_without_model=sum(nameless),
            problems=tuple(self._problems.first),
            problem_count=self._problems.count,
            kinds=tuple(_describe(traits, kind) for traits, kind in self._kinds.items()),
            own_problems=tuple(
                msgspec.structs.replace(problem, line=line) for line, problem in self._own_problems.items()
            ),
            needs=sum_needs(index),
        )
        return index, survey

    def _judge_the_whole(self) -> None:
        if self._requests == 0:
            self._problems.count += 1
            self._problems.first.append(BatchProblem("empty_file", "The file has no requests."))
        if self._requests > self._lines_limit:
            message = (
                f"The file has {self._requests} requests; a batch may have {self._lines_limit} ({self._limit_name})."
            )
            self._problems.count += 1
            self._problems.first.insert(0, BatchProblem("too_many_requests", message))

    def _scan_line(self, line: bytes) -> None:
        start = self._offset
        self._offset = start + len(line) + 1
        self._line_number += 1
        if start == 0 and line.startswith(_BYTE_ORDER_MARK):
            start, line = len(_BYTE_ORDER_MARK), line[len(_BYTE_ORDER_MARK) :]
        if not line or line.isspace():
            return
        self._requests += 1
        if self._requests > self._lines_limit:
            return
        parsed = parse_line(line, self._custom_id_length)
        if isinstance(parsed, BatchProblem):
            self._problems.add(parsed, self._line_number)
            self._format.look_at(line, self._requests)
            facts = LineFacts(0, len(line), None, 0, 0, _NO_PREFIXES, 0, _NO_REQUEST)
            self._index.add(start, facts, b"null")
        else:
            self._keep(parsed, start)

    def _keep(self, parsed: ParsedLine, start: int) -> None:
        first_line = self._first_use.setdefault(parsed.custom_id, self._line_number)
        if first_line != self._line_number:
            message = f"custom_id {quote(parsed.custom_id)} is used by line {first_line} already."
            problem = BatchProblem("duplicate_custom_id", message, param="custom_id")
            self._problems.add(problem, self._line_number)
            facts = LineFacts(parsed.body_start, parsed.body_length, parsed.model, 0, 0, _NO_PREFIXES, 0, _REPEATED)
            self._index.add(start, facts, _encode(parsed.custom_id))
            return
        traits = self._kind_traits
        has_model = parsed.model is not None
        if parsed.shape == traits.shape and has_model is traits.has_model and parsed.target is traits.target:
            kind = self._kind  # as most lines are like the one before
        else:
            kind = self._change_kind(_Traits(parsed.shape, has_model, parsed.target))
        kind.count += 1
        if len(kind.first) < self._problems_kept:
            kind.first.append(self._line_number)
            if parsed.problem is not None:
                self._own_problems[self._line_number] = parsed.problem
        self._token_estimate += parsed.token_estimate
        self._index.add(start, parsed, _encode(parsed.custom_id), self._cut_target(parsed.target))

    def _cut_target(self, target: Target) -> Target:
        if target is not self._target:
            self._target = target
            self._target_cut = _cut(target)
        return self._target_cut

    def _change_kind(self, traits: _Traits) -> _Kind:
        self._kind = self._kinds.get(traits) or self._add_kind(traits)
        self._kind_traits = traits
        return self._kind

    def _add_kind(self, traits: _Traits) -> _Kind:
        if len(self._kinds) >= KINDS_KEPT:
            # A file may have as many urls as lines: past a bound they are told apart no more.
            traits = traits._replace(target=OTHER_TARGET)
        return self._kinds.setdefault(traits, _Kind())


def _describe(traits: _Traits, kind: _Kind) -> LineKind:
    method, url = _cut(traits.target)
    return LineKind(traits.shape, traits.has_model, method, url, kind.count, tuple(kind.first))


def _cut(target: Target) -> Target:
    method, url = (None if part is None else _cut_part(part) for part in target)
    return method, url


def _cut_part(part: str) -> str:
    # Of a line that could not be read there may be half a character in it, which nothing can be written with.
    return part[:_TARGET_LENGTH].encode(errors="backslashreplace").decode()
