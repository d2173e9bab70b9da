"""A deadline that only all workers together can keep: each of them gives it way, though it has a part of it alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.support.client import Client
from tests.support.company import Company
from tests.support.lines import request_lines
from tests.support.machines import Machines

pytestmark = [pytest.mark.scale, pytest.mark.timeout(240)]
SLACK_LINES = 8_000
# Nearly 40 s of both workers. Each has a slice or two of it at a time, for which there is plenty of time.
URGENT_LINES = 3_000
# Too little if it goes by turns with the other owner's.
WINDOW = "1m"
KEYS = ("sk-calm", "sk-hurried")
SETTINGS: dict[str, Any] = {
    "dispatch__lines_per_turn": "50",
    "limits__window_min_h": "0.01",
    "server__lease_s": "6",
    "server__api_keys": json.dumps(KEYS),
}


@pytest.fixture(params=[pytest.param("one data directory", marks=pytest.mark.slow), "several machines"])
def assemble(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Company]:
    """Two workers and two processes without engines."""

    def start(engine_url: str) -> Company:
        if request.param == "one data directory":
            return Company(tmp_path / "data", engine_url, **SETTINGS)
        store = request.getfixturevalue("remote_store")
        return Machines(tmp_path / "machines", engine_url, store, **SETTINGS)

    return start


def submit(client: Client, lines: int, first: int = 0, **members: Any) -> str:
    return client.create(client.upload(request_lines(lines, first)), **members)


def count_answered(client: Client, batch_id: str) -> int:
    return int(client.retrieve(batch_id)["request_counts"]["completed"])


def test_a_batch_that_needs_all_workers_gets_them(assemble: Callable[[str], Company]) -> None:
    with NullEngine(delay_ms=200) as engine, assemble(engine.url) as company:
        calm, hurried = (Client(company, key) for key in KEYS)
        slack = submit(calm, SLACK_LINES)
        company.wait_until(lambda: all(company.find_told(worker).get("token_s") for worker in company.workers))
        before = count_answered(calm, slack)
        urgent = submit(hurried, URGENT_LINES, SLACK_LINES, completion_window=WINDOW)
        assert hurried.wait_for_end(urgent)["status"] == "COMPLETED"
        # By turns it would be nearly as many.
        assert count_answered(calm, slack) - before < URGENT_LINES / 3
