"""An installation of many replicas and batches on a virtual clock (`bench/simulated/fleet`).

Before it the transactions are timed, one kind after the other, on a database that syncs to disk: what was measured of
each is what it takes in the simulation.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import structlog

from backfill.batch import Batch, Counts, State
from backfill.config import LimitsConfig
from backfill.status import WorkerReport, WorkerStatus
from backfill.store import Leases, Metadata, Workers
from backfill.turns import Company, Duties, Stock, Turn, Turns
from bench.findings import Findings, Setting, tell
from bench.simulated.fleet.database import Costs, Kind, VirtualDriver
from bench.simulated.fleet.load import Load, draw_jobs
from bench.simulated.fleet.run import Outcome, run_fleet
from bench.simulated.fleet.settings import ENGINE, FleetSettings

__all__ = ["measure_simulation", "time_transactions"]

# A twentieth of what the figures are meant for, which takes hours: `python -m bench.simulated.fleet` runs any size.
_REPLICAS = 50
_BATCHES = 1_000
_LINES_A_BATCH = 50_000
_OWNERS = 20
_KILLS = 5
_LINES_PER_S = 80.0
_LOOKS_EVERY_S = 10.0
_TIMED = 200
_TIMED_BATCHES = 2_000
_SLICES = 30
_PLACES = 96
_DAY_MS = 86_400_000
_LEASE_MS = 30_000


def measure_simulation(setting: Setting, findings: Findings) -> None:
    """One run: what it comes to depends on nothing but what is drawn and what the transactions took."""
    replicas, batches = setting.scale(_REPLICAS), setting.scale(_BATCHES)
    costs = asyncio.run(time_transactions(setting.make_folder()))
    settings = FleetSettings(replicas, _LINES_PER_S, kills=_KILLS, looks_every_s=_LOOKS_EVERY_S)
    load = Load(batches, _LINES_A_BATCH * batches, _OWNERS, replicas * _LINES_PER_S)
    began_s = time.monotonic()
    with _without_notes():
        outcome = run_fleet(settings, draw_jobs(load, setting.seed), costs, setting.make_folder(), setting.seed)
    findings.violations += [f"simulation: {one}" for one in outcome.violations]
    if outcome.unended:
        findings.violations.append(f"simulation: {outcome.unended} batches have not ended")
    note(findings, outcome, costs)
    findings.facts["sim_size"] = {"replicas": replicas, "batches": batches, "lines": load.lines}
    findings.facts["sim_real_s"] = round(time.monotonic() - began_s, 1)


@contextmanager
def _without_notes() -> Iterator[None]:
    """The scaler tells of each replica on stdout, where the report goes."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        yield
    finally:
        structlog.configure(**before)


def note(findings: Findings, outcome: Outcome, costs: Costs) -> None:
    """The figures of a run."""
    total = sum(outcome.writes.values())
    work_s = sum(count * costs.writes[kind] for kind, count in outcome.writes.items())
    findings.add(
        sim_feeding_share=outcome.feeding_share,
        sim_transactions_per_s=outcome.transactions_per_s,
        sim_missed_ratio=outcome.missed_ratio,
        sim_transactions_max_per_s=total / work_s,
        sim_missed_batches=outcome.missed_batches,
        sim_missed_batches_offline=outcome.offline_late_batches,
        sim_missed_lines_ratio=outcome.missed_lines_ratio,
        sim_missed_lines_ratio_as_up=outcome.missed_lines_ratio_as_up,
    )
    findings.facts["sim_transactions"] = {str(kind): count for kind, count in outcome.writes.items()}
    findings.facts["sim_replicas_most"] = outcome.most_up
    tell(
        f"simulation: {outcome.feeding_share:.4f} of their time replicas had lines, "
        f"{outcome.transactions_per_s:.0f} transactions/s of at most {total / work_s:.0f}, "
        f"{outcome.missed_batches} batches late and {outcome.offline_late_batches} in an order that knows all before, "
        f"{outcome.missed_lines:.0f} lines missed and {outcome.offline_missed_lines:.0f} in the best one"
    )


async def time_transactions(folder: Path) -> Costs:
    """The median of each kind, one after another, synced to disk; and of a look."""
    metadata = await Metadata.open(VirtualDriver(folder / "timed.db"))
    try:
        turns = _make_turns(metadata)
        await _fill(metadata)
        # Of all owners enough is here, so that nothing is taken.
        stock = Stock({f"owner-{number}": 1 for number in range(_OWNERS)}, 1)
        held = await turns.take(1)

        async def look() -> None:
            await turns.take(_PLACES, held, stock=stock)

        look_s = await _time(look)
        return Costs(await _time_writes(metadata, turns, held), look_s)
    finally:
        await metadata.close()


async def _time_writes(metadata: Metadata, turns: Turns, held: list[Turn]) -> dict[Kind, float]:
    workers = Workers(metadata.database)
    status = WorkerStatus(
        id="place:timed",
        role="work",
        host="node",
        pid=1,
        version="",
        started_at_ms=0,
        seen_at_ms=0,
        report=WorkerReport(
            batches=tuple(f"batch-{number}" for number in range(_OWNERS)), token_s={ENGINE: (0.0, 1.0)}
        ),
    )

    async def claim() -> None:
        held.extend(await turns.take(1))

    async def claim_further() -> None:
        held.extend(await turns.take_slices(held[-1].batch, 1, ()))

    async def give_back() -> None:
        await turns.give_back(held.pop(), drained=True)

    async def change() -> None:
        await metadata.change_batch("batch-0", values={"name": "timed"})

    return {
        Kind.CLAIM: await _time(claim),
        Kind.FURTHER: await _time(claim_further),
        Kind.RENEWAL: await _time(lambda: turns.renew(held[:_OWNERS])),
        Kind.GIVE_BACK: await _time(give_back),
        Kind.HEARTBEAT: await _time(lambda: workers.tell(status, 0)),
        Kind.OTHER: await _time(change),
    }


def _make_turns(metadata: Metadata) -> Turns:
    holder = "place:timed"
    leases = Leases(metadata.database, holder, metadata.database.now_ms, _LEASE_MS)
    company = Company(Duties(leases), None, holder, "place:")
    return Turns(metadata, LimitsConfig(), metadata.database.now_ms, lease_ms=_LEASE_MS, company=company)


async def _fill(metadata: Metadata) -> None:
    """Batches of some owners that wait, each with its slices."""
    now = metadata.database.now_ms()
    for number in range(_TIMED_BATCHES):
        batch = Batch(
            id=f"batch-{number}",
            owner=f"owner-{number % _OWNERS}",
            endpoint="/v1/chat/completions",
            input_file_id="file-1",
            input_size_bytes=1,
            state=State.VALIDATING,
            created_at_ms=now + number,
            deadline_at_ms=now + number + _DAY_MS,
            counts=Counts(total=_LINES_A_BATCH),
        )
        await metadata.add_batch(batch)
        admitted = {"state": State.IN_PROGRESS, "slices": _SLICES}
        await metadata.change_batch(batch.id, values=admitted, new_slices=_SLICES)


async def _time(act: Callable[[], Awaitable[None]]) -> float:
    """Seconds."""
    took_s = []
    for _ in range(_TIMED):
        began_s = time.perf_counter()
        await act()
        took_s.append(time.perf_counter() - began_s)
    return median(took_s)
