"""Machines whose clocks differ by minutes: whose lease is over the database says, and nobody's clock."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore

pytestmark = pytest.mark.scale

LINES = 600
CONCURRENCY = 8
# Of an object store: what one PUT may hold.
GROUP = 256


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=20) as running:
        yield running


def check(machines: Machines, batch_id: str) -> None:
    """Every line is in the output, once and in order."""
    batch = machines.client.wait_for_end(batch_id)
    assert batch["status"] == "COMPLETED", batch
    assert batch["error_file_id"] is None
    output = machines.client.download(batch["output_file_id"])
    assert [json.loads(line)["custom_id"] for line in output] == [f"request-{number}" for number in range(LINES)]


@pytest.mark.parametrize("killed", [None, "fast", "slow"])
def test_nobody_takes_what_another_holds_or_waits_for_longer(
    engine: NullEngine, tmp_path: Path, remote_store: RemoteStore, killed: str | None
) -> None:
    with_slices = Machines(tmp_path, engine.url, remote_store, server__lease_s="3", dispatch__lines_per_turn="50")
    fast, slow = workers = with_slices.workers
    for (first, second), offset_s in ((workers, 120.0), (with_slices.apis, -120.0)):
        first.shift_clock(offset_s)
        second.shift_clock(-offset_s)
    engine.behave(hold=True)
    with with_slices as machines:
        batch_id = machines.client.create(machines.client.upload(request_lines(LINES)))
        # Both are at work on it.
        machines.wait_until(lambda: len(machines.find_workers(batch_id)) == len(workers))
        engine.behave(hold=False)
        if killed is not None:
            doomed = fast if killed == "fast" else slow
            engine.wait_for(lambda stats: stats["received"] >= LINES // 4, timeout_s=60)
            doomed.kill()
        check(machines, batch_id)
        received = Counter(engine.markers("received"))
        assert len(received) == LINES
        assert received.total() - LINES <= (0 if killed is None else CONCURRENCY + GROUP)
