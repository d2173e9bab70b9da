"""A call that a request forces, on real engines: one of several functions, and a function without parameters."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from backfill.config import LlamaCppEngineConfig, OpenVinoEngineConfig
from backfill.engines import Answered, EngineClient, LlamaCppReplica, OpenVinoReplica
from tests.engine.member_examples import CHAT, FUNCTION, OTHER_FUNCTION

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["openvino", "llamacpp"])
async def replica(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[OpenVinoReplica | LlamaCppReplica]:
    places = {"models_dir": models_dir, "log_dir": tmp_path_factory.mktemp("log")}
    async with EngineClient(request_timeout_s=60) as client:
        made: OpenVinoReplica | LlamaCppReplica
        if request.param == "openvino":
            made = OpenVinoReplica("local", OpenVinoEngineConfig(threads=1), client, **places)
        else:
            made = LlamaCppReplica(
                "local", LlamaCppEngineConfig(slots=1, context_tokens=512, threads=1), client, **places
            )
        try:
            await made.start()
            yield made
        finally:
            await made.stop()


async def call(replica: OpenVinoReplica | LlamaCppReplica, functions: list[dict[str, Any]], choice: Any) -> Any:
    body = {
        "messages": [{"role": "user", "content": "Paint the wall red."}],
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": choice,
        "temperature": 0,
        "max_tokens": 80,
    }
    reply = await replica.send(CHAT, msgspec.json.encode(body))
    assert isinstance(reply, Answered), reply
    (choice,) = msgspec.json.decode(reply.body)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (made,) = choice["message"]["tool_calls"]
    return made["function"]["name"], msgspec.json.decode(made["function"]["arguments"])


async def test_one_of_several_functions_is_called(replica: OpenVinoReplica | LlamaCppReplica) -> None:
    name, arguments = await call(replica, [FUNCTION, OTHER_FUNCTION], "required")
    assert (name, arguments) in (("paint", {"colour": "red"}), ("paint", {"colour": "blue"}), ("wait", {}))


async def test_a_function_without_parameters_is_called(replica: OpenVinoReplica | LlamaCppReplica) -> None:
    named = {"type": "function", "function": {"name": "wait"}}
    assert await call(replica, [FUNCTION, OTHER_FUNCTION], named) == ("wait", {})
