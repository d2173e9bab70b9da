"""In which order batches are delivered."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from backfill.batch import Batch, State
from backfill.deliver import deliverer
from backfill.deliver.gather import Gathered, gather_together
from backfill.store import LocalBlobs
from bench.null.process import NullEngine
from tests.support.lines import request_line, request_lines
from tests.support.rooms import create_batch, open_house, wait_for_batch


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


async def test_a_small_batch_is_delivered_while_a_large_one_is_gathered(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    begun: list[int] = []

    def gather(blobs: LocalBlobs, batches: Sequence[Batch], now_ms: int) -> Sequence[Gathered]:
        lines = sum(batch.counts.total for batch in batches)
        begun.append(lines)
        if lines == 20:
            assert goes_on.wait(60)
        return [*gather_together(blobs, batches, now_ms)]

    monkeypatch.setattr(deliverer, "_LARGE_LINES", 10)
    monkeypatch.setattr(deliverer, "gather_together", gather)
    async with open_house(tmp_path, engine.url) as rooms:
        try:
            large = await create_batch(rooms, request_lines(20))
            await wait_for_batch(rooms, large.id, State.FINALIZING)
            small = await create_batch(rooms, request_line(99))
            assert (await wait_for_batch(rooms, small.id)).state is State.COMPLETED
            assert (await rooms.metadata.get_batch(large.id)).state is State.FINALIZING
        finally:
            goes_on.set()
        assert (await wait_for_batch(rooms, large.id)).state is State.COMPLETED
    assert begun.count(20) == 1
