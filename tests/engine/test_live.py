"""Live requests on the built-in engines, by the clients that people use, unmodified, sync and async."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import together

from tests.support.server_process import BackfillServer

pytestmark = pytest.mark.engine

KEY = "live-key"
MODEL = "team/asked-for"
MESSAGES: list[Any] = [{"role": "user", "content": "Count from one to five."}]
TOKENS = 8


@pytest.fixture(scope="module", params=["openvino", "llamacpp"])
def server(request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = {
        "models_dir": str(models_dir),
        "server__api_keys": f'["{KEY}"]',
        "engines__small": f'{{ kind = "{request.param}", concurrency = 4 }}',
    }
    if request.param == "llamacpp":
        settings["engines__small"] = '{ kind = "llamacpp", slots = 2, context_tokens = 1024 }'
    with BackfillServer(tmp_path_factory.mktemp("live"), **settings) as running:
        yield running


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["server"])


@pytest.fixture
def client(server: BackfillServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as opened:
        yield opened


def ask(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0} | more


def test_openai_whole_and_stream_say_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ask())
    assert whole.model == MODEL
    assert whole.usage is not None
    assert whole.usage.completion_tokens == TOKENS
    chunks = list(client.chat.completions.create(**ask(stream=True, stream_options={"include_usage": True})))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == TOKENS
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["length"]


def test_openai_completions(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "One, two,", "max_tokens": TOKENS, "temperature": 0}
    whole = client.completions.create(**asked)
    events = client.completions.create(**asked, stream=True)
    assert "".join(choice.text for event in events for choice in event.choices) == whole.choices[0].text


async def test_openai_async_side_by_side(server: BackfillServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/openai/v1", api_key=KEY, max_retries=0) as client:

        async def stream() -> str:
            chunks = await client.chat.completions.create(**ask(stream=True))
            return "".join([choice.delta.content or "" async for chunk in chunks for choice in chunk.choices])

        texts = await asyncio.gather(*(stream() for _ in range(4)))
    assert all(texts)


def test_together_whole_and_stream(server: BackfillServer) -> None:
    with together.Together(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        whole = client.chat.completions.create(**ask())
        chunks = list(client.chat.completions.create(**ask(stream=True)))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content


async def test_together_async(server: BackfillServer) -> None:
    client = together.AsyncTogether(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    chunks = await client.chat.completions.create(**ask(stream=True))
    assert [chunk async for chunk in chunks]
    await client.close()


def test_a_client_that_stops_reading_frees_its_place(server: BackfillServer, client: openai.OpenAI) -> None:
    # More of them than the engine computes side by side: the last could not begin if the first went on.
    for _ in range(6):
        stream = client.chat.completions.create(**ask(stream=True, max_tokens=900, extra_body={"ignore_eos": True}))
        assert next(iter(stream)).choices
        stream.close()
    assert client.chat.completions.create(**ask()).choices


def test_choices_are_streamed_too(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ask(stream=True, n=2)))
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


def test_a_forced_call_is_streamed(client: openai.OpenAI) -> None:
    function = {"name": "note", "parameters": {"type": "object", "properties": {"word": {"enum": ["red"]}}}}
    function["parameters"] |= {"required": ["word"], "additionalProperties": False}  # type: ignore[operator]
    more = {"tools": [{"type": "function", "function": function}], "tool_choice": "required", "max_tokens": 60}
    chunks = list(client.chat.completions.create(**ask(stream=True, **more)))
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.function and call.function.name) for call in calls] == [(0, "note")]


def test_responses_whole_and_as_events(client: openai.OpenAI, kind: str) -> None:
    asked: dict[str, Any] = {"model": MODEL, "input": "Count to five.", "max_output_tokens": 16, "temperature": 0}
    if kind == "openvino":
        with pytest.raises(openai.NotFoundError, match="served here at"):
            client.responses.create(**asked)
        return
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == whole.output_text


def test_what_the_engine_refuses_and_who_is_not_let_in(server: BackfillServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**ask(temperature=-1))
    assert refused.value.param == "temperature"
    opened = openai.OpenAI(base_url=f"{server.url}/v1", api_key="other", max_retries=0)
    with opened as stranger, pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(**ask(stream=True))
