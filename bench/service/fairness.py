"""A small batch beside a giant one of another owner: its time over its time alone, through the whole dispatcher.

The null engine keeps each answer back for a while, so that it has a capacity that can be shared; rooms, database, disk
and HTTP are the real ones.
"""

import asyncio
import time
from pathlib import Path

from backfill.app import Rooms, open_rooms, working
from backfill.batch import File, FileStatus, State
from backfill.config import load_config
from backfill.intake import new_file_id
from backfill.turns import BatchRequest, now_ms
from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.input_file import make_line
from bench.null.process import NullEngine

__all__ = ["measure_fairness"]

_REPEATS = 5
_GIANT_LINES = 50_000
_SMALL_LINES = 50
_CONCURRENCY = 8
_DELAY_MS = 100.0
# So long the giant has been worked on when the small one comes.
_HEAD_START_S = 5.0
_LOOK_S = 1.0
_ENDPOINT = "/v1/chat/completions"


def measure_fairness(setting: Setting, findings: Findings) -> None:
    """Alone and beside the giant, side by side."""
    asyncio.run(_measure(setting, findings, setting.make_folder()))


async def _measure(setting: Setting, findings: Findings, folder: Path) -> None:
    with NullEngine(delay_ms=_DELAY_MS) as engine:
        engines = {"null": {"url": engine.url, "concurrency": _CONCURRENCY}}
        overrides = {"data_dir": str(folder / "data"), "engines": engines}
        config = load_config(environment={}, overrides=overrides)
        async with open_rooms(config) as rooms, working(rooms):
            repeats = setting.count_repeats(_REPEATS)
            # How many at once suit the engine is found by the first batch, before anything is measured.
            await _run_small(rooms)
            alone_s = [await _run_small(rooms) for _ in range(repeats)]
            file_id = await _upload(rooms, "large", setting.scale(_GIANT_LINES))
            giant = await rooms.turns.create(BatchRequest("large", _ENDPOINT, file_id))
            await asyncio.sleep(_HEAD_START_S)
            for number in range(repeats):
                beside_s = await _run_small(rooms)
                findings.add(fair_small_batch_ratio=beside_s / alone_s[number], fair_small_batch_s=beside_s)
                tell(f"fairness, run {number + 1}: {alone_s[number]:.2f} s alone, {beside_s:.2f} s beside the giant")
            if (await rooms.metadata.get_batch(giant.id)).state is not State.IN_PROGRESS:
                findings.violations.append("fairness: the giant ended before the small batches did")
            await rooms.turns.cancel(giant.id, "large")


async def _run_small(rooms: Rooms) -> float:
    """Seconds from the creation of a small batch to its end."""
    file_id = await _upload(rooms, "small", _SMALL_LINES)
    bell = rooms.turns.subscribe()
    started_s = time.perf_counter()
    batch = await rooms.turns.create(BatchRequest("small", _ENDPOINT, file_id))
    async with asyncio.timeout(BATCH_TIMEOUT_S):
        while not (batch := await rooms.metadata.get_batch(batch.id)).state.is_final:
            await bell.wait(_LOOK_S)
    return time.perf_counter() - started_s


async def _upload(rooms: Rooms, owner: str, lines: int) -> str:
    """The id of a new file."""
    upload = rooms.intake.begin(new_file_id())
    try:
        for line in range(lines):
            await upload.feed(make_line(line))
        draft = File(
            id=upload.file_id,
            owner=owner,
            filename="input.jsonl",
            purpose="batch-api",
            status=FileStatus.RESERVED,
            created_at_ms=now_ms(),
        )
        return (await upload.seal(draft)).id
    finally:
        upload.abort()
