"""Requests of a batch that no engine is asked: what intake noted of them says that none would take them."""

from typing import NamedTuple

from backfill.batch import Batch, BatchProblem
from backfill.index import LineIndex
from backfill.wire import Fault, FaultyRequest, explain_line, find_request_problem, read_fault

__all__ = ["Unsendable", "find_unsendable"]


class Unsendable(NamedTuple):
    """Requests that are not sent, and what is wrong with them."""

    problem: BatchProblem
    lines: list[int]
    is_explained: bool
    """Whether that is all that can be said; else `explain` says it of each line."""

    def explain(self, line: bytes) -> BatchProblem:
        """What is wrong with one of them, given its bytes."""
        found = self.problem if self.is_explained else explain_line(line)
        return found.problem if isinstance(found, FaultyRequest) else found


def find_unsendable(index: LineIndex, outcomes: bytes | bytearray, batch: Batch) -> list[Unsendable]:
    """Those without an outcome; `outcomes` has one byte a line: its `batch.Outcome`, 0 for none."""
    kinds = set(zip(index.shapes, index.models, strict=True))
    unsendable: dict[tuple[int, int], Unsendable] = {}
    for shape, model in sorted(kinds):
        has_model = bool(index.model_names[model] or batch.model_id)
        problem = find_request_problem(shape, batch.endpoint, has_model=has_model)
        if problem is not None:
            unsendable[shape, model] = Unsendable(problem, [], read_fault(shape) is not Fault.UNREADABLE)
    if not unsendable:
        return []
    for line, kind in enumerate(zip(index.shapes, index.models, strict=True)):
        if not outcomes[line] and kind in unsendable:
            unsendable[kind].lines.append(line)
    return list(unsendable.values())
