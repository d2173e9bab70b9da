"""Files that are compressed: what is kept of them is what they hold, whichever way they come."""

import gzip
import hashlib
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.web.conftest import Api, MakeApi
from tests.unit.web.test_errors import check_shape
from tests.unit.web.test_uploads import FACTS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstd.compress}

each_form = pytest.mark.parametrize("form", PACKERS)


async def read(api: Api, file_id: str, **headers: str) -> Any:
    return await api.client.get(f"/v1/files/{file_id}/content", headers=headers)


@each_form
async def test_a_form_with_a_compressed_file(api: Api, content: bytes, form: str) -> None:
    packed = PACKERS[form](content)
    file = await api.upload(packed, f"lines.jsonl.{form}")
    assert (file["filename"], file["bytes"], file["LineCount"]) == ("lines.jsonl", len(content), 2)
    whole = await read(api, file["id"])
    digest = hashlib.sha256(content).hexdigest()
    assert (whole.content, whole.headers["etag"]) == (content, f'"{digest}"')
    rest = await read(api, file["id"], range="bytes=10-", **{"if-range": whole.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, content[10:])
    batch = await api.create_batch(file["id"])
    await api.services.turns.admit_waiting()
    assert (await api.services.metadata.get_batch(batch["id"])).state == "in_progress"


@each_form
async def test_bytes_that_are_put_and_put_again(api: Api, content: bytes, form: str) -> None:
    reserved = await api.reserve(file_name=f"a.jsonl.{form}")
    for _ in range(2):
        assert (await api.client.put(reserved.headers["location"], content=PACKERS[form](content))).status_code == 200
    file = (await api.client.get(f"/v1/files/{reserved.headers['x-together-file-id']}")).json()
    assert (file["filename"], file["bytes"]) == ("a.jsonl", len(content))
    other = await api.client.put(reserved.headers["location"], content=PACKERS[form](content + b"\n"))
    assert check_shape(other)["code"] == "file_already_uploaded"


@each_form
async def test_parts_of_a_compressed_file(api: Api, content: bytes, form: str) -> None:
    packed = PACKERS[form](content)
    begun = await api.client.post(
        "/v1/uploads", json={"filename": f"a.jsonl.{form}", "bytes": len(packed), "purpose": "batch"}
    )
    upload_id, ids = begun.json()["id"], []
    for part in (packed[:3], packed[3:]):
        added = await api.client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("part", part)})
        ids.append(added.json()["id"])
    body = {"part_ids": ids, "md5": hashlib.md5(packed, usedforsecurity=False).hexdigest()}
    done = await api.client.post(f"/v1/uploads/{upload_id}/complete", json=body)
    assert done.status_code == 200, done.text
    assert (done.json()["file"]["filename"], done.json()["file"]["bytes"]) == ("a.jsonl", len(content))
    assert (await read(api, done.json()["file"]["id"])).content == content


@each_form
async def test_a_checksum_may_be_that_of_either(api: Api, content: bytes, form: str) -> None:
    packed = PACKERS[form](content)
    for known in (content, packed):
        file = await api.upload(packed, checksum=hashlib.sha256(known).hexdigest())
        assert (await read(api, file["id"])).content == content
    wrong = hashlib.sha256(b"").hexdigest()
    for data in (packed, content):
        refused = await api.client.post("/v1/files", data=FACTS | {"checksum": wrong}, files={"file": ("a", data)})
        assert check_shape(refused)["code"] == "checksum_mismatch"


@each_form
async def test_what_is_damaged_is_refused_and_leaves_nothing(api: Api, content: bytes, form: str) -> None:
    packed = PACKERS[form](content * 1000)
    for data in (packed[:-4], packed[:4], packed + b"behind"):
        refused = await api.client.post("/v1/files", data=FACTS, files={"file": (f"a.{form}", data)})
        error = check_shape(refused)
        assert (refused.status_code, error["code"], error["param"]) == (400, "malformed_encoding", "file")
    for file_id in api.services.intake.left:
        await api.services.intake.remove_left(file_id)
    assert api.list_blobs() == []
    assert (await api.client.get("/v1/files")).json()["data"] == []


@each_form
async def test_a_bomb_is_a_413_and_leaves_nothing(make_api: MakeApi, form: str) -> None:
    api = await make_api(**{"limits.file_size_bytes": 1_000_000})
    packed = PACKERS[form](b"\n" * 50_000_000)
    assert len(packed) < 1_000_000
    refused = await api.client.post("/v1/files", data=FACTS, files={"file": ("a", packed)})
    assert (refused.status_code, "limits.file_size_bytes" in check_shape(refused)["message"]) == (413, True)
    for file_id in api.services.intake.left:
        await api.services.intake.remove_left(file_id)
    assert api.list_blobs() == []


async def test_bytes_without_end_that_hold_nothing_are_bounded(make_api: MakeApi) -> None:
    api = await make_api(**{"limits.file_size_bytes": 10_000})
    location = (await api.reserve()).headers["location"]

    async def send() -> Any:
        for _ in range(10_000):
            yield gzip.compress(b"")

    assert (await api.client.put(location, content=send())).status_code == 413


async def test_what_is_packed_twice_is_told_so(api: Api, content: bytes) -> None:
    file = await api.upload(gzip.compress(zlib.compress(b"") and gzip.compress(content)))
    batch = await api.create_batch(file["id"])
    await api.services.turns.admit_waiting()
    shown = (await api.client.get(f"/v1/batches/{batch['id']}")).json()
    assert (shown["status"], "a gzip file; decompress it first" in shown["error"]) == ("FAILED", True)


async def test_pictures_and_clips_are_kept_as_they_are(api: Api, content: bytes) -> None:
    packed = gzip.compress(content)
    file = await api.upload(packed, "a.gz", purpose="user_data")
    assert (await read(api, file["id"])).content == packed
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.gz"\r\n\r\n'
        + packed
        + b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b--\r\n'
    )
    headers = {"content-type": "multipart/form-data; boundary=b"}
    refused = await api.client.post("/v1/files", content=body, headers=headers)
    assert (refused.status_code, check_shape(refused)["param"]) == (400, "purpose")


async def test_a_body_may_be_sent_as_zstd(api: Api, content: bytes) -> None:
    reserved = await api.reserve()
    headers = {"content-encoding": "zstd"}
    put = await api.client.put(reserved.headers["location"], content=zstd.compress(content), headers=headers)
    assert put.status_code == 200
    file_id = reserved.headers["x-together-file-id"]
    assert (await read(api, file_id)).content == content
    body = f'{{"endpoint":"/v1/chat/completions","input_file_id":"{file_id}"}}'.encode()
    created = await api.client.post("/v1/batches", content=zstd.compress(body), headers=headers)
    assert created.status_code == 201
    refused = await api.client.post("/v1/batches", content=zstd.compress(body)[:-2], headers=headers)
    assert (refused.status_code, check_shape(refused)["code"]) == (400, "malformed_encoding")
