"""The OpenVINO host with a real model, spawned as its parent spawns it and asked over HTTP."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import openvino
import openvino_genai
import pytest
import pytest_asyncio

from backfill.config import DEFAULT_MODEL
from backfill.engines.host_process import KEY_VARIABLE
from backfill.engines.models.catalogue import find_model
from backfill.engines.openvino.host.pipeline import Call, EngineFailed, Prompt, Scheduler
from backfill.engines.openvino.host.text import TextStream
from backfill.engines.openvino.messages import HostSettings, Ready
from tests.engine.exercise_engine import list_open_paths

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CONCURRENCY, CONTEXT_TOKENS = 4, 512
DEADLINE_S = 60.0
KEY = "the key of this test"
HEADERS = {"Authorization": f"Bearer {KEY}"}
HELLO = [{"role": "user", "content": "Say hello."}]


@contextmanager
def spawned(model: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Ready]]:
    settings = HostSettings(
        model=str(model),
        alias="smol",
        concurrency=CONCURRENCY,
        context_tokens=CONTEXT_TOKENS,
        kv_cache_gb=0,
        threads=1,
        deterministic=True,
    )
    command = [sys.executable, "-m", "backfill.engines.openvino.host", msgspec.json.encode(settings).decode()]
    environment = os.environ | {KEY_VARIABLE: KEY}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        try:
            yield child, msgspec.json.decode(child.stdout.readline(), type=Ready)
        finally:
            child.kill()


@pytest.fixture(scope="module")
def ready(models_dir: Path) -> Iterator[Ready]:
    with spawned(find_model(DEFAULT_MODEL, models_dir)) as (_, ready):
        assert not ready.error
        yield ready


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(ready: Ready) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(ready.url, timeout=timeout, headers=HEADERS) as session:
        yield session


async def ask(session: aiohttp.ClientSession, path: str = CHAT, **members: Any) -> tuple[int, Any]:
    prompt = {"messages": HELLO} if path == CHAT else {}
    body = {"model": "m", "temperature": 0, "max_tokens": 8} | prompt | members
    async with session.post(path, json=body) as response:
        return response.status, msgspec.json.decode(await response.read())


async def answer(session: aiohttp.ClientSession, path: str = CHAT, **members: Any) -> Any:
    status, body = await ask(session, path, **members)
    assert status == 200, body
    return body


async def text_of(session: aiohttp.ClientSession, **members: Any) -> str:
    return str((await answer(session, **members))["choices"][0]["message"]["content"])


async def read_metric(session: aiohttp.ClientSession, name: str) -> float:
    async with session.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"openvino:{name} "))


async def until_gauge(session: aiohttp.ClientSession, name: str, value: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await read_metric(session, name) != value:
            await asyncio.sleep(0.01)


async def test_nobody_else_gets_in(ready: Ready) -> None:
    for key in ("", "wrong", KEY.upper()):
        assert await list_open_paths(ready.url, key) == ["GET /health"]
    assert "POST /v1/chat/completions" in await list_open_paths(ready.url, KEY)


async def test_chat(session: aiohttp.ClientSession) -> None:
    got = await answer(session, ignore_eos=True, max_tokens=5)
    assert (got["model"], got["object"]) == ("m", "chat.completion")
    assert got["choices"][0]["message"]["role"] == "assistant"
    assert got["choices"][0]["finish_reason"] == "length"
    assert got["usage"]["completion_tokens"] == 5
    assert got["usage"]["total_tokens"] == got["usage"]["prompt_tokens"] + 5


async def test_text_parts_are_one_text(session: aiohttp.ClientSession) -> None:
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": " hello."}]
    assert await text_of(session, messages=[{"role": "user", "content": parts}]) == await text_of(session)


async def test_prompts_of_all_kinds(session: aiohttp.ClientSession) -> None:
    texts = ["One, two,", "Red, green,"]
    both = await answer(session, COMPLETIONS, prompt=texts)
    alone = [await answer(session, COMPLETIONS, prompt=text) for text in texts]
    assert [choice["text"] for choice in both["choices"]] == [one["choices"][0]["text"] for one in alone]
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    assert both["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)
    tokens = await answer(session, COMPLETIONS, prompt=[5248, 19556])
    assert tokens["usage"]["prompt_tokens"] == 2


async def test_an_answer_does_not_depend_on_what_is_computed_beside_it(session: aiohttp.ClientSession) -> None:
    asks = [[{"role": "user", "content": f"Tell me {i} things about the number {i * 7}."}] for i in range(12)]
    side_by_side = await asyncio.gather(*(text_of(session, messages=ask, max_tokens=24) for ask in asks))
    one_by_one = [await text_of(session, messages=ask, max_tokens=24) for ask in asks]
    assert side_by_side == one_by_one


async def test_choices_have_seeds_of_their_own(session: aiohttp.ClientSession) -> None:
    first = await answer(session, n=3, temperature=1, seed=5, ignore_eos=True)
    again = await answer(session, n=3, temperature=1, seed=5, ignore_eos=True)
    assert first["choices"] == again["choices"]
    assert len({choice["message"]["content"] for choice in first["choices"]}) == 3
    alone = await answer(session, temperature=1, seed=6, ignore_eos=True)
    assert alone["choices"][0]["message"] == first["choices"][1]["message"]
    assert first["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert first["usage"]["completion_tokens"] == 24


async def test_without_a_seed_answers_differ(session: aiohttp.ClientSession) -> None:
    texts = {await text_of(session, temperature=1.5, max_tokens=16) for _ in range(3)}
    assert len(texts) > 1


async def test_text_ends_before_the_stop_string(session: aiohttp.ClientSession) -> None:
    whole = await text_of(session, max_tokens=16)
    inside = whole[4:9]
    got = await answer(session, max_tokens=16, stop=inside, logprobs=True)
    assert got["choices"][0]["message"]["content"] == whole[: whole.index(inside)]
    assert got["choices"][0]["finish_reason"] == "stop"
    tokens = got["choices"][0]["logprobs"]["content"]
    assert sum(len(token["bytes"]) for token in tokens[:-1]) < whole.index(inside)


async def test_log_probs_are_of_the_tokens_of_the_text(session: aiohttp.ClientSession) -> None:
    got = (await answer(session, logprobs=True))["choices"][0]
    tokens = got["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == got["message"]["content"]
    assert all(token["logprob"] <= 0 and token["top_logprobs"] == [] for token in tokens)
    columns = (await answer(session, COMPLETIONS, prompt="One, two,", logprobs=0))["choices"][0]["logprobs"]
    assert len(columns["tokens"]) == len(columns["token_logprobs"]) == 8


@pytest.mark.parametrize("stop", [None, "creative", "! I"])
async def test_a_stream_tells_the_same(session: aiohttp.ClientSession, stop: str | None) -> None:
    members: dict[str, Any] = {"max_tokens": 16, "stop": stop}
    want = await answer(session, **members)
    body = {"messages": HELLO, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}} | members
    async with session.post(CHAT, json=body) as response:
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    *chunks, last = [msgspec.json.decode(event.removeprefix("data: ")) for event in events[:-2]]
    pieces = [chunk["choices"][0] for chunk in chunks]
    assert pieces[0]["delta"]["role"] == "assistant"
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == want["choices"][0]["message"]["content"]
    assert pieces[-1]["finish_reason"] == want["choices"][0]["finish_reason"]
    assert (last["choices"], last["usage"]) == ([], want["usage"])


async def test_grammars_are_followed(session: aiohttp.ClientSession) -> None:
    assert await text_of(session, guided_regex="(yes|no)") in ("yes", "no")
    assert set(await text_of(session, structured_outputs={"regex": "[xyz]{5}"})) <= set("xyz")
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema | {"additionalProperties": False}}}
    got = msgspec.json.decode(await text_of(session, response_format=form, max_tokens=64))
    assert got in ({"a": "x"}, {"a": "y"})


async def test_a_bad_grammar_harms_nobody_else(session: aiohttp.ClientSession) -> None:
    good = asyncio.create_task(text_of(session, max_tokens=24))
    await until_gauge(session, "requests_running", 1)
    for members in ({"guided_regex": "(yes|no"}, {"guided_json": {"type": "objekt"}}):
        status, body = await ask(session, **members)
        assert status == 400
        assert body["error"]["param"] == next(iter(members))
        assert "cannot be followed" in body["error"]["message"]
    assert await good == await text_of(session, max_tokens=24)


@pytest.mark.parametrize(
    ("path", "members", "param"),
    [
        (CHAT, {"messages": None}, "messages"),
        (CHAT, {"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        (CHAT, {"temperature": -1}, "temperature"),
        (CHAT, {"top_p": 0}, "top_p"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"n": "two"}, "n"),
        (CHAT, {"top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"logit_bias": {"5": 1}}, "logit_bias"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        (CHAT, {"tool_choice": "required"}, "tool_choice"),
        (CHAT, {"response_format": {"type": "yaml"}}, "response_format.type"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (CHAT, {"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        (CHAT, {"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
        (COMPLETIONS, {}, "prompt"),
        (COMPLETIONS, {"prompt": ""}, "prompt"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt"),
        (COMPLETIONS, {"prompt": [10**7]}, "prompt"),
        (COMPLETIONS, {"prompt": "a", "logprobs": 2}, "logprobs"),
        (COMPLETIONS, {"prompt": "a", "echo": True}, "echo"),
        (COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix"),
    ],
)
async def test_refusals(session: aiohttp.ClientSession, path: str, members: dict[str, Any], param: str) -> None:
    status, body = await ask(session, path, **members)
    assert status == 400
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"] == param
    assert body["error"]["message"]


async def test_what_is_not_json_is_refused(session: aiohttp.ClientSession) -> None:
    for body in (b"{", b"[]", b"\xff"):
        async with session.post(CHAT, data=body) as response:
            assert response.status == 400
    async with session.post("/v1/nowhere", data=b"{}") as response:
        assert response.status == 404
        assert "error" in msgspec.json.decode(await response.read())


async def test_the_context_bounds_prompt_and_answer(session: aiohttp.ClientSession) -> None:
    status, body = await ask(session, max_tokens=CONTEXT_TOKENS)
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
    assert f"{CONTEXT_TOKENS} tokens" in body["error"]["message"]
    status, body = await ask(session, COMPLETIONS, prompt=[5248] * (CONTEXT_TOKENS + 1))
    assert (status, body["error"]["param"]) == (400, "prompt")
    prompt = [5248] * (CONTEXT_TOKENS - 6)
    rest = await answer(session, COMPLETIONS, prompt=prompt, max_tokens=None, ignore_eos=True)
    assert rest["usage"]["completion_tokens"] == 6


async def test_the_status_comes_with_the_first_token_and_a_hang_up_frees_the_place(
    session: aiohttp.ClientSession, ready: Ready
) -> None:
    body = {"messages": HELLO, "n": CONCURRENCY, "max_tokens": 400, "ignore_eos": True}
    computed_before = await read_metric(session, "completion_tokens_total")
    async with aiohttp.ClientSession(ready.url, headers=HEADERS) as other:
        response = await other.post(CHAT, json=body)
        assert response.status == 200
        # The answer is not complete: every place is still taken.
        await until_gauge(session, "requests_running", CONCURRENCY)
        second = asyncio.create_task(ask(session))
        await until_gauge(session, "requests_waiting", 1)
        assert not second.done()
        response.close()
    assert (await second)[0] == 200
    await until_gauge(session, "requests_running", 0)
    computed = await read_metric(session, "completion_tokens_total") - computed_before
    assert computed < CONCURRENCY * 400


async def test_models_and_health(session: aiohttp.ClientSession, ready: Ready) -> None:
    assert ready.context_tokens == CONTEXT_TOKENS
    async with session.get("/v1/models") as response:
        assert msgspec.json.decode(await response.read())["data"][0]["id"] == "smol"
    async with session.get("/health") as response:
        assert response.status == 200


async def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"no model")
    for path, words in ((wrong, "not a GGUF file"), (tmp_path / "missing.gguf", "No such file")):
        with spawned(path) as (child, ready):
            assert words in ready.error
            assert await asyncio.to_thread(child.wait, DEADLINE_S) == 1


async def test_sigterm_and_the_end_of_stdin_end_it(models_dir: Path) -> None:
    with spawned(find_model(DEFAULT_MODEL, models_dir)) as (child, _):
        os.kill(child.pid, signal.SIGTERM)
        assert await asyncio.to_thread(child.wait, DEADLINE_S) == 0
    with spawned(find_model(DEFAULT_MODEL, models_dir)) as (child, _):
        assert child.stdin is not None
        child.stdin.close()
        assert await asyncio.to_thread(child.wait, DEADLINE_S) == 0


class FakeOutput:
    def __init__(self, *, last: bool) -> None:
        reasons = openvino_genai.GenerationFinishReason
        self.generated_ids, self.generated_log_probs = [1], [0.0]
        self.finish_reason = reasons.STOP if last else reasons.NONE


class FakePipeline:
    """Two tokens for each request, one a step; tells who was computed together."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        self.requests: dict[int, FakeHandle] = {}
        self.breaks = False

    def add_request(self, number: int, _tensor: object, _config: object) -> "FakeHandle":
        self.requests[number] = FakeHandle()
        return self.requests[number]

    def has_non_finished_requests(self) -> bool:
        return any(handle.left for handle in self.requests.values())

    def step(self) -> None:
        if self.breaks:
            raise RuntimeError("at source.cpp:1:\nout of order")
        self.steps.append([number for number, handle in self.requests.items() if handle.left])


