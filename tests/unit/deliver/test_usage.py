"""A batch's row says what it used from the write on that ends it, however it ends, and the answers say the same."""

import json
from pathlib import Path

import pytest

from backfill.app import Rooms
from backfill.batch import Batch, BatchProblem, State, UsageRow
from backfill.journal import Progress
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_line
from tests.support.rooms import OWNER, create_batch, open_house, read_results, wait_for_batch

MODELS = ("a", "b", None)


def lines_of(count: int) -> bytes:
    return b"".join(request_line(number, model=MODELS[number % 3]) + b"\n" for number in range(count))


def fold_of_output(rooms: Rooms, batch: Batch) -> dict[str, list[int]]:
    """Model -> answers, tokens in and out, as the output file says."""
    sums: dict[str, list[int]] = {}
    for line in map(json.loads, read_results(rooms, batch.output_file_id)):
        number = int(line["custom_id"].removeprefix("request-"))
        usage = line["response"]["body"]["usage"]
        for place, value in enumerate((1, usage["prompt_tokens"], usage["completion_tokens"])):
            sums.setdefault(MODELS[number % 3] or "b", [0, 0, 0])[place] += value
    return sums


def fold_of_rows(rows: tuple[UsageRow, ...]) -> dict[str, list[int]]:
    sums: dict[str, list[int]] = {}
    for row in rows:
        for place, value in enumerate((row.answered, row.usage.prompt_tokens, row.usage.completion_tokens)):
            sums.setdefault(row.model, [0, 0, 0])[place] += value
    return {model: values for model, values in sums.items() if any(values)}


@pytest.mark.parametrize("state", [State.COMPLETED, State.CANCELLED, State.EXPIRED, State.FAILED])
async def test_usage_is_written_with_every_end(tmp_path: Path, state: State) -> None:
    with NullEngine() as engine:
        engine.behave(faults={marker_of(1): ["422"]})
        async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
            if state is not State.COMPLETED:
                # The last four hang for ever.
                engine.behave(faults={marker_of(1): ["422"], **{marker_of(n): ["hang"] for n in range(8, 12)}})
            created = await create_batch(rooms, lines_of(12), model_id="b")
            if state is not State.COMPLETED:
                await wait_for_done(rooms, created, 8)
                await end(rooms, created, state)
            batch = await wait_for_batch(rooms, created.id)
            assert batch.state is state
            assert fold_of_rows(batch.usage) == fold_of_output(rooms, batch) != {}
            assert sum(row.failed for row in batch.usage) == 1
            assert (await rooms.progress.measure(batch)).usage == batch.usage


async def wait_for_done(rooms: Rooms, batch: Batch, done: int) -> None:
    while True:
        standing = await rooms.progress.measure(await rooms.metadata.get_batch(batch.id))
        if standing.counts.done == done:
            break
    # What a batch used so far is told while it runs.
    assert sum(row.answered + row.failed for row in standing.usage) == done
    assert {row.model for row in standing.usage} == {"a", "b"}


async def end(rooms: Rooms, batch: Batch, state: State) -> None:
    if state is State.CANCELLED:
        await rooms.turns.cancel(batch.id, OWNER)
    elif state is State.EXPIRED:
        assert await rooms.metadata.change_batch(batch.id, values={"deadline_at_ms": 1})
    else:
        current = await rooms.metadata.get_batch(batch.id)
        assert await rooms.turns.fail(current, BatchProblem("input_lost", "gone"))


async def test_progress_names_the_batchs_model_while_the_index_cannot_be_read(tmp_path: Path) -> None:
    with NullEngine() as engine:
        async with open_house(tmp_path, engine.url) as rooms:
            batch = await wait_for_batch(rooms, (await create_batch(rooms, lines_of(3), model_id="b")).id)
            rooms.blobs.remove_all([f"files/{batch.input_file_id}/index"], f"files/{batch.input_file_id}")
            progress = Progress(rooms.blobs)
            running = Batch(
                **{name: getattr(batch, name) for name in batch.__struct_fields__} | {"state": State.IN_PROGRESS}
            )
            standing = await progress.measure(running)
            progress.close()
            assert {row.model for row in standing.usage} == {"b"}
            assert standing.counts.usage == batch.counts.usage
