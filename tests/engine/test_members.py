"""The table of members, gone through on real engines: each is honoured, has no effect, or is refused."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from backfill.config import LlamaCppEngineConfig, OpenVinoEngineConfig
from backfill.engines import Answered, EngineClient, LlamaCppReplica, OpenVinoReplica, Refused, Replica
from backfill.engines.builtin.members import Treatment
from backfill.engines.builtin.tables import TABLES, Engine
from tests.engine.member_examples import HONOURED, REFUSED, UNFELT, make_base, read_text

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
SHAPES: dict[str, type[BaseModel]] = {
    CHAT: ChatCompletion,
    COMPLETIONS: Completion,
    EMBEDDINGS: CreateEmbeddingResponse,
    RESPONSES: Response,
}
_FEW = {CHAT: {"max_tokens": 4}, COMPLETIONS: {"max_tokens": 4}, EMBEDDINGS: {}, RESPONSES: {"max_output_tokens": 4}}
ENDPOINTS = [(engine, endpoint) for engine, tables in TABLES.items() for endpoint in tables]


def list_rows(treatment: Treatment) -> list[Any]:
    return [
        pytest.param(engine, endpoint, name, id=f"{engine}-{endpoint.removeprefix('/v1/')}-{name}")
        for engine, endpoint in ENDPOINTS
        for name, member in TABLES[engine][endpoint].members.items()
        if member.treatment is treatment
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mapping[str, Replica]]:
    places = {"models_dir": models_dir, "log_dir": tmp_path_factory.mktemp("log")}
    async with EngineClient(request_timeout_s=60) as client:
        small = {"slots": 2, "context_tokens": 1024, "threads": 1}
        found: dict[str, OpenVinoReplica | LlamaCppReplica] = {
            "openvino": OpenVinoReplica("openvino", OpenVinoEngineConfig(concurrency=4, threads=1), client, **places),
            "llamacpp": LlamaCppReplica("llamacpp", LlamaCppEngineConfig(**small), client, **places),
            "embeddings": LlamaCppReplica(
                "embeddings", LlamaCppEngineConfig(**small | {"embeddings": True}), client, **places
            ),
        }
        try:
            for replica in found.values():
                await replica.start()
            yield found
        finally:
            for replica in found.values():
                await replica.stop()


class Asker:
    """Sends requests; every answer must be of the endpoint's shape, strictly, in the eyes of the openai package."""

    def __init__(self, replica: Replica, endpoint: str, answers: dict[bytes, Any]) -> None:
        self._replica = replica
        self._endpoint = endpoint
        self._answers = answers
        self.few = _FEW[endpoint]
        """For an answer that is soon there."""

    async def ask(self, members: dict[str, Any]) -> Any:
        body = msgspec.json.encode(make_base(self._endpoint) | members)
        reply = await self._replica.send(self._endpoint, body)
        assert isinstance(reply, Answered), reply
        if members.get("encoding_format") != "base64":  # the package knows vectors only once it has decoded them
            SHAPES[self._endpoint].model_validate_json(reply.body, strict=True)
        return msgspec.json.decode(reply.body)

    async def ask_to_compare(self, members: dict[str, Any]) -> Any:
        """The same, once for all tests: what many compare their answer with."""
        key = msgspec.json.encode([self._replica.name, self._endpoint, members])
        if key not in self._answers:
            self._answers[key] = await self.ask(members)
        return self._answers[key]

    async def be_refused(self, members: dict[str, Any]) -> Any:
        reply = await self._replica.send(self._endpoint, msgspec.json.encode(make_base(self._endpoint) | members))
        assert isinstance(reply, Refused), reply
        assert reply.status == 400
        error = msgspec.json.decode(reply.body)["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        return error


@pytest.fixture(scope="module")
def answers() -> dict[bytes, Any]:
    return {}


@pytest.fixture
def asker(replicas: Mapping[str, Replica], answers: dict[bytes, Any], engine: Engine, endpoint: str) -> Asker:
    return Asker(replicas["embeddings" if endpoint == EMBEDDINGS else engine], endpoint, answers)


@pytest.mark.parametrize(("engine", "endpoint", "name"), list_rows(Treatment.HONOURED))
async def test_honoured(asker: Asker, endpoint: str, name: str) -> None:
    example = HONOURED[endpoint][name]
    answer = await asker.ask(example.members)
    if example.shows is not None:
        assert example.shows(answer), answer
        return
    without = await asker.ask_to_compare(example.leave_out(name))
    assert read_text(answer) != read_text(without)


@pytest.mark.parametrize(("engine", "endpoint", "name"), list_rows(Treatment.NO_EFFECT))
async def test_no_effect(asker: Asker, name: str) -> None:
    answer = await asker.ask(asker.few | {name: UNFELT[name]})
    assert read_text(answer) == read_text(await asker.ask_to_compare(asker.few))


@pytest.mark.parametrize(("engine", "endpoint", "name"), list_rows(Treatment.REFUSED))
async def test_refused(asker: Asker, engine: Engine, endpoint: str, name: str) -> None:
    error = await asker.be_refused({name: REFUSED[name]})
    assert error["param"] == name
    assert name in error["message"]
    harmless = (None, *TABLES[engine][endpoint].members[name].harmless)
    assert all(await asyncio.gather(*(asker.ask(asker.few | {name: value}) for value in harmless)))


@pytest.mark.parametrize(("engine", "endpoint"), ENDPOINTS)
async def test_what_is_not_in_the_table_is_refused(asker: Asker) -> None:
    error = await asker.be_refused({"max_token": 5})
    assert (error["param"], error["code"]) == ("max_token", "unknown_parameter")
    assert await asker.ask(asker.few | {"max_token": None})
