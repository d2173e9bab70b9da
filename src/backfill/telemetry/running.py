"""Tracing while the server runs, and what it takes along when the server ends."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from backfill.engines import Replica
from backfill.errors import NotFound, StoreUnavailable
from backfill.store import Metadata
from backfill.turns import Turns

if TYPE_CHECKING:
    from backfill.telemetry.tracing import Tracing

__all__ = ["tracing_along"]

# A collector that is out must not keep the server from ending.
_PATIENCE_S = 5.0
_PAUSE_S = 1.0
_log = structlog.get_logger(__name__)


@asynccontextmanager
async def tracing_along(
    tracing: "Tracing | None", replicas: Iterable[Replica], turns: Turns, metadata: Metadata
) -> AsyncIterator[None]:
    """Trace requests to these engines and the lives of batches; without a `tracing` nothing is different."""
    if tracing is None:
        yield
        return
    for replica in replicas:
        tracing.watch(replica)
    ended: asyncio.Queue[str] = asyncio.Queue()
    turns.watch_ends(ended.put_nowait)
    telling = asyncio.create_task(_tell_ends(tracing, ended, metadata), name="trace batches")
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await ended.join()
                await _close(tracing)
        except TimeoutError:
            _log.warning("the last spans could not be sent: the collector does not take them")
        telling.cancel()
        await asyncio.wait({telling})


async def _tell_ends(tracing: "Tracing", ended: "asyncio.Queue[str]", metadata: Metadata) -> None:
    while True:
        batch_id = await ended.get()
        while True:
            try:
                tracing.tell(await metadata.get_batch(batch_id))
            except NotFound:
                break
            except StoreUnavailable:
                await asyncio.sleep(_PAUSE_S)
            else:
                break
        ended.task_done()


async def _close(tracing: "Tracing") -> None:
    """In a thread for which nobody has to wait."""
    loop, closed = asyncio.get_running_loop(), asyncio.Event()

    def close() -> None:
        tracing.close()
        loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=close, daemon=True, name="close tracing").start()
    await closed.wait()
