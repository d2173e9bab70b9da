"""The database is away for longer than a lease, hangs, or fails over: lines go on, and all then ends by itself."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine, Stats
from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from tests.support.client import Client
from tests.support.gateway import Gateway
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore

pytestmark = pytest.mark.scale

CONCURRENCY = 8
LINES = 300
# What one PUT may hold.
GROUP = 256


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def has_answered(count: int) -> Callable[[Stats], bool]:
    return lambda stats: stats["answered"] >= count


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


def wait_until_answered(machines: Machines, client: Client, batch_id: str) -> None:
    machines.wait_until(lambda: client.request("GET", f"/v1/batches/{batch_id}").status_code == 200)


@pytest.mark.parametrize("how", ["hangs", "is killed"])
@pytest.mark.parametrize("outage_s", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_a_database_that_is_away_for_longer_than_a_lease_is_told_as_503_and_nothing_is_lost(
    engine: NullEngine, tmp_path: Path, object_server: ObjectServer, how: str, outage_s: int
) -> None:
    engine.behave(delay_ms=10)
    with PostgresServer() as postgres:
        store = RemoteStore(postgres, object_server, "away")
        with Machines(tmp_path, engine.url, store, server__lease_s="3") as machines:
            client = machines.client
            batch_id = client.create(client.upload(request_lines(LINES)))
            engine.wait_for(has_answered(50), timeout_s=60)
            back_at_s = time.monotonic() + outage_s
            if how == "hangs":
                postgres.freeze()
            else:
                postgres.stop(signal.SIGQUIT)
            try:
                while time.monotonic() < back_at_s:
                    for _ in machines.apis:
                        answer = client.request("GET", f"/v1/batches/{batch_id}")
                        assert answer.status_code == 503
                        assert int(answer.headers["retry-after"]) > 0
                engine.wait_for(has_answered(LINES), timeout_s=60)
            finally:
                if how == "hangs":
                    postgres.thaw()
                else:
                    postgres.start()
            # Each process finds out by itself that the database is back.
            for server in machines.apis:
                wait_until_answered(machines, Client(server), batch_id)
            check(machines, wait_for_end(machines, batch_id), LINES)
            # In flight, or not acknowledged by the object store, when another worker took the turn.
            assert Counter(engine.markers("received")).total() - LINES <= GROUP + CONCURRENCY
            second = client.create(client.upload(request_lines(20, LINES)))
            check(machines, wait_for_end(machines, second), 20, LINES)
            for server in (*machines.apis, *machines.workers):
                assert server.terminate() == 0


def test_a_database_whose_connections_all_break_at_once_is_gone_on_with(
    engine: NullEngine, tmp_path: Path, object_server: ObjectServer, postgres: PostgresServer
) -> None:
    engine.behave(delay_ms=10)
    with (
        Gateway(lambda: [f"http://127.0.0.1:{postgres.port}"]) as first,
        Gateway(lambda: [f"http://127.0.0.1:{postgres.port}"]) as second,
        Gateway(lambda: [addresses[0].url]) as moving,
    ):
        addresses = [first]
        store = RemoteStore(postgres, object_server, "failing_over")
        url = str(store.dotted["store.metadata"])
        store.dotted["store.metadata"] = url.replace(f":{postgres.port}/", f":{moving.url.rpartition(':')[2]}/")
        # Longer than it takes, so that no line is sent twice.
        with Machines(tmp_path, engine.url, store, server__lease_s="30") as machines:
            client = machines.client
            batch_id = client.create(client.upload(request_lines(LINES)))
            for count in range(50, LINES, 50):
                engine.wait_for(has_answered(count), timeout_s=60)
                # Another address answers from now on, and nobody at the old one.
                addresses[0] = second if addresses[0] is first else first
                moving.cut()
            check(machines, wait_for_end(machines, batch_id), LINES)
            assert Counter(engine.markers("received")).total() == LINES
            again = client.create(client.upload(request_lines(20, LINES)))
            check(machines, wait_for_end(machines, again), 20, LINES)
