"""The ways in. The traps are those of docs/wire.md."""

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Message

from backfill.store import content_key, facts_key, index_key
from tests.unit.web.asgi import call, split
from tests.unit.web.conftest import Api, MakeApi

FACTS = {"purpose": "batch-api", "file_name": "prompts.jsonl", "file_type": "jsonl"}
OCTETS = {"content-type": "application/octet-stream"}


def relative(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def as_form(fields: dict[str, str]) -> dict[str, tuple[None, str]]:
    """Multipart without a file part."""
    return {name: (None, value) for name, value in fields.items()}


async def get_file(api: Api, file_id: str) -> dict[str, object]:
    found: dict[str, object] = (await api.client.get(f"/v1/files/{file_id}")).json()
    return found


@pytest.mark.parametrize("form", ["urlencoded", "multipart", "query", "query and urlencoded"])
async def test_trap_1_2_metadata_alone_in_each_form_is_a_302_without_a_body(api: Api, form: str) -> None:
    match form:
        case "urlencoded":
            response = await api.client.post("/v1/files", data=FACTS)
        case "multipart":
            response = await api.client.post("/v1/files", files=as_form(FACTS))
        case "query":
            response = await api.client.post("/v1/files", params=FACTS)
        case _:
            response = await api.client.post("/v1/files", params=FACTS, data=FACTS)
    assert (response.status_code, response.content) == (302, b"")
    assert response.headers["location"].startswith("http://localhost/v1/uploads/")
    file = await get_file(api, response.headers["X-Together-File-Id"])
    assert (file["filename"], file["purpose"], file["Processed"], file["bytes"]) == (
        "prompts.jsonl",
        "batch-api",
        False,
        0,
    )


async def test_trap_1_5_7_a_file_part_makes_a_complete_file(api: Api, content: bytes) -> None:
    """The seed's curl form: purpose and file, no file_name."""
    file = await api.upload(content, "prompts.jsonl")
    assert file["id"].startswith("file-")
    assert file["object"] == "file"
    assert type(file["created_at"]) is int
    assert (file["filename"], file["bytes"], file["LineCount"]) == ("prompts.jsonl", len(content), 2)
    assert (file["FileType"], file["Processed"], file["purpose"]) == ("jsonl", True, "batch-api")
    assert file["processing_status"] is None
    assert await get_file(api, file["id"]) == file


async def test_trap_2_5_the_put_is_exactly_200_and_completes_the_file(api: Api, content: bytes) -> None:
    reserved = await api.reserve()
    response = await api.client.put(reserved.headers["location"], content=content, headers=OCTETS)
    assert (response.status_code, response.content) == (200, b"")
    file_id = reserved.headers["x-together-file-id"]
    file = await get_file(api, file_id)
    assert (file["Processed"], file["bytes"], file["LineCount"]) == (True, len(content), 2)
    assert (await api.client.get(f"/v1/files/{file_id}/content")).content == content
    for _ in range(2):
        again = await api.client.post(f"/v1/files/{file_id}/preprocess", headers={"content-type": "application/json"})
        assert (again.status_code, again.json()) == (200, file)


async def test_preprocess_before_the_bytes_came(api: Api) -> None:
    file_id = (await api.reserve()).headers["x-together-file-id"]
    response = await api.client.post(f"/v1/files/{file_id}/preprocess")
    assert (response.status_code, response.json()["Processed"]) == (200, False)


async def test_trap_3_location_comes_from_the_public_url(make_api: MakeApi) -> None:
    for public_url in ("https://batch.example.org/inner", "https://batch.example.org/inner/v1/"):
        api = await make_api(**{"server.public_url": public_url})
        location = (await api.reserve()).headers["location"]
        assert location.startswith("https://batch.example.org/inner/v1/uploads/file-")


async def test_trap_3_location_comes_from_the_host_header(make_api: MakeApi) -> None:
    api = await make_api(**{"server.api_keys": ["key"]})
    authorized = {"authorization": "Bearer key"}
    for host in ("10.0.0.7:8484", "[::1]:8484", "gpu_box"):
        response = await api.client.post("/v1/files", data=FACTS, headers=authorized | {"host": host})
        assert response.headers["location"].startswith(f"http://{host}/v1/uploads/")
    refused = await api.client.post("/v1/files", data=FACTS, headers=authorized | {"host": "evil/../"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_host")


async def test_trap_3_an_address_is_good_for_one_file_and_for_a_time(
    make_api: MakeApi, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await make_api(**{"server.api_keys": ["key"]})
    headers = {"authorization": "Bearer key"}
    first, second = [await api.client.post("/v1/files", data=FACTS, headers=headers) for _ in range(2)]
    url = httpx.URL(first.headers["location"])
    foreign = url.copy_with(path=httpx.URL(second.headers["location"]).path)
    later = url.copy_set_param("expires", str(int(url.params["expires"]) + 1))
    cut = url.copy_set_param("signature", url.params["signature"][:-1])
    bare = url.copy_with(query=None)
    strange = url.copy_set_param("signature", "ü").copy_set_param("expires", "never")
    for forged in (foreign, later, cut, bare, strange):
        response = await api.client.put(forged, content=content)
        assert (response.status_code, response.json()["error"]["type"]) == (403, "permission_error")
    monkeypatch.setattr("backfill.web.api.signing.time.time", lambda: float(url.params["expires"]) + 1)
    expired = await api.client.put(url, content=content)
    assert (expired.status_code, "expired" in expired.json()["error"]["message"]) == (403, True)
    monkeypatch.undo()
    # No key: the address is the permission.
    assert (await api.client.put(url, content=content)).status_code == 200


async def test_trap_4_a_repeated_put_is_a_200_and_other_bytes_are_a_400(api: Api, content: bytes) -> None:
    reserved = await api.reserve()
    url = reserved.headers["location"]
    for _ in range(2):
        assert (await api.client.put(url, content=content)).status_code == 200
    other = await api.client.put(url, content=content + b"\n")
    assert (other.status_code, other.json()["error"]["code"]) == (400, "file_already_uploaded")
    file_id = reserved.headers["x-together-file-id"]
    assert (await api.client.get(f"/v1/files/{file_id}/content")).content == content
    assert api.list_blobs() == [content_key(file_id), facts_key(file_id), index_key(file_id)]


async def test_trap_4_an_empty_put_does_not_use_the_address_up(api: Api, content: bytes) -> None:
    url = (await api.reserve()).headers["location"]
    empty = await api.client.put(url, content=b"")
    assert (empty.status_code, empty.json()["error"]["code"]) == (400, "empty_upload")
    assert (await api.client.put(url, content=content)).status_code == 200


async def test_a_client_that_goes_away_leaves_the_file_reserved(api: Api, content: bytes) -> None:
    reserved = await api.reserve()
    path = relative(reserved.headers["location"])
    announced = {"content-length": str(len(content) + 1)}
    await call(api.app, "PUT", path, split(content, size=10, disconnect=True), announced)
    assert api.list_blobs() == []
    file = await get_file(api, reserved.headers["x-together-file-id"])
    assert file["Processed"] is False
    assert (await api.client.put(reserved.headers["location"], content=content)).status_code == 200


async def test_a_client_that_goes_away_from_a_form_leaves_nothing(api: Api, content: bytes) -> None:
    request = api.client.build_request("POST", "/v1/files", data=FACTS, files={"file": ("a.jsonl", content)})
    body = await request.aread()
    await call(api.app, "POST", "/v1/files", split(body[:-10], size=50, disconnect=True), dict(request.headers))
    assert api.list_blobs() == []
    assert (await api.client.get("/v1/files")).json()["data"] == []


async def test_two_puts_of_one_file_at_a_time_are_a_conflict(api: Api, content: bytes) -> None:
    path = relative((await api.reserve()).headers["location"])
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[Message]:
        begun.set()
        await go_on.wait()
        yield {"type": "http.request", "body": content, "more_body": False}

    first = asyncio.create_task(call(api.app, "PUT", path, slow()))
    await begun.wait()
    second = await api.client.put(path, content=content)
    assert (second.status_code, second.json()["error"]["code"]) == (400, "upload_in_progress")
    deleted = await api.client.delete(f"/v1/files/{path.split('/')[3].partition('?')[0]}")
    assert (deleted.status_code, deleted.json()["error"]["code"]) == (400, "upload_in_progress")
    go_on.set()
    assert (await first)[0] == 200


async def test_trap_13_the_file_may_come_first_and_without_content_length(api: Api, content: bytes) -> None:
    """As openai's TypeScript client sends it."""
    whole = api.client.build_request("POST", "/v1/files", files={"file": ("a.jsonl", content), **as_form(FACTS)})
    body = await whole.aread()
    headers = {"content-type": whole.headers["content-type"], "transfer-encoding": "chunked"}
    status, _ = await call(api.app, "POST", "/v1/files", split(body, size=7), headers)
    assert status == 200


@pytest.mark.parametrize("form", ["form", "chunked form", "put", "chunked put"])
async def test_trap_13_too_many_bytes_are_a_413_and_nothing_is_kept(make_api: MakeApi, form: str) -> None:
    api = await make_api(**{"limits.file_size_bytes": 1000})
    content = b"x" * 1001
    chunked = form.startswith("chunked")
    if form.endswith("put"):
        path, method, headers, body = relative((await api.reserve()).headers["location"]), "PUT", {}, content
    else:
        request = api.client.build_request("POST", "/v1/files", data=FACTS, files={"file": ("a.jsonl", content)})
        path, method, headers, body = "/v1/files", "POST", dict(request.headers), await request.aread()
    headers.pop("content-length", None)
    if not chunked:
        headers["content-length"] = str(len(body))
    status, answer = await call(api.app, method, path, split(body, size=100), headers)
    assert status == 413
    assert b"larger than 1000 bytes" in answer
    assert b"limits.file_size_bytes" in answer
    assert b"file_too_large" in answer
    assert api.list_blobs() == []


async def test_trap_13_what_is_announced_as_too_large_is_not_read(make_api: MakeApi) -> None:
    api = await make_api(**{"limits.file_size_bytes": 1000})
    path = relative((await api.reserve()).headers["location"])

    class Unread:
        def __aiter__(self) -> AsyncIterator[Message]:
            return self

        async def __anext__(self) -> Message:
            pytest.fail("the body was read")

    status, _ = await call(api.app, "PUT", path, Unread(), {"content-length": "1001"})
    assert status == 413
    # As long as the purpose is not known it may be a clip.
    headers = {"content-length": str(1 << 31), "content-type": "multipart/form-data; boundary=b"}
    status, _ = await call(api.app, "POST", "/v1/files", Unread(), headers)
    assert status == 413


async def test_a_file_of_exactly_the_limit_is_taken(make_api: MakeApi) -> None:
    api = await make_api(**{"limits.file_size_bytes": 1000})
    await api.upload(b"x" * 1000)
    reserved = await api.reserve()
    assert (await api.client.put(reserved.headers["location"], content=b"x" * 1000)).status_code == 200


async def test_memory_does_not_grow_with_the_file(api: Api) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch-api\r\n'
    head += b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n'
    line = b'{"custom_id":"a","body":{"model":"m","messages":[{"role":"user","content":"%b"}]}}\n' % (b"x" * 60_000)

    async def stream() -> AsyncIterator[Message]:
        yield {"type": "http.request", "body": head, "more_body": True}
        for _ in range(1000):
            yield {"type": "http.request", "body": line, "more_body": True}
        yield {"type": "http.request", "body": b"\r\n--b--\r\n", "more_body": False}

    tracemalloc.start()
    try:
        status, _ = await call(
            api.app, "POST", "/v1/files", stream(), {"content-type": "multipart/form-data; boundary=b"}
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert status == 200
    assert peak < 8_000_000, "60 MB were sent"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("/data/jobs/in put.jsonl", "in put.jsonl"),
        ("C:\\jobs\\in.jsonl", "in.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("größe 数据 🎉.jsonl", "größe 数据 🎉.jsonl"),
        ("a\r\nb\x00\x1b[31m.jsonl", "ab[31m.jsonl"),
        ("a\u202egnp.jsonl", "agnp.jsonl"),
        ("x" * 300 + ".jsonl", "x" * 249 + ".jsonl"),
        ("..", "input.jsonl"),
        ("folder/", "input.jsonl"),
    ],
)
async def test_trap_15_names_are_base_names_in_any_script(api: Api, content: bytes, sent: str, kept: str) -> None:
    reserved = await api.reserve(file_name=sent)
    assert (await get_file(api, reserved.headers["x-together-file-id"]))["filename"] == kept
    assert (await api.upload(content, file_name=sent))["filename"] == kept


async def test_file_name_wins_over_the_name_of_the_part(api: Api, content: bytes) -> None:
    form = {"purpose": "batch-api", "file_name": "chosen.jsonl"}
    response = await api.client.post("/v1/files/upload", data=form, files={"file": ("part.jsonl", content)})
    assert (response.status_code, response.json()["filename"]) == (200, "chosen.jsonl")
    missing = await api.client.post("/v1/files/upload", data=form)
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "file")


async def test_a_checksum_is_checked(api: Api, content: bytes) -> None:
    good, bad = hashlib.sha256(content).hexdigest(), hashlib.sha256(b"other").hexdigest()
    await api.upload(content, checksum=good.upper())
    form = {"purpose": "batch-api", "checksum": bad}
    mixed = await api.client.post("/v1/files", data=form, files={"file": ("a.jsonl", content)})
    assert (mixed.status_code, mixed.json()["error"]["code"]) == (400, "checksum_mismatch")

    reserved = await api.reserve(checksum=good)
    url = reserved.headers["location"]
    damaged = await api.client.put(url, content=b"other")
    assert (damaged.status_code, damaged.json()["error"]["param"]) == (400, "checksum")
    assert (await get_file(api, reserved.headers["x-together-file-id"]))["Processed"] is False
    assert (await api.client.put(url, content=content)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"purpose": "fine-tune"}, "purpose", "batch-api"),
        ({"purpose": ""}, "purpose", "missing"),
        ({"checksum": "abc"}, "checksum", "64"),
        ({"file_type": "parquet"}, "file_type", "jsonl"),
    ],
)
@pytest.mark.parametrize("file_first", [True, False])
async def test_wrong_fields_are_named_and_nothing_is_kept(
    api: Api, content: bytes, fields: dict[str, str], param: str, said: str, *, file_first: bool
) -> None:
    parts: list[tuple[str, tuple[str | None, str | bytes]]] = [*as_form(FACTS | fields).items()]
    parts.insert(0 if file_first else len(parts), ("file", ("a.jsonl", content)))
    for response in (
        await api.client.post("/v1/files", files=parts),
        await api.client.post("/v1/files", data=FACTS | fields),
    ):
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param)
        assert said in error["message"]
    assert api.list_blobs() == []
    assert (await api.client.get("/v1/files")).json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"anchor": "created_at", "seconds": "9" * 5000}, "seconds", "from 3600 to 2592000; got '9999"),
        ({"anchor": "created_at", "seconds": "\u0663\u0666\u0660\u0660"}, "seconds", "whole number"),
        ({"anchor": "created_at", "seconds": "-3600"}, "seconds", "whole number"),
        ({"anchor": "created_at"}, "seconds", "it is missing"),
        ({"seconds": "3600"}, "anchor", "it is missing"),
    ],
)
async def test_expiries_that_are_none(api: Api, content: bytes, fields: dict[str, str], param: str, said: str) -> None:
    form = {"purpose": "batch"} | {f"expires_after[{name}]": value for name, value in fields.items()}
    response = await api.client.post("/v1/files", data=form, files={"file": ("a.jsonl", content)})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, f"expires_after[{param}]")
    assert said in error["message"]
    assert len(error["message"]) < 250
    assert api.list_blobs() == []


