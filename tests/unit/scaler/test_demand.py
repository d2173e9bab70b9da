"""Whose work a batch is: engines with different models, workers elsewhere, and what is done already."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backfill.app import Rooms, open_rooms
from backfill.config import Role, load_config
from backfill.scaler import DemandReader
from backfill.status import ServedModel, WorkerReport, WorkerStatus
from tests.support.lines import request_line
from tests.support.rooms import create_batch

CHAT = "/v1/chat/completions"
# A token of an answer takes a second, one of a prompt none.
PACE = {"engine-a": (0.0, 1.0), "engine-b": (0.0, 1.0)}


class Site:
    """Two engines on Ray, each with a model of its own, and the rows that the test writes."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self.reader = DemandReader(rooms.metadata.database, rooms.fleet, rooms.catalogue.resolve)
        self.workers: list[WorkerStatus] = []

    async def create(self, *models: str, lines: int = 10) -> str:
        """A batch whose lines name these models in turn, admitted."""
        data = b"".join(
            request_line(n, model=models[n % len(models)], max_tokens=1 + n % len(models)) + b"\n" for n in range(lines)
        )
        batch = await create_batch(self.rooms, data)
        await self.rooms.turns.admit_waiting()
        return batch.id

    def tell(self, *models: str, role: str = "work", seen_at_ms: int = 0, **report: Any) -> None:
        """One more worker."""
        served = tuple(ServedModel(model, (CHAT,)) for model in models)
        self.workers.append(
            WorkerStatus(
                id=f"worker-{len(self.workers)}",
                role=role,
                host="node",
                pid=len(self.workers),
                version="0",
                started_at_ms=seen_at_ms,
                seen_at_ms=seen_at_ms,
                report=WorkerReport(models=served, **report),
            )
        )

    def end_all(self) -> None:
        """As workers do that have nothing more to do."""
        workers, self.workers = self.workers, []
        for worker in workers:
            self.tell(*(model.id for model in worker.report.models), has_ended=True)

    async def read(self) -> dict[str, tuple[list[float | None], int]]:
        """Engine -> seconds of work of each batch, and turns that nobody has; without those of which nothing is."""
        living = {worker.id for worker in self.workers if not worker.report.has_ended}
        found = await self.reader.read(self.workers, living, self.rooms.metadata.database.now_ms())
        return {
            name: ([each.work_s for each in one.demands], one.free_turns) for name, one in found.items() if one.demands
        }


@asynccontextmanager
async def open_site(folder: Path, lines_per_turn: int = 2000) -> AsyncIterator[Site]:
    on_ray = {"url": "http://127.0.0.1:9", "place": "ray"}
    settings = {
        "data_dir": str(folder / "data"),
        "server.role": "scale",
        "dispatch.lines_per_turn": lines_per_turn,
        "engines": {"engine-a": on_ray | {"models": ["model-a"]}, "engine-b": on_ray | {"models": ["model-b"]}},
    }
    async with open_rooms(load_config(environment={}, overrides=settings), role=Role.SCALE) as rooms:
        site = Site(rooms)
        site.tell(token_s=PACE, has_ended=True)
        yield site


async def test_a_batch_is_work_for_the_engine_that_has_its_model_alone(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        await site.create("model-b")
        await site.create("model-b")
        assert await site.read() == {"engine-b": ([10.0, 10.0], 2)}


async def test_a_batch_that_names_several_models_is_work_for_each_engine_by_its_share(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        await site.create("model-a", "model-b")
        assert await site.read() == {"engine-a": ([5.0], 1), "engine-b": ([10.0], 1)}


async def test_what_a_worker_tells_is_of_what_it_serves(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        batch_id = await site.create("model-a", "model-b")
        site.tell("model-a", batches=(batch_id,), work_left={batch_id: (0.0, 3.0)})
        # Its turn is taken; the other engine may start meanwhile.
        assert await site.read() == {"engine-a": ([3.0], 0), "engine-b": ([10.0], 0)}
        site.workers.pop()
        site.tell("model-a", "model-b", batches=(batch_id,), work_left={batch_id: (0.0, 3.0)})
        told = await site.read()
        assert [told[name][0][0] for name in ("engine-a", "engine-b")] == pytest.approx([1.0, 2.0], abs=0.5)


async def test_what_is_done_for_a_model_is_no_work_for_its_engine_even_when_who_told_it_has_ended(
    tmp_path: Path,
) -> None:
    async with open_site(tmp_path) as site:
        batch_id = await site.create("model-a", "model-b")
        site.tell("model-a", left_batches={batch_id: ("model-b",)})
        for _ in range(2):
            assert await site.read() == {"engine-b": ([10.0], 1)}
            site.end_all()


async def test_of_a_batch_that_was_cut_each_slice_counts_by_itself(tmp_path: Path) -> None:
    async with open_site(tmp_path, lines_per_turn=10) as site:
        batch_id = await site.create("model-a", "model-b", lines=40)
        (slices,) = {batch.slices for batch in [await site.rooms.metadata.get_batch(batch_id)]}
        assert slices > 3
        site.tell("model-a", left_batches={batch_id: ("model-b",)}, left_slices={batch_id: (1, 2)})
        told = await site.read()
        work_s, free_turns = told["engine-a"]
        assert work_s == pytest.approx([20 * (slices - 2) / slices])
        assert free_turns == slices - 2
        assert told["engine-b"] == ([40.0], slices)
        # A slice that is done altogether is not taken off twice.
        (turn,) = await site.rooms.turns.take_slices(await site.rooms.metadata.get_batch(batch_id), 1, [])
        assert turn.slice_number == 1
        await site.rooms.turns.give_back(turn, drained=True, is_fenced=True)
        told = await site.read()
        assert (told["engine-a"][1], told["engine-b"][1]) == (slices - 2, slices - 1)


async def test_what_only_workers_elsewhere_serve_starts_nobody(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        site.tell("model-c")
        await site.create("model-c")
        assert await site.read() == {}
        # It is silent, or has ended: it may come back.
        site.end_all()
        assert await site.read() == {}


async def test_a_model_that_nobody_serves_is_refused_by_whoever_runs_or_by_one_that_is_started(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        await site.create("model-c")
        assert await site.read() == {"engine-a": ([0.0], 1)}
        site.tell("model-b")
        assert await site.read() == {}


async def test_a_model_of_which_only_who_left_it_knows_is_work_too(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        batch_id = await site.create("model-a")
        site.tell("model-a", left_batches={batch_id: ("model-b",)})
        for _ in range(2):
            assert await site.read() == {"engine-b": ([0.0], 1)}
            site.end_all()


async def test_an_engine_that_takes_any_model_is_counted_where_no_other_lists_it(tmp_path: Path) -> None:
    on_ray = {"url": "http://127.0.0.1:9", "place": "ray"}
    engines = {"listing": on_ray | {"models": ["model-a"]}, "any": on_ray}
    settings = {"data_dir": str(tmp_path / "data"), "server.role": "scale", "engines": engines}
    async with open_rooms(load_config(environment={}, overrides=settings), role=Role.SCALE) as rooms:
        site = Site(rooms)
        await site.create("model-c")
        assert await site.read() == {"any": ([None], 1)}
        await site.create("model-a")
        assert await site.read() == {"any": ([None], 1), "listing": ([None], 1)}
