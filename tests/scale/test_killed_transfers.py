"""A process of several machines is killed in the middle of a large upload or download, and the client goes on."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.null.process import NullEngine
from tests.support.client import Client
from tests.support.lines import request_line
from tests.support.machines import Machines, RemoteStore

pytestmark = pytest.mark.scale

BOUNDARY = b"a-boundary"
# Of several parts of an upload to the store, and more than any socket keeps.
CONTENT = b"".join(request_line(number, user="x" * 20_000) + b"\n" for number in range(1500))


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def make_form() -> bytes:
    """The body of an upload as a form."""
    fields = b'--%s\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch-api\r\n' % BOUNDARY
    file = b'--%s\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' % BOUNDARY
    return fields + file + CONTENT + b"\r\n--%s--\r\n" % BOUNDARY


def test_an_upload_is_sent_again_to_another_machine_and_nothing_is_left_of_the_first(
    tmp_path: Path, engine: NullEngine, remote_store: RemoteStore
) -> None:
    body = make_form()
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}", "content-length": str(len(body))}
    with Machines(tmp_path, engine.url, remote_store, workers=0) as machines:
        doomed, other = machines.apis

        def send_and_die() -> Iterator[bytes]:
            yield body[: len(body) * 3 // 4]
            doomed.kill()
            yield body[len(body) * 3 // 4 :]

        with pytest.raises(httpx.TransportError):
            httpx.post(f"{doomed.url}/v1/files", content=send_and_die(), headers=headers, timeout=30)
        answer = httpx.post(f"{other.url}/v1/files", content=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        doomed.start()
        file_id = answer.json()["id"]
        for api in machines.apis:
            client = Client(api)
            assert client.list_ids("files") == [file_id]
            assert client.request("GET", f"/v1/files/{file_id}/content").content == CONTENT
        blobs = remote_store.open_blobs(tmp_path / "looking")
        assert blobs.list_folders("files") == [file_id]
        blobs.close()


def test_a_download_goes_on_at_another_machine_where_it_broke_off(
    tmp_path: Path, engine: NullEngine, remote_store: RemoteStore
) -> None:
    with Machines(tmp_path, engine.url, remote_store, workers=0) as machines:
        doomed, other = machines.apis
        file_id = Client(other).upload(CONTENT)
        path, got = f"/v1/files/{file_id}/content", bytearray()
        with httpx.stream("GET", f"{doomed.url}{path}", timeout=30) as answer:
            whole, pieces = answer.headers, answer.iter_raw(1 << 16)
            got += next(pieces)
            doomed.kill()
            with pytest.raises(httpx.TransportError):
                got.extend(byte for piece in pieces for byte in piece)
        assert 0 < len(got) < len(CONTENT)
        headers = {"range": f"bytes={len(got)}-", "if-range": whole["etag"]}
        rest = httpx.get(f"{other.url}{path}", headers=headers, timeout=30)
        assert rest.status_code == 206
        assert got + rest.content == CONTENT
