"""Files that are here: list, look up, download, delete."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import unquote

import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from backfill.errors import StoreUnavailable
from backfill.store import content_key
from backfill.web.api.content import BlobResponse
from tests.unit.web.asgi import call
from tests.unit.web.conftest import Api


async def list_ids(api: Api, **query: str | int) -> list[str]:
    response = await api.client.get("/v1/files", params=query)
    assert response.status_code == 200, response.text
    return [file["id"] for file in response.json()["data"]]


async def test_trap_11_listing_honours_after_limit_order_and_purpose(api: Api, content: bytes) -> None:
    ids = [(await api.upload(content))["id"] for _ in range(5)]
    oldest_first = await list_ids(api, order="asc")
    assert sorted(oldest_first) == sorted(ids)
    assert await list_ids(api) == await list_ids(api, order="desc") == oldest_first[::-1]
    assert await list_ids(api, order="asc", limit=2) == oldest_first[:2]
    assert await list_ids(api, order="asc", after=oldest_first[1], limit=2) == oldest_first[2:4]
    assert await list_ids(api, after=oldest_first[0]) == []
    assert await list_ids(api, purpose="batch-api", limit=10_000) == oldest_first[::-1]
    assert await list_ids(api, purpose="fine-tune") == []


async def test_trap_11_paging_ends(api: Api, content: bytes) -> None:
    ids = {(await api.upload(content))["id"] for _ in range(5)}
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await api.client.get("/v1/files", params={"limit": 2, **after})).json()
        seen += [file["id"] for file in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert (len(seen), set(seen)) == (5, ids)


async def test_an_empty_list_has_every_member(api: Api) -> None:
    expected: dict[str, object] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert (await api.client.get("/v1/files")).json() == expected


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": "0"}, "limit"), ({"limit": "10001"}, "limit"), ({"limit": "x"}, "limit"), ({"order": "up"}, "order")],
)
async def test_queries_that_make_no_sense(api: Api, query: dict[str, str], param: str) -> None:
    response = await api.client.get("/v1/files", params=query)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(param)


async def test_after_a_file_that_is_not_there(api: Api) -> None:
    response = await api.client.get("/v1/files", params={"after": "file-0"})
    assert (response.status_code, response.json()["error"]["param"]) == (404, "after")


@pytest.mark.parametrize("accept", ["application/binary", "*/*", "text/plain", "image/png"])
async def test_trap_14_content_in_whatever_form_is_accepted(api: Api, accept: str) -> None:
    content = b"0123456789" * 100_000
    file = await api.upload(content)
    headers = {"accept": accept, "accept-encoding": "gzip, deflate"}
    response = await api.client.get(f"/v1/files/{file['id']}/content", headers=headers)
    assert response.status_code == 200
    assert response.content == content
    assert response.headers["content-length"] == "1000000"
    assert "content-encoding" not in response.headers


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("plain.jsonl", "plain.jsonl"),
        ("größe 数;.jsonl", "gr__e _;.jsonl"),
        ('say "hi" 100%.jsonl', "say _hi_ 100%.jsonl"),
    ],
)
async def test_trap_15_the_name_of_a_download(api: Api, name: str, plain: str) -> None:
    reserved = await api.reserve(file_name=name)
    await api.client.put(reserved.headers["location"], content=b"x")
    response = await api.client.get(f"/v1/files/{reserved.headers['x-together-file-id']}/content")
    kind, fallback, exact = response.headers["content-disposition"].split("; filename", 2)
    assert (kind, fallback) == ("attachment", f'="{plain}"')
    assert unquote(exact.removeprefix("*=UTF-8''")) == name
    assert exact.isascii()


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-0", 0, 1), ("2-4", 2, 5), ("5-", 5, 10), ("-3", 7, 10), ("-100", 0, 10), ("8-100", 8, 10)],
)
async def test_one_range(api: Api, asked: str, start: int, end: int) -> None:
    content = b"0123456789"
    path = f"/v1/files/{(await api.upload(content))['id']}/content"
    response = await api.client.get(path, headers={"range": f"bytes={asked}"})
    assert (response.status_code, response.content) == (206, content[start:end])
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/10"
    assert response.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "lines=1-2", "bytes=-", "bytes=5-2", "nonsense"])
async def test_other_ranges_give_the_whole(api: Api, asked: str) -> None:
    path = f"/v1/files/{(await api.upload(b'0123456789'))['id']}/content"
    response = await api.client.get(path, headers={"range": asked})
    assert (response.status_code, response.content) == (200, b"0123456789")


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=100-200", "bytes=-0"])
async def test_a_range_behind_the_end(api: Api, asked: str) -> None:
    path = f"/v1/files/{(await api.upload(b'0123456789'))['id']}/content"
    response = await api.client.get(path, headers={"range": asked})
    assert (response.status_code, response.headers["content-range"]) == (416, "bytes */10")
    assert response.json()["error"]["code"] == "range_not_satisfiable"


async def test_a_range_of_what_has_changed_gives_the_whole(api: Api) -> None:
    path = f"/v1/files/{(await api.upload(b'0123456789'))['id']}/content"
    etag = (await api.client.get(path)).headers["etag"]
    same = await api.client.get(path, headers={"range": "bytes=0-1", "if-range": etag})
    other = await api.client.get(path, headers={"range": "bytes=0-1", "if-range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)


async def test_an_empty_file_can_be_downloaded(api: Api) -> None:
    response = await api.client.get(f"/v1/files/{(await api.upload(b''))['id']}/content")
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "0")


async def test_a_reserved_file_has_no_content(api: Api) -> None:
    file_id = (await api.reserve()).headers["x-together-file-id"]
    response = await api.client.get(f"/v1/files/{file_id}/content")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "file_not_uploaded")


async def test_trap_7_deleting_says_what_was_deleted(api: Api, content: bytes) -> None:
    file_id = (await api.upload(content))["id"]
    response = await api.client.delete(f"/v1/files/{file_id}", headers={"content-type": "application/json"})
    assert (response.status_code, response.json()) == (200, {"id": file_id, "object": "file", "deleted": True})
    assert api.list_blobs() == []
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert (await api.client.get(path)).status_code == 404
    assert (await api.client.delete(f"/v1/files/{file_id}")).status_code == 404


async def test_a_file_that_a_batch_reads_stays(api: Api, content: bytes) -> None:
    file_id = (await api.upload(content))["id"]
    batch = await api.create_batch(file_id)
    response = await api.client.delete(f"/v1/files/{file_id}")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "file_in_use")
    assert batch["id"] in response.json()["error"]["message"]
    assert (await api.client.get(f"/v1/files/{file_id}")).status_code == 200


async def test_bytes_deleted_behind_the_row_are_a_404(api: Api, content: bytes) -> None:
    file_id = (await api.upload(content))["id"]
    api.services.blobs.delete(content_key(file_id))
    response = await api.client.get(f"/v1/files/{file_id}/content")
    assert (response.status_code, response.json()["error"]["message"]) == (404, f"No such file: {file_id}.")


async def nothing_more() -> AsyncIterator[Message]:
    yield {"type": "http.request", "body": b"", "more_body": False}
    await asyncio.Event().wait()


async def test_a_file_that_is_cut_on_disk_cuts_the_connection(api: Api) -> None:
    """An end in good order would be taken for the whole file."""
    file_id = (await api.upload(b"x" * 600_000))["id"]
    api.services.blobs.write(content_key(file_id), b"x" * 500_000)
    with capture_logs() as logs, pytest.raises(Exception, match="already started"):
        await call(api.app, "GET", f"/v1/files/{file_id}/content", nothing_more())
    assert "byte 500000 instead of 600000" in logs[0]["traceback"]


async def test_a_download_that_is_broken_off_gives_its_file_back(api: Api) -> None:
    file_id = (await api.upload(b"x" * 1_000_000))["id"]
    reader = api.services.blobs.open(content_key(file_id))
    pieces: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        pieces.append(message)
        if len(pieces) == 2:
            raise ConnectionResetError

    response = BlobResponse(reader, 0, 1_000_000, status_code=200, headers={})
    with pytest.raises(ConnectionResetError):
        await response({"type": "http", "method": "GET"}, receive, send)
    with pytest.raises(StoreUnavailable, match="descriptor"):
        reader.read(0, 1)
