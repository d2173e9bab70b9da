"""kill -9 while files and journals go by their age: what a batch needs stays, and what is to go is gone in the end."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.support.client import FINAL, Client
from tests.support.lines import marker_of, request_lines
from tests.support.server_process import BackfillServer

LINES = 20
# So young that they are over when they are looked at.
AGES = {"retention__inputs_days": "1e-9", "retention__journals_days": "1e-9", "quarantine_h": "0"}
FAULTS = [
    *(("blob.remove", count) for count in (1, 2, 3, 4)),
    ("metadata.before_commit", 3),
    ("metadata.committed", 3),
]


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.mark.parametrize(("point", "count"), FAULTS)
def test_a_kill_while_removing(engine: NullEngine, tmp_path: Path, point: str, count: int) -> None:
    with BackfillServer(tmp_path, engine.url) as server:
        client = Client(server)
        ended = [wait(client, client.create(client.upload(request_lines(LINES)))) for _ in range(2)]
        engine.behave(faults={marker_of(number): ["hang"] for number in range(LINES // 2, LINES)})
        unended = client.create(client.upload(request_lines(LINES)))
        engine.wait_for(lambda stats: stats["answered"] >= 2 * LINES + LINES // 2, timeout_s=30)
        server.kill()
    server = BackfillServer(tmp_path, engine.url, **AGES)
    server.start(fault=f"{point}:{count}", expect_ready=False)
    if point == "blob.remove":
        assert server.wait_for_death() == -signal.SIGKILL
    server.kill()
    engine.behave(faults={})
    with server:
        client = Client(server)
        # It still had its input and what it had answered.
        last = wait(client, unended)
        outputs = [batch["output_file_id"] for batch in (*ended, last)]
        assert [len(client.download(file_id)) for file_id in outputs] == [LINES] * 3
        # It looks at once after a start, and then every half minute.
        server.kill()
        server.start()
        client = Client(server)
        left = {"files": sorted(outputs), "journals": [], "removed": [], "quarantine": []}
        deadline = time.monotonic() + 20
        while (found := {place: list_folders(tmp_path / "blobs" / place) for place in left}) != left:
            assert time.monotonic() < deadline, found
        assert sorted(client.list_ids("files")) == sorted(outputs)
        for batch in ended:
            assert client.retrieve(batch["id"]) == batch


def wait(client: Client, batch_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (batch := client.retrieve(batch_id))["status"] not in FINAL:
        assert time.monotonic() < deadline, batch
    assert batch["status"] == "COMPLETED"
    return batch


def list_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