class FakeHandle:
    def __init__(self) -> None:
        self.left = 2

    def can_read(self) -> bool:
        return self.left > 0

    def read(self) -> dict[int, FakeOutput]:
        self.left -= 1
        return {0: FakeOutput(last=not self.left)}

    def cancel(self) -> None:
        self.left = 0


def make_call(tokens: list[int], *, is_live: bool = False) -> Call:
    call = Call(is_live=is_live)
    call.add(Prompt(openvino.Tensor(np.array([tokens], dtype=np.int64))), None)
    return call


async def test_one_goes_ahead_of_those_whose_prompts_begin_alike() -> None:
    pipeline = FakePipeline()
    scheduler = Scheduler(pipeline, concurrency=8)
    alike, other = [7] * 300, [8] * 300
    calls = [make_call(tokens) for tokens in (alike, alike, alike, other, [7] * 10)]
    for call in calls:
        scheduler.submit(call)
    work = asyncio.create_task(scheduler.run())
    await asyncio.gather(*(call.wait_end() for call in calls))
    # 1 leads, 2 is the other's leader, 3 is short; those held come with the next step.
    assert pipeline.steps[:2] == [[1, 2, 3], [1, 2, 3, 4, 5]]
    late = [make_call(alike) for _ in range(2)]
    for call in late:
        scheduler.submit(call)
    await asyncio.gather(*(call.wait_end() for call in late))
    assert pipeline.steps[-1] == [6, 7]
    work.cancel()


