"""Keys over HTTP: who may make and revoke them, and what a key may do."""

import asyncio
from typing import Any

import pytest

from backfill.accounts import KeyDraft
from backfill.api_key import Scope
from backfill.web.api.key_schemas import AdminKey, AdminKeyCreated, AdminKeyDeleted, AdminKeyPage
from backfill.web.api.operations import OPERATIONS
from backfill.web.api.scopes import SCOPES
from tests.unit.web.asgi import Stream
from tests.unit.web.conftest import Api, MakeApi
from tests.unit.web.test_errors import check_shape

KEYS = "/v1/organization/admin_api_keys"
ADMIN = {"authorization": "Bearer of-the-settings"}


@pytest.fixture
async def guarded(make_api: MakeApi) -> Api:
    return await make_api(**{"server.api_keys": ["of-the-settings"]})


async def make_key(api: Api, name: str = "ada", **members: Any) -> dict[str, Any]:
    response = await api.client.post(KEYS, json={"name": name} | members, headers=ADMIN)
    assert response.status_code == 200, response.text
    made: dict[str, Any] = AdminKeyCreated.model_validate(response.json()).model_dump()
    return made


def as_holder(made: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {made['value']}"}


async def test_a_key_is_shown_once(guarded: Api) -> None:
    made = await make_key(guarded, limits={"requests_per_minute": 60}, expires_in_seconds=3600, owner="team")
    assert made["value"].startswith(made["redacted_value"].removesuffix("..."))
    assert made["expires_at"] == made["created_at"] + 3600
    assert (made["owner"]["id"], made["limits"]["requests_per_minute"]) == ("team", 60)
    found = await guarded.client.get(f"{KEYS}/{made['id']}", headers=ADMIN)
    AdminKey.model_validate(found.json())
    listed = await guarded.client.get(KEYS, headers=ADMIN)
    assert [key.id for key in AdminKeyPage.model_validate(listed.json()).data] == [made["id"]]
    assert made["value"] not in found.text + listed.text


async def test_a_key_holds_from_the_next_request_until_it_is_revoked(guarded: Api, content: bytes) -> None:
    made = await make_key(guarded)
    guarded.client.headers.update(as_holder(made))
    file = await guarded.upload(content)
    assert (await guarded.client.get("/v1/whoami")).json()["user_id"] == "ada"
    answer = await guarded.client.delete(f"{KEYS}/{made['id']}", headers=ADMIN)
    AdminKeyDeleted.model_validate(answer.json())
    for method in ("GET", "DELETE"):
        gone = await guarded.client.request(method, f"{KEYS}/{made['id']}", headers=ADMIN)
        assert (gone.status_code, check_shape(gone)["code"]) == (404, "not_found")
    error = check_shape(refused := await guarded.client.get("/v1/files"))
    assert (refused.status_code, error["code"]) == (401, "api_key_revoked")
    again = await make_key(guarded)
    found = await guarded.client.get("/v1/files", headers=as_holder(again))
    assert [each["id"] for each in found.json()["data"]] == [file["id"]]
    both = await guarded.client.get(KEYS, params={"include_revoked": "true"}, headers=ADMIN)
    assert [bool(key["revoked_at"]) for key in both.json()["data"]] == [False, True]


async def test_the_first_key_of_an_open_server_shuts_it_and_ends_the_look_at_pages(api: Api) -> None:
    page = {"host": "evil.example"}
    assert (await api.client.post(KEYS, json={"name": "ada"}, headers=page)).status_code == 403
    made = (await api.client.post(KEYS, json={"name": "ada"})).json()
    assert (await api.client.get("/v1/files")).status_code == 401
    assert (await api.client.get("/v1/files", headers=as_holder(made))).status_code == 200
    assert (await api.client.get("/v1/files", headers=as_holder(made) | page)).status_code == 200


async def test_pages_of_keys(guarded: Api) -> None:
    made = [(await make_key(guarded, name))["id"] for name in ("a", "b", "c")]
    first = (await guarded.client.get(KEYS, params={"limit": 2, "order": "asc"}, headers=ADMIN)).json()
    assert ([key["id"] for key in first["data"]], first["has_more"]) == (made[:2], True)
    rest = {"limit": 2, "order": "asc", "after": first["last_id"]}
    second = (await guarded.client.get(KEYS, params=rest, headers=ADMIN)).json()
    assert ([key["id"] for key in second["data"]], second["has_more"]) == (made[2:], False)
    await guarded.client.delete(f"{KEYS}/{made[1]}", headers=ADMIN)
    assert (await guarded.client.get(KEYS, params=rest, headers=ADMIN)).json() == second
    lost = await guarded.client.get(KEYS, params={"after": "key_x"}, headers=ADMIN)
    assert (lost.status_code, check_shape(lost)["param"]) == (404, "after")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes.0"),
        ({"name": "a", "limits": {"lines": 0}}, "limits.lines"),
        ({"name": "a", "limits": {"line": 5}}, "limits.line"),
        ({"name": "a", "expires_in_seconds": 0}, "expires_in_seconds"),
        ([], None),
    ],
)
async def test_a_faulty_wish_is_named(guarded: Api, body: Any, param: str | None) -> None:
    response = await guarded.client.post(KEYS, json=body, headers=ADMIN)
    assert (response.status_code, check_shape(response)["param"]) == (400, param)


def test_every_route_that_asks_for_a_key_has_its_scope() -> None:
    guarded = {route for route, operation in OPERATIONS.items() if not operation.is_open}
    assert guarded <= set(SCOPES)


@pytest.mark.parametrize("scope", [*Scope])
async def test_a_key_does_what_its_scopes_allow_and_no_more(guarded: Api, scope: Scope) -> None:
    holder = as_holder(await make_key(guarded, scopes=[scope.value]))
    for method, path in SCOPES.keys() & OPERATIONS.keys():
        asked = path.replace("{part_number}", "1").replace("{", "").replace("}", "")
        response = await guarded.client.request(method, asked, headers=holder)
        allowed = scope is Scope.ADMIN or scope in SCOPES[method, path]
        assert (response.status_code == 403) is not allowed, (method, path, response.text)
        if not allowed:
            error = check_shape(response)
            assert error["code"] == "insufficient_scope"
            assert scope.value in error["message"]
            assert any(needed.value in error["message"] for needed in SCOPES[method, path])


async def test_a_batch_knows_the_key_that_made_it(guarded: Api, content: bytes) -> None:
    made = await make_key(guarded)
    guarded.client.headers.update(as_holder(made))
    batch = await guarded.create_batch((await guarded.upload(content))["id"])
    row = await guarded.services.metadata.get_batch(batch["id"])
    assert (row.owner, row.key_id, batch["user_id"]) == ("ada", made["id"], "ada")


async def test_a_download_that_has_begun_outlives_its_key(make_api: MakeApi) -> None:
    api = await make_api(**{"server.api_keys": ["of-the-settings"]})
    key, secret = await api.services.keys.create(KeyDraft(name="ada"))
    holder = {"authorization": f"Bearer {secret}"}
    api.client.headers.update(holder)
    content = b"\n".join(b'{"custom_id":"%d","body":{"model":"m","messages":[]}}' % n for n in range(40_000)) + b"\n"
    file = await api.upload(content)
    async with asyncio.timeout(60), Stream(api.app, f"/v1/files/{file['id']}/content", headers=holder) as stream:
        first = await stream.read_line()
        await api.services.keys.revoke(key.id)
        assert b"\n".join([first, *await stream.read_lines()]) + b"\n" == content
        assert stream.is_complete
    refused = await api.client.get(f"/v1/files/{file['id']}/content")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "api_key_revoked")
