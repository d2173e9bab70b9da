"""The log tells the end of a batch as it was."""

import asyncio
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from backfill.batch import State
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_line, request_lines
from tests.support.rooms import OWNER, create_batch, open_house, wait_for_batch


async def test_every_end_leaves_one_line_with_status_and_counts(tmp_path: Path) -> None:
    with NullEngine() as engine, capture_logs() as entries:
        engine.behave(faults={marker_of(1): ["422"]})
        async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
            completed = await create_batch(rooms, request_lines(3))
            await wait_for_batch(rooms, completed.id)
            engine.behave(hold=True)
            cancelled = await create_batch(rooms, request_lines(2))
            await wait_for_batch(rooms, cancelled.id, State.IN_PROGRESS)
            await rooms.turns.cancel(cancelled.id, OWNER)
            rejected = await create_batch(rooms, b'{"secret": "word", "body": {}}\n' + request_line(1))
            expired = await create_batch(rooms, request_line(2))
            await wait_for_batch(rooms, expired.id, State.IN_PROGRESS)
            assert await rooms.metadata.change_batch(expired.id, values={"deadline_at_ms": 1})
            await asyncio.gather(*(wait_for_batch(rooms, each.id) for each in (cancelled, rejected, expired)))
            engine.behave(hold=False)
    ends = [entry for entry in entries if entry["event"] == "batch ended"]
    told = {entry["batch"]: entry for entry in ends}
    assert len(ends) == len(told) == 4

    def facts(batch_id: str) -> tuple[Any, ...]:
        return tuple(told[batch_id][name] for name in ("status", "total", "answered", "failed"))

    assert facts(completed.id) == ("completed", 3, 2, 1)
    assert facts(cancelled.id) == ("cancelled", 2, 0, 2)
    assert facts(expired.id) == ("expired", 1, 0, 1)
    assert facts(rejected.id)[0] == "failed"
    assert told[rejected.id]["problems"] >= 1
    assert told[rejected.id]["codes"]
    assert "secret" not in str(told[rejected.id])
