"""A worker of several machines stands still, comes back after others took over, and disturbs nothing."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine, Stats
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore

pytestmark = pytest.mark.scale

CONCURRENCY = 8
LINES = 400
# Of an object store: what one PUT may hold.
GROUP = 256


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=10) as running:
        yield running


def has_received(count: int) -> Callable[[Stats], bool]:
    return lambda stats: stats["received"] >= count


def read_all(machines: Machines, batch: dict[str, Any]) -> list[bytes]:
    """The output file; every line is in it, once and in order."""
    assert batch["status"] == "COMPLETED", batch
    assert batch["error_file_id"] is None
    output = machines.client.download(batch["output_file_id"])
    assert [json.loads(line)["custom_id"] for line in output] == [f"request-{number}" for number in range(LINES)]
    return output


def count_redone(engine: NullEngine) -> int:
    received = Counter(engine.markers("received"))
    assert len(received) == LINES
    return sum(received.values()) - LINES


def check_afterwards(machines: Machines, batch_id: str, output: list[bytes]) -> None:
    """What the one that came back has written late changes nothing; both workers go on, and end in order."""
    client = machines.client
    second = client.create(client.upload(request_lines(20, LINES)))
    assert client.wait_for_end(second)["status"] == "COMPLETED"
    for worker in machines.workers:
        assert worker.terminate() == 0
    assert read_all(machines, client.retrieve(batch_id)) == output
    results = client.request("GET", f"/v1/batches/{batch_id}/results").content.splitlines()
    assert Counter(json.loads(line)["custom_id"] for line in results) == Counter(f"request-{n}" for n in range(LINES))


def test_a_worker_stands_still_in_mid_turn_and_comes_back_while_another_has_its_lines(
    engine: NullEngine, tmp_path: Path, remote_store: RemoteStore
) -> None:
    with Machines(tmp_path, engine.url, remote_store) as machines:
        client = machines.client
        batch_id = client.create(client.upload(request_lines(LINES)))
        engine.wait_for(has_received(LINES // 4), timeout_s=60)
        frozen = machines.find_worker(batch_id)
        machines.freeze(frozen)
        try:
            # More than it had under way, so another one sends them.
            engine.wait_for(has_received(engine.stats()["received"] + CONCURRENCY + 1), timeout_s=60)
        finally:
            machines.thaw(frozen)
        # Its answers have come meanwhile, and it writes them before it learns that the turn is lost.
        output = read_all(machines, client.wait_for_end(batch_id))
        # In flight, not acknowledged by the store, and sent when it woke, until it looked.
        assert count_redone(engine) <= GROUP + 4 * CONCURRENCY
        check_afterwards(machines, batch_id, output)


@pytest.mark.parametrize(
    "point",
    [
        # Before a group of answers is stored, and when it is.
        "segment.sync:2",
        "segment.synced:2",
        # While it delivers: the output is there, and no row of it.
        "blob.sealed:1",
        "blob.sealed:2",
        # Within a transaction that holds up all who write: the database ends it.
        "metadata.before_commit:24",
        "metadata.before_commit:32",
        "metadata.committed:28",
    ],
)
def test_a_worker_stands_still_between_two_steps_and_comes_back(
    engine: NullEngine, tmp_path: Path, remote_store: RemoteStore, point: str
) -> None:
    with Machines(tmp_path, engine.url, remote_store) as machines:
        client = machines.client
        frozen, other = machines.workers
        for worker in machines.workers:
            worker.terminate()
        frozen.start(fault=f"{point}:SIGSTOP")
        try:
            batch_id = client.create(client.upload(request_lines(LINES)))
            machines.wait_until(lambda: frozen.is_frozen)
            other.start()
            batch = client.wait_for_end(batch_id)
            output = read_all(machines, batch)
        finally:
            machines.thaw(frozen)
        assert count_redone(engine) <= GROUP + CONCURRENCY
        check_afterwards(machines, batch_id, output)
