"""Pictures and clips that are uploaded: whichever way they come, and what is not done with them."""

import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import Message

from backfill.accounts import DEFAULT_SCOPES, KeyDraft
from backfill.api_key import KeyLimits
from backfill.store import content_key, index_key
from tests.unit.web.asgi import call
from tests.unit.web.conftest import Api, MakeApi

CLIP = b"RIFF" + os.urandom(3000) + b"\n" * 50
LIMITS = {"limits.file_size_bytes": 1000, "media.audio_size_bytes": 5000, "media.picture_size_bytes": 100}


@pytest.fixture
async def small(make_api: MakeApi) -> Api:
    """A server where a clip may be larger than a file of requests."""
    return await make_api(**LIMITS)


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """A multipart body: name, filename or "", bytes of each part, in this order."""
    pieces = []
    for name, filename, content in parts:
        named = f'; filename="{filename}"' if filename else ""
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        pieces.append(head.encode() + content + b"\r\n")
    return b"".join(pieces) + b"--b--\r\n"


async def post(api: Api, body: bytes) -> httpx.Response:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    return await api.client.post("/v1/files", content=body, headers=headers)


async def check_kept(api: Api, file_id: str, content: bytes = CLIP) -> dict[str, Any]:
    """The file as the server tells it, once it is seen that the bytes are kept and nothing was made of them."""
    answer = await api.client.get(f"/v1/files/{file_id}/content")
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert api.services.blobs.exists(content_key(file_id))
    assert not api.services.blobs.exists(index_key(file_id))
    file: dict[str, Any] = (await api.client.get(f"/v1/files/{file_id}")).json()
    assert (file["bytes"], file["LineCount"], file["status"]) == (len(content), 0, "processed")
    return file


@pytest.mark.parametrize("purpose", ["user_data", "vision"])
@pytest.mark.parametrize("prefix", ["", "/openai", "/together"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_form_with_the_purpose_before_or_behind_the_bytes(
    small: Api, purpose: str, prefix: str, *, is_first: bool
) -> None:
    parts = [("purpose", "", purpose.encode()), ("file", "clip.wav", CLIP)]
    body = form(*(parts if is_first else reversed(parts)))
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = await small.client.post(f"{prefix}/v1/files", content=body, headers=headers)
    assert response.status_code == 200, response.text
    file = await check_kept(small, response.json()["id"])
    assert (file["purpose"], file["filename"]) == (purpose, "clip.wav")
    listed = (await small.client.get("/v1/files", params={"purpose": purpose})).json()["data"]
    assert [each["id"] for each in listed] == [file["id"]]


async def test_an_address_for_the_bytes(small: Api) -> None:
    reserved = await small.reserve(purpose="user_data", file_name="clip.mp3", file_type="mp3")
    url = reserved.headers["location"]
    assert (await small.client.put(url, content=b"x" * 5001)).status_code == 413
    assert (await small.client.put(url, content=CLIP)).status_code == 200
    await check_kept(small, reserved.headers["x-together-file-id"])


async def test_parts(small: Api) -> None:
    facts = {"filename": "clip.wav", "purpose": "user_data", "mime_type": "audio/wav"}
    refused = await small.client.post("/v1/uploads", json=facts | {"bytes": 5001})
    assert (refused.status_code, "media.audio_size_bytes" in refused.text) == (413, True)
    upload = (await small.client.post("/v1/uploads", json=facts | {"bytes": len(CLIP)})).json()
    ids = []
    for piece in (CLIP[:1500], CLIP[1500:]):
        part = await small.client.post(f"/v1/uploads/{upload['id']}/parts", files={"data": piece})
        ids.append(part.json()["id"])
    done = await small.client.post(f"/v1/uploads/{upload['id']}/complete", json={"part_ids": ids})
    await check_kept(small, done.json()["file"]["id"])


async def test_each_kind_has_its_own_size(small: Api) -> None:
    requests = ("purpose", "", b"batch-api")
    large = ("file", "a.jsonl", CLIP)
    for body in (form(requests, large), form(large, requests)):
        response = await post(small, body)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "file_too_large")
        assert "larger than 1000 bytes" in response.text
    response = await post(small, form(("purpose", "", b"vision"), ("file", "a.png", b"x" * 5001)))
    assert (response.status_code, "media.audio_size_bytes" in response.text) == (413, True)
    assert small.list_blobs() == []


async def test_too_many_requests_are_not_read_once_the_purpose_is_known(make_api: MakeApi) -> None:
    api = await make_api(**{"limits.file_size_bytes": 1000})

    async def stream() -> AsyncIterator[Message]:
        body = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch-api\r\n--b\r\n'
        yield {"type": "http.request", "body": body, "more_body": True}
        pytest.fail("the file was read")

    headers = {"content-length": str(1 << 29), "content-type": "multipart/form-data; boundary=b"}
    status, _ = await call(api.app, "POST", "/v1/files", stream(), headers)
    assert status == 413


async def test_the_limit_of_a_key_counts_for_media_too(make_api: MakeApi) -> None:
    api = await make_api()
    draft = KeyDraft(name="small", owner="team", scopes=DEFAULT_SCOPES, limits=KeyLimits(file_size_bytes=len(CLIP) - 1))
    _, secret = await api.services.keys.create(draft)
    api.client.headers["authorization"] = f"Bearer {secret}"
    response = await post(api, form(("purpose", "", b"user_data"), ("file", "a.wav", CLIP)))
    assert (response.status_code, "limit of your key" in response.text) == (413, True)
    reserved = await api.reserve(purpose="user_data")
    refused = await api.client.put(reserved.headers["location"], content=CLIP, headers={"authorization": ""})
    assert (refused.status_code, "limit of your key" in refused.text) == (413, True)


async def test_what_cannot_be(small: Api) -> None:
    empty = await post(small, form(("purpose", "", b"user_data"), ("file", "a.wav", b"")))
    assert (empty.status_code, empty.json()["error"]["code"]) == (400, "empty_upload")
    twice = await post(small, form(("purpose", "", b"vision"), ("file", "a", b"x"), ("purpose", "", b"batch-api")))
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "purpose")
    assert small.list_blobs() == []
    kept = (await post(small, form(("purpose", "", b"user_data"), ("file", "a.wav", CLIP)))).json()
    body = {"endpoint": "/v1/chat/completions", "input_file_id": kept["id"]}
    refused = await small.client.post("/v1/batches", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_file_purpose")
    assert "pictures and clips" in refused.text


async def test_deleting(small: Api) -> None:
    kept = (await post(small, form(("purpose", "", b"user_data"), ("file", "a.wav", CLIP)))).json()
    assert (await small.client.delete(f"/v1/files/{kept['id']}")).json()["deleted"] is True
    assert small.list_blobs() == []
