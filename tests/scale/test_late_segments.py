"""A worker stands still with lines at the engine, and has their answers when another one has its turn."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill.store import find_turn, journal_prefix
from bench.null.process import NullEngine
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore

pytestmark = pytest.mark.scale

CONCURRENCY = 8
LINES = 1000
# Of an object store: what one PUT may hold.
GROUP = 256


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=10) as running:
        yield running


def measure_segments(store: RemoteStore, folder: Path, batch_id: str) -> dict[int, int]:
    """Epoch -> bytes of its segment in the object store."""
    blobs = store.open_blobs(folder)
    try:
        sizes = {}
        for key in blobs.list_segments(journal_prefix(batch_id)):
            with blobs.open_segment(key) as segment:
                turn = find_turn(key)
                assert turn is not None
                sizes[turn[1]] = segment.size_bytes
        return sizes
    finally:
        blobs.close()


def hold_lines(engine: NullEngine, count: int) -> None:
    """From now on the engine answers nothing; return once it has so many lines."""
    engine.behave(hold=True)
    engine.wait_for(lambda stats: stats["in_flight"] >= count, timeout_s=60)


def test_answers_that_come_late_are_added_to_no_segment(
    engine: NullEngine, tmp_path: Path, remote_store: RemoteStore
) -> None:
    with Machines(tmp_path, engine.url, remote_store) as machines:
        client = machines.client
        batch_id = client.create(client.upload(request_lines(LINES)))
        engine.wait_for(lambda stats: stats["answered"] >= LINES // 10, timeout_s=60)
        hold_lines(engine, CONCURRENCY)
        frozen = machines.find_worker(batch_id)
        machines.freeze(frozen)
        try:
            # Another one sends the same lines.
            engine.wait_for(lambda stats: stats["in_flight"] >= 2 * CONCURRENCY, timeout_s=60)
            answered = engine.stats()["answered"]
            engine.behave(hold=False)
            # Those of the one that stands still lie in its connections.
            engine.wait_for(lambda stats: stats["answered"] >= answered + 2 * CONCURRENCY, timeout_s=60)
            hold_lines(engine, CONCURRENCY)
            before = measure_segments(remote_store, tmp_path / "looking", batch_id)
        finally:
            machines.thaw(frozen)
        late = min(before)
        assert len(before) == 2, before
        # Who took over ended its run of objects, so the store refuses the next one.
        machines.wait_until(lambda: any("turn lost" in line for line in frozen.log))
        # With all that it still had to write.
        assert frozen.terminate() == 0
        assert measure_segments(remote_store, tmp_path / "looking", batch_id)[late] == before[late]
        engine.behave(hold=False)
        batch = client.wait_for_end(batch_id)
        assert batch["status"] == "COMPLETED", batch
        assert batch["error_file_id"] is None
        assert batch["request_counts"]["completed"] == LINES
        output = client.download(batch["output_file_id"])
        assert [json.loads(line)["custom_id"] for line in output] == [f"request-{number}" for number in range(LINES)]
        received = Counter(engine.markers("received"))
        assert len(received) == LINES
        assert received.total() - LINES <= GROUP + 4 * CONCURRENCY
