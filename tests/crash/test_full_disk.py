"""A disk that is really full, and then has room again: the batch says why it waits, goes on, and completes."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from tests.support.client import FINAL, Client
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

LINES = 4000
STOPPED = ("batch stopped for now", "turn not given back, trying again", "metadata unavailable, trying again")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Take what room there is, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(os.urandom(size))
            except OSError:
                continue


@pytest.mark.slow
@pytest.mark.parametrize("filled_at", [1, 500, 2000], ids=str)
def test_a_batch_lives_through_a_full_disk(small_disk: Path, filled_at: int) -> None:
    with NullEngine(delay_ms=2) as engine, BackfillServer(small_disk / "data", engine.url) as server:
        client = Client(server)
        batch_id = client.create(client.upload(request_lines(LINES)))
        engine.wait_for(lambda stats: stats["answered"] >= filled_at, timeout_s=60)
        fill(small_disk / "filler")
        deadline = time.monotonic() + 60
        while not any(event in line for line in server.log for event in STOPPED):
            assert time.monotonic() < deadline, server.log
            fill(small_disk / "more")
        while "waiting" not in (batch := client.retrieve(batch_id)):
            assert time.monotonic() < deadline, (batch, server.log)
        assert batch["waiting"]["reason"] == "store_unavailable"
        assert "no space left" in batch["waiting"]["message"] or "full" in batch["waiting"]["message"]
        assert str(small_disk) not in batch["waiting"]["message"]
        for filler in ("filler", "more"):
            (small_disk / filler).unlink(missing_ok=True)
        deadline = time.monotonic() + 30
        while (batch := client.retrieve(batch_id))["status"] not in FINAL:
            assert time.monotonic() < deadline, (batch, server.log)
        assert batch["status"] == "COMPLETED"
        assert "waiting" not in batch
        assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
        assert len(set(client.download(batch["output_file_id"]))) == LINES
