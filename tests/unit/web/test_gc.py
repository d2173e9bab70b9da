"""POST /v1/gc: what is over goes now, or is only told; for the scope admin, and not without a line in the log."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.unit.web.conftest import Api, MakeApi

# Days: whatever there is is older.
SOON = 1e-9
KEY = "of-the-settings"
HOLDER = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
async def aging(make_api: MakeApi) -> Api:
    return await make_api(**{"retention.inputs_days": SOON})


async def collect(api: Api, body: dict[str, Any] | None = None) -> Any:
    response = await (api.client.post("/v1/gc") if body is None else api.client.post("/v1/gc", json=body))
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_trial_says_what_would_go_and_leaves_it(aging: Api, content: bytes) -> None:
    file = await aging.upload(content)
    for _ in range(2):
        found = await collect(aging, {"dry_run": True})
        assert (found["object"], found["dry_run"]) == ("gc", True)
        assert [(each["kind"], each["name"]) for each in found["removed"]] == [("input", file["id"])]
        assert found["size_bytes"] == found["removed"][0]["size_bytes"] > len(content)


async def test_what_is_over_goes_and_what_a_batch_reads_stays(aging: Api, content: bytes) -> None:
    old, read = await aging.upload(content), await aging.upload(content)
    await aging.create_batch(read["id"])
    with capture_logs() as logged:
        found = await collect(aging)
    assert [each["name"] for each in found["removed"]] == [old["id"]]
    (line,) = [line for line in logged if line["event"] == "audit"]
    assert (line["action"], line["count"], line["size_bytes"]) == ("gc", 1, found["size_bytes"])
    assert (await aging.client.get(f"/v1/files/{old['id']}")).status_code == 404
    assert (await aging.client.get(f"/v1/files/{read['id']}")).status_code == 200
    assert (await collect(aging))["removed"] == []


async def test_a_trial_leaves_no_audit_line(aging: Api) -> None:
    with capture_logs() as logged:
        await collect(aging, {"dry_run": True})
    assert [line for line in logged if line["event"] == "audit"] == []


async def test_two_at_once_remove_each_thing_once(aging: Api, content: bytes) -> None:
    files = {(await aging.upload(content))["id"] for _ in range(5)}
    found = await asyncio.gather(*(collect(aging) for _ in range(4)))
    names = [each["name"] for answer in found for each in answer["removed"]]
    assert sorted(names) == sorted(files)


async def test_it_takes_the_scope_admin(make_api: MakeApi) -> None:
    api = await make_api(**{"server.api_keys": [KEY]})
    assert (await api.client.post("/v1/gc")).status_code == 401
    assert (await api.client.post("/v1/gc", headers=HOLDER)).status_code == 200
    made = await api.client.post("/v1/organization/admin_api_keys", json={"name": "ada"}, headers=HOLDER)
    refused = await api.client.post("/v1/gc", headers={"authorization": f"Bearer {made.json()['value']}"})
    assert refused.status_code == 403
    assert "admin" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [({"dry-run": True}, "dry-run"), ({"dry_run": "yes"}, "dry_run"), ({"data_dir": "/elsewhere"}, "data_dir")],
)
async def test_what_is_not_understood_or_meant_for_another_server_removes_nothing(
    aging: Api, content: bytes, body: dict[str, Any], param: str
) -> None:
    file = await aging.upload(content)
    response = await aging.client.post("/v1/gc", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert (await aging.client.get(f"/v1/files/{file['id']}")).status_code == 200
