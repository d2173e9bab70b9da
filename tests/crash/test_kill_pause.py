"""A batch that was paused is paused after a kill, and ends once it is resumed, with each line once."""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.null.process import NullEngine
from tests.support.client import Client
from tests.support.lines import marker_of, request_lines
from tests.support.server_process import BackfillServer

LINES = 30
# schema, what is enqueued, free turns, secret, two for the file, batch, admit, take: the next write is the pause.
PAUSING_WRITE = 10


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def move(client: Client, batch_id: str, name: str) -> httpx.Response:
    return client.request("POST", f"/v1/batches/{batch_id}/{name}")


def find_reason(client: Client, batch_id: str) -> str | None:
    waiting = client.retrieve(batch_id).get("waiting")
    return None if waiting is None else waiting["reason"]


def check_end(client: Client, batch_id: str) -> None:
    ended = client.wait_for_end(batch_id)
    assert (ended["status"], ended["request_counts"]["completed"]) == ("COMPLETED", LINES)
    found = [json.loads(line)["custom_id"] for line in client.download(ended["output_file_id"])]
    assert found == [f"request-{number}" for number in range(LINES)]


def test_a_server_killed_while_a_batch_is_paused(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    with BackfillServer(tmp_path, engine.url) as server:
        client = Client(server)
        batch_id = client.create(client.upload(request_lines(LINES)))
        engine.wait_for(lambda stats: stats["in_flight"] == 8)
        assert move(client, batch_id, "pause").status_code == 200
        engine.behave(hold=False)
        engine.wait_for(lambda stats: stats["answered"] == 8)
        while client.retrieve(batch_id)["request_counts"]["completed"] < 8:
            pass
        for _ in range(2):
            server.kill()
            server.start()
            assert find_reason(client, batch_id) == "paused"
            assert client.retrieve(batch_id)["request_counts"]["completed"] == 8
        assert engine.stats()["received"] == 8
        assert move(client, batch_id, "resume").json().get("waiting", {}).get("reason") != "paused"
        check_end(client, batch_id)
    assert Counter(engine.markers()) == {marker_of(number): 1 for number in range(LINES)}


@pytest.mark.parametrize(("point", "is_paused"), [("metadata.before_commit", False), ("metadata.committed", True)])
def test_a_server_killed_by_the_pause(engine: NullEngine, tmp_path: Path, point: str, is_paused: bool) -> None:
    engine.behave(hold=True)
    server = BackfillServer(tmp_path, engine.url).start(fault=f"{point}:{PAUSING_WRITE}")
    client = Client(server)
    batch_id = client.create(client.upload(request_lines(LINES)))
    engine.wait_for(lambda stats: stats["in_flight"] == 8)
    with pytest.raises(httpx.TransportError):
        move(client, batch_id, "pause")
    assert server.wait_for_death() == -signal.SIGKILL
    engine.behave(hold=False)
    with server:
        if is_paused:
            assert find_reason(client, batch_id) == "paused"
            assert client.retrieve(batch_id)["request_counts"]["completed"] == 0
            assert move(client, batch_id, "resume").status_code == 200
        check_end(client, batch_id)
    # What was in flight at the kill was sent again, and nothing else.
    assert max(Counter(engine.markers()).values()) <= 2
    assert len(engine.markers()) <= LINES + 8
