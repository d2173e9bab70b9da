"""Several machines, and what they share fails: requests are refused for a while, then all ends, every line once."""

import hashlib
import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.null.process import NullEngine, Stats
from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from tests.support.client import Client
from tests.support.gateway import Gateway
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore

pytestmark = pytest.mark.scale

LINES = 600
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=10) as running:
        yield running


def has_answered(count: int) -> Callable[[Stats], bool]:
    return lambda stats: stats["answered"] >= count


def check(client: Client, batch: dict[str, Any], lines: int = LINES) -> None:
    """Every line is in the output, once and in order."""
    assert batch["status"] == "COMPLETED", batch
    assert batch["error_file_id"] is None
    output = client.download(batch["output_file_id"])
    assert [json.loads(line)["custom_id"] for line in output] == [f"request-{number}" for number in range(lines)]


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


def is_refused(machines: Machines, method: str, path: str, **options: Any) -> bool:
    answer = machines.client.request(method, path, **options)
    assert answer.status_code in {200, 503}, answer.text
    return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0


def test_the_database_dies_in_mid_batch_and_comes_back(
    engine: NullEngine, tmp_path: Path, object_server: ObjectServer
) -> None:
    with PostgresServer() as postgres:
        store = RemoteStore(postgres, object_server, "machines")
        # Longer than the database is out, so that no line is sent twice.
        with Machines(tmp_path, engine.url, store, server__lease_s="30") as machines:
            client = machines.client
            batch_id = client.create(client.upload(request_lines(LINES)))
            engine.wait_for(has_answered(50), timeout_s=60)
            postgres.stop(signal.SIGQUIT)
            for _ in machines.apis:
                assert is_refused(machines, "GET", f"/v1/batches/{batch_id}")
            # What lines take stands in files.
            engine.wait_for(has_answered(LINES), timeout_s=60)
            postgres.start()
            check(client, wait_for_end(machines, batch_id))
            assert engine.stats()["received"] == LINES
            # All hear of each other again.
            second = client.create(client.upload(request_lines(20, LINES)))
            assert wait_for_end(machines, second)["status"] == "COMPLETED"


# A store that was killed takes half a minute to be there again.
@pytest.mark.slow
def test_the_object_store_dies_in_mid_batch_and_comes_back(
    engine: NullEngine, tmp_path: Path, postgres: PostgresServer
) -> None:
    with ObjectServer(tmp_path / "weed") as objects:
        store = RemoteStore(postgres, objects, "machines_without_objects")
        with Machines(tmp_path, engine.url, store, server__lease_s="30") as machines:
            client = machines.client
            batch_id = client.create(client.upload(request_lines(LINES)))
            engine.wait_for(has_answered(100), timeout_s=60)
            objects.kill()
            form: dict[str, Any] = {
                "data": {"purpose": "batch-api"},
                "files": {"file": ("a.jsonl", request_lines(3))},
            }
            assert is_refused(machines, "POST", "/v1/files", **form)
            objects.start()
            check(client, wait_for_end(machines, batch_id))
            # What was answered and not acknowledged by the store when it died was kept, or is sent again.
            received = Counter(engine.markers("received"))
            assert len(received) == LINES
            assert len(client.upload(request_lines(3))) > 0


def test_a_store_that_asks_for_patience_gets_it_and_nothing_is_lost(
    engine: NullEngine, tmp_path: Path, postgres: PostgresServer, object_server: ObjectServer
) -> None:
    with Gateway(lambda: [object_server.endpoint]) as slow:
        store = RemoteStore(postgres, object_server, "machines_slowed_down")
        store.dotted["store.s3_endpoint"] = slow.url
        with Machines(tmp_path, engine.url, store, server__lease_s="30") as machines:
            client = machines.client
            batch_id = client.create(client.upload(request_lines(LINES)))
            engine.wait_for(has_answered(100), timeout_s=60)
            slow.slow_down(is_slow=True)
            machines.wait_until(lambda: slow.refused > 5)
            slow.slow_down(is_slow=False)
            check(client, wait_for_end(machines, batch_id))
            assert engine.stats()["received"] == LINES


