"""The object store is away for a minute, silent or refusing: requests get 503, lines wait, and nothing is lost."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from tests.support.client import Client
from tests.support.gateway import Gateway
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore

pytestmark = [pytest.mark.scale, pytest.mark.slow, pytest.mark.timeout(400)]

LINES = 2_000
OUTAGE_S = 60.0
CONCURRENCY = 8
# What one PUT may hold.
GROUP = 256


def upload(client: Client) -> Any:
    form: dict[str, Any] = {"data": {"purpose": "batch-api"}, "files": {"file": ("a.jsonl", request_lines(3))}}
    return client.request("POST", "/v1/files", **form)


def wait_for_end(client: Client, batch_id: str) -> dict[str, Any]:
    ended: dict[str, Any] = {}

    def has_ended() -> bool:
        answer = client.request("GET", f"/v1/batches/{batch_id}")
        if answer.status_code == 200:
            ended.update(answer.json())
        return ended.get("status") in {"COMPLETED", "FAILED"}

    Machines.wait_until(has_ended)
    return ended


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "refusing"])
def test_an_object_store_that_is_away_for_a_minute_is_waited_for(
    tmp_path: Path, postgres: PostgresServer, object_server: ObjectServer, *, is_silent: bool
) -> None:
    with NullEngine(delay_ms=20) as engine, Gateway(lambda: [object_server.endpoint]) as gate:
        store = RemoteStore(postgres, object_server, f"objects_away_{is_silent}".lower())
        store.dotted["store.s3_endpoint"] = gate.url
        with Machines(tmp_path, engine.url, store, server__lease_s="3") as machines:
            client = machines.client
            batch_id = client.create(client.upload(request_lines(LINES)))
            engine.wait_for(lambda stats: stats["answered"] >= 100, timeout_s=60)
            gate.go_away(is_silent=is_silent)
            back_at_s = time.monotonic() + OUTAGE_S
            while time.monotonic() < back_at_s:
                answer = upload(client)
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) > 0
                # Rows are there.
                assert client.request("GET", f"/v1/batches/{batch_id}").status_code in {200, 503}
            gate.go_away(is_silent=None)
            batch = wait_for_end(client, batch_id)
            assert (batch["status"], batch["error_file_id"]) == ("COMPLETED", None)
            output = client.download(batch["output_file_id"])
            assert [json.loads(line)["custom_id"] for line in output] == [f"request-{n}" for n in range(LINES)]
            received = Counter(engine.markers("received"))
            assert len(received) == LINES
            # What was not acknowledged when its turn was lost.
            assert received.total() - LINES <= GROUP + CONCURRENCY
            Machines.wait_until(lambda: upload(client).status_code == 200)
            for server in (*machines.apis, *machines.workers):
                assert server.terminate() == 0
