"""kill -9 of the server, at every named point and at random instants: nothing lost, nothing doubled, nothing redone."""

import functools
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from backfill.journal import Fold
from backfill.store import LocalBlobs
from backfill.store.faults import POINTS
from bench.null.process import NullEngine, Stats
from tests.support.client import Client
from tests.support.lines import marker_of, request_lines
from tests.support.server_process import BackfillServer

CONCURRENCY = 8
LINES = 60
Result = TypeVar("Result")

# How often a run reaches each point: the n-th time lies in another step of the way.
FAULTS = [
    *(("blob.written", count) for count in (1, 2, 3)),
    *(("blob.synced", count) for count in (1, 2, 3)),
    *(("blob.sealed", count) for count in (1, 2, 3)),
    *(("metadata.before_commit", count) for count in range(1, 9)),
    *(("metadata.committed", count) for count in range(1, 9)),
    *(("segment.created", count) for count in (1,)),
    *(("segment.half_written", count) for count in (1, 2, 6)),
    *(("segment.written", count) for count in (1, 2, 6)),
    *(("segment.synced", count) for count in (1,)),
]


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=3) as running:
        yield running


class Witness:
    """What the engine's own log and the journal say at each kill."""

    def __init__(self, engine: NullEngine, server: BackfillServer, lines: int) -> None:
        self._engine = engine
        self._server = server
        self._lines = lines
        self._finished: dict[str, int] = {}
        self.kills = 0

    def note_kill(self) -> None:
        """Between a death and the next start: remember which lines are finished, and how often each was received."""
        self.kills += 1
        received = Counter(self._engine.markers("received"))
        blobs = LocalBlobs(self._server.data_dir / "blobs")
        for folder in (self._server.data_dir / "blobs" / "journals").glob("*"):
            fold = Fold(blobs, folder.name, self._lines)
            fold.refresh()
            for line, outcome in enumerate(fold.outcomes):
                if outcome:
                    self._finished.setdefault(marker_of(line), received[marker_of(line)])
            fold.close()

    def check(self, output: list[bytes]) -> None:
        """At the end: every line once and in order, no finished line run again, others only if they were in flight."""
        assert [json.loads(line)["custom_id"] for line in output] == [f"request-{n}" for n in range(self._lines)]
        received = Counter(self._engine.markers("received"))
        redone_finished = {marker for marker, count in self._finished.items() if received[marker] > count}
        assert redone_finished == set()
        redone = sum(received.values()) - self._lines
        assert redone <= CONCURRENCY * self.kills


def _has_received(count: int, stats: Stats) -> bool:
    return stats["received"] >= count


def until_it_answers(server: BackfillServer, witness: Witness, act: Callable[[], Result]) -> Result:
    """Do `act`; whenever the server dies over it, start it again and repeat."""
    while True:
        try:
            return act()
        except httpx.TransportError:
            assert server.wait_for_death() == -signal.SIGKILL
            witness.note_kill()
            server.start()


@pytest.mark.parametrize(("point", "count"), FAULTS, ids=str)
def test_the_server_dies_at_a_named_point(engine: NullEngine, tmp_path: Path, point: str, count: int) -> None:
    server = BackfillServer(tmp_path / "data", engine.url)
    client = Client(server)
    witness = Witness(engine, server, LINES)
    server.start(fault=f"{point}:{count}", expect_ready=False)
    if not server.url:
        assert server.wait_for_death() == -signal.SIGKILL
        witness.note_kill()
        server.start()
    try:
        # A client that saw no answer looks whether its request arrived before it asks again.
        known = until_it_answers(server, witness, lambda: client.list_ids("files"))
        file_id = until_it_answers(
            server, witness, lambda: (client.list_ids("files") or [client.upload(request_lines(LINES))])[0]
        )
        batch_id = until_it_answers(
            server, witness, lambda: (client.list_ids("batches") or [client.create(file_id)])[0]
        )
        batch = until_it_answers(server, witness, lambda: client.wait_for_end(batch_id))
        assert known == []
        assert batch["status"] == "COMPLETED"
        assert batch["error_file_id"] is None
        output = until_it_answers(server, witness, lambda: client.download(batch["output_file_id"]))
        witness.check(output)
        assert witness.kills == 1, "the point was never reached"
        assert not list(tmp_path.rglob("*.partial"))
    finally:
        server.kill()


def test_every_point_is_tried() -> None:
    assert {point for point, _ in FAULTS} == POINTS


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_server_dies_at_random_instants(engine: NullEngine, tmp_path: Path, seed: int) -> None:
    lines, kills = 400, 5
    dice = random.Random(seed)
    with BackfillServer(tmp_path / "data", engine.url) as server:
        client = Client(server)
        witness = Witness(engine, server, lines)
        batch_id = client.create(client.upload(request_lines(lines)))
        for received in sorted(dice.sample(range(1, lines - 20), kills)):
            engine.wait_for(functools.partial(_has_received, received), timeout_s=30)
            time.sleep(dice.uniform(0, 0.01))  # not to wait for anything: to hit another instant each time
            server.kill()
            witness.note_kill()
            server.start()
        batch = client.wait_for_end(batch_id)
        assert batch["status"] == "COMPLETED"
        witness.check(client.download(batch["output_file_id"]))


def test_a_cancel_survives_the_kill(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["hang"] * 9 for number in range(10, LINES)})
    with BackfillServer(tmp_path / "data", engine.url) as server:
        client = Client(server)
        batch_id = client.create(client.upload(request_lines(LINES)))
        engine.wait_for(lambda stats: stats["answered"] == 10 and stats["in_flight"] == CONCURRENCY, timeout_s=30)
        client.request("POST", f"/v1/batches/{batch_id}/cancel").raise_for_status()
        server.kill()
        server.start()
        batch = client.wait_for_end(batch_id)
        assert batch["status"] == "CANCELLED"
        done = [json.loads(line)["custom_id"] for line in client.download(batch["output_file_id"])]
        rest = [json.loads(line)["custom_id"] for line in client.download(batch["error_file_id"])]
        assert done == [f"request-{n}" for n in range(10)]
        assert rest == [f"request-{n}" for n in range(10, LINES)]


def test_a_killed_engine_comes_back_and_the_batch_goes_on(tmp_path: Path) -> None:
    lines = 200
    with NullEngine(delay_ms=3) as first:
        server = BackfillServer(tmp_path / "data", first.url, dispatch__backoff_max_s="0.3")
        with server:
            client = Client(server)
            batch_id = client.create(client.upload(request_lines(lines)))
            first.wait_for(lambda stats: stats["answered"] >= 50, timeout_s=30)
            before = first.markers("answered")
            first.kill()
            with NullEngine(port=first.port, delay_ms=3) as second:
                batch = client.wait_for_end(batch_id)
                assert batch["status"] == "COMPLETED"
                assert batch["error_file_id"] is None
                output = [json.loads(line)["custom_id"] for line in client.download(batch["output_file_id"])]
                assert output == [f"request-{n}" for n in range(lines)]
                # What the first engine's answer reached us for is not asked of the second: at most what was in flight.
                redone = set(before) & set(second.markers("received"))
                assert len(redone) <= CONCURRENCY


def test_a_second_server_on_the_same_folder_is_refused(engine: NullEngine, tmp_path: Path) -> None:
    with BackfillServer(tmp_path / "data", engine.url):
        second = BackfillServer(tmp_path / "data", engine.url)
        second.start(expect_ready=False)
        assert second.wait_for_death() == 2
