"""An object store takes nothing for a while: what waits for it in memory is bounded, over all batches."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backfill.journal import Fold
from backfill.store import Blobs
from bench.null.process import NullEngine
from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from tests.support.gateway import Gateway
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore
from tests.support.server_process import BackfillServer

pytestmark = pytest.mark.scale

CONCURRENCY = 8
LINES = 300
# So much may wait for the store, of all batches together.
HELD_MAX_BYTES = 64 << 20


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def check(machines: Machines, batch: dict[str, Any], lines: int, first: int = 0) -> None:
    """Every line is in the output, once and in order."""
    assert batch["status"] == "COMPLETED", batch
    assert batch["error_file_id"] is None
    output = machines.client.download(batch["output_file_id"])
    wanted = [f"request-{number}" for number in range(first, first + lines)]
    assert [json.loads(line)["custom_id"] for line in output] == wanted


def wait_for_end(machines: Machines, batch_id: str) -> dict[str, Any]:
    """As a client does who is refused now and then, and asks again."""
    ended: list[dict[str, Any]] = []

    def has_ended() -> bool:
        answer = machines.client.request("GET", f"/v1/batches/{batch_id}")
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
            return False
        answer.raise_for_status()
        ended.append(answer.json())
        return ended[-1]["status"] in {"COMPLETED", "FAILED"}

    machines.wait_until(has_ended)
    return ended[-1]


def read_peak_bytes(server: BackfillServer) -> int:
    """The most memory that the process has had so far."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def count_stored(blobs: Blobs, batch_ids: list[str]) -> int:
    """How many answers the store has, of all batches."""
    stored = 0
    for batch_id in batch_ids:
        fold = Fold(blobs, batch_id, LINES)
        fold.refresh()
        stored += fold.counts.answered
        fold.close()
    return stored


def wait_for_word(machines: Machines, worker: BackfillServer) -> None:
    """Return once the worker has told of itself again."""
    told = machines.find_told(worker)
    machines.wait_until(lambda: machines.find_told(worker) != told)


def test_what_a_store_does_not_take_is_bounded_over_all_batches(
    engine: NullEngine, tmp_path: Path, postgres: PostgresServer, object_server: ObjectServer, remote_store: RemoteStore
) -> None:
    answer_bytes, batches, lines = 200_000, 4, LINES
    engine.behave(more_text_bytes=answer_bytes)
    with Gateway(lambda: [object_server.endpoint]) as slow:
        direct = remote_store.open_blobs(tmp_path / "looking")
        remote_store.dotted["store.s3_endpoint"] = slow.url
        with Machines(tmp_path, engine.url, remote_store, workers=1, server__lease_s="30") as machines:
            client = machines.client
            (worker,) = machines.workers
            engine.behave(hold=True)
            batch_ids = [client.create(client.upload(request_lines(lines, lines * n))) for n in range(batches)]
            engine.wait_for(lambda stats: stats["in_flight"] == CONCURRENCY, timeout_s=60)
            before = read_peak_bytes(worker)
            slow.slow_down(is_slow=True)
            try:
                engine.behave(hold=False)
                machines.wait_until(lambda: '"bottleneck": "disk"' in json.dumps(machines.find_told(worker)))
                answered = engine.stats()["answered"]
                # It stays so while the worker tells of itself again and again.
                for _ in range(2):
                    wait_for_word(machines, worker)
                assert engine.stats()["received"] == answered
                stored = count_stored(direct, batch_ids)
                assert (answered - stored) * answer_bytes <= HELD_MAX_BYTES + (CONCURRENCY + 1) * answer_bytes
                # What is held, a copy of what is being sent, and the answers under way.
                assert read_peak_bytes(worker) - before < 3 * HELD_MAX_BYTES
            finally:
                slow.slow_down(is_slow=False)
            for number, batch_id in enumerate(batch_ids):
                check(machines, wait_for_end(machines, batch_id), lines, number * lines)
            assert engine.stats()["received"] == batches * lines
        direct.close()
