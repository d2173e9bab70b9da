"""What workers tell of themselves, and what a process without engines makes of it, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from backfill.batch import Batch, Reservation, State
from backfill.config import load_config
from backfill.dispatch import Colleagues, Crew, Dispatcher, Heartbeat
from backfill.dispatch.left_turns import LeftTurns
from backfill.engines import Fleet
from backfill.errors import StoreUnavailable
from backfill.status import ReplicaState, ReplicaStatus, ServedModel, WaitReason, WorkerReport, WorkerStatus
from backfill.store import Metadata, Workers
from backfill.turns import Turn
from tests.support.replicas import make_replica
from tests.support.rows import RowsPlace
from tests.support.virtual_clock import run_virtual

LEASE_MS = 30_000
HOUR_S = 3600
CHAT = ServedModel("model-a", ("/v1/chat/completions",))
BATCH = Batch(
    id="batch-1",
    owner="o",
    state=State.IN_PROGRESS,
    endpoint="/v1/chat/completions",
    input_file_id="file-1",
    input_size_bytes=3,
    created_at_ms=1000,
    deadline_at_ms=1 << 41,
)


def clock_ms() -> int:
    """The clock that all share: it goes as the event loop's does, which jumps."""
    return 1_000_000 + round(1000 * asyncio.get_running_loop().time())


class Failing(Workers):
    """Rows that nobody can reach for a while."""

    fails = False

    async def tell(self, worker: WorkerStatus, forget_before_ms: int) -> None:
        if self.fails:
            raise StoreUnavailable("The database is away.")
        await super().tell(worker, forget_before_ms)

    async def list(self) -> Any:
        if self.fails:
            raise StoreUnavailable("The database is away.")
        return await super().list()


class House:
    """A crew that looks, and workers that tell."""

    def __init__(self, workers: Failing, crew: Crew, group: asyncio.TaskGroup, lease_ms: int) -> None:
        self.workers = workers
        self.crew = crew
        self._group = group
        self._lease_ms = lease_ms
        self._beats: dict[str, tuple[Heartbeat, asyncio.Task[None]]] = {}

    def begin(
        self,
        name: str,
        *,
        replica: str = "gpu",
        batches: tuple[str, ...] = (),
        left: dict[str, tuple[str, ...]] | None = None,
        **fleet: Any,
    ) -> None:
        """Have a worker tell of itself until it is stopped or killed."""

        async def list_models() -> list[ServedModel]:
            return [CHAT]

        told = {"replica_statuses": (make_replica(replica),), "open_batches": batches, "work_left": [], "paces": {}}
        dispatcher = SimpleNamespace(**told, left=SimpleNamespace(told=left or {}, told_slices={}))
        heartbeat = Heartbeat(
            self.workers,
            name,
            cast("Dispatcher", dispatcher),
            cast(
                "Fleet", SimpleNamespace(**{"list_models": list_models, "endpoints_of_any": (), "offers": {}} | fleet)
            ),
            clock_ms,
            self._lease_ms,
        )
        self._beats[name] = heartbeat, self._group.create_task(heartbeat.run())

    async def stop(self, name: str) -> None:
        heartbeat, task = self._beats.pop(name)
        heartbeat.stop()
        await task

    def kill(self, name: str) -> None:
        self._beats.pop(name)[1].cancel()

    def end(self) -> None:
        for name in [*self._beats]:
            self.kill(name)
        self.crew.stop()

    async def note(self, name: str, *, pid: int = 1, role: str = "work", **report: Any) -> None:
        """What a worker on another host told once."""
        told = WorkerReport(**{"replicas": (make_replica("gpu"),), "models": (CHAT,)} | report)
        now = clock_ms()
        row = WorkerStatus(
            id=name, role=role, host="far", pid=pid, version="1", started_at_ms=now, seen_at_ms=now, report=told
        )
        await self.workers.tell(row, 0)

    async def pass_s(self, seconds: float) -> None:
        """Have the clock go on, and the crew look once more."""
        await asyncio.sleep(seconds + 1.5)

    @property
    def states(self) -> dict[str, ReplicaState]:
        return {replica.name: replica.state for replica in self.crew.replica_statuses}

    @property
    def only(self) -> ReplicaStatus:
        (replica,) = self.crew.replica_statuses
        return replica