async def test_a_live_request_goes_first_and_has_its_step_without_prompts_of_batches() -> None:
    pipeline = FakePipeline()
    scheduler = Scheduler(pipeline, concurrency=3)
    batch = [make_call([1] * 100) for _ in range(4)]
    live = [make_call([2] * 100, is_live=True) for _ in range(2)]
    for call in (*batch, *live):
        scheduler.submit(call)
    work = asyncio.create_task(scheduler.run())
    await asyncio.gather(*(call.wait_end() for call in (*batch, *live)))
    # Then one prompt of a batch a step, as far as there are places.
    assert pipeline.steps[0] == [1, 2]
    assert [len(step) for step in pipeline.steps[1:3]] == [3, 2]
    # Batches have all places; it finds one all the same.
    more = [make_call([3]) for _ in range(3)]
    for call in more:
        scheduler.submit(call)
    await asyncio.gather(*(call.wait_begin() for call in more))
    late = make_call([4], is_live=True)
    scheduler.submit(late)
    await late.wait_begin()
    assert len(pipeline.steps[-1]) == 4
    work.cancel()


async def test_a_live_request_that_waits_for_a_leader_holds_nobody_else_up() -> None:
    pipeline = FakePipeline()
    scheduler = Scheduler(pipeline, concurrency=4)
    leader, other, live = make_call([7] * 300), make_call([8] * 10), make_call([7] * 300, is_live=True)
    scheduler.submit(leader)
    work = asyncio.create_task(scheduler.run())
    await asyncio.sleep(0)
    for call in (live, other):
        scheduler.submit(call)
    await asyncio.gather(*(call.wait_end() for call in (leader, other, live)))
    assert pipeline.steps[0] == [1]
    scheduler.cancel(live)
    assert scheduler.waiting == 0
    work.cancel()


