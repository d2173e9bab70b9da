"""Forecasts through a real server: asked before anything is sent, shown while a batch waits, kept over a restart."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.support.lines import request_line
from tests.support.server_process import BackfillServer

WAIT_S = 60


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


def ask(server: BackfillServer, folder: Path, *words: str) -> Any:
    code, out, err = backfill(*words, "--json", folder=folder, variables={"BACKFILL_URL": server.url})
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def run_one(server: BackfillServer, folder: Path) -> None:
    event = ask(server, folder, "submit", "in.jsonl", "--wait")
    assert event["event"] == "finished"


def test_what_ended_tells_how_long_the_next_takes_over_a_restart_too(engine: NullEngine, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(request_line(number) for number in range(300)) + b"\n")
    data_dir = tmp_path / "data"
    with BackfillServer(data_dir, engine.url) as server:
        first = ask(server, tmp_path, "estimate", "in.jsonl", "--server", server.url)
        assert first["estimated_seconds"] is None, "nothing was done yet"
        run_one(server, tmp_path)
    with BackfillServer(data_dir, engine.url) as server:
        told = ask(server, tmp_path, "estimate", "in.jsonl", "--server", server.url)
        assert told["requests"] == 300
        assert 0 <= told["estimated_seconds"] < WAIT_S
        assert told["warning"] is None


def test_a_batch_that_waits_says_until_when_and_a_short_window_is_warned_of(engine: NullEngine, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(request_line(number) for number in range(300)) + b"\n")
    with BackfillServer(tmp_path / "data", engine.url) as server:
        run_one(server, tmp_path)
        engine.behave(hold=True)
        event = ask(server, tmp_path, "submit", "in.jsonl")
        deadline = time.monotonic() + WAIT_S
        while "estimated_completion_at" not in (batch := ask(server, tmp_path, "status", event["batch_id"])):
            assert time.monotonic() < deadline, batch
        code, out, _ = backfill("status", event["batch_id"], folder=tmp_path, variables={"BACKFILL_URL": server.url})
        assert (code, "expected" in out) == (0, True)
        engine.behave(hold=False)
