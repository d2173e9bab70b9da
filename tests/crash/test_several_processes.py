"""Several processes on one data directory: any of them dies or stands still, and each line is done once."""

import itertools
import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.null.process import NullEngine, Stats
from tests.support.client import Client
from tests.support.company import Company
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

CONCURRENCY = 8
LINES = 400


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=20) as running:
        yield running


def has_received(count: int) -> Callable[[Stats], bool]:
    return lambda stats: stats["received"] >= count


class Follower:
    """A client that follows the results of a batch, and goes on where it was whenever it is cut off."""

    def __init__(self, client: Client, batch_id: str) -> None:
        self.lines: list[str] = []
        self.failures = 0
        self._client = client
        self._batch_id = batch_id
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def wait(self) -> list[str]:
        """The custom ids in the order in which they came, once the batch has ended."""
        self._thread.join(90)
        assert not self._thread.is_alive()
        return self.lines

    def _follow(self) -> None:
        while True:
            try:
                with self._client.stream(f"/v1/batches/{self._batch_id}/results?after={len(self.lines)}") as response:
                    for line in response.iter_lines():
                        self.lines.append(json.loads(line)["custom_id"])
            except httpx.TransportError:
                self.failures += 1
                continue
            return


def check(company: Company, batch: dict[str, Any], lines: int = LINES) -> None:
    """Every line is in the output, once and in order."""
    assert batch["status"] == "COMPLETED"
    output = company.client.download(batch["output_file_id"])
    assert [json.loads(line)["custom_id"] for line in output] == [f"request-{n}" for n in range(lines)]
    assert batch["error_file_id"] is None


def count_redone(engine: NullEngine, lines: int = LINES) -> int:
    received = Counter(engine.markers("received"))
    assert len(received) == lines
    return sum(received.values()) - lines


def test_batches_are_shared_and_each_line_runs_once(engine: NullEngine, tmp_path: Path) -> None:
    with Company(tmp_path / "data", engine.url) as company:
        client = company.client
        batch_ids = [client.create(client.upload(request_lines(100, 100 * number))) for number in range(6)]
        for batch_id in batch_ids:
            batch = client.wait_for_end(batch_id)
            assert batch["status"] == "COMPLETED"
            assert len(client.download(batch["output_file_id"])) == 100
        assert count_redone(engine, 600) == 0


def test_a_worker_is_killed_in_mid_batch(engine: NullEngine, tmp_path: Path) -> None:
    with Company(tmp_path / "data", engine.url) as company:
        batch_id = company.client.create(company.client.upload(request_lines(LINES)))
        follower = Follower(company.client, batch_id)
        engine.wait_for(has_received(LINES // 4))
        company.find_worker(batch_id).kill()
        check(company, company.client.wait_for_end(batch_id))
        assert count_redone(engine) <= CONCURRENCY
        assert sorted(follower.wait()) == sorted(f"request-{n}" for n in range(LINES))


def test_a_worker_stands_still_beyond_its_lease_and_comes_back(engine: NullEngine, tmp_path: Path) -> None:
    with Company(tmp_path / "data", engine.url) as company:
        batch_id = company.client.create(company.client.upload(request_lines(LINES)))
        follower = Follower(company.client, batch_id)
        engine.wait_for(has_received(LINES // 4))
        frozen = company.find_worker(batch_id)
        company.freeze_between_writes(frozen)
        try:
            # The other one has taken the turn once more lines come in than the frozen one had under way.
            received = engine.stats()["received"]
            engine.wait_for(has_received(received + CONCURRENCY + 1), timeout_s=30)
        finally:
            company.thaw(frozen)
        # Its answers had come meanwhile: it writes them down before it learns that the turn is lost.
        check(company, company.client.wait_for_end(batch_id))
        # What it had under way, and what it sent when it woke, until it looked.
        assert count_redone(engine) <= 4 * CONCURRENCY
        given = follower.wait()
        assert sorted(given) == sorted(f"request-{n}" for n in range(LINES))
        again = Follower(company.client, batch_id)
        assert again.wait() == given
        # It goes on with the next batch as if nothing had been.
        second = company.client.create(company.client.upload(request_lines(20, LINES)))
        assert company.client.wait_for_end(second)["status"] == "COMPLETED"


def test_all_workers_are_killed_and_new_ones_come(engine: NullEngine, tmp_path: Path) -> None:
    with Company(tmp_path / "data", engine.url) as company:
        batch_id = company.client.create(company.client.upload(request_lines(LINES)))
        engine.wait_for(has_received(LINES // 4))
        for worker in company.workers:
            worker.kill()
        for worker in company.workers:
            worker.start()
        check(company, company.client.wait_for_end(batch_id))
        assert count_redone(engine) <= CONCURRENCY


def start_to_die(server: BackfillServer, point: str, nth: int) -> None:
    """Start it so that it dies the `nth` time that it reaches the point once it answers, the first time or later."""
    for in_start in itertools.count():
        server.start(fault=f"{point}:{in_start + nth}", expect_ready=False)
        if '"ready"' in server.said:
            return
        server.kill()


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("point", ["blob.synced", "metadata.before_commit", "metadata.committed"])
def test_a_process_that_answers_is_killed_over_an_upload_or_a_create(
    engine: NullEngine, tmp_path: Path, point: str, nth: int
) -> None:
    with Company(tmp_path / "data", engine.url, workers=1) as company:
        doomed, other = company.apis
        doomed.terminate()
        start_to_die(doomed, point, nth)
        client = Client(doomed)
        with pytest.raises(httpx.TransportError):
            client.create(client.upload(request_lines(20)))
        assert doomed.wait_for_death() == -signal.SIGKILL
        client = Client(other)
        file_id = (client.list_ids("files") or [client.upload(request_lines(20))])[0]
        batch_id = (client.list_ids("batches") or [client.create(file_id)])[0]
        check(company, client.wait_for_end(batch_id), 20)
        assert count_redone(engine, 20) == 0
