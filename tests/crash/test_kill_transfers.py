"""kill -9 of the server during uploads in parts, and downloads that break: the client goes on where it was."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

CONTENT = request_lines(2000)
PART_BYTES = 70_000
PIECES = [CONTENT[start : start + PART_BYTES] for start in range(0, len(CONTENT), PART_BYTES)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path / "data", "http://127.0.0.1:9") as running:
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as found:
        yield found


def initiate(client: httpx.Client, server: BackfillServer) -> dict[str, Any]:
    body = {
        "file_name": "large.jsonl",
        "file_size": len(CONTENT),
        "num_parts": len(PIECES),
        "purpose": "batch-api",
        "checksum": hashlib.sha256(CONTENT).hexdigest(),
    }
    response = client.post(f"{server.url}/v1/files/multipart/initiate", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def send(client: httpx.Client, server: BackfillServer, started: dict[str, Any], number: int) -> dict[str, Any]:
    # The address names the port of the first process; a later one listens elsewhere.
    path = httpx.URL(started["parts"][number - 1]["URL"]).raw_path.decode()
    response = client.put(server.url + path, content=PIECES[number - 1])
    assert response.status_code == 200, response.text
    return {"part_number": number, "etag": response.headers["etag"]}


def complete(client: httpx.Client, server: BackfillServer, started: dict[str, Any], sent: list[Any]) -> httpx.Response:
    body = {"upload_id": started["upload_id"], "file_id": started["file_id"], "parts": sent}
    return client.post(f"{server.url}/v1/files/multipart/complete", json=body)


def check_content(client: httpx.Client, server: BackfillServer, file_id: str) -> None:
    assert client.get(f"{server.url}/v1/files/{file_id}/content").content == CONTENT
    folder = server.data_dir / "blobs" / "files" / file_id
    assert sorted(path.name for path in folder.iterdir()) == ["content", "facts", "index", "upload"]


def test_parts_outlive_the_server(server: BackfillServer, client: httpx.Client) -> None:
    started = initiate(client, server)
    sent = [send(client, server, started, 1), send(client, server, started, 2)]
    server.kill()
    server.start()
    sent += [send(client, server, started, number) for number in range(3, len(PIECES) + 1)]
    response = complete(client, server, started, sent)
    assert response.status_code == 200, response.text
    check_content(client, server, started["file_id"])


# Completing writes the index, the facts, the content and the row, in this order. The start has written to the database
# four times.
@pytest.mark.parametrize(
    "fault",
    [
        *(f"blob.{point}:{count}" for point in ("written", "synced", "sealed") for count in (1, 2)),
        "metadata.before_commit:5",
        "metadata.committed:5",
    ],
)
def test_a_client_completes_again_after_a_kill(server: BackfillServer, client: httpx.Client, fault: str) -> None:
    started = initiate(client, server)
    sent = [send(client, server, started, number) for number in range(1, len(PIECES) + 1)]
    server.terminate()
    server.start(fault=fault)
    with pytest.raises(httpx.TransportError):
        complete(client, server, started, sent)
    assert server.wait_for_death() == -9
    server.start()
    response = complete(client, server, started, sent)
    assert response.status_code == 200, response.text
    assert response.json()["file"]["LineCount"] == 2000
    check_content(client, server, started["file_id"])


def test_a_download_that_breaks_is_resumed(server: BackfillServer, client: httpx.Client) -> None:
    content = request_lines(30_000)
    form = {"data": {"purpose": "batch-api"}, "files": {"file": ("input.jsonl", content)}}
    url = f"{server.url}/v1/files/{client.post(f'{server.url}/v1/files', **form).json()['id']}/content"  # type: ignore[arg-type]
    begun = bytearray()
    with client.stream("GET", url) as response:
        etag = response.headers["etag"]
        assert int(response.headers["content-length"]) == len(content)
        with pytest.raises(httpx.TransportError):  # noqa: PT012 - the server dies while the answer is read
            for piece in response.iter_raw():
                if not begun:
                    server.kill()
                begun += piece
    assert 0 < len(begun) < len(content)
    server.start()
    url = url.replace(str(httpx.URL(url).copy_with(path="/")), f"{server.url}/")
    resumed = client.get(url, headers={"range": f"bytes={len(begun)}-", "if-range": etag})
    assert (resumed.status_code, resumed.headers["etag"]) == (206, etag)
    assert bytes(begun) + resumed.content == content
