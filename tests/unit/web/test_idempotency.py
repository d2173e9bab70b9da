"""However often a request is sent, it makes one batch."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.unit.web.conftest import Api, MakeApi

CHAT = "/v1/chat/completions"
ATTEMPTS = 20


@pytest.fixture
async def file_id(api: Api, content: bytes) -> str:
    found: str = (await api.upload(content))["id"]
    return found


async def create(api: Api, file_id: str, headers: dict[str, str], **changes: Any) -> httpx.Response:
    body = {"endpoint": CHAT, "input_file_id": file_id} | changes
    return await api.client.post("/v1/batches", json=body, headers=headers)


def id_of(response: httpx.Response) -> str:
    assert response.status_code == 201, response.text
    found: str = response.json()["job"]["id"]
    return found


async def count_batches(api: Api) -> int:
    return len((await api.client.get("/v1/batches")).json())


@pytest.mark.parametrize("headers", [{"idempotency-key": "k"}, {"x-stainless-retry-count": "1"}], ids=str)
async def test_many_at_once_make_one_batch(api: Api, file_id: str, headers: dict[str, str]) -> None:
    answers = await asyncio.gather(*(create(api, file_id, headers) for _ in range(ATTEMPTS)))
    assert len({id_of(answer) for answer in answers}) == 1
    assert await count_batches(api) == 1


async def test_a_key_outlives_the_server_and_the_file(make_api: MakeApi, content: bytes) -> None:
    api = await make_api()
    file_id = (await api.upload(content))["id"]
    key = {"idempotency-key": "a key, of any kind!"}
    first = id_of(await create(api, file_id, key))
    await api.client.post(f"/v1/batches/{first}/cancel")
    restarted = await make_api()
    await restarted.services.metadata.delete_file(file_id)
    assert id_of(await create(restarted, file_id, key)) == first


async def test_the_same_is_what_means_the_same(api: Api, file_id: str) -> None:
    key = {"idempotency-key": "k"}
    first = id_of(await create(api, file_id, key, metadata={"a": "1", "b": "2"}))
    other_spelling = {"metadata": {"b": "2", "a": "1"}, "model_id": None, "unknown": 1}
    assert id_of(await create(api, file_id, key, **other_spelling)) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"a": "2"}},
        {"model_id": "other"},
        {"completion_window": "2h"},
        {"endpoint": "/v1/completions"},
        {"priority": 1},
    ],
    ids=str,
)
async def test_another_request_is_never_taken_for_a_repeat(api: Api, file_id: str, changes: dict[str, Any]) -> None:
    asked = {"metadata": {"a": "1"}}
    first = id_of(await create(api, file_id, {"idempotency-key": "k"}, **asked))
    refused = await create(api, file_id, {"idempotency-key": "k"}, **asked | changes)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "idempotency_key_reuse")
    assert id_of(await create(api, file_id, {"idempotency-key": "other"}, **asked)) != first
    repeated = id_of(await create(api, file_id, {"x-stainless-retry-count": "1"}, **asked | changes))
    assert repeated != first
    assert id_of(await create(api, file_id, {"x-stainless-retry-count": "2"}, **asked | changes)) == repeated


async def test_a_request_that_failed_can_be_sent_again_with_its_key(api: Api, file_id: str) -> None:
    key = {"idempotency-key": "k"}
    assert (await create(api, "file-0", key)).status_code == 404
    assert id_of(await create(api, file_id, key))


async def test_keys_belong_to_their_owner(make_api: MakeApi, content: bytes) -> None:
    api = await make_api(**{"server.api_keys": ("one", "two")})
    made = set()
    for name in ("one", "two"):
        headers = {"authorization": f"Bearer {name}"}
        upload = {"data": {"purpose": "batch-api"}, "files": {"file": content}}
        file = (await api.client.post("/v1/files", headers=headers, **upload)).json()  # type: ignore[arg-type]
        made.add(id_of(await create(api, file["id"], headers | {"idempotency-key": "k"})))
    assert len(made) == 2


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_that_is_none(api: Api, file_id: str, key: str) -> None:
    response = await create(api, file_id, {"idempotency-key": key})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_idempotency_key")
    assert id_of(await create(api, file_id, {"idempotency-key": "k" * 255}))
