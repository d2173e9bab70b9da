"""What a process with engines tells of the work that is left at its turns, for forecasts made elsewhere."""

from collections.abc import Iterable

import msgspec

from backfill.dispatch.work_left import Ratios, WorkLeft
from backfill.status import WorkerReport
from backfill.turns import Turn

__all__ = ["ToldWork"]


class ToldWork:
    """Remembers what lines came to, for turns that are too new to tell it."""

    def __init__(self) -> None:
        self._usual: dict[frozenset[str], Ratios] = {}
        """Who serves lines -> how many tokens come for each that was guessed."""

    def add(self, report: WorkerReport, work_left: Iterable[tuple[Turn, WorkLeft]]) -> WorkerReport:
        """The report, with what is left of these turns."""
        whole: dict[str, tuple[float, float]] = {}
        sliced: dict[str, tuple[int, float, float]] = {}
        for turn, work in work_left:
            prompt, completion = self._sum_up(work)
            if turn.slice_number:
                slices, prompt_before, completion_before = sliced.get(turn.batch.id, (0, 0.0, 0.0))
                sliced[turn.batch.id] = (slices + 1, prompt_before + prompt, completion_before + completion)
            else:
                whole[turn.batch.id] = (prompt, completion)
        ratios = {name: (usual.prompt, usual.completion) for pool, usual in self._usual.items() for name in pool}
        return msgspec.structs.replace(report, work_left=whole, slice_work=sliced, ratios=ratios)

    def _sum_up(self, work: WorkLeft) -> tuple[float, float]:
        """Tokens of prompts and of answers."""
        for pool in work.pools:
            self._usual[pool] = work.find_ratios(pool, self._usual.get(pool, Ratios()))
        needs = work.sum_up(self._usual).values()
        return sum(need.prompt_tokens for need in needs), sum(need.completion_tokens for need in needs)
