"""kill -9 while a create call with requests in it is answered: one batch in the end, no file that stays for ever."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.null.process import NullEngine
from tests.support.client import Client
from tests.support.lines import request_line
from tests.support.server_process import BackfillServer

BODY = {"endpoint": "/v1/chat/completions", "requests": [json.loads(request_line(number)) for number in range(3)]}
ONCE = {"idempotency-key": "once"}


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


# Blobs are the index, the facts and the content; of the writes to the database that follow the start some are the
# file's row, the batch's row and its states.
@pytest.mark.parametrize(
    "point",
    ["blob.sealed:1", "blob.sealed:3", *(f"metadata.committed:{n}" for n in range(5, 9)), "metadata.before_commit:6"],
)
def test_the_server_dies_between_file_and_batch(engine: NullEngine, tmp_path: Path, point: str) -> None:
    server = BackfillServer(tmp_path / "data", engine.url)
    client = Client(server)
    with server:
        pass
    server.start(fault=point)
    try:
        with pytest.raises(httpx.TransportError):
            client.wait_for_end(client.request("POST", "/v1/batches", json=BODY, headers=ONCE).json()["job"]["id"])
        assert server.wait_for_death() == -signal.SIGKILL
        server.start()
        left = client.list_ids("files")
        made = client.request("POST", "/v1/batches", json=BODY, headers=ONCE)
        made.raise_for_status()
        batch = client.wait_for_end(made.json()["job"]["id"])
        assert batch["status"] == "COMPLETED"
        assert [json.loads(line)["custom_id"] for line in client.download(batch["output_file_id"])] == [
            "request-0",
            "request-1",
            "request-2",
        ]
        assert client.list_ids("batches") == [batch["id"]]
        inputs = [file_id for file_id in left if file_id != batch["output_file_id"]]
        for file_id in {*inputs, batch["input_file_id"]}:
            # Whatever became of its batch, it has an end.
            assert client.request("GET", f"/openai/v1/files/{file_id}").json()["expires_at"] is not None
    finally:
        server.kill()
