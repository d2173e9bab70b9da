"""What only a real connection can show: clients that vanish, and answers that come before the body is sent."""

import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conformance.conftest import API_KEY, FILE_SIZE_BYTES_MAX
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

HEADERS = {"authorization": f"Bearer {API_KEY}"}
FACTS = {"purpose": "batch-api", "file_name": "in.jsonl"}


def test_a_put_that_breaks_off_can_be_sent_again(server: BackfillServer) -> None:
    content = request_lines(3)
    with httpx.Client(base_url=server.url, headers=HEADERS, trust_env=False) as client:
        reserved = client.post("/v1/files", data=FACTS)
        location, file_id = reserved.headers["location"], reserved.headers["x-together-file-id"]
        url = urlsplit(location)
        with socket.create_connection((url.hostname, url.port)) as connection:
            head = (
                f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            connection.sendall(head.encode() + content[:-1])
        assert client.get(f"/v1/files/{file_id}").json()["Processed"] is False
        # The server may see the end of the first connection after the second has begun.
        deadline = time.monotonic() + 10
        while (again := client.put(location, content=content)).status_code != 200:
            assert again.json()["error"]["code"] == "upload_in_progress"
            assert time.monotonic() < deadline
        assert client.get(f"/v1/files/{file_id}/content").content == content


@pytest.mark.parametrize("sent_bytes", [FILE_SIZE_BYTES_MAX + 1, 20_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_413_reaches_a_client_that_is_still_sending(
    server: BackfillServer, sent_bytes: int, *, chunked: bool
) -> None:
    content = b"x" * sent_bytes
    pieces = iter([content[:100_000], content[100_000:]]) if chunked else content
    with httpx.Client(base_url=server.url, headers=HEADERS, trust_env=False, timeout=30) as client:
        location = client.post("/v1/files", data=FACTS).headers["location"]
        response = client.put(location, content=pieces)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "file_too_large")
        # The connection is good for the next request, or a new one is made.
        assert client.get("/v1/files").status_code == 200
