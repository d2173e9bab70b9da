"""The rooms in this process, on a folder of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from backfill.app import Rooms, open_rooms, working
from backfill.batch import Batch, File, FileStatus, State
from backfill.config import load_config
from backfill.intake import Intake, new_file_id
from backfill.turns import BatchRequest, now_ms

__all__ = ["OWNER", "create_batch", "open_house", "read_results", "seal", "wait_for_batch", "wait_until"]

OWNER = "0" * 24
_POLL_S = 0.01


@asynccontextmanager
async def open_house(data_dir: Path, engine_url: str, **settings: Any) -> AsyncIterator[Rooms]:
    """All rooms, at work, with one external engine; `settings` are dotted keys with `__` for the dot."""
    overrides: dict[str, Any] = {
        "data_dir": str(data_dir),
        "dispatch.backoff_s": 0.01,
        "dispatch.backoff_max_s": 0.05,
        "dispatch.cancel_grace_s": 5.0,
        "engines": {"null": {"url": engine_url, "concurrency": 8}},
    }
    overrides |= {name.replace("__", "."): value for name, value in settings.items()}
    async with open_rooms(load_config(environment={}, overrides=overrides)) as rooms, working(rooms):
        yield rooms


async def seal(
    intake: Intake,
    data: bytes,
    *,
    piece_bytes: int = 1 << 16,
    purpose: str = "batch-api",
    filename: str = "input.jsonl",
    owner: str = OWNER,
) -> File:
    """Receive `data` as a new file."""
    upload = intake.begin(new_file_id())
    try:
        for start in range(0, len(data), piece_bytes):
            await upload.feed(data[start : start + piece_bytes])
        draft = File(
            id=upload.file_id,
            owner=owner,
            filename=filename,
            purpose=purpose,
            status=FileStatus.RESERVED,
            created_at_ms=now_ms(),
        )
        return await upload.seal(draft)
    finally:
        upload.abort()


async def create_batch(rooms: Rooms, data: bytes, *, endpoint: str = "/v1/chat/completions", **request: Any) -> Batch:
    """Seal `data` and create a batch of it."""
    file = await seal(rooms.intake, data)
    return await rooms.turns.create(BatchRequest(OWNER, endpoint, file.id, **request))


async def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Return as soon as `condition` holds; fails after the time-out."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(_POLL_S)


async def wait_for_batch(rooms: Rooms, batch_id: str, *states: State, timeout_s: float = 60.0) -> Batch:
    """Return the batch once it is in one of the states, or in any final one if none is named."""
    async with asyncio.timeout(timeout_s):
        while True:
            batch = await rooms.metadata.get_batch(batch_id)
            if batch.state in states or (batch.state.is_final and not states):
                return batch
            assert not batch.state.is_final, f"the batch is {batch.state}"
            await asyncio.sleep(_POLL_S)


def read_results(rooms: Rooms, file_id: str | None) -> list[bytes]:
    """The lines of an output or error file; none if there is no file."""
    if file_id is None:
        return []
    return rooms.blobs.read(f"files/{file_id}/content").splitlines()
