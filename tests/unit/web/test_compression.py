"""Uploads that come compressed: taken as gzip, within the limits of what they hold."""

import gzip
import random
import tracemalloc
import zlib

import pytest

from tests.unit.web.asgi import call, split
from tests.unit.web.conftest import Api, MakeApi
from tests.unit.web.test_errors import check_shape
from tests.unit.web.test_uploads import FACTS, relative

GZIP = {"content-encoding": "gzip"}


async def test_each_way_in_takes_gzip(api: Api, content: bytes) -> None:
    form = api.client.build_request("POST", "/v1/files", data=FACTS, files={"file": ("a.jsonl", content)})
    headers = {"content-type": form.headers["content-type"]} | GZIP
    made = await api.client.post("/v1/files", content=gzip.compress(await form.aread()), headers=headers)
    assert made.status_code == 200, made.text
    reserved = await api.reserve()
    put = await api.client.put(reserved.headers["location"], content=gzip.compress(content), headers=GZIP)
    assert put.status_code == 200
    for file_id in (made.json()["id"], reserved.headers["x-together-file-id"]):
        assert (await api.client.get(f"/v1/files/{file_id}/content")).content == content
        body = f'{{"endpoint":"/v1/chat/completions","input_file_id":"{file_id}"}}'.encode()
        created = await api.client.post("/v1/batches", content=gzip.compress(body), headers=GZIP)
        assert created.status_code == 201, created.text


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
async def test_gzip_cut_anywhere_is_the_same(api: Api, size: int) -> None:
    """Two members behind each other, the first with more in it than one piece."""
    content = random.Random(1).randbytes(3000) + b"x" * 700_000
    compressed = gzip.compress(content) + gzip.compress(b"end")
    reserved = await api.reserve()
    path = relative(reserved.headers["location"])
    assert (await call(api.app, "PUT", path, split(compressed, size=size), GZIP))[0] == 200
    stored = await api.client.get(f"/v1/files/{reserved.headers['x-together-file-id']}/content")
    assert stored.content == content + b"end"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"no gzip", 400, "malformed_encoding"),
        (gzip.compress(b"content")[:-3], 400, "malformed_encoding"),
        (gzip.compress(b"content") + b"behind", 400, "malformed_encoding"),
        (zlib.compress(b"content"), 400, "malformed_encoding"),
        (gzip.compress(b""), 400, "empty_upload"),
        (b"", 400, "empty_upload"),
    ],
    ids=["no gzip", "cut off", "more behind", "zlib", "empty inside", "empty"],
)
async def test_what_is_no_gzip_is_refused_and_the_address_stays_good(
    api: Api, body: bytes, status: int, code: str
) -> None:
    location = (await api.reserve()).headers["location"]
    response = await api.client.put(location, content=body, headers=GZIP)
    assert (response.status_code, check_shape(response)["code"]) == (status, code)
    assert api.list_blobs() == []
    assert (await api.client.put(location, content=b"content")).status_code == 200


async def test_what_is_inflated_is_bounded(make_api: MakeApi) -> None:
    api = await make_api(**{"limits.file_size_bytes": 1_000_000})
    path = relative((await api.reserve()).headers["location"])
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(300)) + packer.flush()
    assert len(bomb) < 1_000_000
    tracemalloc.start()
    try:
        status, answer = await call(api.app, "PUT", path, split(bomb, size=len(bomb)), GZIP)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (status, b"limits.file_size_bytes" in answer) == (413, True)
    assert peak < 10_000_000, "300 MB were packed"
    headers = GZIP | {"content-type": "application/json"}
    status, answer = await call(api.app, "POST", "/v1/batches", split(bomb, size=len(bomb)), headers)
    assert (status, b"request_too_large" in answer) == (413, True)


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "x" * 1000])
async def test_other_codings_are_named(api: Api, content: bytes, coding: str) -> None:
    location = (await api.reserve()).headers["location"]
    response = await api.client.put(location, content=content, headers={"content-encoding": coding})
    error = check_shape(response)
    assert (response.status_code, error["code"]) == (415, "unsupported_encoding")
    assert coding[:64] in error["message"]
    assert response.headers["accept-encoding"] == "gzip, zstd"
    assert (
        await api.client.put(location, content=content, headers={"content-encoding": "identity"})
    ).status_code == 200
