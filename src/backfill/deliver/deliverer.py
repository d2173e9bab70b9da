"""The loop: whenever a batch has nothing more to send, gather its answers and close it in one write.

Beside other processes a batch is leased before it is gathered, so that only one of them does it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator

from backfill.batch import Batch, BatchProblem, State
from backfill.deliver.closing_leases import ClosingLeases
from backfill.deliver.gather import Gathered, gather_together, give_up
from backfill.errors import InputLost
from backfill.store import Blobs, confirm_facts
from backfill.turns import Turns, now_ms

__all__ = ["Deliverer"]

_TICK_S = 1.0
_LOOP = "delivery"
_LINES_AT_ONCE = 100
# Larger ones are gathered beside the others, so many at once, so that nobody waits for them.
_LARGE_LINES = 2_000
_LARGE_AT_ONCE = 2


class Deliverer:
    """Closes batches until stopped. A delivery that was cut off is simply done again."""

    def __init__(self, turns: Turns, blobs: Blobs, check_index: Callable[[Batch], Awaitable[None]]) -> None:
        """`check_index` raises InputLost if the index of the batch's input is damaged and cannot be made again."""
        self._turns = turns
        self._blobs = blobs
        self._check_index = check_index
        self._bell = turns.subscribe()
        self._stopped = False
        self._not_before: dict[str, float] = {}
        self._leases = ClosingLeases(turns, blobs)
        self._large: dict[str, asyncio.Task[None]] = {}
        """Id of a large batch that is being delivered -> who does it."""

    async def run(self) -> None:
        """Work until `stop` is called; a delivery under way is finished first."""
        async with self._leases.renewing():
            await self._deliver_until_stopped()
            await asyncio.gather(*self._large.values())

    async def _deliver_until_stopped(self) -> None:
        while not self._stopped:
            try:
                await self._deliver_closable()
                self._turns.setbacks.forget(_LOOP)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next look may find better
                self._turns.setbacks.note(_LOOP, error, "delivery waits for the metadata")
            await self._bell.wait(_TICK_S)

    def stop(self) -> None:
        """Begin no other delivery."""
        self._stopped = True
        self._bell.ring()

    def _forget_closed(self, waiting: Collection[str]) -> None:
        """A write that seemed to fail may have been made all the same."""
        for batch_id in self._not_before.keys() - waiting:
            del self._not_before[batch_id]
            self._turns.setbacks.forget(batch_id)

    async def _deliver_closable(self) -> None:
        now_s = asyncio.get_running_loop().time()
        paused = {batch_id for batch_id, until_s in self._not_before.items() if until_s > now_s}
        under_way = {*paused, *self._large}
        closable = await self._turns.find_closable(under_way)
        self._forget_closed({*under_way, *(batch.id for batch in closable)})
        for batch in closable:
            if batch.counts.total > _LARGE_LINES and len(self._large) < _LARGE_AT_ONCE and not self._stopped:
                self._large[batch.id] = asyncio.create_task(self._deliver_large(batch), name=f"deliver {batch.id}")
        for group in _group(batch for batch in closable if batch.counts.total <= _LARGE_LINES):
            if self._stopped:
                return
            await self._deliver(group)

    async def _deliver_large(self, batch: Batch) -> None:
        try:
            await self._deliver([batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look may find better
            self._turns.setbacks.note(_LOOP, error, "delivery waits for the metadata")
        finally:
            del self._large[batch.id]
            self._bell.ring()

    async def _deliver(self, found: list[Batch]) -> None:
        async with self._leases.holding(found) as group:
            await self._gather_and_close(group)

    async def _gather_and_close(self, group: list[Batch]) -> None:
        checked = {batch.id: await self._check(batch) for batch in group}
        sound = [batch for batch in group if checked[batch.id] is None]
        gathered = await asyncio.to_thread(_gather_each, self._blobs, sound) if sound else []
        results = checked | dict(zip((batch.id for batch in sound), gathered, strict=True))
        files = await asyncio.gather(*(self._close(batch, results[batch.id]) for batch in group))
        file_ids = [file_id for those in files for file_id in those]
        if file_ids:
            await asyncio.to_thread(self._confirm, file_ids)

    async def _close(self, batch: Batch, gathered: Gathered | Exception | None) -> list[str]:
        """The ids of the files that the batch has from now on."""
        try:
            files = await self._conclude(batch, gathered)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this batch's alone
            pause_s = self._turns.setbacks.note(batch.id, error, "batch cannot be delivered yet", batch=batch.id)
            self._not_before[batch.id] = asyncio.get_running_loop().time() + pause_s
            return []
        self._not_before.pop(batch.id, None)
        return files

    async def _conclude(self, batch: Batch, gathered: Gathered | Exception | None) -> list[str]:
        if isinstance(gathered, InputLost):
            # The names of its lines are lost: it fails.
            problem = BatchProblem(gathered.code, gathered.message, param=gathered.param)
            await self._turns.fail(batch, problem, epoch=self._leases.find_epoch(batch))
            return []
        if isinstance(gathered, Exception):
            raise gathered
        assert gathered is not None  # noqa: S101 - what is sound was gathered
        if not await self._turns.close(batch, gathered.counts, gathered.output, gathered.error, gathered.usage):
            return []
        return [file.id for file in (gathered.output, gathered.error) if file is not None]

    def _confirm(self, file_ids: list[str]) -> None:
        for file_id in file_ids:
            confirm_facts(self._blobs, file_id)

    async def _check(self, batch: Batch) -> Gathered | Exception | None:
        """None if the batch can be gathered; else what it comes to, or why it cannot be gathered now."""
        try:
            await self._check_index(batch)
        except InputLost as error:
            if batch.state is State.FAILING:
                return give_up(batch)
            return error
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this batch's alone
            return error
        return None


def _group(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Small batches together: the way to a thread and the syncs of their files cost more than their lines."""
    group: list[Batch] = []
    lines = 0
    for batch in batches:
        if group and lines + batch.counts.total > _LINES_AT_ONCE:
            yield group
            group, lines = [], 0
        group.append(batch)
        lines += batch.counts.total
    if group:
        yield group


def _gather_each(blobs: Blobs, batches: list[Batch]) -> list[Gathered | Exception]:
    """What each batch comes to, or why it cannot be gathered now. Blocks on disk."""
    try:
        return [*gather_together(blobs, batches, now_ms())]
    except Exception as error:  # noqa: BLE001 - see below
        if len(batches) == 1:
            return [error]
    # One that fails must not hold up the others.
    return [result for batch in batches for result in _gather_each(blobs, [batch])]
