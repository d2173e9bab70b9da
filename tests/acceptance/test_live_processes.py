"""Live requests at two processes without engines, which pass them on to two workers: a client sees one server."""

import asyncio
import functools
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.company import Company
from tests.support.lines import request_lines
from tests.support.live_engine import LiveEngine, Received
from tests.support.machines import Machines, RemoteStore

KEY = "sk-of-both-processes"
CHAT = "/v1/chat/completions"
MODEL = "any-model"
SETTINGS: dict[str, Any] = {"server__api_keys": json.dumps([KEY])}
_POLL_S = 0.02


class House:
    """The processes, and the engine of each worker."""

    def __init__(self, company: Company, engines: list[LiveEngine]) -> None:
        self.company = company
        self.engines = engines
        self._received = asyncio.Queue[tuple[int, Received]]()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[openai.AsyncOpenAI]:
        """Of the process whose turn it is."""
        async with openai.AsyncOpenAI(base_url=f"{self.company.url}/v1", api_key=KEY, max_retries=0) as client:
            yield client

    async def ask(self, method: str, path: str, url: str = "", **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(base_url=url or self.company.url, timeout=30, trust_env=False) as client:
            return await client.request(method, path, headers={"authorization": f"Bearer {KEY}"}, **options)

    async def ask_each(self, path: str) -> list[Any]:
        return [(await self.ask("GET", path, api.url)).json() for api in self.company.apis]

    async def receive(self) -> tuple[int, Received]:
        """The next request since `answer_by_hand`, and at which engine it is."""
        async with asyncio.timeout(30):
            return await self._received.get()

    def answer_with(self, *pieces: bytes, content_type: str = "application/json") -> None:
        """Every engine says this from now on."""

        def answer(received: Received) -> None:
            for piece in pieces:
                received.send(piece)
            received.end()

        for engine in self.engines:
            engine.headers, engine.on_request = {"Content-Type": content_type}, answer

    def answer_by_hand(self) -> None:
        """What becomes of requests is said where they are received."""
        self._received = asyncio.Queue[tuple[int, Received]]()
        for number, engine in enumerate(self.engines):
            engine.headers = {"Content-Type": "text/event-stream"}
            engine.on_request = functools.partial(lambda at, each: self._received.put_nowait((at, each)), number)


async def wait_for(holds: Callable[[], Any]) -> None:
    """Return once what `holds` gives, awaited, is so."""
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(_POLL_S)


@pytest.fixture(params=["one machine", pytest.param("several machines", marks=pytest.mark.scale)])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    async with LiveEngine(MODEL) as first, LiveEngine(MODEL) as second:
        urls = [first.url, second.url]
        if request.param == "one machine":
            company = Company(tmp_path / "data", urls, **SETTINGS)
        else:
            postgres, objects = (request.getfixturevalue(name) for name in ("postgres", "object_server"))
            store = RemoteStore(postgres, objects, f"live_{uuid.uuid4().hex}")
            company = Machines(tmp_path, urls, store, **SETTINGS)
        # Engines answer in this loop while the processes start.
        await asyncio.to_thread(company.__enter__)
        opened = House(company, [first, second])
        try:
            await wait_for(opened_by_both(opened))
            yield opened
        finally:
            await asyncio.to_thread(company.__exit__, None, None, None)


def opened_by_both(house: House) -> Callable[[], Any]:
    async def look() -> bool:
        return all(len(told["data"]) == 2 for told in await house.ask_each("/v1/engines"))

    return look


def event(text: str) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    told = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


MESSAGES: Any = [{"role": "user", "content": "hi"}]


async def test_whole_answers_through_both_processes(house: House) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    said = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    house.answer_with(json.dumps(said).encode())
    for _ in house.company.apis:
        async with house.client() as client:
            answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
            assert answer.choices[0].message.content == "hello"
    vectors = {"object": "list", "model": MODEL, "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}
    house.answer_with(json.dumps(vectors).encode())
    for _ in house.company.apis:
        async with house.client() as client:
            found = await client.embeddings.create(model=MODEL, input="hi", encoding_format="float")
            assert found.data[0].embedding == [0.5]
            assert MODEL in {model.id async for model in client.models.list()}
    for path in ("/v1/completions", "/v1/responses"):
        house.answer_with(b'{"odd" : 1.0}')
        answered = await house.ask("POST", path, json={"model": MODEL})
        assert (answered.status_code, answered.content) == (200, b'{"odd" : 1.0}')


async def test_a_stream_comes_as_the_engine_sends_it(house: House) -> None:
    house.answer_by_hand()
    for _ in house.company.apis:
        async with house.client() as client:
            asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
            _, received = await house.receive()
            stream = aiter(await asking)
            for word in ("one", "two", "three"):
                # The next one is not sent before this one is here.
                received.send(event(word))
                assert (await anext(stream)).choices[0].delta.content == word
            received.send(b"data: [DONE]\n\n")
            received.end()
            assert [chunk async for chunk in stream] == []


async def test_two_requests_at_one_process_go_to_two_workers(house: House) -> None:
    house.answer_by_hand()
    url = house.company.url
    asked = [asyncio.create_task(house.ask("POST", CHAT, url, json={"model": MODEL}))]
    first, received = await house.receive()
    asked.append(asyncio.create_task(house.ask("POST", CHAT, url, json={"model": MODEL})))
    second, also_received = await house.receive()
    assert {first, second} == {0, 1}
    for each in (received, also_received):
        each.end()
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]


async def test_a_client_that_goes_ends_the_engines_work_behind_two_processes(house: House) -> None:
    house.answer_by_hand()
    asking = asyncio.create_task(house.ask("POST", CHAT, json={"model": MODEL, "stream": True}))
    _, received = await house.receive()
    asking.cancel()
    async with asyncio.timeout(30):
        await received.cancelled.wait()


async def test_a_worker_is_killed_in_mid_stream_and_the_other_one_answers_from_then_on(house: House) -> None:
    house.answer_by_hand()
    async with house.client() as client:
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
        number, received = await house.receive()
        stream = aiter(await asking)
        received.send(event("one"))
        assert (await anext(stream)).choices[0].delta.content == "one"
        await asyncio.to_thread(house.company.workers[number].kill)
        with pytest.raises(openai.APIError, match="connection"):
            await anext(stream)
    house.answer_with(b"{}")
    asked = house.engines[number].received.qsize()
    # At once, while the dead one is still taken to live; and with both processes.
    for api in house.company.apis * 2:
        assert (await house.ask("POST", CHAT, api.url, json={"model": MODEL})).status_code == 200
    assert house.engines[number].received.qsize() == asked
    # When it is back it answers again.
    await asyncio.to_thread(house.company.workers[number].start)
    house.company.workers[1 - number].kill()
    await wait_for(answers(house))
    assert house.engines[number].received.qsize() > asked


def answers(house: House) -> Callable[[], Any]:
    async def ask() -> bool:
        return (await house.ask("POST", CHAT, json={"model": MODEL})).status_code == 200

    return ask


async def test_a_request_whose_worker_dies_before_it_answers_is_answered_by_the_other(house: House) -> None:
    for engine in house.engines:
        engine.holds_head = True
    house.answer_by_hand()
    asking = asyncio.create_task(house.ask("POST", CHAT, json={"model": MODEL}))
    number, _ = await house.receive()
    await asyncio.to_thread(house.company.workers[number].kill)
    other, received = await house.receive()
    assert other == 1 - number
    received.send(b"{}")
    received.end()
    answered = await asking
    assert (answered.status_code, answered.content) == (200, b"{}")


async def test_workers_see_live_requests_as_such_and_lines_leave_room(house: House) -> None:
    house.answer_by_hand()
    form: dict[str, Any] = {"data": {"purpose": "batch-api"}, "files": {"file": ("input.jsonl", request_lines(40))}}
    file_id = (await house.ask("POST", "/v1/files", **form)).json()["id"]
    body = {"endpoint": CHAT, "input_file_id": file_id}
    batch_id = (await house.ask("POST", "/v1/batches", json=body)).json()["job"]["id"]
    lines = [(await house.receive())[1]]
    asking = [asyncio.create_task(house.ask("POST", CHAT, json={"model": MODEL, "stream": True})) for _ in range(4)]

    async def is_told() -> bool:
        """Every process tells of the live requests, and of what they leave to the worker's lines."""
        told = [each["data"] for each in await house.ask_each("/v1/engines")]
        return all(
            sum(engine["live_in_flight"] for engine in engines) == 4
            and any(engine["batch_limit"] is not None for engine in engines)
            for engines in told
        )

    await wait_for(is_told)
    said = b'{"object":"chat.completion","choices":[{"message":{"content":"x"}}]}'
    live: list[Received] = []
    while len(live) < len(asking):
        _, received = await house.receive()
        (lines if b"marker-" in received.body else live).append(received)
    for received in live:
        received.end()
    assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * len(asking)
    house.answer_with(said)
    for received in lines:
        received.send(said)
        received.end()

    async def has_ended() -> bool:
        return bool((await house.ask("GET", f"/v1/batches/{batch_id}")).json()["status"] == "COMPLETED")

    await wait_for(has_ended)


async def test_without_a_living_worker_it_says_so(house: House) -> None:
    for worker in house.company.workers:
        await asyncio.to_thread(worker.terminate)

    async def is_told() -> bool:
        told = await house.ask_each("/v1/models")
        return all(each["data"] == [] if isinstance(each, dict) else each == [] for each in told)

    await wait_for(is_told)
    for api in house.company.apis:
        answered = await house.ask("POST", CHAT, api.url, json={"model": MODEL})
        assert answered.status_code == 503
        assert answered.headers["retry-after"]
        error = answered.json()["error"]
        assert error["code"] == "engine_unavailable"
        assert "No process with engines" in error["message"]


async def test_both_processes_keep_one_limit_of_a_key(house: House) -> None:
    house.answer_with(b"{}")
    per_minute = 60
    draft = {"name": "limited", "limits": {"requests_per_minute": per_minute}}
    made = (await house.ask("POST", "/v1/organization/admin_api_keys", json=draft)).json()
    headers = {"authorization": f"Bearer {made['value']}"}
    first, second = (api.url for api in house.company.apis)

    async def ask(url: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            return await client.post(CHAT, json={"model": MODEL}, headers=headers)

    async def is_known() -> bool:
        return (await ask(second)).status_code == 200

    await wait_for(is_known)
    # What one lets in the other one hears of.
    told = int((await ask(second)).headers["x-ratelimit-remaining-requests"])

    async def is_heard() -> bool:
        return int((await ask(first)).headers["x-ratelimit-remaining-requests"]) < told

    await wait_for(is_heard)
    loop = asyncio.get_running_loop()
    began_s, answered = loop.time(), 0
    for _ in range(per_minute):
        statuses = [answer.status_code for answer in await asyncio.gather(ask(first), ask(second))]
        assert set(statuses) <= {200, 429}
        answered += statuses.count(200)
    flowed = per_minute * (loop.time() - began_s) / 60
    # Each for itself would have let in all of a minute's; together one, and what either let in before it heard.
    assert answered <= 1.5 * per_minute + flowed
    assert (await ask(first)).status_code == (await ask(second)).status_code == 429
