"""A Ray cluster with room for all: workers take their time to start, and give their turns back before they end."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from backfill.scaler import Phase, Placed, Placement
from bench.simulated.fleet.worker import SimulatedWorker

__all__ = ["SimulatedCluster"]


class SimulatedCluster:
    """See `scaler.Cluster`."""

    def __init__(
        self, make_worker: Callable[[int], SimulatedWorker], start_s: float, note_up: Callable[[int], None]
    ) -> None:
        """`note_up`: told how many more are up, or fewer."""
        self.workers: dict[int, SimulatedWorker] = {}
        """Number -> those that are up."""
        self._make_worker = make_worker
        self._start_s = start_s
        self._note_up = note_up
        self._phases: dict[Placement, Phase] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """Those that are there, however far they are."""
        return len(self._phases)

    async def list(self) -> list[Placed]:
        """See `Cluster`."""
        return [
            Placed(engine=each.engine, number=each.number, phase=phase, host="node", pid=each.number)
            for each, phase in self._phases.items()
        ]

    async def start(self, placement: Placement, resources: Mapping[str, float]) -> None:  # noqa: ARG002 - it has all
        """See `Cluster`."""
        if placement not in self._phases:
            self._phases[placement] = Phase.STARTING
            self._do(self._bring_up(placement))

    async def drain(self, placement: Placement) -> None:
        """See `Cluster`."""
        if self._phases[placement] in {Phase.STARTING, Phase.UP}:
            self._phases[placement] = Phase.DRAINING
            self._do(self._bring_down(placement))

    async def remove(self, placement: Placement) -> None:
        """See `Cluster`."""
        self._phases.pop(placement, None)

    def kill(self, dice: random.Random) -> None:
        """Have one of those that are up die; it is started again."""
        if not self.workers:
            return
        number = dice.choice([*self.workers])
        placement = next(one for one in self._phases if one.number == number)
        if self._phases[placement] is not Phase.UP:
            return
        self.workers.pop(number).kill()
        self._note_up(-1)
        self._phases[placement] = Phase.STARTING
        self._do(self._bring_up(placement))

    async def _bring_up(self, placement: Placement) -> None:
        await asyncio.sleep(self._start_s)
        if self._phases.get(placement) is Phase.STARTING:
            self._phases[placement] = Phase.UP
            worker = self.workers[placement.number] = self._make_worker(placement.number)
            self._note_up(1)
            worker.start()

    async def _bring_down(self, placement: Placement) -> None:
        worker = self.workers.pop(placement.number, None)
        if worker is not None:
            await worker.stop()
            self._note_up(-1)
        self._phases[placement] = Phase.ENDED

    def _do(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
