"""Dispatch and delivery against a real engine process: what is tried again, what is reported, what is kept."""

import asyncio
import errno
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backfill.app import Rooms
from backfill.batch import Batch, State
from backfill.turns import setbacks
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_line, request_lines
from tests.support.rooms import OWNER, create_batch, open_house, read_results, wait_for_batch, wait_until


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def outputs(rooms: Rooms, batch: Batch) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_results(rooms, batch.output_file_id)]


def errors(rooms: Rooms, batch: Batch) -> dict[str, dict[str, str]]:
    lines = (json.loads(line) for line in read_results(rooms, batch.error_file_id))
    return {line["custom_id"]: line["error"] for line in lines}


def received(engine: NullEngine) -> Counter[str]:
    return Counter(engine.markers("received"))


async def test_every_line_is_answered_once_in_input_order(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        created = await create_batch(rooms, request_lines(300))
        batch = await wait_for_batch(rooms, created.id)
        assert batch.state is State.COMPLETED
        assert [line["custom_id"] for line in outputs(rooms, batch)] == [f"request-{n}" for n in range(300)]
        assert batch.error_file_id is None
        assert (batch.counts.total, batch.counts.answered, batch.counts.failed) == (300, 300, 0)
        assert batch.counts.usage.prompt_tokens > 0
        assert set(received(engine).values()) == {1}


@pytest.mark.parametrize("fault", ["500", "503", "429:0.05", "429", "close", "garbage"])
async def test_a_lost_request_is_tried_again(engine: NullEngine, tmp_path: Path, fault: str) -> None:
    engine.behave(faults={marker_of(3): [fault, fault], marker_of(4): [fault]})
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(6))).id)
        assert (batch.counts.answered, batch.error_file_id) == (6, None)
        assert received(engine)[marker_of(3)] == 3
        assert received(engine)[marker_of(4)] == 2


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("500", "server_error"),
        ("close", "connection_lost"),
        ("garbage", "invalid_engine_answer"),
    ],
)
async def test_after_the_last_try_the_loss_is_reported(
    engine: NullEngine, tmp_path: Path, fault: str, code: str
) -> None:
    engine.behave(faults={marker_of(1): [fault] * 9})
    async with open_house(tmp_path, engine.url, dispatch__tries=3) as rooms:
        batch = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(3))).id)
        assert batch.state is State.COMPLETED
        assert received(engine)[marker_of(1)] == 3
        error = errors(rooms, batch)["request-1"]
        assert error["code"] == code
        assert "given up after 3 tries" in error["message"]
        assert (batch.counts.answered, batch.counts.failed) == (2, 1)


async def test_a_time_out_is_tried_again_and_then_reported(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(1): ["hang"] * 2})
    async with open_house(tmp_path, engine.url, dispatch__tries=2, dispatch__request_timeout_s=0.3) as rooms:
        batch = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(3))).id)
        assert errors(rooms, batch)["request-1"]["code"] == "timeout"


async def test_a_refusal_is_not_tried_again(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(2): ["400", "ok"]})
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(4))).id)
        assert received(engine)[marker_of(2)] == 1
        assert list(errors(rooms, batch)) == ["request-2"]
        assert [line["custom_id"] for line in outputs(rooms, batch)] == ["request-0", "request-1", "request-3"]


async def test_retry_after_holds_the_whole_engine_back(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(0): ["429:0.4"]})
    engines = {"null": {"url": engine.url, "concurrency": 1}}
    async with open_house(tmp_path, engine.url, engines=engines) as rooms:
        await wait_for_batch(rooms, (await create_batch(rooms, request_lines(5))).id)
        events = [(event, marker, at) for event, marker, at in engine.log() if event in ("received", "answered")]
        first_answer = next(at for event, marker, at in events if event == "answered" and marker == marker_of(0))
        later = [at for event, _, at in events if event == "received" and at > first_answer]
        assert len(later) == 5
        assert min(later) - first_answer >= 0.4e9


async def test_a_pretty_printed_answer_becomes_one_line(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(0): ["pretty"]})
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(2))).id)
        assert [line["custom_id"] for line in outputs(rooms, batch)] == ["request-0", "request-1"]


async def test_a_model_that_nobody_serves_is_refused_line_by_line(engine: NullEngine, tmp_path: Path) -> None:
    data = request_line(0) + b"\n" + request_line(1, model="nobody/knows") + b"\n"
    engines = {"null": {"url": engine.url, "models": ["m"]}}
    async with open_house(tmp_path, engine.url, engines=engines) as rooms:
        batch = await wait_for_batch(rooms, (await create_batch(rooms, data)).id)
        error = errors(rooms, batch)["request-1"]
        assert error["code"] == "invalid_model"
        assert '"nobody/knows"' in error["message"]
        assert "m" in error["message"]
        assert len(outputs(rooms, batch)) == 1
        assert sum(received(engine).values()) == 1


async def test_a_line_without_model_goes_to_the_batchs_model(engine: NullEngine, tmp_path: Path) -> None:
    engines = {"null": {"url": engine.url, "models": ["m"]}}
    async with open_house(tmp_path, engine.url, engines=engines) as rooms:
        created = await create_batch(rooms, request_line(0, model=None) + b"\n", model_id="m")
        batch = await wait_for_batch(rooms, created.id)
        assert (batch.counts.answered, batch.counts.failed) == (1, 0)


