"""Keys of the database with unmodified SDKs: openai's administration calls make them, and clients work with them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import together

from bench.null.process import NullEngine
from tests.conformance.conftest import wait_for
from tests.conformance.test_openai_dialect import target_lines
from tests.support.server_process import BackfillServer

ADMIN_KEY = "key-of-the-operator"


@pytest.fixture(scope="module")
def guarded(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url, server__api_keys=f'["{ADMIN_KEY}"]') as server:
        yield server


@pytest.fixture
def operator(guarded: BackfillServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="unused", admin_api_key=ADMIN_KEY) as client:
        yield client


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(target_lines(3))
    return path


def open_openai(server: BackfillServer, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def test_openais_own_calls_make_list_and_revoke_keys(guarded: BackfillServer, operator: openai.OpenAI) -> None:
    keys = operator.admin.organization.admin_api_keys
    made = [keys.create(name=f"team-{number}", expires_in_seconds=3600) for number in range(3)]
    assert all(key.value.startswith("bf_") and key.expires_at == key.created_at + 3600 for key in made)
    wanted = [key.id for key in made]
    # The SDK asks page after page by itself.
    assert [key.id for key in keys.list(limit=1, order="asc") if key.id in wanted] == wanted
    found = keys.retrieve(made[0].id)
    assert (found.name, found.owner.name) == ("team-0", "team-0")
    assert made[0].value not in found.to_json()
    assert keys.delete(made[0].id).deleted
    assert made[0].id not in [key.id for key in keys.list()]
    with open_openai(guarded, made[0].value) as client, pytest.raises(openai.AuthenticationError) as refused:
        client.files.list()
    assert refused.value.code == "api_key_revoked"


def test_the_same_calls_without_waiting(guarded: BackfillServer) -> None:
    async def work() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{guarded.url}/v1", api_key="unused", admin_api_key=ADMIN_KEY
        ) as client:
            keys = client.admin.organization.admin_api_keys
            made = await keys.create(name="async", extra_body={"scopes": ["read-only"], "owner": "team"})
            assert (made.owner.id, (await keys.retrieve(made.id)).id) == ("team", made.id)
            assert (await keys.delete(made.id)).object == "organization.admin_api_key.deleted"
            return [key.id async for key in keys.list()]

    assert all(found.startswith("key_") for found in asyncio.run(work()))


def test_a_key_without_the_scope_is_told_so(guarded: BackfillServer, operator: openai.OpenAI, sent: Path) -> None:
    keys = operator.admin.organization.admin_api_keys
    key = keys.create(name="looker", extra_body={"scopes": ["read-only"]}).value
    with open_openai(guarded, key) as client:
        assert client.files.list().data == []
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.files.create(file=sent, purpose="batch")
        assert refused.value.code == "insufficient_scope"
        assert "scope batch" in refused.value.message


def test_both_dialects_work_with_one_owners_keys(guarded: BackfillServer, operator: openai.OpenAI, sent: Path) -> None:
    keys = operator.admin.organization.admin_api_keys
    first, second = (keys.create(name=name, extra_body={"owner": "ada"}).value for name in ("desk", "laptop"))
    with open_openai(guarded, first) as client:
        file = client.files.create(file=sent, purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        ended = wait_for(lambda: client.batches.retrieve(made.id).to_dict(), "completed")
        assert ended["request_counts"]["completed"] == 3
    with together.Together(base_url=guarded.url, api_key=second) as client:
        assert file.id in [each.id for each in client.files.list().data or []]
        uploaded = client.files.upload(file=sent, purpose="batch-api")
        job = client.batches.create(endpoint="/v1/chat/completions", input_file_id=uploaded.id).job
        assert job is not None
        assert job.user_id == "ada"
