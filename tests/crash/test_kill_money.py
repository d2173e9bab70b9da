"""kill -9 while usage grows and is written down: what a batch says it costs is what its own answers add up to."""

import functools
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.null.process import NullEngine, Stats
from bench.service.money import MoneyInput, find_mismatches, make_input, name_prices
from tests.support.client import FINAL, Client
from tests.support.lines import marker_of
from tests.support.server_process import BackfillServer

LINES = 240


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=3) as running:
        yield running


def _has_received(count: int, stats: Stats) -> bool:
    return stats["received"] >= count


def wait_for_end(server: BackfillServer, client: Client, batch_id: str) -> dict[str, Any]:
    """The batch once it has ended; a server that dies meanwhile is started again."""
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        try:
            batch = client.retrieve(batch_id)
        except httpx.TransportError:
            assert server.wait_for_death() == -signal.SIGKILL
            server.start()
            continue
        if batch["status"] in FINAL:
            return batch


def check(client: Client, batch: dict[str, Any], wanted: MoneyInput) -> None:
    output = b"\n".join(client.download(batch["output_file_id"]))
    assert find_mismatches(batch, output, wanted) == []
    # The same, from the rows of all.
    for by in ("day", "model", "key", "batch"):
        total = client.request("GET", f"/v1/usage?by={by}").json()["total"]
        assert {name: total[name] for name in ("list", "discount", "paid", "saved")} == {
            name: batch["cost"][name] for name in ("list", "discount", "paid", "saved")
        }


@pytest.mark.parametrize("seed", [1, 2])
def test_costs_are_exact_after_kills_at_random_instants(engine: NullEngine, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    wanted = make_input(LINES, dice)
    with BackfillServer(tmp_path / "data", engine.url, **name_prices()) as server:
        client = Client(server)
        batch_id = client.create(client.upload(wanted.content))
        for received in sorted(dice.sample(range(1, LINES // 2), 4)):
            engine.wait_for(functools.partial(_has_received, received), timeout_s=30)
            time.sleep(dice.uniform(0, 0.01))  # not to wait for anything: to hit another instant each time
            server.kill()
            server.start()
            # While it runs it says what it costs so far, and no more than that.
            assert client.retrieve(batch_id)["cost"]["currency"] == "usd"
        batch = wait_for_end(server, client, batch_id)
        assert batch["status"] == "COMPLETED"
        check(client, batch, wanted)


@pytest.mark.parametrize(
    ("point", "count"),
    [
        *(("metadata.before_commit", n) for n in (3, 4)),
        *(("metadata.committed", n) for n in (3, 4)),
        ("blob.sealed", 2),
    ],
    ids=str,
)
def test_costs_are_written_in_the_same_step_as_the_end(
    engine: NullEngine, tmp_path: Path, point: str, count: int
) -> None:
    wanted = make_input(30, random.Random(3))
    with BackfillServer(tmp_path / "data", engine.url, **name_prices()) as server:
        client = Client(server)
        engine.behave(hold=True)
        batch_id = client.create(client.upload(wanted.content))
        engine.wait_for(lambda stats: stats["in_flight"] > 0, timeout_s=30)
        server.kill()
        engine.behave(hold=False)
        server.start(fault=f"{point}:{count}", expect_ready=False)
        batch = wait_for_end(server, client, batch_id)
        check(client, batch, wanted)


def test_a_cancelled_batch_pays_for_what_was_answered(engine: NullEngine, tmp_path: Path) -> None:
    wanted = make_input(60, random.Random(5))
    engine.behave(faults={marker_of(number): ["hang"] * 9 for number in (31, 32, 34, 35)})
    with BackfillServer(tmp_path / "data", engine.url, **name_prices()) as server:
        client = Client(server)
        batch_id = client.create(client.upload(wanted.content))
        engine.wait_for(lambda stats: stats["answered"] >= 30 and stats["in_flight"] == 4, timeout_s=30)
        client.request("POST", f"/v1/batches/{batch_id}/cancel").raise_for_status()
        server.kill()
        server.start()
        batch = wait_for_end(server, client, batch_id)
        assert batch["status"] == "CANCELLED"
        check(client, batch, wanted)