async def test_a_live_request_that_is_given_up_waits_no_more() -> None:
    scheduler = Scheduler(FakePipeline(), concurrency=4)
    live = make_call([1], is_live=True)
    scheduler.submit(live)
    assert scheduler.waiting == 1
    scheduler.cancel(live)
    assert scheduler.waiting == 0


async def test_a_cancelled_leader_holds_nobody() -> None:
    pipeline = FakePipeline()
    scheduler = Scheduler(pipeline, concurrency=1)
    first, second, third = (make_call(tokens) for tokens in ([1], [7] * 300, [7] * 300))
    for call in (first, second, third):
        scheduler.submit(call)
    scheduler.cancel(second)
    work = asyncio.create_task(scheduler.run())
    await third.wait_end()
    assert not second.ended
    work.cancel()


async def test_all_know_when_the_engine_breaks_down() -> None:
    pipeline = FakePipeline()
    pipeline.breaks = True
    scheduler = Scheduler(pipeline, concurrency=1)
    calls = [make_call([1]), make_call([2])]
    for call in calls:
        scheduler.submit(call)
    with pytest.raises(EngineFailed, match="The engine failed: out of order"):
        await scheduler.run()
    for call in calls:
        with pytest.raises(EngineFailed):
            await call.wait_begin()


async def test_a_stream_never_gives_out_part_of_a_character_or_of_a_stop_string() -> None:
    pieces = ["a", "b", "\ufffd", "é", "S", "T", "x", "S", "TOP", "y"]

    def decode(tokens: list[int]) -> str:
        text = "".join(pieces[token] for token in tokens)
        return text.replace("\ufffdé", "é")

    stream = TextStream(decode, ["STOP"])
    given = [stream.add([token]) for token in range(len(pieces))]
    assert given == ["a", "b", "", "é", "", "", "STx", "", "", ""]
    assert stream.close() == ""


async def test_a_long_stream_is_whole() -> None:
    stream = TextStream(lambda tokens: "".join(f"{token} " for token in tokens), ["7 8 x"])
    given = [stream.add([token]) for token in range(500)]
    assert "".join(given) + stream.close() == "".join(f"{token} " for token in range(500))
