"""What an owner calls a batch: given, taken from the metadata, shown, and looked for."""

from typing import Any

import msgspec
import pytest
from fastapi import Request

from backfill.turns import Attempt
from backfill.web.api.idempotency import read_attempt
from tests.unit.web.conftest import Api

CHAT = "/v1/chat/completions"


@pytest.fixture
async def file_id(api: Api, content: bytes) -> str:
    found: str = (await api.upload(content))["id"]
    return found


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({}, None),
        ({"name": "nightly"}, "nightly"),
        ({"name": "nightly", "metadata": {"name": "other"}}, "nightly"),
        ({"metadata": {"name": "from metadata"}}, "from metadata"),
        ({"metadata": {"name": "x" * 300}}, "x" * 256),
        ({"metadata": {"name": " \n "}}, None),
        ({"name": "a\n\x1b[31mb\u202e"}, "a  [31mb"),
        ({"name": "ü" * 256}, "ü" * 256),
    ],
    ids=str,
)
async def test_a_batch_is_called_by_its_name(api: Api, file_id: str, members: dict[str, Any], name: str | None) -> None:
    batch_id = (await api.create_batch(file_id, **members))["id"]
    for prefix in ("/together/v1", "/openai/v1"):
        shown = (await api.client.get(f"{prefix}/batches/{batch_id}")).json()
        assert shown["name"] == name


@pytest.mark.parametrize("name", ["", "x" * 257, 7])
async def test_a_name_that_will_not_do_is_refused(api: Api, file_id: str, name: Any) -> None:
    response = await api.client.post("/v1/batches", json={"endpoint": CHAT, "input_file_id": file_id, "name": name})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "name")


async def test_a_list_is_narrowed_to_a_name(api: Api, file_id: str) -> None:
    named = [(await api.create_batch(file_id, name="one"))["id"] for _ in range(3)]
    await api.create_batch(file_id, name="two")
    await api.create_batch(file_id)
    whole = (await api.client.get("/v1/batches", params={"name": "one"})).json()
    assert {batch["id"] for batch in whole} == set(named)
    first = (await api.client.get("/openai/v1/batches", params={"name": "one", "limit": 2})).json()
    assert (len(first["data"]), first["has_more"]) == (2, True)
    rest = (
        await api.client.get("/openai/v1/batches", params={"name": "one", "limit": 2, "after": first["last_id"]})
    ).json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    assert (await api.client.get("/v1/batches", params={"name": "none"})).json() == []


async def test_a_request_of_before_there_were_names_is_known_again(api: Api, file_id: str) -> None:
    asked = {
        "endpoint": CHAT,
        "input_file_id": file_id,
        "completion_window": None,
        "model_id": None,
        "priority": None,
        "metadata": None,
        "output_expires_after": None,
    }
    sent = Request({"type": "http", "headers": [(b"idempotency-key", b"k")]})
    made = (await api.client.post("/v1/batches", json=asked, headers={"idempotency-key": "k"})).json()["job"]
    row = await api.services.metadata.get_batch(made["id"])
    assert row.request_digest == read_attempt(sent, 0, "create", asked).digest
    other = await api.client.post("/v1/batches", json=asked | {"name": "n"}, headers={"idempotency-key": "k"})
    assert other.json()["error"]["code"] == "idempotency_key_reuse"


async def test_a_retry_has_the_name_of_the_first(api: Api, file_id: str) -> None:
    batch_id = (await api.create_batch(file_id, name="nightly"))["id"]
    ended = await api.services.metadata.get_batch(batch_id)
    file = await api.services.metadata.get_file(file_id)
    ended = msgspec.structs.replace(ended, metadata=None)
    made = await api.services.turns.retry(ended, file, Attempt())
    assert made.name == "nightly"
