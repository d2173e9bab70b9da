"""Everything together: batches come, one process judges and closes them, a scaler decides, workers work."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from backfill.batch import Batch, Counts, File, FileStatus, Reservation, State
from backfill.config import LimitsConfig, load_config
from backfill.dispatch import Weighed, find_urgency
from backfill.engines import Fleet, Member, ReplicaLimits
from backfill.index import Survey
from backfill.plan import Job as QueuedJob
from backfill.plan import count_slices
from backfill.scaler import DemandReader, Scaler
from backfill.scaler.notice import Notice
from backfill.scaler.scaler import Rows
from backfill.status import Urgency, WorkerStatus
from backfill.store import Leases, Metadata, Workers
from backfill.turns import Bell, Company, Duties, Neighbours, Turns
from bench.simulated.engine import EngineSettings, SimulatedEngine
from bench.simulated.fleet.cluster import SimulatedCluster
from bench.simulated.fleet.database import Kind, VirtualDatabase
from bench.simulated.fleet.ledger import Book, Ledger
from bench.simulated.fleet.load import Job
from bench.simulated.fleet.meter import Meter
from bench.simulated.fleet.settings import ENDPOINT, ENGINE, MODEL, TOKENS_A_LINE, FleetSettings
from bench.simulated.fleet.worker import SimulatedWorker
from bench.simulated.replica import SimulatedReplica

__all__ = ["Installation"]

_TICK_S = 0.1
_LOOK_S = 1.0
_HEARTBEAT_S = 5.0
_WAKE_S = 0.025
"""Until the others hear that a batch has changed."""
_FILE = "file-1"
_PRESSED_SHARE = 0.25
_PRESSED_TIMES = 2.0
_PRESSED_WOKEN = 64
_SAMPLE_S = 60.0
_JUDGED_EVERY_S = 5.0
_JUDGED_LOOKS = 20
_JUDGED_S = 5e-5
"""For each batch that waits, as was measured with a thousand workers."""
_POOL = frozenset({ENGINE})


class _Ringing(Neighbours):
    """One process tells, and all others hear it."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring

    def tell(self) -> None:
        self._ring()


class _SteadyBell(Bell):
    """Rings by itself, and not for others."""

    def __init__(self, period_s: float) -> None:
        super().__init__()
        self._steady_s = period_s

    async def wait(self, timeout_s: float) -> None:
        await asyncio.sleep(max(timeout_s, self._steady_s))


class _Reports(Workers):
    """What workers tell, without the way through their rows: these are counted."""

    def __init__(self, metadata: Metadata, find: Callable[[], list[WorkerStatus]]) -> None:
        super().__init__(metadata.database)
        self._find = find

    async def list(self) -> Sequence[WorkerStatus]:
        return self._find()


