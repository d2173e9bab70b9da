"""A whole server whose files and journals lie in an object store: what dies is started again, and no line is lost."""

import functools
import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backfill.config import load_config
from backfill.journal import Fold
from backfill.store import Blobs, open_blobs
from bench.null.process import NullEngine, Stats
from bench.scale.seaweed import ObjectServer
from tests.support.client import Client
from tests.support.lines import marker_of, request_lines
from tests.support.server_process import BackfillServer

pytestmark = pytest.mark.scale

CONCURRENCY = 8
FAULTS = [
    *(("blob.written", count) for count in (1, 2, 3)),
    *(("blob.sealed", count) for count in (1, 2, 3, 4)),
    ("segment.created", 1),
    *(("segment.written", count) for count in (1, 6)),
    ("segment.synced", 1),
]


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=3) as running:
        yield running


class Place:
    """A prefix of a bucket, for a server and for whoever looks into it."""

    def __init__(self, server: ObjectServer, folder: Path) -> None:
        self._settings = server.settings()
        self._folder = folder

    @property
    def settings(self) -> dict[str, str]:
        return {name.replace(".", "__"): value for name, value in self._settings.items()}

    def open(self) -> Blobs:
        config = load_config(environment={}, overrides={**self._settings, "data_dir": str(self._folder / "looking")})
        return open_blobs(config.store, config.data_dir)


@pytest.fixture
def place(object_server: ObjectServer, tmp_path: Path) -> Place:
    return Place(object_server, tmp_path)


def find_finished(place: Place, lines: int) -> set[str]:
    """The lines that a journal holds."""
    blobs, found = place.open(), set()
    for batch_id in blobs.list_folders("journals"):
        fold = Fold(blobs, batch_id, lines)
        fold.refresh()
        found |= {marker_of(line) for line, outcome in enumerate(fold.outcomes) if outcome}
        fold.close()
    blobs.close()
    return found


def check_output(client: Client, batch: dict[str, object], lines: int) -> None:
    assert batch["status"] == "COMPLETED", batch
    assert batch["error_file_id"] is None
    output = client.download(str(batch["output_file_id"]))
    assert [json.loads(line)["custom_id"] for line in output] == [f"request-{number}" for number in range(lines)]


def has_received(count: int, stats: Stats) -> bool:
    return stats["received"] >= count


def test_from_upload_to_removal(engine: NullEngine, place: Place, tmp_path: Path) -> None:
    lines = 300
    data_dir = tmp_path / "data"
    with BackfillServer(data_dir, engine.url, **place.settings) as server:
        client = Client(server)
        file_id = client.upload(request_lines(lines))
        batch_id = client.create(file_id)
        streamed = client.request("GET", f"/v1/batches/{batch_id}/results").content.splitlines()
        assert sorted(json.loads(line)["custom_id"] for line in streamed) == sorted(
            f"request-{number}" for number in range(lines)
        )
        batch = client.wait_for_end(batch_id)
        check_output(client, batch, lines)
        part = client.request("GET", f"/v1/files/{batch['output_file_id']}/content", headers={"range": "bytes=100-199"})
        assert part.status_code == 206
        whole = client.request("GET", f"/v1/files/{batch['output_file_id']}/content").content
        assert part.content == whole[100:200]
        assert client.request("GET", "/readyz").status_code in (200, 404)
        for each in client.list_ids("files"):
            client.request("DELETE", f"/v1/files/{each}").raise_for_status()
    assert not (data_dir / "blobs").exists(), "nothing lies on the local disk"
    blobs = place.open()
    assert blobs.measure("files") == 0
    assert {key.partition("/")[0] for key in blobs.list_folders("")} <= {"files", "journals", "quarantine", "removed"}
    blobs.close()


@pytest.mark.parametrize(("point", "count"), FAULTS, ids=str)
def test_the_server_dies_at_a_named_point(
    engine: NullEngine, place: Place, tmp_path: Path, point: str, count: int
) -> None:
    lines = 40
    server = BackfillServer(tmp_path / "data", engine.url, **place.settings)
    client = Client(server)
    server.start(fault=f"{point}:{count}")
    finished: dict[str, int] = {}
    try:
        batch: dict[str, object] | None = None
        while batch is None:
            try:
                file_id = (client.list_ids("files") or [client.upload(request_lines(lines))])[0]
                batch_id = (client.list_ids("batches") or [client.create(file_id)])[0]
                batch = client.wait_for_end(batch_id)
            except httpx.TransportError:
                assert server.wait_for_death() == -signal.SIGKILL
                received = Counter(engine.markers("received"))
                finished = {marker: received[marker] for marker in find_finished(place, lines)}
                server.start()
        check_output(client, batch, lines)
        received = Counter(engine.markers("received"))
        assert [marker for marker, times in finished.items() if received[marker] > times] == []
    finally:
        server.kill()


def test_kills_of_the_server_in_mid_batch_redo_nothing_that_is_finished(
    engine: NullEngine, place: Place, tmp_path: Path
) -> None:
    lines, finished = 400, dict[str, int]()
    with BackfillServer(tmp_path / "data", engine.url, **place.settings) as server:
        client = Client(server)
        batch_id = client.create(client.upload(request_lines(lines)))
        for count in (60, 200, 330):
            engine.wait_for(functools.partial(has_received, count), timeout_s=30)
            server.kill()
            received = Counter(engine.markers("received"))
            for marker in find_finished(place, lines):
                finished.setdefault(marker, received[marker])
            server.start()
        check_output(client, client.wait_for_end(batch_id), lines)
        received = Counter(engine.markers("received"))
        assert [marker for marker, times in finished.items() if received[marker] > times] == []


def test_the_object_store_dies_in_mid_batch_and_comes_back(engine: NullEngine, tmp_path: Path) -> None:
    lines = 600
    with ObjectServer(tmp_path / "weed") as store:
        place = Place(store, tmp_path)
        with BackfillServer(tmp_path / "data", engine.url, **place.settings) as server:
            client = Client(server)
            batch_id = client.create(client.upload(request_lines(lines)))
            engine.wait_for(functools.partial(has_received, 150), timeout_s=30)
            store.kill()
            answer = client.request(
                "POST", "/v1/files", data={"purpose": "batch-api"}, files={"file": ("a.jsonl", request_lines(3))}
            )
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            store.start()
            check_output(client, client.wait_for_end(batch_id), lines)
            assert len(client.upload(request_lines(3))) > 0
