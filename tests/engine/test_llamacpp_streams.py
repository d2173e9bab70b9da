"""llama.cpp's streams come out as its whole answers do, and a call that is given up frees its slot at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio

from backfill.config import LlamaCppEngineConfig
from backfill.engines import Answered, EngineClient, LlamaCppReplica, Refused
from tests.engine.member_examples import HONOURED, make_base

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
DEADLINE_S = 30.0
OF_THE_MOMENT: Final = ("id", "created", "created_at", "completed_at", "timings")
END: Final = {"logit_bias": {"2": 100, "0": 100}}
CUT: Final = {"grammar": 'root ::= "ab" [😀-😂]+', "max_tokens": 3}
SPLIT: Final = {"grammar": 'root ::= "a" "😀é\\n\\t" "bc"', "max_tokens": 40}
EXAMPLES: Final[list[tuple[str, str, dict[str, Any]]]] = [
    (endpoint, name, example.members)
    for endpoint in (CHAT, COMPLETIONS, RESPONSES)
    for name, example in HONOURED[endpoint].items()
]
ODD: Final[list[tuple[str, str, dict[str, Any]]]] = [
    (CHAT, "ends at once", END),
    (COMPLETIONS, "ends at once", END),
    (CHAT, "cut within a character", CUT),
    (COMPLETIONS, "cut within a character", CUT),
    (COMPLETIONS, "cut behind a character", CUT | {"max_tokens": 4}),
    (CHAT, "a character of many tokens", SPLIT),
    (COMPLETIONS, "a character of many tokens", SPLIT),
    (COMPLETIONS, "its logprobs", SPLIT | {"logprobs": 2}),
    (COMPLETIONS, "logprobs of one that ends by itself", {"grammar": 'root ::= "yes"', "logprobs": 2}),
    (CHAT, "logprobs of one that ends by itself", {"grammar": 'root ::= "yes"', "logprobs": True}),
    (CHAT, "ends within what might be a stop string", {"grammar": 'root ::= "yes ab"', "stop": ["abc"]}),
    (COMPLETIONS, "ends within what might be a stop string", {"grammar": 'root ::= "yes ab"', "stop": ["abc"]}),
    (COMPLETIONS, "several prompts, several choices", {"prompt": ["one", "two"], "n": 2}),
    (CHAT, "longer than the context", {"messages": [{"role": "user", "content": "word " * 2000}]}),
    (CHAT, "a grammar that is none", {"grammar": "root ::= ["}),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCppReplica]:
    config = LlamaCppEngineConfig(slots=2, context_tokens=512)
    async with EngineClient(request_timeout_s=60) as client:
        log_dir = tmp_path_factory.mktemp("log")
        replica = LlamaCppReplica("local", config, client, models_dir=models_dir, log_dir=log_dir)
        await replica.start()
        yield replica
        await replica.stop()


def strip(answer: Any) -> bytes:
    """The answer as bytes without what differs from call to call."""
    members = {name: value for name, value in answer.items() if name not in OF_THE_MOMENT}
    for item in members.get("output", ()):
        item["id"] = item["call_id"] = None
    for choice in members.get("choices", ()):
        for call in choice.get("message", {}).get("tool_calls", ()):
            call["id"] = None
    # What of the prompt a slot had already depends on what it did before.
    for name in ("prompt_tokens_details", "input_tokens_details"):
        members.get("usage", {}).pop(name, None)
    return msgspec.json.encode(members)


async def ask(replica: LlamaCppReplica, endpoint: str, body: bytes, *, is_streamed: bool) -> tuple[bytes, list[str]]:
    """Status and body, and in which order the members stand."""
    replica._is_streamed = is_streamed
    reply = await replica.send(endpoint, body)
    assert isinstance(reply, (Answered, Refused)), reply
    answer = msgspec.json.decode(reply.body)
    usage = reply.usage if isinstance(reply, Answered) else None
    counted = None if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    return str((reply.status, counted, strip(answer))).encode(), list(answer)


@pytest.mark.parametrize(("endpoint", "name", "members"), EXAMPLES + ODD, ids=lambda value: str(value)[-40:])
async def test_a_stream_comes_out_as_the_whole_answer(
    replica: LlamaCppReplica, endpoint: str, name: str, members: dict[str, Any]
) -> None:
    body = msgspec.json.encode(make_base(endpoint) | {"seed": 3} | members)
    whole = await ask(replica, endpoint, body, is_streamed=False)
    assert await ask(replica, endpoint, body, is_streamed=True) == whole, name
    assert replica._is_streamed


@pytest.mark.parametrize(
    ("endpoint", "members", "gives_way"),
    [
        (CHAT, {}, True),
        (COMPLETIONS, {"logprobs": 2}, True),
        (RESPONSES, {}, True),
        (CHAT, {"n": 3}, True),
        (CHAT, {"stop": "a"}, False),
        (CHAT, {"logprobs": True}, False),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "wait"}}]}, False),
        (CHAT, {"messages": []}, False),
    ],
)
async def test_what_gives_way(
    replica: LlamaCppReplica, endpoint: str, members: dict[str, Any], gives_way: bool
) -> None:
    judge = replica.limits.gives_way
    assert judge is not None
    assert judge(endpoint, msgspec.json.encode(make_base(endpoint) | members)) is gives_way


async def test_a_call_that_is_given_up_frees_its_slot_while_others_go_on(replica: LlamaCppReplica) -> None:
    replica._is_streamed = True
    body = msgspec.json.encode(make_base(CHAT) | {"max_tokens": 400, "ignore_eos": True})

    async def until_running(count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while (await replica.read_gauges()).running != count:
                await asyncio.sleep(0.02)

    first, second = (asyncio.create_task(replica.send(CHAT, body)) for _ in range(2))
    await until_running(2)
    second.cancel()
    await until_running(1)
    assert not first.done()
    first.cancel()
    await until_running(0)
    for call in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await call