class Installation:
    """One, from the first batch to the end of the last and until no replica is left that is not to stay."""

    def __init__(self, settings: FleetSettings, jobs: Sequence[Job], metadata: Metadata, seed: int) -> None:
        """`metadata`: on a `VirtualDatabase`."""
        self.settings = settings
        self.jobs = jobs
        self.meter = Meter()
        self.ledger = Ledger(self.meter)
        self.polls = 0
        """Looks of workers at which nothing was there for them, and which are only counted."""
        self.looks_in_vain = 0
        self.further_in_vain = 0
        self.urgency = Urgency()
        """Which deadlines are in danger, as all have read it."""
        self.ended_s = 0.0
        """When the last batch had ended."""
        self.samples: list[tuple[float, int, int]] = []
        """Once a minute: when, how many replicas were up, and transactions that wrote so far."""
        self.clock_ms = metadata.database.now_ms
        self.begin_ms = self.clock_ms()
        self._metadata = metadata
        self._dice = random.Random(seed)
        self._made = 0
        self._lacking: dict[str, dict[SimulatedWorker, None]] = {job.owner: {} for job in jobs}
        self._wave: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Future[bool]] = set()
        self._work = self._make_turns("work")
        self.cluster = SimulatedCluster(self._make_worker, settings.start_s, self.meter.change_up)
        metadata.watch_batches(self.ledger)

    @property
    def database(self) -> VirtualDatabase:
        """The rows."""
        assert isinstance(self._metadata.database, VirtualDatabase)
        return self._metadata.database

    async def run(self) -> None:
        """Until all is over."""
        await self._add_file()
        scaler = self._make_scaler()
        loops: list[Coroutine[Any, Any, None]] = [
            self._admit(),
            self._close(),
            self._tick(),
            self._kill(),
            self._press(),
            self._judge(),
            scaler.run(_SteadyBell(self.settings.looks_every_s)),
        ]
        ending = asyncio.create_task(self._send_and_wait())
        tasks = {ending, *map(asyncio.create_task, loops)}
        try:
            while not ending.done():
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # What workers ask

    def lack(self, worker: SimulatedWorker, owner: str | None) -> None:
        """The worker would take more of this owner's lines, or of anybody's."""
        for name in self._lacking if owner is None else (owner,):
            self._lacking[name][worker] = None

    def lack_no_more(self, worker: SimulatedWorker, owner: str) -> None:
        """The worker has enough of them."""
        self._lacking[owner].pop(worker, None)

    def lack_nothing(self, worker: SimulatedWorker) -> None:
        """The worker takes nothing any more."""
        for workers in self._lacking.values():
            workers.pop(worker, None)

    def has_free_for(self, worker: SimulatedWorker) -> bool:
        """Whether a look can find a turn for the worker."""
        own = worker.batch_ids
        pressed = [self.ledger.books[batch_id].job for batch_id in self.ledger.pressed if batch_id not in own]
        if pressed and worker.lacks_due(max(job.due_s for job in pressed)):
            return True
        lacking = (batches for owner, batches in self.ledger.free_of.items() if worker.lacks(owner))
        return any(batch_id not in own for batches in lacking for batch_id in batches)

    def note_looked(self, *, found: bool) -> None:
        """A worker has looked for turns."""
        self.looks_in_vain += not found

    def note_asked_further(self, *, found: bool) -> None:
        """A worker has asked for further slices of a batch."""
        self.further_in_vain += not found

    def free_later(self, worker: SimulatedWorker, batch_id: str, number: int) -> None:
        """What a dead worker held is free when its lease is over."""

        def free() -> None:
            if self.ledger.books[batch_id].held.get(number) is worker:
                self.ledger.note_over(batch_id, number)

        asyncio.get_running_loop().call_at(worker.may_hold_until_s, free)

    # What happens

    async def _send_and_wait(self) -> None:
        for job in self.jobs:
            await asyncio.sleep(job.comes_s - asyncio.get_running_loop().time())
            self.ledger.add(job, self._count_slices(job.lines))
            await self._metadata.add_batch(self._make_batch(job))
            self._work.ring_bells()
            self._ring()
        while self.ledger.open_batches:  # noqa: ASYNC110 - on this clock a look costs nothing
            await asyncio.sleep(_LOOK_S)
        self.meter.pass_time()
        self.ended_s = asyncio.get_running_loop().time()
        while self.cluster.count > self.settings.least:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_LOOK_S)

    async def _admit(self) -> None:
        bell = self._work.subscribe()
        while True:
            await self._work.admit_waiting()
            await self._work.expire_due()
            await bell.wait(_LOOK_S)

    async def _close(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if not self.ledger.closing:
                continue
            for turn in await self._work.take_closable(await self._work.find_closable()):
                await self._work.note_fenced(turn)
                asyncio.get_running_loop().call_later(self.settings.gather_s, self._closing, turn.batch)

    def _closing(self, batch: Batch) -> None:
        task = asyncio.ensure_future(self._work.close(batch, batch.counts, None, None))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self) -> None:
        """What everybody does all the time, as one."""
        told, number = 0.0, 0
        while True:
            await asyncio.sleep(_TICK_S)
            number += 1
            told += self.meter.up * _TICK_S / _HEARTBEAT_S
            self.database.occupy(Kind.HEARTBEAT, int(told))
            told -= int(told)
            if number % round(_LOOK_S / _TICK_S) == 0:
                self.polls += self.meter.up
                self._wake(SimulatedWorker.ask_at_tick)
            if number % round(_SAMPLE_S / _TICK_S) == 0:
                now_s = asyncio.get_running_loop().time()
                self.samples.append((now_s, self.meter.up, self.database.writes.total()))

    async def _kill(self) -> None:
        last_s = self.jobs[-1].comes_s
        for number in range(self.settings.kills):
            await asyncio.sleep(last_s * (number + 1) / (self.settings.kills + 1) - asyncio.get_running_loop().time())
            self.cluster.kill(self._dice)

    async def _judge(self) -> None:
        """Which deadlines are in danger, as `dispatch.Deadlines` finds it: what is told is as old as it is there."""
        while True:
            open_books = [book for book in self.ledger.books.values() if not book.state.is_closing]
            cost_s = _JUDGED_S * len(open_books)
            await asyncio.sleep(max(_JUDGED_EVERY_S, _JUDGED_LOOKS * cost_s))
            if self.meter.up:
                urgency = self._find_urgency(open_books)
                asyncio.get_running_loop().call_later(cost_s + _JUDGED_EVERY_S, self._hear_urgency, urgency)

    def _find_urgency(self, books: Sequence[Book]) -> Urgency:
        now_s = asyncio.get_running_loop().time()
        rate = self.settings.lines_per_s
        jobs = [
            QueuedJob(
                book.job.id,
                book.job.owner,
                (),
                _POOL,
                work_s=sum(book.left.values()) / (self.meter.up * rate),
                left_s=book.job.due_s - now_s,
                tokens=1.0,
            )
            for book in books
        ]
        least_s = {book.job.id: sum(book.left.values()) / max(1, _count_left(book)) / rate for book in books}
        weighed = Weighed(self.clock_ms(), (), {}, (), jobs, set())
        return find_urgency(weighed, least_s, {Urgency.name_lines(ENDPOINT, MODEL): _POOL})

    def _hear_urgency(self, urgency: Urgency) -> None:
        self.urgency = urgency
        self.polls += self.meter.up
        _, pressed_ms = urgency.due.get(Urgency.name_lines(ENDPOINT, MODEL), (0, 0))
        pressed_s = (pressed_ms - self.begin_ms) / 1000
        for batch_id, book in self.ledger.books.items():
            if not book.state.is_closing:
                is_pressed = (book.is_near or book.job.due_s <= pressed_s) and batch_id not in urgency.given_up
                if is_pressed is not book.is_pressed:
                    self.ledger.press(batch_id, is_pressed=is_pressed)

    async def _press(self) -> None:
        """When batches become pressed, by the rule of `turns.Choice`."""
        times = sorted((job.due_s - self._find_pressed_s(job), job.comes_s, job.id) for job in self.jobs)
        for at_s, comes_s, batch_id in times:
            await asyncio.sleep(max(at_s, comes_s + _TICK_S) - asyncio.get_running_loop().time())
            book = self.ledger.books[batch_id]
            book.is_near = True
            if not book.state.is_final:
                self.ledger.press(batch_id, is_pressed=batch_id not in self.urgency.given_up)

    def _find_pressed_s(self, job: Job) -> float:
        window_s = job.due_s - job.comes_s
        return max(_PRESSED_SHARE * window_s, _PRESSED_TIMES * job.lines / self.settings.lines_per_s)

    def _ring(self) -> None:
        if self._wave is None:
            self._wave = asyncio.get_running_loop().call_later(_WAKE_S, self._hear)

    def _hear(self) -> None:
        """All look; those for whom there is nothing are only counted."""
        self._wave = None
        self.polls += self.meter.up
        self._wake(lambda worker: worker.ask(0.0))

    def _wake(self, ask: Callable[[SimulatedWorker], None]) -> None:
        books = self.ledger.books
        for owner, batches in self.ledger.free_of.items():
            lacking = [*self._lacking[owner]]
            free = sum(books[batch_id].free for batch_id in batches)
            for worker in self._dice.sample(lacking, min(free, len(lacking))):
                if self.has_free_for(worker):
                    ask(worker)
        if self.ledger.pressed:
            workers = [*self.cluster.workers.values()]
            free = sum(books[batch_id].free for batch_id in self.ledger.pressed)
            for worker in self._dice.sample(workers, min(free, len(workers), _PRESSED_WOKEN)):
                if self.has_free_for(worker):
                    ask(worker)

    # What there is

    def _make_turns(self, name: str) -> Turns:
        holder = f"place:{name}"
        leases = Leases(self._metadata.database, holder, self.clock_ms, self.settings.lease_ms)
        return Turns(
            self._metadata,
            LimitsConfig(),
            self.clock_ms,
            lease_ms=self.settings.lease_ms,
            company=Company(Duties(leases), _Ringing(self._ring), holder, "place:"),
            count_slices=self._count_slices,
        )

    def _count_slices(self, lines: int) -> int:
        return count_slices(lines, self.settings.lines_per_turn)

    def _make_worker(self, number: int) -> SimulatedWorker:
        self._made += 1
        return SimulatedWorker(self, self._make_turns(f"worker-{self._made}"), number, self._made)

    def _make_scaler(self) -> Scaler:
        settings = self.settings
        engine = {
            "url": "http://127.0.0.1:9",
            "place": "ray",
            "replicas": {"min": settings.least, "max": settings.replicas},
            "models": [MODEL],
        }
        times = {"idle_s": settings.idle_s, "clear_s": settings.clear_s, "start_s": settings.start_s}
        overrides = {"server": {"role": "scale"}, "ray": times, "engines": {ENGINE: engine}}
        config = load_config(environment={}, overrides=overrides)
        limits = ReplicaLimits(settings.places, frozenset({ENDPOINT}))
        replica = SimulatedReplica(ENGINE, SimulatedEngine(EngineSettings()), limits)
        fleet = Fleet([Member(replica, {MODEL: ""})])
        reports = _Reports(self._metadata, lambda: [each.status for each in self.cluster.workers.values()])
        rows = Rows(DemandReader(self._metadata.database, fleet), reports, self.clock_ms, settings.lease_ms)
        notice = Notice(reports, self._work.holder, fleet, self.clock_ms, settings.lease_ms)
        return Scaler(config.engines_on_ray, config.ray, rows, self.cluster, self._work.duties, notice)

    async def _add_file(self) -> None:
        """One that all batches read."""
        survey = msgspec.json.encode(Survey(lines=1, models=(MODEL,)))
        file = File(
            id=_FILE,
            owner="",
            filename="",
            purpose="batch",
            status=FileStatus.SEALED,
            created_at_ms=self.clock_ms(),
            survey=survey,
        )
        await self._metadata.add_file(file)

    def _make_batch(self, job: Job) -> Batch:
        return Batch(
            id=job.id,
            owner=job.owner,
            endpoint=ENDPOINT,
            input_file_id=_FILE,
            input_size_bytes=job.lines,
            state=State.VALIDATING,
            created_at_ms=self.begin_ms + round(1000 * job.comes_s),
            deadline_at_ms=self.begin_ms + round(1000 * job.due_s),
            model_id=MODEL,
            counts=Counts(total=job.lines),
            reserved={MODEL: Reservation(job.lines, 0, TOKENS_A_LINE * job.lines)},
        )


def _count_left(book: Book) -> int:
    """Its turns of which lines are left."""
    return sum(lines > 0 for lines in book.left.values())
