"""kill -9 in a batch that passes over invalid lines: each line of the file ends in one of the two files, once."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backfill.journal import Fold
from backfill.store import LocalBlobs
from bench.null.process import NullEngine
from tests.support.client import Client
from tests.support.lines import marker_of, request_line
from tests.support.server_process import BackfillServer

LINES = 1500
VALID = range(0, LINES, 10)
"""Of ten lines in a row one is a request, three say again what the first one is called, and the rest is no JSON."""


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def make_line(number: int) -> bytes:
    if number in VALID:
        return request_line(number)
    return request_line(number, custom_id=f"request-{number - number % 10}") if number % 10 < 4 else b"{"


DATA = b"\n".join(make_line(number) for number in range(LINES))


def create(client: Client) -> str:
    body = {"endpoint": "/v1/chat/completions", "input_file_id": client.upload(DATA), "on_invalid_lines": "error_file"}
    response = client.request("POST", "/v1/batches", json=body)
    response.raise_for_status()
    return str(response.json()["job"]["id"])


def count_records(server: BackfillServer, batch_id: str) -> int:
    """How many lines have a record, as a dead server left them."""
    fold = Fold(LocalBlobs(server.data_dir / "blobs"), batch_id, LINES)
    fold.refresh()
    done = fold.counts.done
    fold.close()
    return done


def check_whole(client: Client, batch: dict[str, Any]) -> None:
    assert batch["status"] == "COMPLETED"
    output = [json.loads(line) for line in client.download(batch["output_file_id"])]
    assert [line["custom_id"] for line in output] == [f"request-{number}" for number in VALID]
    errors = [json.loads(line) for line in client.download(batch["error_file_id"])]
    assert [line["error"]["line"] for line in errors] == [number + 1 for number in range(LINES) if number not in VALID]
    kinds = {(line["error"]["code"], line["custom_id"] is None) for line in errors}
    assert kinds == {("invalid_json_line", True), ("duplicate_custom_id", False)}
    counts = {"total": LINES, "completed": len(VALID), "failed": LINES - len(VALID)}
    assert batch["request_counts"] == counts


# The first write to a segment is its header; those behind it hold what was found wrong with up to 500 lines each.
@pytest.mark.parametrize("fault", ["segment.half_written:2", "segment.written:2", "segment.half_written:3"])
def test_the_server_dies_while_it_writes_what_is_wrong(engine: NullEngine, tmp_path: Path, fault: str) -> None:
    server = BackfillServer(tmp_path / "data", engine.url)
    client = Client(server)
    server.start(fault=fault)
    try:
        batch_id = create(client)
        with pytest.raises(httpx.TransportError):
            client.wait_for_end(batch_id)
        assert server.wait_for_death() == -signal.SIGKILL
        assert 0 < count_records(server, batch_id) < LINES
        server.start()
        check_whole(client, client.wait_for_end(batch_id))
    finally:
        server.kill()


def test_the_server_dies_while_the_others_run(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(VALID[-1]): ["hang"]})
    server = BackfillServer(tmp_path / "data", engine.url)
    client = Client(server)
    server.start()
    try:
        batch_id = create(client)
        lines = client.request("GET", f"/v1/batches/{batch_id}/results?follow=false")
        while len(lines.content.splitlines()) < LINES - 1:
            lines = client.request("GET", f"/v1/batches/{batch_id}/results?follow=false")
        server.kill()
        assert count_records(server, batch_id) == LINES - 1
        engine.behave(faults={})
        server.start()
        check_whole(client, client.wait_for_end(batch_id))
        # No request that had been answered was sent again.
        assert engine.stats()["received"] == len(VALID) + 1
    finally:
        server.kill()
