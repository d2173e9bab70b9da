"""The limit of enqueued tokens, through the rooms: checked when a batch is made, and given back as lines finish."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill.app import Rooms
from backfill.batch import State
from backfill.errors import InvalidInput, LimitReached
from backfill.turns import Attempt, BatchRequest
from bench.null.process import NullEngine
from tests.support.lines import request_line, request_lines
from tests.support.rooms import OWNER, create_batch, open_house, seal, wait_for_batch

CHAT = "/v1/chat/completions"
LINES = 10
# Of each of these lines some 20 tokens of the prompt and 256 of the answer.
FITS_ONCE = LINES * 300
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


async def read_enqueued(rooms: Rooms) -> dict[str, int]:
    return dict(await rooms.quota.measure())


async def test_a_batch_reserves_and_its_end_gives_back(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url, limits__enqueued_tokens=FITS_ONCE) as rooms:
        first = await create_batch(rooms, request_lines(LINES))
        assert first.reserved["m"].lines == LINES
        assert first.reserved["m"].completion_tokens == LINES * 256
        await wait_for_batch(rooms, first.id, State.COMPLETED)
        assert await read_enqueued(rooms) == {}
        await wait_for_batch(rooms, (await create_batch(rooms, request_lines(LINES))).id, State.COMPLETED)


async def test_over_the_limit_a_batch_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async with open_house(tmp_path, NOWHERE, limits__enqueued_tokens=FITS_ONCE) as rooms:
        first = await create_batch(rooms, request_lines(LINES))
        taken = first.reserved["m"].left(0)
        with pytest.raises(LimitReached) as refused:
            await create_batch(rooms, request_lines(LINES))
        assert refused.value.code == "token_limit_exceeded"
        for number in (taken, FITS_ONCE):
            assert f"{number:,}" in refused.value.message
        # By when there is room: the deadline of the batch before it.
        assert "T" in refused.value.message.partition("by ")[2]
        assert len(await rooms.metadata.list_batches(OWNER, limit=10)) == 1
        assert await read_enqueued(rooms) == {"m": taken}
        await rooms.turns.cancel(first.id, OWNER)
        await create_batch(rooms, request_lines(LINES))


async def test_other_models_have_their_own_room(tmp_path: Path) -> None:
    async with open_house(tmp_path, NOWHERE, limits__enqueued_tokens=FITS_ONCE) as rooms:
        await create_batch(rooms, request_lines(LINES))
        await create_batch(rooms, b"\n".join(request_line(number, model="n") for number in range(LINES)))


async def test_a_batch_larger_than_the_limit_is_told_so_at_once(tmp_path: Path) -> None:
    async with open_house(tmp_path, NOWHERE, limits__enqueued_tokens=100) as rooms:
        with pytest.raises(InvalidInput, match=r"Split the file") as refused:
            await create_batch(rooms, request_lines(LINES))
        assert refused.value.code == "token_limit_exceeded"


async def test_the_same_request_again_is_no_second_reservation(tmp_path: Path) -> None:
    async with open_house(tmp_path, NOWHERE, limits__enqueued_tokens=FITS_ONCE) as rooms:
        file = await seal(rooms.intake, request_lines(LINES))
        request = BatchRequest(OWNER, CHAT, file.id, attempt=Attempt("digest", "my-key"))
        first = await rooms.turns.create(request)
        assert (await rooms.turns.create(request)).id == first.id
        assert await read_enqueued(rooms) == {"m": first.reserved["m"].left(0)}


async def test_of_many_at_once_as_many_get_in_as_fit(tmp_path: Path) -> None:
    async with open_house(tmp_path, NOWHERE, limits__enqueued_tokens=5 * FITS_ONCE) as rooms:
        file = await seal(rooms.intake, request_lines(LINES))
        requests = [rooms.turns.create(BatchRequest(OWNER, CHAT, file.id)) for _ in range(20)]
        made = await asyncio.gather(*requests, return_exceptions=True)
        needed = (await rooms.metadata.list_batches(OWNER, limit=1))[0].reserved["m"].left(0)
        fit = 5 * FITS_ONCE // needed
        assert sum(isinstance(each, LimitReached) for each in made) == 20 - fit
        assert await read_enqueued(rooms) == {"m": fit * needed}
