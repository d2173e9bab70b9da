"""Forecasts of two processes without engines: both say when a batch will be done on which two workers are at work."""

import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.support.client import Client
from tests.support.company import Company
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore

CHAT = "/v1/chat/completions"
LINES = 20_000
LEAST_S = 20
APART_S = 4


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=50) as running:
        yield running


@pytest.fixture(params=["one machine", pytest.param("several machines", marks=pytest.mark.scale)])
def company(request: pytest.FixtureRequest, engine: NullEngine, tmp_path: Path) -> Iterator[Company]:
    if request.param == "one machine":
        made = Company(tmp_path / "data", engine.url)
    else:
        postgres, objects = (request.getfixturevalue(name) for name in ("postgres", "object_server"))
        made = Machines(tmp_path, engine.url, RemoteStore(postgres, objects, f"forecast_{uuid.uuid4().hex}"))
    with made as running:
        yield running


def read_done_s(told: dict[str, Any]) -> float | None:
    """When a batch will be done, in seconds since the epoch."""
    done = told.get("estimated_completion_at")
    return None if done is None else datetime.fromisoformat(done).timestamp()


def test_both_processes_foresee_the_same_end(company: Company, engine: NullEngine) -> None:
    clients = [Client(api) for api in company.apis]
    # So that it is known how fast the engines are, and what lines come to.
    for number in range(4):
        first = clients[0].create(clients[0].upload(request_lines(200, first=1000 * number)))
        assert clients[1].wait_for_end(first)["status"] == "COMPLETED"
    engine.behave(hold=True)
    received = engine.stats()["received"]
    batch_id = clients[0].create(clients[0].upload(request_lines(LINES)))
    # Both workers have slices of it, and nothing moves once they have sent what their limits allow.
    engine.wait_for(lambda stats: stats["received"] > received, timeout_s=30)
    company.wait_until(lambda: len(company.find_workers(batch_id)) == 2)

    def is_foreseen() -> bool:
        created_s = datetime.fromisoformat(clients[0].retrieve(batch_id)["created_at"]).timestamp()
        told = [read_done_s(client.retrieve(batch_id)) for client in clients]
        one, other = told
        if one is None or other is None:
            return False
        # Each looks every two seconds, and while nothing moves it is as long again from each look on.
        return min(one, other) - created_s > LEAST_S and abs(one - other) <= APART_S

    company.wait_until(is_foreseen)
    # What is only asked about waits behind it.
    wanted = {"endpoint": CHAT, "models": {"m": {"requests": 100, "prompt_tokens": 2000, "completion_tokens": 25_600}}}
    asked = [client.request("POST", "/v1/estimates", json=wanted).json() for client in clients]
    assert all(each["estimated_seconds"] is not None for each in asked), asked
    engine.behave(hold=False)
    clients[1].request("POST", f"/v1/batches/{batch_id}/cancel").raise_for_status()
    assert clients[0].wait_for_end(batch_id)["status"] == "CANCELLED"
    # Of what has ended nothing is foreseen.
    assert [read_done_s(client.retrieve(batch_id)) for client in clients] == [None, None]
