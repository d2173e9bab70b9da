"""Who is let in, and what the others see."""

import hashlib

import pytest

from backfill.accounts import ANONYMOUS
from backfill.web.api.operations import OPERATIONS
from tests.unit.web.conftest import Api, MakeApi

ADA, BOB = "key-of-ada", "key-of-bob"


def as_user(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
async def guarded(make_api: MakeApi) -> Api:
    return await make_api(**{"server.api_keys": [ADA, BOB]})


def owner_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:24]


async def test_without_keys_everyone_is_the_same_owner(api: Api) -> None:
    for headers in ({}, as_user("whatever"), {"authorization": "Basic x"}):
        assert (await api.client.get("/v1/whoami", headers=headers)).json()["user_id"] == ANONYMOUS
    assert len(ANONYMOUS) == 24


async def test_an_owner_is_told_by_the_key(guarded: Api) -> None:
    for header in (f"Bearer {ADA}", f"bearer  {ADA} "):
        response = await guarded.client.get("/v1/whoami", headers={"authorization": header})
        assert response.json()["user_id"] == owner_of(ADA)


@pytest.mark.parametrize(
    "header",
    [b"", b"Bearer", b"Bearer ", f"Basic {ADA}".encode(), ADA.encode(), f"Bearer {ADA}x".encode(), b"Bearer \xdc\xff",
     b"Bearer " + b"k" * 60_000, b"Bearer \x00", f"Bearer {ADA}, Bearer {BOB}".encode(), b"Bearer bf_" + b"a" * 40],
    ids=range(11),
)  # fmt: skip
async def test_anyone_else_is_refused(guarded: Api, header: bytes) -> None:
    response = await guarded.client.get("/v1/files", headers=[(b"authorization", header)])
    assert response.status_code == 401


async def test_of_two_headers_neither_is_added_to_the_other(guarded: Api) -> None:
    half = [(b"authorization", b"Bearer key-of"), (b"authorization", b"-ada")]
    assert (await guarded.client.get("/v1/files", headers=half)).status_code == 401


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
        ("GET", "/v1/organization/admin_api_keys"),
        ("POST", "/v1/organization/admin_api_keys"),
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


async def test_a_key_is_asked_for_where_the_document_says_so(guarded: Api) -> None:
    document = (await guarded.client.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            response = await guarded.client.request(method, path.replace("{part_number}", "1"))
            assert (response.status_code == 401) is bool(operation["security"]), (method, path)


async def test_only_what_the_pages_say_is_open(guarded: Api) -> None:
    opened = {path for (_, path), operation in OPERATIONS.items() if operation.is_open}
    assert opened == {
        "/health",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/v1/uploads/{file_id}",
        "/v1/uploads/{upload_id}/parts/{part_number}",
    }


async def test_health_asks_for_none(guarded: Api) -> None:
    response = await guarded.client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_whoami_and_models(guarded: Api) -> None:
    """Trap 17: 200 and JSON, or the command line ends."""
    response = await guarded.client.get("/v3/whoami", headers=as_user(ADA))
    assert response.json()["user_id"] == owner_of(ADA)
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
