"""One run of an installation, and what came of it."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from backfill.store import Metadata
from bench.simulated.clock import run_virtual
from bench.simulated.fleet.database import Costs, Kind, VirtualDatabase, VirtualDriver
from bench.simulated.fleet.installation import Installation
from bench.simulated.fleet.load import Job
from bench.simulated.fleet.offline import count_late, count_missed
from bench.simulated.fleet.settings import FleetSettings

__all__ = ["Outcome", "run_fleet"]

_NEARLY_ALL = 0.95


class Outcome(NamedTuple):
    """What came of all batches."""

    feeding_share: float
    """Of the time of replicas that were up and could have had lines, that in which they sent some."""
    transactions_per_s: float
    """That write, while nearly all replicas are up."""
    lines_a_batch: float
    missed_lines: float
    """Without an answer at their deadlines."""
    missed_batches: int
    offline_missed_lines: float
    """The same of the best order, with all replicas up all the time."""
    offline_missed_batches: int
    """Of those lines."""
    offline_late_batches: int
    """Late in an order that gives up as few batches as it can, with all replicas up all the time."""
    as_up_missed_lines: float
    """The same with those replicas up that were, and all of them once nothing more comes."""
    writes: Mapping[Kind, int]
    busy_share: float
    """Of the database's one writer, until the last batch had ended."""
    waited_ms: float
    """Until the writer was free, on an average."""
    looks: int
    """Of all that were carried out."""
    polls: int
    looks_in_vain: int
    further_in_vain: int
    most_up: int
    ended_s: float
    over_s: float
    """When the last replica was gone that was not to stay."""
    redone_lines: float
    unended: int
    violations: Sequence[str]
    history: Sequence[tuple[float, int]]

    @property
    def missed_ratio(self) -> float:
        """Batches that are late, over those of an order that knows all before; one more on both sides."""
        return (self.missed_batches + 1) / (self.offline_late_batches + 1)

    @property
    def missed_lines_ratio(self) -> float:
        """Over the best order, with all replicas up; a batch more on both sides, so that nothing is divided by zero."""
        return self._compare(self.offline_missed_lines)

    @property
    def missed_lines_ratio_as_up(self) -> float:
        """Over the best order of those replicas that were up: without what it costs that they come when needed."""
        return self._compare(self.as_up_missed_lines)

    def _compare(self, best: float) -> float:
        return (self.missed_lines + self.lines_a_batch) / (best + self.lines_a_batch)


def run_fleet(settings: FleetSettings, jobs: Sequence[Job], costs: Costs, folder: Path, seed: int = 1) -> Outcome:
    """Until all batches have ended and the replicas are gone. `folder`: for the rows."""
    path = folder / "fleet.db"
    asyncio.run(_make_tables(path))
    return run_virtual(_run(settings, jobs, costs, path, seed))


async def _make_tables(path: Path) -> None:
    metadata = await Metadata.open(VirtualDriver(path))
    await metadata.close()


async def _run(settings: FleetSettings, jobs: Sequence[Job], costs: Costs, path: Path, seed: int) -> Outcome:
    database = VirtualDatabase(VirtualDriver(path), costs)
    try:
        installation = Installation(settings, jobs, Metadata(database), seed)
        await installation.run()
        return _sum_up(installation, database)
    finally:
        await database.close()


def _sum_up(installation: Installation, database: VirtualDatabase) -> Outcome:
    settings, meter, ledger = installation.settings, installation.meter, installation.ledger
    missed = [book.missed_lines for book in ledger.books.values() if book.missed_lines]
    all_up = [(0.0, settings.replicas * settings.lines_per_s)]
    # Those that went since nothing was left to be done would have stayed for what another order leaves for later.
    last_s = installation.jobs[-1].comes_s
    before = [(now_s, up * settings.lines_per_s) for now_s, up in meter.history if now_s < last_s]
    as_up = [*before, (last_s, all_up[0][1])]
    offline_lines, offline_batches = count_missed(installation.jobs, all_up)
    return Outcome(
        feeding_share=meter.feeding_s / meter.possible_s,
        transactions_per_s=_find_rate(installation),
        lines_a_batch=sum(job.lines for job in installation.jobs) / len(installation.jobs),
        missed_lines=sum(missed),
        missed_batches=len(missed),
        offline_missed_lines=offline_lines,
        offline_missed_batches=offline_batches,
        offline_late_batches=count_late(installation.jobs, all_up[0][1]),
        as_up_missed_lines=count_missed(installation.jobs, as_up)[0],
        writes=dict(database.writes),
        busy_share=database.busy_s / asyncio.get_running_loop().time(),
        waited_ms=1000 * database.waited_s / max(1, database.writes.total()),
        looks=database.looks,
        polls=installation.polls,
        looks_in_vain=installation.looks_in_vain,
        further_in_vain=installation.further_in_vain,
        most_up=max((up for _, up in meter.history), default=0),
        ended_s=installation.ended_s,
        over_s=asyncio.get_running_loop().time(),
        redone_lines=ledger.redone,
        unended=ledger.open_batches,
        violations=tuple(ledger.violations),
        history=tuple(meter.history),
    )


def _find_rate(installation: Installation) -> float:
    """Over the minutes in which nearly as many replicas are up as ever; over all time, if there are no such."""
    samples = installation.samples
    most = max((up for _, up, _ in samples), default=0)
    steps = itertools.pairwise(samples)
    full = [
        (after[0] - before[0], after[2] - before[2])
        for before, after in steps
        if min(before[1], after[1]) >= _NEARLY_ALL * most
    ]
    seconds, writes = (sum(each) for each in zip(*full, strict=True)) if full else (0.0, 0.0)
    return writes / seconds if seconds else installation.database.writes.total() / max(1.0, installation.ended_s)
