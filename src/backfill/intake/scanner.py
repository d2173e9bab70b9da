"""One pass over the bytes of a file, in whatever pieces they come: cut lines, check each, index it, keep no body."""

from collections.abc import Callable, Sequence

import msgspec

from backfill.batch import ENDPOINTS, BatchProblem
from backfill.index import EndpointSurvey, IndexBuilder, LineIndex, Survey
from backfill.wire.lines import ParsedLine, find_shape_problem, find_target_problem, parse_line

__all__ = ["LineScanner"]

PROBLEMS_KEPT = 20
MODELS_KEPT = 100
KINDS_KEPT = 100
_OTHER_TARGET = ("POST", "(one of very many)")
_Target = tuple[str | None, str | None]
_FindProblem = Callable[[tuple[frozenset[str], _Target], str], BatchProblem | None]
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


class _Kind:
    """Lines alike in what decides where they may go: how many there are, and the numbers of the first few."""

    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.first: list[int] = []
        self.count = 0


class LineScanner:
    """Feed it the file's bytes in order, then ask for the index and the survey.

    Lines past `lines_limit` are counted but not looked at: the file cannot become a batch any more, and memory
    stays bounded. The first `problems_kept` problems are kept, and as many for each of `endpoints`.
    """

    def __init__(
        self,
        *,
        lines_limit: int,
        custom_id_length: int,
        problems_kept: int = PROBLEMS_KEPT,
        endpoints: Sequence[str] = ENDPOINTS,
    ) -> None:
        self._lines_limit = lines_limit
        self._custom_id_length = custom_id_length
        self._index = IndexBuilder()
        self._problems = _Problems(problems_kept)
        self._problems_kept = problems_kept
        self._endpoints = endpoints
        self._first_use: dict[str, int] = {}
        self._pending: list[bytes] = []
        self._offset = 0
        self._line_number = 0
        self._requests = 0
        self._token_estimate = 0
        self._without_model = 0
        self._first_without_model: int | None = None
        self._kinds: dict[tuple[frozenset[str], _Target], _Kind] = {}
        self._kind = _Kind()
        self._kind_members: frozenset[str] | None = None
        self._kind_target: _Target | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
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
        self._judge_the_whole()
        names = [name for name in self._index.model_names if name is not None]
        survey = Survey(
            lines=self._requests,
            token_estimate=self._token_estimate,
            models=tuple(names[:MODELS_KEPT]),
            lines_without_model=self._without_model,
            first_without_model=self._first_without_model,
            problems=tuple(self._problems.first),
            problem_count=self._problems.count,
            endpoints=self._judge_endpoints(lambda kind, endpoint: find_shape_problem(kind[0], endpoint)),
            targets=self._judge_endpoints(lambda kind, endpoint: find_target_problem(kind[1], endpoint)),
        )
        return self._index.build(), survey

    def _judge_the_whole(self) -> None:
        if self._requests == 0:
            self._problems.count += 1
            self._problems.first.append(BatchProblem("empty_file", "The file has no requests."))
        if self._requests > self._lines_limit:
            message = f"The file has {self._requests} requests; a batch may have {self._lines_limit}."
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
        else:
            self._keep(parsed, start)

    def _keep(self, parsed: ParsedLine, start: int) -> None:
        first_line = self._first_use.setdefault(parsed.custom_id, self._line_number)
        if first_line != self._line_number:
            message = f"custom_id {parsed.custom_id!r} is used by line {first_line} already."
            problem = BatchProblem("duplicate_custom_id", message, param="custom_id")
            self._problems.add(problem, self._line_number)
        if parsed.model is None:
            self._without_model += 1
            self._first_without_model = self._first_without_model or self._line_number
        if parsed.members is self._kind_members and parsed.target is self._kind_target:
            kind = self._kind  # as most lines are like the one before
        else:
            kind = self._change_kind(parsed)
        kind.count += 1
        if len(kind.first) < self._problems_kept:
            kind.first.append(self._line_number)
        self._token_estimate += parsed.token_estimate
        self._index.add(start, parsed, _encode(parsed.custom_id))

    def _change_kind(self, parsed: ParsedLine) -> _Kind:
        self._kind = self._kinds.get((parsed.members, parsed.target)) or self._add_kind(parsed)
        self._kind_members, self._kind_target = parsed.members, parsed.target
        return self._kind

    def _add_kind(self, parsed: ParsedLine) -> _Kind:
        target = parsed.target
        if len(self._kinds) >= KINDS_KEPT:
            # A file may have as many urls as lines: past a bound they are told apart no more.
            target = _OTHER_TARGET
        return self._kinds.setdefault((parsed.members, target), _Kind())

    def _judge_endpoints(self, find_problem: _FindProblem) -> dict[str, EndpointSurvey]:
        """What keeps lines from each endpoint: each kind of line is judged once, however many lines it has."""
        surveys = {}
        for endpoint in self._endpoints:
            count, first = 0, []
            for key, kind in self._kinds.items():
                problem = find_problem(key, endpoint)
                if problem is not None:
                    count += kind.count
                    first += [msgspec.structs.replace(problem, line=number) for number in kind.first]
            if count:
                first.sort(key=lambda problem: problem.line or 0)
                surveys[endpoint] = EndpointSurvey(tuple(first[: self._problems_kept]), count)
        return surveys
