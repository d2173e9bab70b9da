"""kill -9 while reservations move: what is told to be enqueued is what the rows and journals left behind add up to."""

import functools
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.null.process import NullEngine, Stats
from bench.service.quotas import fold_enqueued, parse_enqueued
from tests.support.client import FINAL, Client
from tests.support.lines import request_line
from tests.support.server_process import BackfillServer

LINES = 120


def make_input(lines: int, dice: random.Random, first_marker: int = 0) -> bytes:
    """Requests for several models, of which no two are alike."""
    return b"\n".join(
        request_line(
            first_marker + line, model=dice.choice("abc"), max_tokens=dice.randint(1, 500), temperature=1 + line / 1000
        )
        for line in range(lines)
    )


def read_enqueued(client: Client) -> dict[str, int]:
    return parse_enqueued(client.request("GET", "/metrics").text)


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=3) as running:
        yield running


def _has_answered(count: int, stats: Stats) -> bool:
    return stats["answered"] >= count


def start_and_compare(engine: NullEngine, server: BackfillServer, *, goes_on: bool = True) -> dict[str, int]:
    """After a death; nothing is answered until both have been read, or later if it does not go on."""
    engine.behave(hold=True)
    expected = fold_enqueued(server.data_dir)
    server.start()
    assert read_enqueued(Client(server)) == expected
    engine.behave(hold=not goes_on)
    return expected


def wait_for_end(client: Client, batch_id: str) -> str:
    deadline = time.monotonic() + 60
    while (status := client.retrieve(batch_id)["status"]) not in FINAL:
        assert time.monotonic() < deadline, status
    return str(status)


@pytest.mark.parametrize("seed", [1, 2])
def test_enqueued_is_exact_after_kills_at_random_instants(engine: NullEngine, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    with BackfillServer(tmp_path / "data", engine.url) as server:
        client = Client(server)
        made = [client.create(client.upload(make_input(LINES, dice, n * 1000))) for n in range(3)]
        whole = sum(read_enqueued(client).values())
        folds = []
        instants = sorted(dice.sample(range(40, LINES * 2), 4))
        for answered in instants:
            engine.wait_for(functools.partial(_has_answered, answered), timeout_s=30)
            time.sleep(dice.uniform(0, 0.01))  # not to wait for anything: to hit another instant each time
            server.kill()
            # At the last one the engine stays held, or the batch that is cancelled next might end by itself.
            folds.append(sum(start_and_compare(engine, server, goes_on=answered != instants[-1]).values()))
        # It moved, and only down.
        assert folds == sorted(folds, reverse=True)
        assert whole > folds[-1] > 0
        client.request("POST", f"/v1/batches/{made[-1]}/cancel").raise_for_status()
        server.kill()
        start_and_compare(engine, server)
        assert [wait_for_end(client, batch_id) for batch_id in made] == ["COMPLETED", "COMPLETED", "CANCELLED"]
        assert read_enqueued(client) == {}


@pytest.mark.parametrize("point", ["metadata.before_commit", "metadata.committed"])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_reservation_is_there_with_its_batch_or_not_at_all(
    engine: NullEngine, tmp_path: Path, point: str, count: int
) -> None:
    engine.behave(hold=True)
    content = make_input(10, random.Random(1))
    with BackfillServer(tmp_path / "data", engine.url) as server:
        client = Client(server)
        file_id = client.upload(content)
        server.kill()
        server.start(fault=f"{point}:{count}", expect_ready=False)
        if server.url:
            try:
                while True:
                    client.create(file_id)
            except httpx.TransportError:
                pass
        assert server.wait_for_death() == -signal.SIGKILL
        start_and_compare(engine, server)
        for batch_id in client.list_ids("batches"):
            wait_for_end(client, batch_id)
        assert read_enqueued(client) == {}
