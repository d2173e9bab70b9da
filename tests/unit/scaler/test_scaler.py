"""What the scaler does on a cluster of the test's own, by real rows: who comes, who goes, and who decides."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from backfill.app import Rooms, open_rooms, working
from backfill.batch import State
from backfill.config import Role, load_config
from backfill.errors import EngineUnavailable
from backfill.scaler import Phase, Placed, Placement, make_scaler
from backfill.status import ReplicaState, WorkerReport, WorkerStatus
from backfill.store import Workers
from tests.support.lines import request_lines
from tests.support.rooms import create_batch, wait_until


class FakeCluster:
    """Starts at once what it has places for."""

    def __init__(self, places: int = 100) -> None:
        self.placed: dict[Placement, Placed] = {}
        self.calls: list[tuple[str, Placement]] = []
        self.resources: Mapping[str, float] = {}
        self.is_down = False
        self._places = places

    async def list(self) -> list[Placed]:
        if self.is_down:
            raise EngineUnavailable("The cluster does not answer.")
        return list(self.placed.values())

    async def start(self, placement: Placement, resources: Mapping[str, float]) -> None:
        self.calls.append(("start", placement))
        self.resources = resources
        is_up = len(self.placed) < self._places
        told = {"phase": Phase.UP, "host": "node", "pid": placement.number} if is_up else {"trouble": "no place"}
        self.placed[placement] = msgspec.convert(placement._asdict() | told, Placed)

    async def drain(self, placement: Placement) -> None:
        self.calls.append(("drain", placement))
        self._change(placement, Phase.DRAINING)

    async def remove(self, placement: Placement) -> None:
        self.calls.append(("remove", placement))
        del self.placed[placement]

    def end_drained(self) -> None:
        for placement, one in list(self.placed.items()):
            if one.phase is Phase.DRAINING:
                self._change(placement, Phase.ENDED)

    def count(self, *phases: Phase) -> int:
        return sum(one.phase in phases for one in self.placed.values())

    def _change(self, placement: Placement, phase: Phase) -> None:
        self.placed[placement] = msgspec.structs.replace(self.placed[placement], phase=phase)


def make_settings(folder: Path, least: int = 0, most: int = 4, idle_s: float = 0.2) -> dict[str, Any]:
    engine = {"url": "http://127.0.0.1:9", "place": "ray", "replicas": {"min": least, "max": most}}
    return {
        "data_dir": str(folder / "data"),
        "server.role": "scale",
        "server.lease_s": 1.0,
        "ray.idle_s": idle_s,
        "ray.clear_s": 1.0,
        "engines": {"gpu": engine | {"resources": {"GPU": 1}, "models": ["m"]}},
    }


@asynccontextmanager
async def scaling(settings: dict[str, Any], cluster: FakeCluster) -> AsyncIterator[Rooms]:
    config = load_config(environment={}, overrides=settings)
    async with open_rooms(config, role=Role.SCALE) as rooms, working(rooms):
        scaler, notice = make_scaler(rooms, cluster)
        bell = rooms.turns.subscribe()
        running = asyncio.create_task(scaler.run(bell))
        try:
            yield rooms
        finally:
            scaler.stop()
            bell.ring()
            await running
            await notice.withdraw()


async def tell_worker(rooms: Rooms, pid: int, report: WorkerReport) -> None:
    now = rooms.metadata.database.now_ms()
    worker = WorkerStatus(
        id=f"worker-{pid}",
        role="work",
        host="node",
        pid=pid,
        version="0",
        started_at_ms=now,
        seen_at_ms=now,
        report=report,
    )
    await Workers(rooms.metadata.database).tell(worker, 0)


async def admit(rooms: Rooms, count: int) -> list[str]:
    batches = [await create_batch(rooms, request_lines(10, 10 * number)) for number in range(count)]
    await rooms.turns.admit_waiting()
    return [batch.id for batch in batches]


async def test_the_least_are_there_from_the_start_on_what_was_set_aside(tmp_path: Path) -> None:
    cluster = FakeCluster()
    async with scaling(make_settings(tmp_path, least=2), cluster):
        await wait_until(lambda: cluster.count(Phase.UP) == 2)
        assert cluster.calls == [("start", Placement("gpu", 1)), ("start", Placement("gpu", 2))]
        assert cluster.resources == {"GPU": 1}


async def test_one_comes_to_tell_how_fast_it_is_and_then_as_many_as_are_needed(tmp_path: Path) -> None:
    cluster = FakeCluster()
    async with scaling(make_settings(tmp_path), cluster) as rooms:
        batch_ids = await admit(rooms, 6)
        await wait_until(lambda: cluster.count(Phase.UP) == 1)
        slow = WorkerReport(batches=(batch_ids[0],), token_s={"gpu": (0.0, 1.0)}, work_left={batch_ids[0]: (0, 5)})
        await tell_worker(rooms, 1, slow)
        rooms.turns.ring_bells()
        await wait_until(lambda: cluster.count(Phase.UP) == 4)


async def test_slices_of_one_batch_are_work_for_several(tmp_path: Path) -> None:
    cluster = FakeCluster()
    settings = make_settings(tmp_path) | {"dispatch.lines_per_turn": 5}
    async with scaling(settings, cluster) as rooms:
        batch = await create_batch(rooms, request_lines(100))
        await rooms.turns.admit_waiting()
        await wait_until(lambda: cluster.count(Phase.UP) == 1)
        await tell_worker(rooms, 1, WorkerReport(batches=(batch.id,), token_s={"gpu": (0.0, 1.0)}))
        rooms.turns.ring_bells()
        await wait_until(lambda: cluster.count(Phase.UP) == 4)


async def test_fast_ones_are_not_joined_by_others(tmp_path: Path) -> None:
    cluster = FakeCluster()
    async with scaling(make_settings(tmp_path, idle_s=60.0), cluster) as rooms:
        batch_ids = await admit(rooms, 6)
        fast = WorkerReport(batches=(batch_ids[0],), token_s={"gpu": (0.0, 1e-6)})
        await tell_worker(rooms, 1, fast)
        await wait_until(lambda: cluster.count(Phase.UP) == 1)
        for _ in range(3):
            rooms.turns.ring_bells()
            await asyncio.sleep(0.05)
        assert [call for call, _ in cluster.calls] == ["start"]


async def test_they_go_one_after_another_and_who_has_nothing_to_do_first(tmp_path: Path) -> None:
    cluster = FakeCluster()
    for number in (1, 2, 3):
        await cluster.start(Placement("gpu", number), {})
    cluster.calls.clear()
    async with scaling(make_settings(tmp_path, least=1), cluster) as rooms:
        await tell_worker(rooms, 3, WorkerReport(batches=("some-batch",)))
        for gone in (2, 1):
            while ("drain", Placement("gpu", gone)) not in cluster.calls:
                await tell_worker(rooms, 3, WorkerReport(batches=("some-batch",)))
                rooms.turns.ring_bells()
                await asyncio.sleep(0.05)
            # The next one waits until this one has ended.
            for _ in range(3):
                rooms.turns.ring_bells()
                await asyncio.sleep(0.05)
            assert cluster.count(Phase.DRAINING) == 1
            cluster.end_drained()
        await wait_until(lambda: len(cluster.placed) == 1, timeout_s=10)
        drained = [placement.number for call, placement in cluster.calls if call == "drain"]
        assert drained == [2, 1]
        assert cluster.count(Phase.UP) == 1


async def test_of_two_one_decides_and_the_other_goes_on_with_what_it_finds(tmp_path: Path) -> None:
    cluster = FakeCluster()
    settings = make_settings(tmp_path, least=2, idle_s=60.0)
    async with scaling(settings, cluster):
        await wait_until(lambda: cluster.count(Phase.UP) == 2)
        async with scaling(settings, cluster) as standby:
            for _ in range(3):
                standby.turns.ring_bells()
                await asyncio.sleep(0.05)
        assert len(cluster.calls) == 2
    async with scaling(settings | {"engines": _with_least(settings, 3)}, cluster):
        await wait_until(lambda: cluster.count(Phase.UP) == 3)
        assert cluster.calls[2:] == [("start", Placement("gpu", 3))]


async def test_a_cluster_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    cluster = FakeCluster()
    cluster.is_down = True
    with structlog.testing.capture_logs() as logs:
        async with scaling(make_settings(tmp_path, least=1), cluster):
            await wait_until(lambda: any(log["event"] == "nothing can be decided now" for log in logs))
            cluster.is_down = False
            await wait_until(lambda: cluster.count(Phase.UP) == 1)


async def test_workers_of_an_engine_that_is_gone_from_the_settings_are_stopped(tmp_path: Path) -> None:
    cluster = FakeCluster()
    await cluster.start(Placement("old", 1), {})
    async with scaling(make_settings(tmp_path), cluster):
        await wait_until(lambda: cluster.count(Phase.DRAINING) == 1)


async def test_it_admits_and_tells_of_models_though_no_worker_runs(tmp_path: Path) -> None:
    cluster = FakeCluster(places=0)
    async with scaling(make_settings(tmp_path), cluster) as rooms:
        (batch_id,) = await admit(rooms, 1)
        assert (await rooms.metadata.get_batch(batch_id)).state is State.IN_PROGRESS
        await wait_until(lambda: cluster.count(Phase.STARTING) == 1)
        rows: list[WorkerStatus] = []
        while not (rows and rows[0].report.replicas and rows[0].report.replicas[0].trouble == "no place"):
            rooms.turns.ring_bells()
            await asyncio.sleep(0.02)
            rows = list(await Workers(rooms.metadata.database).list())
        (row,) = rows
        assert row.role == "scale"
        assert [model.id for model in row.report.models] == ["m"]
        assert row.report.replicas[0].name == "gpu"
        assert row.report.replicas[0].state is ReplicaState.STARTING


async def test_a_model_that_nobody_serves_has_somebody_started_who_says_so(tmp_path: Path) -> None:
    cluster = FakeCluster()
    async with scaling(make_settings(tmp_path), cluster) as rooms:
        data = request_lines(3).replace(b'"model": "m"', b'"model": "other"')
        await create_batch(rooms, data)
        await wait_until(lambda: cluster.count(Phase.UP) == 1)


async def test_engines_are_started_for_what_waits_for_their_models_alone(tmp_path: Path) -> None:
    cluster = FakeCluster()
    settings = make_settings(tmp_path)
    gpu = settings["engines"]["gpu"]
    settings["engines"] = {"gpu": gpu, "other": gpu | {"models": ["other"], "resources": {}}}
    async with scaling(settings, cluster) as rooms:
        data = request_lines(3).replace(b'"model": "m"', b'"model": "other"')
        first = await create_batch(rooms, data)
        await wait_until(lambda: cluster.count(Phase.UP) == 1)
        assert cluster.calls == [("start", Placement("other", 1))]
        await admit(rooms, 1)
        await wait_until(lambda: cluster.count(Phase.UP) == 2)
        assert cluster.calls[1:] == [("start", Placement("gpu", 1))]
        await rooms.turns.cancel(first.id, first.owner)
        await wait_until(lambda: cluster.count(Phase.DRAINING) == 1, timeout_s=10)
        assert cluster.calls[2:] == [("drain", Placement("other", 1))]


async def test_one_that_ends_says_which_models_may_come_back(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings["engines"]["any"] = {"url": "http://127.0.0.1:9", "place": "ray", "endpoints": ["/v1/embeddings"]}
    async with open_rooms(load_config(environment={}, overrides=settings), role=Role.SCALE) as rooms:
        _, notice = make_scaler(rooms, FakeCluster())
        await notice.tell()
        (told,) = await Workers(rooms.metadata.database).list()
        assert not told.report.has_ended
        await notice.withdraw()
        (told,) = await Workers(rooms.metadata.database).list()
        assert told.report.has_ended
        assert told.report.replicas == ()
        assert told.report.serves("m", "/v1/chat/completions")
        assert told.report.serves("whatever", "/v1/embeddings")


def _with_least(settings: dict[str, Any], least: int) -> dict[str, Any]:
    engine = settings["engines"]["gpu"]
    return {"gpu": engine | {"replicas": {"min": least, "max": 4}}}


@pytest.mark.parametrize("role", ["all", "work"])
async def test_no_other_process_has_an_engine_on_ray(tmp_path: Path, role: str) -> None:
    settings = make_settings(tmp_path) | {"server.role": role}
    engines = {"gpu": settings["engines"]["gpu"], "near": {"url": "http://127.0.0.1:9", "models": ["m"]}}
    config = load_config(environment={}, overrides=settings | {"engines": engines})
    async with open_rooms(config, role=Role(role)) as rooms:
        assert [replica.name for replica in rooms.fleet.replicas] == ["near"]