def test_an_upload_breaks_off_with_its_process_and_goes_on_at_another_machine(
    tmp_path: Path, engine: NullEngine, remote_store: RemoteStore
) -> None:
    content = request_lines(2000)
    with Machines(tmp_path, engine.url, remote_store, workers=0) as machines:
        doomed, other = machines.apis
        form = {"purpose": "batch-api", "file_name": "input.jsonl", "file_type": "jsonl"}
        reserved = httpx.post(f"{doomed.url}/v1/files", data=form)
        path = httpx.URL(reserved.headers["location"]).raw_path.decode()
        file_id = reserved.headers["x-together-file-id"]

        def send_and_die() -> Iterator[bytes]:
            yield content[: len(content) // 2]
            # The other half never comes: the lease on the file says that the first one was taken.
            machines.wait_until(lambda: machines.run("SELECT 1 FROM leases WHERE name = ?", f"file {file_id}"))
            doomed.kill()

        with pytest.raises(httpx.HTTPError):
            httpx.put(f"{doomed.url}{path}", content=send_and_die(), headers=BYTES, timeout=30)
        # At once, and without knowing of any lease.
        assert httpx.put(f"{other.url}{path}", content=content, headers=BYTES, timeout=30).status_code == 200
        client = Client(other)
        assert client.request("GET", f"/v1/files/{file_id}/content").content == content
        assert client.list_ids("files") == [file_id]


def test_parts_go_on_at_another_machine_when_one_dies(
    tmp_path: Path, engine: NullEngine, remote_store: RemoteStore
) -> None:
    content = request_lines(500)
    half = len(content) // 2
    with Machines(tmp_path, engine.url, remote_store, workers=0) as machines:
        doomed, other = machines.apis
        doomed.terminate()
        # The parts are there, and the process dies while it makes one file of them.
        doomed.start(fault="blob.sealed:6")
        wanted = {"filename": "a.jsonl", "bytes": len(content), "mime_type": "application/jsonl", "purpose": "batch"}
        upload_id = httpx.post(f"{doomed.url}/v1/uploads", json=wanted).json()["id"]
        parts = [
            httpx.post(f"{doomed.url}/v1/uploads/{upload_id}/parts", files={"data": ("part", piece)}).json()["id"]
            for piece in (content[:half], content[half:])
        ]
        body = {"part_ids": parts, "md5": hashlib.md5(content).hexdigest()}
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{doomed.url}/v1/uploads/{upload_id}/complete", json=body, timeout=30)
        assert doomed.wait_for_death() == -signal.SIGKILL
        done = httpx.post(f"{other.url}/v1/uploads/{upload_id}/complete", json=body, timeout=30)
        assert done.status_code == 200, done.text
        client = Client(other)
        assert client.request("GET", f"/v1/files/{done.json()['file']['id']}/content").content == content
        assert len(client.list_ids("files")) == 1
        # Nothing is left of the parts.
        blobs = remote_store.open_blobs(tmp_path / "looking")
        assert blobs.find_folders("files", "parts") == set()
        blobs.close()


def test_the_same_bytes_part_and_completion_come_to_two_machines_at_once(
    tmp_path: Path, engine: NullEngine, remote_store: RemoteStore
) -> None:
    content = request_lines(200)
    with Machines(tmp_path, engine.url, remote_store, workers=0) as machines:
        form = {"purpose": "batch-api", "file_name": "input.jsonl", "file_type": "jsonl"}
        reserved = machines.client.request("POST", "/v1/files", data=form)
        path = httpx.URL(reserved.headers["location"]).raw_path.decode()
        body = {
            "file_name": "large.jsonl",
            "file_size": len(content),
            "num_parts": 1,
            "purpose": "batch-api",
            "checksum": hashlib.sha256(content).hexdigest(),
        }
        started = machines.client.request("POST", "/v1/files/multipart/initiate", json=body).json()
        part_path = httpx.URL(started["parts"][0]["URL"]).raw_path.decode()

        def at_once(send: Callable[[str], httpx.Response]) -> list[httpx.Response]:
            together = threading.Barrier(2)

            def wait_and_send(url: str) -> httpx.Response:
                together.wait()
                return send(url)

            with ThreadPoolExecutor(2) as threads:
                return list(threads.map(wait_and_send, [api.url for api in machines.apis]))

        sent = at_once(lambda url: httpx.put(f"{url}{path}", content=content, headers=BYTES, timeout=30))
        assert [answer.status_code for answer in sent] == [200, 200]
        parts = at_once(lambda url: httpx.put(f"{url}{part_path}", content=content, headers=BYTES, timeout=30))
        assert {answer.headers["etag"] for answer in parts} == {parts[0].headers["etag"]}
        named = {
            "upload_id": started["upload_id"],
            "file_id": started["file_id"],
            "parts": [{"part_number": 1, "etag": parts[0].headers["etag"]}],
        }
        done = at_once(lambda url: httpx.post(f"{url}/v1/files/multipart/complete", json=named, timeout=30))
        assert [answer.status_code for answer in done] == [200, 200]
        assert done[0].json()["file"] == done[1].json()["file"]
        for file_id in (reserved.headers["x-together-file-id"], started["file_id"]):
            assert machines.client.request("GET", f"/v1/files/{file_id}/content").content == content
