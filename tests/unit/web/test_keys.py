"""Who is let in, and what the others see."""

import hashlib

import pytest

from backfill.errors import Unauthorized
from backfill.web.api.keys import ANONYMOUS, identify
from tests.unit.web.conftest import Api, MakeApi

ADA, BOB = "key-of-ada", "key-of-bob"


def as_user(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
async def guarded(make_api: MakeApi) -> Api:
    return await make_api(**{"server.api_keys": [ADA, BOB]})


def test_without_keys_everyone_is_the_same_owner() -> None:
    assert identify(None, ()) == identify("Bearer whatever", ()) == ANONYMOUS
    assert len(ANONYMOUS) == 24


def test_an_owner_is_told_by_the_key() -> None:
    assert identify(f"Bearer {ADA}", (BOB, ADA)) == hashlib.sha256(ADA.encode()).hexdigest()[:24]
    assert identify(f"bearer  {ADA} ", (ADA,)) == identify(f"Bearer {ADA}", (ADA,))


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {ADA}", ADA, f"Bearer {ADA}x", "Bearer \udcff"]
)
def test_anyone_else_is_refused(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        identify(header, (ADA, BOB))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("POST", "/v1/files/upload"),
        ("GET", "/v1/files/file-1"),
        ("GET", "/v1/files/file-1/content"),
        ("POST", "/v1/files/file-1/preprocess"),
        ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/batches"),
        ("POST", "/v1/batches"),
        ("GET", "/v1/batches/1"),
        ("POST", "/v1/batches/1/cancel"),
        ("GET", "/v1/models"),
        ("GET", "/v1/engines"),
        ("GET", "/metrics"),
        ("GET", "/v3/whoami"),
    ],
)
async def test_every_route_asks_for_a_key(guarded: Api, method: str, path: str) -> None:
    response = await guarded.client.request(method, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["type"] == "authentication_error"
    wrong = await guarded.client.request(method, path, headers=as_user("wrong"))
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "wrong" not in wrong.text


async def test_health_asks_for_none(guarded: Api) -> None:
    response = await guarded.client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_whoami_and_models(guarded: Api) -> None:
    """Trap 17: 200 and JSON, or the command line ends."""
    response = await guarded.client.get("/v3/whoami", headers=as_user(ADA))
    assert response.json()["user_id"] == identify(f"Bearer {ADA}", (ADA,))
    models = (await guarded.client.get("/v1/models", headers=as_user(ADA))).json()
    assert models["object"] == "list"
    assert [model["id"] for model in models["data"]] == ["small-model", "large-model"]


async def test_what_is_not_yours_looks_as_if_it_did_not_exist(guarded: Api, content: bytes) -> None:
    client = guarded.client
    client.headers.update(as_user(ADA))
    file = await guarded.upload(content)
    batch = await guarded.create_batch(file["id"])

    async def ask(method: str, path: str, named: str) -> tuple[int, str]:
        response = await client.request(method, path, headers=as_user(BOB))
        return response.status_code, response.text.replace(named, "ID")

    for method, path in [
        ("GET", "/v1/files/{}"),
        ("GET", "/v1/files/{}/content"),
        ("POST", "/v1/files/{}/preprocess"),
        ("DELETE", "/v1/files/{}"),
        ("GET", "/v1/batches/{}"),
        ("POST", "/v1/batches/{}/cancel"),
    ]:
        named = file["id"] if "files" in path else batch["id"]
        theirs = await ask(method, path.format(named), named)
        assert theirs == await ask(method, path.format("nothing"), "nothing")
        assert theirs[0] == 404
    body = {"endpoint": "/v1/chat/completions", "input_file_id": file["id"]}
    created = await client.post("/v1/batches", json=body, headers=as_user(BOB))
    assert (created.status_code, created.json()["error"]["param"]) == (404, "input_file_id")
    assert (await client.get("/v1/files", headers=as_user(BOB))).json()["data"] == []
    assert (await client.get("/v1/batches", headers=as_user(BOB))).json() == []
