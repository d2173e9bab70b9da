"""A batch on the real built-in engine, and the death of that engine in its midst."""

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backfill.api_key import Caller
from backfill.app import Rooms
from backfill.batch import State
from backfill.engines import LlamaCppReplica
from backfill.live import Traffic
from tests.support.media import png
from tests.support.rooms import create_batch, open_house, read_results, wait_for_batch
from tests.unit.web.relaying import Seen, open_relayed, open_worker

pytestmark = pytest.mark.engine
LINES = 24


@asynccontextmanager
async def open_live(rooms: Rooms, *, is_passed_on: bool) -> AsyncIterator[Traffic]:
    """Live requests as these rooms answer them, or as a process without engines passes them on to these rooms."""
    if not is_passed_on:
        yield rooms.live
        return
    async with open_worker(rooms) as worker, open_relayed(rooms, Seen([worker])) as app:
        yield app.state.services.live


def chat_lines(count: int) -> bytes:
    """Short questions, as Together's guide asks them."""
    lines = []
    for number in range(count):
        body: dict[str, Any] = {
            "model": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
            "messages": [{"role": "user", "content": f"Count to {number + 3}."}],
            "max_tokens": 24,
            "temperature": 0,
        }
        lines.append(json.dumps({"custom_id": f"request-{number}", "body": body}))
    return "\n".join(lines).encode()


@pytest.mark.timeout(300)
async def test_the_engine_is_killed_in_mid_batch_and_the_batch_completes(tmp_path: Path) -> None:
    engines = {"local": {"kind": "llamacpp", "slots": 4, "threads": 1}}
    async with open_house(tmp_path, "", engines=engines) as rooms:
        (replica,) = rooms.fleet.replicas
        assert isinstance(replica, LlamaCppReplica)
        created = await create_batch(rooms, chat_lines(LINES))
        async with asyncio.timeout(120):
            while (await rooms.progress.count(await rooms.metadata.get_batch(created.id))).done < 5:
                await asyncio.sleep(0.02)
        killed = replica.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        batch = await wait_for_batch(rooms, created.id, timeout_s=120)
        assert batch.state is State.COMPLETED
        assert (batch.counts.answered, batch.counts.failed) == (LINES, 0)
        assert replica.pid != killed
        lines = [json.loads(line) for line in read_results(rooms, batch.output_file_id)]
        assert [line["custom_id"] for line in lines] == [f"request-{number}" for number in range(LINES)]
        assert all(line["response"]["body"]["choices"][0]["message"]["content"] for line in lines)
        assert sum(line["response"]["body"]["usage"]["completion_tokens"] for line in lines) == (
            batch.counts.usage.completion_tokens
        )
    assert replica.pid is None


@pytest.mark.timeout(300)
async def test_a_prompt_over_the_context_is_one_refused_line(tmp_path: Path) -> None:
    long_prompt = json.dumps(
        {"custom_id": "long", "body": {"model": "m", "messages": [{"role": "user", "content": "word " * 3000}]}}
    )
    async with open_house(
        tmp_path, "", engines={"local": {"kind": "llamacpp", "slots": 2, "context_tokens": 512, "threads": 1}}
    ) as rooms:
        created = await create_batch(rooms, chat_lines(2) + b"\n" + long_prompt.encode())
        batch = await wait_for_batch(rooms, created.id, timeout_s=120)
        assert (batch.counts.answered, batch.counts.failed) == (2, 1)
        (error,) = [json.loads(line) for line in read_results(rooms, batch.error_file_id)]
        assert error["custom_id"] == "long"
        assert "context" in error["error"]["message"]


@pytest.mark.timeout(300)
async def test_the_responses_endpoint_is_answered_and_counted(tmp_path: Path) -> None:
    line = {"custom_id": "r", "body": {"model": "m", "input": "Say hello.", "max_output_tokens": 8}}
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{base64.b64encode(png()).decode()}"}
    seeing = {"model": "m", "input": [{"role": "user", "content": [picture]}]}
    data = json.dumps(line) + "\n" + json.dumps({"custom_id": "image", "body": seeing})
    async with open_house(tmp_path, "", engines={"local": {"kind": "llamacpp", "slots": 2, "threads": 1}}) as rooms:
        created = await create_batch(rooms, data.encode(), endpoint="/v1/responses")
        batch = await wait_for_batch(rooms, created.id, timeout_s=120)
        assert (batch.counts.answered, batch.counts.failed) == (1, 1)
        assert batch.counts.usage.completion_tokens > 0
        (answer,) = [json.loads(each) for each in read_results(rooms, batch.output_file_id)]
        assert answer["response"]["body"]["object"] == "response"
        (error,) = [json.loads(each) for each in read_results(rooms, batch.error_file_id)]
        assert "takes no pictures" in error["error"]["message"], error


@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_passed_on", [False, True], ids=["answered here", "passed on to a worker"])
async def test_a_live_request_gets_the_slot_of_the_youngest_line_which_is_then_answered_all_the_same(
    tmp_path: Path, is_passed_on: bool
) -> None:
    tokens = 300
    body = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": tokens, "ignore_eos": True, "seed": 1}
    lines = [json.dumps({"custom_id": f"r{n}", "body": {"model": "m"} | body | {"seed": n}}) for n in range(4)]
    asked = json.dumps({"model": "m"} | body | {"max_tokens": 4, "stream": True}).encode()
    async with open_house(tmp_path, "", engines={"local": {"kind": "llamacpp", "slots": 2}}) as rooms:
        created = await create_batch(rooms, "\n".join(lines).encode())
        async with asyncio.timeout(120):
            while rooms.dispatcher.replica_statuses[0].in_flight < 2:
                await asyncio.sleep(0.02)
            async with open_live(rooms, is_passed_on=is_passed_on) as live:
                request = live.check("/v1/chat/completions", asked)
                answer = await live.open(Caller("o"), "/v1/chat/completions", request, asked)
                told = b""
                while piece := await answer.read():
                    told += piece
                answer.close()
        assert told.endswith(b"data: [DONE]\n\n")
        (status,) = rooms.dispatcher.replica_statuses
        assert (status.preempted, status.answered) == (1, 0)
        batch = await wait_for_batch(rooms, created.id, timeout_s=120)
        assert (batch.counts.answered, batch.counts.failed) == (4, 0)
        answers = [json.loads(each) for each in read_results(rooms, batch.output_file_id)]
        assert [each["custom_id"] for each in answers] == ["r0", "r1", "r2", "r3"]
        assert {each["response"]["body"]["usage"]["completion_tokens"] for each in answers} == {tokens}
