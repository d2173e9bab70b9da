"""What the log says of who did what: a line for each thing done, and never a key."""

import json
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from backfill.accounts import KeyDraft, Keys
from backfill.store import ApiKeys
from backfill.web.api.audit import Audit
from tests.unit.web.conftest import Api, MakeApi

KEYS = "/v1/organization/admin_api_keys"
KEY = "of-the-settings"
HOLDER = {"authorization": f"Bearer {KEY}"}
Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def logged() -> Iterator[Lines]:
    with capture_logs() as logged:
        yield logged


@pytest.fixture
async def guarded(logged: Lines, make_api: MakeApi) -> Api:
    return await make_api(**{"server.api_keys": [KEY]})


def find(logged: Lines, action: str) -> Lines:
    return [line for line in logged if line["event"] == "audit" and line["action"] == action]


async def test_what_is_done_to_keys_files_and_batches_is_told(guarded: Api, logged: Lines, content: bytes) -> None:
    guarded.client.headers.update(HOLDER)
    made = (await guarded.client.post(KEYS, json={"name": "ada"})).json()
    await guarded.client.delete(f"{KEYS}/{made['id']}")
    file = await guarded.upload(content)
    batch = await guarded.create_batch(file["id"])
    cancelled = await guarded.client.post(f"/v1/batches/{batch['id']}/cancel")
    other = await guarded.upload(content)
    await guarded.client.delete(f"/v1/files/{other['id']}")
    await guarded.client.delete("/v1/files/nothing")
    for action in ("key.create", "key.revoke"):
        (line,) = find(logged, action)
        assert (line["key"], line["prefix"], line["key_owner"]) == (made["id"], made["value"][:9], "ada")
    (line,) = find(logged, "batch.cancel")
    assert (line["batch"], line["request_id"]) == (batch["id"], cancelled.headers["x-request-id"])
    assert line["client"] == "127.0.0.1"
    (line,) = find(logged, "file.delete")
    assert line["file"] == other["id"]
    told = json.dumps(logged)
    assert made["value"] not in told
    assert KEY not in told


async def test_what_another_process_does_to_keys_is_told_once(guarded: Api, logged: Lines) -> None:
    await guarded.client.get("/v1/files", headers=HOLDER)
    beside = Keys(ApiKeys.open(guarded.services.metadata.database, guarded.services.config.data_dir))
    key, _ = await beside.create(KeyDraft(name="ada"))
    for _ in range(2):
        await guarded.client.get("/v1/files", headers=HOLDER)
    await beside.revoke(key.id)
    for _ in range(2):
        await guarded.client.get("/v1/files", headers=HOLDER)
    for action in ("key.create", "key.revoke"):
        (line,) = find(logged, action)
        assert (line["key"], line["beside_the_server"]) == (key.id, True)


async def test_a_refused_login_is_told_without_what_was_sent(guarded: Api, logged: Lines) -> None:
    await guarded.client.get("/v1/files?token=of-somebody", headers={"authorization": "Bearer of-nobody"})
    await guarded.client.get("/v1/files")
    assert [line["reason"] for line in find(logged, "login.refused")] == ["invalid_api_key", "missing_api_key"]
    assert "of-nobody" not in json.dumps(logged)
    assert "of-somebody" not in json.dumps(logged)
    exposed = (await guarded.client.get("/metrics", headers=HOLDER)).text
    assert 'backfill_logins_refused_total{code="invalid_api_key"} 1.0' in exposed
    assert 'backfill_logins_refused_total{code="api_key_revoked"} 0.0' in exposed


def test_a_flood_of_refused_logins_is_counted_and_not_written(logged: Lines) -> None:
    now_s = 0.0
    audit = Audit(lambda: now_s)
    scope = {"type": "http", "path": "/v1/files", "client": ("192.0.2.1", 1)}
    for _ in range(10_000):
        audit.refuse(scope, "invalid_api_key")
    assert len(logged) == 20
    now_s = 60.0
    audit.refuse(scope, "invalid_api_key")
    assert [line.get("count") for line in logged[20:]] == [9_980, None]
    assert audit.refused["invalid_api_key"] == 10_001