async def test_an_engine_that_is_down_costs_no_line_a_try(engine: NullEngine, tmp_path: Path) -> None:
    port, url = engine.port, engine.url
    engine.kill()
    async with open_house(tmp_path, url, dispatch__tries=1) as rooms:
        created = await create_batch(rooms, request_lines(5))
        await wait_until(
            lambda: "null" in rooms.dispatcher.troubles and rooms.dispatcher.troubles["null"] != "starting"
        )
        with NullEngine(port=port):
            batch = await wait_for_batch(rooms, created.id)
        assert (batch.counts.answered, batch.counts.failed) == (5, 0)
        assert rooms.dispatcher.troubles == {}


async def test_a_cancel_keeps_what_is_done_and_names_the_rest(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        engine.behave(faults={marker_of(number): ["hang"] * 9 for number in range(10, 40)})
        created = await create_batch(rooms, request_lines(40))
        await engine.wait_for_async(lambda stats: stats["answered"] == 10 and stats["in_flight"] == 8)
        await rooms.turns.cancel(created.id, OWNER)
        batch = await wait_for_batch(rooms, created.id)
        assert batch.state is State.CANCELLED
        assert [line["custom_id"] for line in outputs(rooms, batch)] == [f"request-{n}" for n in range(10)]
        rest = errors(rooms, batch)
        assert list(rest) == [f"request-{n}" for n in range(10, 40)]
        assert {error["code"] for error in rest.values()} == {"batch_cancelled"}
        assert (batch.counts.answered, batch.counts.failed) == (10, 30)
        # The connections are closed, so that the engine need not work for nobody.
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 0)


async def test_a_cancel_waits_for_what_is_in_flight(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=30.0) as rooms:
        created = await create_batch(rooms, request_lines(40))
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 8)
        await rooms.turns.cancel(created.id, OWNER)
        engine.behave(hold=False)
        batch = await wait_for_batch(rooms, created.id)
        # Nothing that an engine has begun is thrown away.
        assert batch.counts.answered == sum(received(engine).values()) >= 8


async def test_at_the_deadline_the_rest_is_reported_as_expired(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(
        tmp_path, engine.url, dispatch__cancel_grace_s=0.0, limits__window_h=0.5 / 3600, limits__window_min_h=0.0001
    ) as rooms:
        engine.behave(faults={marker_of(number): ["hang"] * 9 for number in range(5, 20)})
        created = await create_batch(rooms, request_lines(20))
        batch = await wait_for_batch(rooms, created.id)
        assert batch.state is State.EXPIRED
        done = {line["custom_id"] for line in outputs(rooms, batch)}
        rest = errors(rooms, batch)
        assert done | set(rest) == {f"request-{n}" for n in range(20)}
        assert not done & set(rest)
        assert {error["code"] for error in rest.values()} == {"batch_expired"}


async def test_a_stopped_server_goes_on_where_it_was(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["hang"] for number in range(20, 60)})
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        created = await create_batch(rooms, request_lines(60))
        await engine.wait_for_async(lambda stats: stats["answered"] == 20 and stats["in_flight"] == 8)
    engine.behave(faults={})
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, created.id)
        assert [line["custom_id"] for line in outputs(rooms, batch)] == [f"request-{n}" for n in range(60)]
        counted = received(engine)
        assert all(counted[marker_of(number)] == 1 for number in range(20))
        assert sum(counted.values()) <= 60 + 8


async def test_batches_with_the_earlier_deadline_go_first(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    engines = {"null": {"url": engine.url, "concurrency": 1}}
    async with open_house(tmp_path, engine.url, engines=engines) as rooms:
        slow = await create_batch(rooms, request_lines(10), completion_window="24h")
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 1)
        urgent_lines = b"".join(request_line(100 + number) + b"\n" for number in range(5))
        urgent = await create_batch(rooms, urgent_lines, completion_window="1h")
        async with asyncio.timeout(20):
            while (await rooms.metadata.get_batch(urgent.id)).epoch == 0:
                await asyncio.sleep(0.01)
        # The turn is taken; the lines are offered once the journal is replayed.
        await wait_until(lambda: len(list((tmp_path / "blobs" / "journals").glob(f"{urgent.id}/*"))) == 1)
        await asyncio.sleep(0.1)
        engine.behave(hold=False)
        await wait_for_batch(rooms, slow.id)
        order = engine.markers("received")
        assert order[1:6] == [marker_of(100 + number) for number in range(5)]


async def test_two_engines_share_one_batch(tmp_path: Path) -> None:
    with NullEngine(delay_ms=5) as first, NullEngine(delay_ms=5) as second:
        engines = {
            "first": {"url": first.url, "concurrency": 4, "models": {"m": "one"}},
            "second": {"url": second.url, "concurrency": 4, "models": ["m"]},
        }
        async with open_house(tmp_path, first.url, engines=engines) as rooms:
            batch = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(200))).id)
            assert batch.counts.answered == 200
            counts = received(first) + received(second)
            assert set(counts.values()) == {1}
            assert min(sum(received(each).values()) for each in (first, second)) > 20


async def test_an_input_that_cannot_be_read_for_a_moment_costs_nothing(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setbacks, "_PAUSE_S", 0.01)
    failures = iter(range(1, 4))
    pread = os.pread

    def fail_first(descriptor: int, length: int, offset: int) -> bytes:
        if offset > 0 and Path(f"/proc/self/fd/{descriptor}").readlink().name == "content" and next(failures, None):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, length, offset)

    async with open_house(tmp_path, engine.url) as rooms:
        monkeypatch.setattr(os, "pread", fail_first)
        batch = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(40))).id)
        assert next(failures, None) is None, "no read failed"
        assert (batch.state, batch.counts.answered) == (State.COMPLETED, 40)
        assert set(received(engine).values()) == {1}
