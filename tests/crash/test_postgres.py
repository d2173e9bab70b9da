"""The whole way with rows at PostgreSQL: the server is killed, the database is out, connections are cut; all ends."""

import json
import random
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.null.process import NullEngine
from bench.postgres.server import PostgresServer
from tests.support.client import FINAL, Client
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

pytestmark = pytest.mark.scale
CONCURRENCY = 8


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=10) as running:
        yield running


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    return f"whole_{uuid.uuid4().hex}"


def check_output(client: Client, batch: dict[str, Any], lines: int) -> None:
    assert batch["status"] == "COMPLETED"
    assert batch["error_file_id"] is None
    output = client.download(batch["output_file_id"])
    assert [json.loads(line)["custom_id"] for line in output] == [f"request-{n}" for n in range(lines)]


POINTS = ("before_commit", "committed")


def assert_no_password(server: BackfillServer, postgres: PostgresServer) -> None:
    assert postgres.password not in "".join(server.log)


@pytest.mark.parametrize(
    "fault", ["", *(f"metadata.{point}:{count}" for point in POINTS for count in (3, 8, 11)), "segment.written:2"]
)
def test_the_server_is_killed_and_goes_on_where_it_was(
    engine: NullEngine, tmp_path: Path, postgres: PostgresServer, database: str, fault: str
) -> None:
    lines = 100
    server = BackfillServer(tmp_path / "data", engine.url, store__metadata=postgres.make_database(database))
    client = Client(server)
    with server:
        file_id = client.upload(request_lines(lines))
    # Some of its first writes come before it answers.
    server.start(fault=fault, expect_ready=not fault)
    try:
        try:
            batch_id = client.create(file_id)
            if fault:
                pytest.fail(f"it lives on: {client.wait_for_end(batch_id)}")
            engine.wait_for(lambda stats: stats["received"] >= 30, timeout_s=60)
            server.kill()
        except httpx.TransportError:
            assert server.wait_for_death() == -signal.SIGKILL
        server.start()
        batch_id = (client.list_ids("batches") or [client.create(file_id)])[0]
        check_output(client, client.wait_for_end(batch_id), lines)
        received = Counter(engine.markers())
        assert len(received) == lines
        assert sum(received.values()) - lines <= CONCURRENCY
        assert_no_password(server, postgres)
    finally:
        server.terminate()


def test_a_database_that_is_out_for_a_while_costs_no_answer_and_no_line_twice(
    engine: NullEngine, tmp_path: Path
) -> None:
    lines = 600
    with PostgresServer() as postgres:
        url = postgres.make_database("rows")
        with BackfillServer(tmp_path / "data", engine.url, store__metadata=url) as server:
            client = Client(server)
            batch_id = client.create(client.upload(request_lines(lines)))
            engine.wait_for(lambda stats: stats["received"] >= 50, timeout_s=60)
            postgres.stop(signal.SIGQUIT)
            refused = client.request("GET", f"/v1/batches/{batch_id}")
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert postgres.password not in refused.text
            assert str(postgres.port) not in refused.text
            assert client.request("GET", "/readyz").status_code == 503
            # What the lines take stands in files: it goes on until all of them are answered.
            engine.wait_for(lambda stats: stats["answered"] >= lines, timeout_s=60)
            assert client.request("POST", "/v1/batches", json={}).status_code in {400, 503}
            postgres.start()
            wait_until_it_answers(client, batch_id)
            check_output(client, client.wait_for_end(batch_id), lines)
            assert engine.stats()["received"] == lines
            assert_no_password(server, postgres)


def wait_until_it_answers(client: Client, batch_id: str) -> None:
    for _ in range(3000):
        if client.request("GET", f"/v1/batches/{batch_id}").status_code == 200:
            return
    pytest.fail("the database is there again, and the server does not find it")


def test_connections_that_are_cut_at_any_time_cost_nothing(
    engine: NullEngine, tmp_path: Path, postgres: PostgresServer, database: str
) -> None:
    lines, batches = 40, 12
    dice = random.Random(7)
    url = postgres.make_database(database)
    with BackfillServer(tmp_path / "data", engine.url, store__metadata=url) as server:
        client = Client(server)
        file_id = client.upload(request_lines(lines))
        created: list[str] = []
        ended: set[str] = set()
        cut = 0
        while len(ended) < batches:
            if dice.random() < 0.5:
                cut += postgres.end_connections(database)
            if len(created) < batches:
                # As the SDKs do: a request that was refused is sent again as the same request.
                created += create_with_key(client, file_id, f"key-{len(created)}")
            for batch_id in set(created) - ended:
                answer = client.request("GET", f"/v1/batches/{batch_id}")
                assert answer.status_code in {200, 503}, answer.text
                if answer.status_code == 200 and answer.json()["status"] in FINAL:
                    ended.add(batch_id)
        assert cut > 0
        assert len(set(created)) == batches
        assert sorted(client.list_ids("batches")) == sorted(created)
        for batch_id in created:
            check_output(client, client.wait_for_end(batch_id), lines)
        assert_no_password(server, postgres)
    assert engine.stats()["received"] == lines * batches


def create_with_key(client: Client, file_id: str, key: str) -> list[str]:
    body = {"endpoint": "/v1/chat/completions", "input_file_id": file_id}
    answer = client.request("POST", "/v1/batches", json=body, headers={"Idempotency-Key": key})
    assert answer.status_code in {200, 201, 503}, answer.text
    return [] if answer.status_code == 503 else [str(answer.json()["job"]["id"])]
