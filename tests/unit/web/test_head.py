"""HEAD: what monitors and download managers ask first."""

import asyncio

import pytest

from backfill.store import LocalReader
from backfill.web.api.operations import OPERATIONS
from tests.unit.web.conftest import Api
from tests.unit.web.test_errors import check_shape

OF_THE_MOMENT = {"x-request-id", "date"}


async def test_head_is_get_without_the_body(api: Api, content: bytes) -> None:
    file_id = (await api.upload(content))["id"]
    batch_id = (await api.create_batch(file_id))["id"]
    paths = [path for method, path in OPERATIONS if method == "GET" and not path.endswith(("/results", "/metrics"))]
    assert len(paths) > 8
    for template in [*paths, "/nothing", "/v1/files/file-0", "/v1/files?limit=x", "//v1/files/"]:
        path = template.replace("{file_id}", file_id).replace("{batch_id}", batch_id)
        got, head = await api.client.get(path), await api.client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        headers = [
            {name: value for name, value in each.headers.items() if name not in OF_THE_MOMENT} for each in (got, head)
        ]
        assert headers[0] == headers[1], path


async def test_head_of_content_reads_none_of_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await api.upload(b"0123456789")

    def fail(reader: LocalReader, offset: int, length: int) -> bytes:
        pytest.fail("the file was read")

    monkeypatch.setattr(LocalReader, "read", fail)
    response = await api.client.head(f"/v1/files/{file['id']}/content", headers={"range": "bytes=2-3"})
    # A range is of a GET: here the size of the whole is asked for.
    assert (response.status_code, response.headers["content-length"]) == (200, "10")
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"]


async def test_head_of_results_does_not_wait_for_the_batch(api: Api, content: bytes) -> None:
    batch_id = (await api.create_batch((await api.upload(content))["id"]))["id"]
    async with asyncio.timeout(20):
        response = await api.client.head(f"/v1/batches/{batch_id}/results")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "application/jsonl"


async def test_head_where_there_is_no_get(api: Api) -> None:
    response = await api.client.head("/v1/uploads")
    assert (response.status_code, response.headers["allow"], response.content) == (405, "POST", b"")
    check_shape(await api.client.get("/v1/uploads"))
