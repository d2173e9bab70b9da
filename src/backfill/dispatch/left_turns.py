"""Turns that this worker has given back with lines left for others: it does not take them again at once.

All that it can do for them is done. It takes them again when the installation serves other models than before, since
nobody may be left then who serves theirs; and after ten minutes, so that nothing waits for ever for a wrong note.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backfill.batch import Batch
from backfill.dispatch.colleagues import Colleagues
from backfill.status import WaitReason, WorkerReport
from backfill.turns import Turn

__all__ = ["LeftTurns", "explain_left"]

_AGAIN_S = 600.0
_PERIOD_S = 2.0
_ASKED_AT_ONCE = 16
_TOLD_MAX = 200
_SLICES_TOLD_MAX = 4000
_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class _Left:
    turn: Turn
    models: tuple[str, ...]
    version: int
    """That of what the colleagues served then."""
    until_s: float


class LeftTurns:
    """Those of one process."""

    def __init__(self, colleagues: Colleagues | None) -> None:
        """`colleagues`: None: there are none, and nothing is ever left."""
        self.colleagues = colleagues
        self._looked_at_s = 0.0
        self._asked = 0
        self._left: dict[str, _Left] = {}
        """By the names of the turns, oldest first."""

    def note(self, turn: Turn, models: Sequence[str], version: int) -> None:
        """A turn is given back of which only lines for these models are left; `version`: of what colleagues served."""
        self._left.pop(turn.name, None)
        self._left[turn.name] = _Left(turn, tuple(models), version, asyncio.get_running_loop().time() + _AGAIN_S)

    async def revise(self) -> Sequence[Batch]:
        """Every two seconds: see who serves what, and forget what may be for this worker after all.

        Gives some batches that were cut and of which slices are left: others of theirs may have become free.
        """
        now_s = asyncio.get_running_loop().time()
        if not self._left or self.colleagues is None or now_s < self._looked_at_s + _PERIOD_S:
            return []
        self._looked_at_s = now_s
        await self.colleagues.look()
        version = self.colleagues.version
        self._left = {name: one for name, one in self._left.items() if one.version == version and one.until_s > now_s}
        cut = [batch for batch in self.batches.values() if batch.slices]
        first = self._asked % max(1, len(cut))
        self._asked += _ASKED_AT_ONCE
        return (cut[first:] + cut[:first])[:_ASKED_AT_ONCE]

    @property
    def batches(self) -> dict[str, Batch]:
        """Those of which something is left, by their ids."""
        return {left.turn.batch.id: left.turn.batch for left in self._left.values()}

    def list_slices(self, batch_id: str) -> list[int]:
        """The slices of a batch that are left."""
        return [one.turn.slice_number for one in self._left.values() if one.turn.batch.id == batch_id]

    @property
    def told(self) -> Mapping[str, tuple[str, ...]]:
        """Batch -> models of the lines that are left, for those that were left last."""
        found: dict[str, tuple[str, ...]] = {}
        for left in reversed(self._left.values()):
            batch_id = left.turn.batch.id
            if batch_id not in found and len(found) < _TOLD_MAX:
                found[batch_id] = left.models[:_NAMED_MAX]
        return found

    @property
    def told_slices(self) -> Mapping[str, tuple[int, ...]]:
        """The same batches, if they were cut -> the slices that are left."""
        told = self.told
        found: dict[str, tuple[int, ...]] = {}
        for left in itertools.islice(reversed(self._left.values()), _SLICES_TOLD_MAX):
            if left.turn.slice_number and left.turn.batch.id in told:
                found[left.turn.batch.id] = (*found.get(left.turn.batch.id, ()), left.turn.slice_number)
        return found


def explain_left(
    batch: Batch, models: Sequence[str], living: Sequence[WorkerReport], placed: Sequence[WorkerReport]
) -> tuple[WaitReason, str] | None:
    """What a client is told of lines that are left for others; None: one of the living workers serves them.

    `placed`: what scalers tell of engines that they start.
    """
    lacking = [model for model in models if not any(one.serves(model, batch.endpoint) for one in living)]
    if not lacking:
        return None
    those = "model " + lacking[0] if len(lacking) == 1 else "models " + ", ".join(lacking)
    if all(any(one.serves(model, batch.endpoint) for one in placed) for model in lacking):
        return WaitReason.STARTING, f"lines wait for a worker on Ray that serves {those}; one is started"
    return WaitReason.ENGINE, f"lines wait for a worker that serves {those}; none such runs now"