@asynccontextmanager
async def open_house(rows: RowsPlace, lease_ms: int = LEASE_MS) -> AsyncIterator[House]:
    metadata = await Metadata.open(rows.make_driver())
    try:
        workers = Failing(metadata.database)
        crew = Crew(workers, clock_ms, lease_ms)
        async with asyncio.TaskGroup() as group:
            house = House(workers, crew, group, lease_ms)
            group.create_task(crew.run())
            try:
                yield house
            finally:
                house.end()
    finally:
        await metadata.close()


def run(rows: RowsPlace, check: Callable[[House], Any], lease_ms: int = LEASE_MS) -> None:
    async def work() -> None:
        async with open_house(rows, lease_ms) as house:
            await check(house)

    run_virtual(work())


def test_an_engine_has_its_workers_name_behind_its_own(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        await house.note("first", pid=7)
        await house.note("second", pid=8)
        await house.pass_s(0)
        assert house.states == {"gpu@far:7": ReplicaState.UP, "gpu@far:8": ReplicaState.UP}
        assert [worker.id for worker in house.crew.workers] == ["first", "second"]

    run(rows, check)


def test_a_worker_that_goes_on_telling_stays_as_it_is(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        house.begin("first", batches=("batch-1",))
        for _ in range(10):
            await house.pass_s(6)
            assert house.only.state is ReplicaState.UP
            assert house.only.in_flight == make_replica("gpu").in_flight
        assert await house.crew.list_models() == [CHAT]

    run(rows, check)


@pytest.mark.parametrize(("lease_ms", "silence_s"), [(LEASE_MS, 15), (600_000, 15), (6000, 3)])
def test_a_worker_that_is_silent_is_shown_as_down_with_what_it_had(
    rows: RowsPlace, lease_ms: int, silence_s: int
) -> None:
    async def check(house: House) -> None:
        await house.note("first", batches=tuple(f"batch-{number}" for number in range(7)))
        await house.pass_s(silence_s - 2)
        assert house.only.state is ReplicaState.UP
        await house.pass_s(2)
        lost = house.only
        assert lost.state is ReplicaState.DOWN
        assert (lost.in_flight, lost.requests_per_s, lost.completion_tokens_per_s) == (0, 0, 0)
        assert lost.answered == make_replica("gpu").answered
        named = ", ".join(f"batch-{number}" for number in range(5))
        assert lost.trouble is not None
        assert lost.trouble.startswith(f"Its process is lost: it has told nothing for {silence_s + 3} s;")
        assert lost.trouble.endswith(f"it worked on {named} and 2 more.")
        assert await house.crew.list_models() == []

    run(rows, check, lease_ms)


@pytest.mark.parametrize("lease_ms", [500, 1500, LEASE_MS, 3_600_000])
def test_whatever_the_lease_a_living_worker_is_never_taken_for_dead(rows: RowsPlace, lease_ms: int) -> None:
    async def check(house: House) -> None:
        house.begin("first")
        await house.pass_s(0)
        for _ in range(20):
            await asyncio.sleep(0.31)
            assert house.only.state is ReplicaState.UP

    run(rows, check, lease_ms)


def test_no_gauge_of_a_dead_engine_is_shown(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        busy = make_replica("gpu", live_in_flight=3, waiting_in_engine=9, kv_cache_use=0.5)
        await house.note("first", replicas=(busy,))
        await house.pass_s(15)
        lost = house.only
        assert (lost.live_in_flight, lost.waiting_in_engine, lost.kv_cache_use) == (0, None, None)
        assert lost.trouble is not None
        assert lost.trouble.endswith("it worked on no batch.")

    run(rows, check)


def test_a_killed_worker_comes_again_under_another_name(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        await house.note("first", pid=7)
        await house.pass_s(20)
        await house.note("second", pid=8)
        await house.pass_s(0)
        assert house.states == {"gpu@far:7": ReplicaState.DOWN, "gpu@far:8": ReplicaState.UP}
        assert await house.crew.list_models() == [CHAT]

    run(rows, check)


def test_a_new_worker_with_the_name_of_a_dead_one_takes_its_place(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        await house.note("first")
        await house.pass_s(20)
        assert house.states == {"gpu@far:1": ReplicaState.DOWN}
        await house.note("second")
        await house.pass_s(0)
        assert house.only.state is ReplicaState.UP

    run(rows, check)


def test_a_worker_is_forgotten_by_those_who_tell(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        await house.note("first")
        await house.pass_s(HOUR_S)
        house.begin("second")
        await house.pass_s(0)
        assert [worker.id for worker in await house.workers.list()] == ["second"]

    run(rows, check)


def test_a_worker_is_forgotten_where_nobody_tells_any_more(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        await house.note("first")
        await house.pass_s(HOUR_S - 5)
        assert house.only.state is ReplicaState.DOWN
        await house.pass_s(5)
        assert house.states == {}

    run(rows, check)


def test_of_one_that_ends_properly_nothing_is_shown_but_what_it_served_is_known_for_an_hour(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        colleagues = Colleagues(house.workers, clock_ms)
        house.begin("first")
        await house.pass_s(0)
        await house.stop("first")
        await house.pass_s(0)
        assert house.states == {}
        assert await house.crew.list_models() == []
        await colleagues.look()
        version = colleagues.version
        assert colleagues.find_name("model-a", BATCH.endpoint) == "model-a"
        assert colleagues.find_name("model-a", "/v1/embeddings") is None
        await house.pass_s(HOUR_S)
        await colleagues.look()
        assert colleagues.find_name("model-a", BATCH.endpoint) is None
        assert colleagues.version > version

    run(rows, check)


def test_colleagues_know_models_by_their_aliases_and_who_takes_any(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        colleagues = Colleagues(house.workers, clock_ms, lambda name: {"short": "model-a"}.get(name, name))
        await house.note("first")
        await house.pass_s(60)
        await colleagues.look()
        names = [colleagues.find_name(name, BATCH.endpoint) for name in ("model-a", "short", "other")]
        assert names == ["model-a", "model-a", None]
        assert colleagues.list_models(BATCH.endpoint) == {"model-a"}
        await house.note("second", pid=2, any_model_at=(BATCH.endpoint,))
        await colleagues.look()
        assert colleagues.find_name("other", BATCH.endpoint) == "other"
        assert colleagues.list_models(BATCH.endpoint) == {"model-a"}

    run(rows, check)


def test_a_batch_that_is_left_to_others_waits_for_a_worker_with_its_model(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        house.begin("first", left={BATCH.id: ("model-b",)})
        await house.pass_s(0)
        waiting = house.crew.find_wait(BATCH)
        assert waiting is not None
        assert waiting.reason is WaitReason.ENGINE
        assert waiting.message == "lines wait for a worker that serves model model-b; none such runs now"
        await house.note("second", pid=2, models=(ServedModel("model-b", (BATCH.endpoint,)),))
        await house.pass_s(0)
        assert house.crew.find_wait(BATCH) is None

    run(rows, check)


def test_a_batch_that_is_left_to_a_replica_on_ray_waits_for_its_start(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        house.begin("first", left={BATCH.id: ("model-b",)})
        await house.note("scaler", pid=2, role="scale", models=(ServedModel("model-b", (BATCH.endpoint,)),))
        await house.pass_s(0)
        waiting = house.crew.find_wait(BATCH)
        assert waiting is not None
        assert waiting.reason is WaitReason.STARTING
        assert waiting.message == "lines wait for a worker on Ray that serves model model-b; one is started"

    run(rows, check)


def test_a_model_that_settings_have_started_on_demand_is_known_though_nobody_ever_told_of_it(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        engines = {"far": {"url": "http://127.0.0.1:9", "place": "ray", "models": ["model-b"]}}
        placed = Fleet.from_config(load_config(environment={}, overrides={"engines": engines}))
        colleagues = Colleagues(house.workers, clock_ms, placed=placed)
        await colleagues.look()
        assert colleagues.find_name("model-b", BATCH.endpoint) == "model-b"
        assert colleagues.find_name("model-a", BATCH.endpoint) is None
        await house.note("first")
        await colleagues.look()
        assert colleagues.list_models(BATCH.endpoint) == {"model-a", "model-b"}

    run(rows, check)


def make_turn(number: int, slices: int = 0) -> Turn:
    batch = msgspec.structs.replace(BATCH, id=f"batch-{number}", slices=slices)
    return Turn(batch, 1, slice_number=1 if slices else 0)


def test_what_is_left_is_tried_again_when_others_serve_something_else_and_after_a_while(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        colleagues = Colleagues(house.workers, clock_ms)
        left = LeftTurns(colleagues)
        await colleagues.look()
        left.note(make_turn(1), ["model-b"], colleagues.version)
        left.note(make_turn(2, slices=3), ["model-b"], colleagues.version)
        await house.pass_s(2)
        assert [batch.id for batch in await left.revise()] == ["batch-2"]
        assert left.list_slices("batch-2") == [1]
        assert left.told == {"batch-1": ("model-b",), "batch-2": ("model-b",)}
        assert left.told_slices == {"batch-2": (1,)}
        await house.note("first")
        await house.pass_s(2)
        assert await left.revise() == []
        assert left.batches == {}
        left.note(make_turn(1), ["model-b"], colleagues.version)
        await house.pass_s(500)
        await left.revise()
        assert [*left.batches] == ["batch-1"]
        await house.pass_s(100)
        await left.revise()
        assert left.batches == {}

    run(rows, check)


def test_models_of_all_workers_stand_together(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        other = ServedModel("model-b", ("/v1/embeddings",))
        await house.note("first", models=(CHAT,))
        await house.note("second", pid=2, models=(other, ServedModel("model-a", ("/v1/completions",))))
        await house.pass_s(0)
        both = ServedModel("model-a", ("/v1/chat/completions", "/v1/completions"))
        assert await house.crew.list_models() == [both, other]

    run(rows, check)


def test_an_engine_that_does_not_say_its_models_keeps_those_that_it_said(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        asked = 0

        async def list_models() -> list[ServedModel]:
            nonlocal asked
            asked += 1
            if asked > 1:
                await asyncio.Event().wait()
            return [CHAT]

        house.begin("first", list_models=list_models)
        await house.pass_s(40)
        assert asked > 2
        assert house.only.state is ReplicaState.UP
        assert await house.crew.list_models() == [CHAT]

    run(rows, check)


def test_a_batch_waits_only_while_no_worker_lives(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        begun_ms = clock_ms()
        await house.pass_s(10)
        waiting = house.crew.find_wait(BATCH)
        assert waiting is not None
        assert (waiting.reason, waiting.since_ms) == (WaitReason.ENGINE, begun_ms)
        house.begin("first")
        await house.pass_s(0)
        assert house.crew.find_wait(BATCH) is None
        house.kill("first")
        await house.pass_s(20)
        waiting = house.crew.find_wait(BATCH)
        assert waiting is not None
        assert waiting.since_ms > begun_ms + 20_000
        for state in (State.PAUSED, State.COMPLETED):
            assert house.crew.find_wait(msgspec.structs.replace(BATCH, state=state)) is None

    run(rows, check)


def test_a_database_that_is_away_for_a_while_ends_nothing(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        house.begin("first")
        await house.pass_s(0)
        house.workers.fails = True
        await house.pass_s(30)
        # What was known last, and that it is old.
        assert [*house.states.values()] == [ReplicaState.DOWN]
        house.workers.fails = False
        await house.pass_s(6)
        assert [*house.states.values()] == [ReplicaState.UP]

    run(rows, check)


def test_with_a_scaler_and_no_worker_a_batch_waits_for_one_to_be_started(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        await house.note("scaler", role="scale", replicas=())
        await house.pass_s(0)
        assert await house.crew.list_models() == [CHAT]
        waiting = house.crew.find_wait(BATCH)
        assert waiting is not None
        assert waiting.reason is WaitReason.STARTING
        for model, reason in (("model-a", WaitReason.STARTING), ("model-b", WaitReason.ENGINE)):
            waiting = house.crew.find_wait(msgspec.structs.replace(BATCH, reserved={model: Reservation(1, 1, 1)}))
            assert waiting is not None
            assert waiting.reason is reason
        await house.note("worker", pid=2)
        await house.pass_s(0)
        assert house.crew.find_wait(BATCH) is None

    run(rows, check)
