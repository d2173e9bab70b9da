"""The built-in engine with `deterministic` as an oracle: a batch is the same bytes as one request after the other.

Whatever the order of the lines, the number in flight, shared prefixes and crashes in between, each line's answer has
to be what the engine says to that request alone. An answer under a wrong custom id, a line that was cut or one that
was mixed with another cannot hide behind "models differ from run to run" here.
"""

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from backfill.app import Rooms
from backfill.batch import State
from backfill.engines import Answered
from tests.support.client import Client
from tests.support.rooms import create_batch, open_house, read_results, wait_for_batch
from tests.support.server_process import BackfillServer

pytestmark = pytest.mark.engine
ENGINE = {"kind": "openvino", "deterministic": True, "kv_cache_gb": 1}
ENDPOINT = "/v1/chat/completions"
# Long enough to be, at two of its lengths, the beginning of several prompts that an engine computes once.
PREFIXES = [f"You sort messages for team {team}. " + "Answer with one word of the list. " * 18 for team in "AB"]


def bodies() -> list[dict[str, Any]]:
    """Shared and distinct prompts, short and longer answers, one with a seed and one asked for twice."""
    requests: list[dict[str, Any]] = []
    for number in range(14):
        system = PREFIXES[number % 2]
        user = f"Message {number}: the printer on floor {number} is {'broken' if number % 3 else 'slow'}."
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        requests.append({"messages": messages, "max_tokens": 4})
    for number in range(8):
        messages = [{"role": "user", "content": f"Write a line about the number {number * 7}."}]
        requests.append({"messages": messages, "max_tokens": 8 + 4 * number})
    requests.append(requests[-1])
    requests = [{"model": "m", "temperature": 0} | request for request in requests]
    requests[3] = requests[3] | {"temperature": 0.8, "seed": 7}
    return requests


def lines(numbers: list[int]) -> bytes:
    requests = bodies()
    each = (json.dumps({"custom_id": str(number), "body": requests[number]}) for number in numbers)
    return "\n".join(each).encode()


def texts_of(results: list[bytes]) -> dict[int, str]:
    decoded = [json.loads(line) for line in results]
    return {int(line["custom_id"]): line["response"]["body"]["choices"][0]["message"]["content"] for line in decoded}


async def ask_one_by_one(rooms: Rooms) -> dict[int, str]:
    (replica,) = rooms.fleet.replicas
    await replica.start()
    texts = {}
    for number, body in enumerate(bodies()):
        reply = await replica.send(ENDPOINT, json.dumps(body).encode())
        assert isinstance(reply, Answered), reply
        texts[number] = json.loads(reply.body)["choices"][0]["message"]["content"]
    return texts


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    async def ask() -> dict[int, str]:
        folder = tmp_path_factory.mktemp("oracle")
        async with open_house(folder, "", engines={"local": ENGINE | {"concurrency": 1}}) as rooms:
            return await ask_one_by_one(rooms)

    texts = asyncio.run(ask())
    assert len(set(texts.values())) > 8, "too few different answers to tell lines apart"
    return texts


@pytest.mark.timeout(300)
@pytest.mark.parametrize("concurrency", [1, 5, 32])
async def test_a_batch_in_any_order_is_what_each_line_gets_alone(
    oracle: dict[int, str], tmp_path: Path, concurrency: int
) -> None:
    numbers = list(range(len(oracle)))
    random.Random(concurrency).shuffle(numbers)
    async with open_house(tmp_path, "", engines={"local": ENGINE | {"concurrency": concurrency}}) as rooms:
        created = await create_batch(rooms, lines(numbers))
        batch = await wait_for_batch(rooms, created.id, timeout_s=240)
        assert (batch.state, batch.counts.answered) == (State.COMPLETED, len(oracle))
        assert batch.counts.reused == 1
        results = read_results(rooms, batch.output_file_id)
    assert [json.loads(line)["custom_id"] for line in results] == [str(number) for number in numbers]
    assert texts_of(results) == oracle


@pytest.mark.timeout(300)
def test_a_batch_whose_server_is_killed_twice_is_what_each_line_gets_alone(
    oracle: dict[int, str], tmp_path: Path
) -> None:
    settings = {
        "engines__local__kind": "openvino",
        "engines__local__deterministic": "true",
        "engines__local__kv_cache_gb": "1",
        "engines__local__concurrency": "3",
    }
    with BackfillServer(tmp_path, **settings) as server:
        client = Client(server)
        batch_id = client.create(client.upload(lines(list(range(len(oracle))))))
        for done in (4, 12):
            wait_for_answers(client, batch_id, done)
            server.kill()
            server.start()
        wait_for_answers(client, batch_id, len(oracle))
        batch = client.wait_for_end(batch_id)
        results = client.download(batch["output_file_id"])
    assert texts_of(results) == oracle


def wait_for_answers(client: Client, batch_id: str, count: int) -> None:
    deadline = time.monotonic() + 120
    while client.retrieve(batch_id)["request_counts"]["completed"] < count:
        assert time.monotonic() < deadline, f"fewer than {count} lines were answered in time"
        time.sleep(0.02)