async def test_forms_that_cannot_be_read(api: Api) -> None:
    async def ask(content: bytes, content_type: str) -> tuple[int, str]:
        response = await api.client.post("/v1/files", content=content, headers={"content-type": content_type})
        return response.status_code, response.json()["error"]["code"]

    assert await ask(b"abc", "multipart/form-data; boundary=b") == (400, "malformed_multipart")
    assert await ask(b"abc", "multipart/form-data") == (400, "malformed_multipart")
    assert await ask(b"purpose=%ff", "application/x-www-form-urlencoded") == (400, "malformed_form")
    assert await ask(b"&".join([b"a=b"] * 40), "application/x-www-form-urlencoded") == (400, "malformed_form")
    assert await ask(b"a" * 70_000, "application/x-www-form-urlencoded") == (413, "request_too_large")
    assert await ask(b'{"purpose":"batch-api"}', "application/json") == (400, "invalid_form")


async def test_a_form_that_ends_early_leaves_nothing(api: Api, content: bytes) -> None:
    request = api.client.build_request("POST", "/v1/files", data=FACTS, files={"file": ("a.jsonl", content)})
    body = (await request.aread())[:-10]
    response = await api.client.post(
        "/v1/files", content=body, headers={"content-type": request.headers["content-type"]}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (400, "malformed_multipart")
    assert api.list_blobs() == []


async def test_a_request_with_neither_file_nor_name(api: Api) -> None:
    purpose = {"purpose": "batch-api"}
    for response in (
        await api.client.post("/v1/files", data=purpose),
        await api.client.post("/v1/files", files=as_form(purpose)),
    ):
        assert (response.status_code, response.json()["error"]["param"]) == (400, "file_name")
    nothing = await api.client.post("/v1/files", headers={"content-type": "application/json"})
    assert (nothing.status_code, nothing.json()["error"]["param"]) == (400, "purpose")


async def test_the_put_of_a_deleted_file_is_a_404(api: Api, content: bytes) -> None:
    reserved = await api.reserve()
    await api.client.delete(f"/v1/files/{reserved.headers['x-together-file-id']}")
    response = await api.client.put(reserved.headers["location"], content=content)
    assert response.status_code == 404
    assert api.list_blobs() == []


async def test_a_file_that_cannot_be_a_batch_is_taken_all_the_same(api: Api) -> None:
    """The input is judged when a batch is made of it."""
    assert (await api.upload(b"no json\n"))["Processed"] is True
    assert (await api.upload(b""))["bytes"] == 0
