"""Stores that fail for long: feeding pauses before memory grows, and all goes on by itself once they are back."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill.journal.writer import UNSYNCED_BYTES_LIMIT
from bench.null.process import NullEngine
from bench.scale.seaweed import ObjectServer
from tests.support.client import Client
from tests.support.gateway import Gateway
from tests.support.lines import request_lines
from tests.support.machines import Machines
from tests.support.server_process import BackfillServer

pytestmark = pytest.mark.scale

LINES = 1200
ANSWER_BYTES = 200_000
PLACES = 16
# What is kept, what is on its way to it, and copies of a group while it is sent.
MEMORY_GROWTH_BYTES_MAX = 3 * UNSYNCED_BYTES_LIMIT


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(hold=True, padding_bytes=ANSWER_BYTES) as running:
        yield running


def measure_memory(pid: int, name: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at most so far."""
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def is_paused(client: Client) -> bool:
    """Whether nothing is sent, as too much waits to be written."""
    (engine,) = client.request("GET", "/v1/engines").json()["data"]
    return bool(engine["bottleneck"] == "disk" and engine["in_flight"] == 0)


@pytest.mark.parametrize("batches", [1, 40])
def test_feeding_pauses_before_memory_grows_while_nothing_can_be_written(
    engine: NullEngine, tmp_path: Path, object_server: ObjectServer, batches: int
) -> None:
    with Gateway(lambda: [object_server.endpoint]) as slow:
        settings = object_server.settings() | {"store.s3_endpoint": slow.url}
        options = {name.replace(".", "__"): value for name, value in settings.items()}
        options |= {"engines__null__concurrency": str(PLACES)}
        with BackfillServer(tmp_path, engine.url, **options) as server:
            client, lines = Client(server), LINES // batches
            ids = [client.create(client.upload(request_lines(lines, at * lines))) for at in range(batches)]
            engine.wait_for(lambda stats: stats["received"] == PLACES, timeout_s=60)
            Machines.wait_until(lambda: all(client.retrieve(each)["status"] == "IN_PROGRESS" for each in ids))
            before_bytes = measure_memory(server.pid, "VmRSS")
            slow.slow_down(is_slow=True, writers_only=True)
            engine.behave(hold=False)
            Machines.wait_until(lambda: is_paused(client) or engine.stats()["answered"] == LINES)
            assert engine.stats()["received"] <= UNSYNCED_BYTES_LIMIT // ANSWER_BYTES + 2 * PLACES
            # It reads the whole of an object before it refuses it.
            Machines.wait_until(lambda: slow.refused > 0)
            grown_bytes = measure_memory(server.pid, "VmHWM") - before_bytes
            assert grown_bytes < MEMORY_GROWTH_BYTES_MAX
            slow.slow_down(is_slow=False)
            for at, each in enumerate(ids):
                batch = client.wait_for_end(each)
                assert (batch["status"], batch["error_file_id"]) == ("COMPLETED", None)
                output = [json.loads(line)["custom_id"] for line in client.download(batch["output_file_id"])]
                assert output == [f"request-{at * lines + number}" for number in range(lines)]
            # Nothing that was answered was asked again.
            assert set(Counter(engine.markers("received")).values()) == {1}
            assert engine.stats()["received"] == LINES
