"""A turn at work: the batch's index, its input, its journal segment, and how many lines have no outcome yet."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from backfill.batch import Outcome, Usage
from backfill.engines import Fleet, Replica, Route, rename_model
from backfill.errors import StoreCorrupt, StoreUnavailable
from backfill.index import LineIndex
from backfill.journal import Fold, Record, SegmentWriter
from backfill.plan import plan_lines
from backfill.store import BlobReader, LocalBlobs, content_key, index_key
from backfill.turns import Turn

__all__ = ["Lane", "OpenTurn"]

# Lines that nobody serves are refused in slices, so that the event loop is not held up by 50,000 of them.
_REFUSALS_AT_ONCE = 500


class Lane:
    """The lines of one route in planned order, first those that came back."""

    def __init__(self, turn: "OpenTurn", route: Route, lines: Sequence[int], *, insert_model: bool) -> None:
        self.turn = turn
        self.route = route
        self._lines = lines
        self._position = 0
        self._returned: deque[int] = deque()
        self._insert_model = insert_model
        self._wakers: list[Callable[[], None]] = []
        self.is_open = True

    def subscribe(self, waker: Callable[[], None]) -> None:
        """Have `waker` called when a line comes back."""
        self._wakers.append(waker)

    def take(self) -> int | None:
        """The next line to send; None if there is none now."""
        if not self.is_open:
            return None
        if self._returned:
            return self._returned.popleft()
        if self._position < len(self._lines):
            line = self._lines[self._position]
            self._position += 1
            return line
        return None

    def put_back(self, line: int) -> None:
        """Offer a line again, before all others."""
        self._returned.append(line)
        for waker in self._wakers:
            waker()

    def close(self) -> None:
        """Give out no line any more."""
        self.is_open = False

    def body_for(self, replica: Replica, body: bytes) -> bytes:
        """The line's body as `replica` wants it: the line's own bytes unless the model has another name there."""
        if self._insert_model:
            return rename_model(body, self.route.names[replica.name])
        return self.route.body_for(replica, body)


class OpenTurn:
    """What dispatch keeps of one batch while it works on it."""

    def __init__(
        self,
        turn: Turn,
        over: asyncio.Event,
        index: LineIndex,
        source: BlobReader,
        writer: SegmentWriter,
        remaining: int,
    ) -> None:
        self.turn = turn
        self.lanes: list[Lane] = []
        self.tries: dict[int, int] = {}
        """Line -> tries lost so far, for lines that lost one."""
        self.over = over
        """Set when nothing more is to be sent: every line has its outcome, the batch was stopped, or the disk fails."""
        self.failure: StoreUnavailable | None = None
        self._index = index
        self._source = source
        self._writer = writer
        self._remaining = remaining
        self._in_flight: set[asyncio.Task[None]] = set()
        self._landed = asyncio.Event()
        self._landed.set()
        if remaining == 0:
            self.over.set()

    @classmethod
    async def open(cls, turn: Turn, over: asyncio.Event, blobs: LocalBlobs, fleet: Fleet) -> "OpenTurn":
        """Replay the journal, plan what is left, and begin a segment of this turn's own; raises StoreUnavailable."""
        batch = turn.batch
        index, outcomes = await asyncio.to_thread(_recover, blobs, turn)
        plan = await asyncio.to_thread(plan_lines, index, outcomes, reuse=False)
        orders = {model: [line for group in groups for line in group.lines] for model, groups in plan.groups.items()}
        writer = await SegmentWriter.create(blobs, batch.id, turn.epoch)
        remaining = sum(len(lines) for lines in orders.values())
        opened = cls(turn, over, index, blobs.open(content_key(batch.input_file_id)), writer, remaining)
        for model, lines in orders.items():
            own_name = index.model_names[model]
            name = own_name or batch.model_id or ""
            route = fleet.resolve(name, batch.endpoint)
            if route is None:
                await opened._refuse_all(list(lines), name, fleet.served_models())
            else:
                opened.lanes.append(Lane(opened, route, lines, insert_model=own_name is None))
        return opened

    def read_body(self, line: int) -> bytes:
        """The request's bytes, as they lie in the file."""
        return self._source.read_on(self._index.body_offsets[line], self._index.body_lengths[line])

    def record(self, line: int, outcome: Outcome, status: int, usage: Usage, duration_s: float, body: bytes) -> None:
        """Write down what became of a line. A failure of the disk ends the turn, not the caller."""
        tries = self.tries.pop(line, 0) + 1
        now_ms = time.time_ns() // 1_000_000
        record = Record(line, outcome, status, tries, usage, now_ms, round(duration_s * 1000), body)
        try:
            self._writer.append(record)
        except StoreUnavailable as error:
            self.fail(error)
            return
        self._remaining -= 1
        if self._remaining == 0:
            self.over.set()

    def fail(self, error: StoreUnavailable) -> None:
        """End the turn; another one will find in the journal what this one got done."""
        self.failure = self.failure or error
        self.over.set()

    async def wait_for_disk(self) -> None:
        """Wait while the journal's disk lags behind, so that memory and what a power cut may cost stay bounded."""
        if self._writer.is_behind:
            try:
                await self._writer.wait_for_room()
            except StoreUnavailable as error:
                self.fail(error)

    def depart(self, task: "asyncio.Task[None]") -> None:
        """Note that `task` is about to send a line."""
        self._in_flight.add(task)
        self._landed.clear()

    def land(self, task: "asyncio.Task[None]") -> None:
        """Note that the line of `task` came back, with or without an answer."""
        self._in_flight.discard(task)
        if not self._in_flight:
            self._landed.set()

    async def wind_down(self, grace_s: float) -> None:
        """Send nothing more, wait for what is in flight, and after `grace_s` seconds close its connections."""
        for lane in self.lanes:
            lane.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._landed.wait()
        for task in self._in_flight:
            task.cancel()
        await self._landed.wait()

    async def close(self) -> bool:
        """Have the disk hold all that was recorded; True if that is every line of the batch."""
        try:
            await self._writer.sync()
        except StoreUnavailable as error:
            self.fail(error)
        await self._writer.close()
        self._source.close()
        return self._remaining == 0 and self.failure is None

    async def _refuse_all(self, lines: list[int], model: str, served: list[str]) -> None:
        known = (
            f"This server serves: {', '.join(served)}." if served else "This server serves no model on this endpoint."
        )
        message = f"Invalid model specified: {model!r}. {known}"
        error = {"message": message, "type": "invalid_request_error", "param": "model", "code": "invalid_model"}
        body = msgspec.json.encode({"error": error})
        for start in range(0, len(lines), _REFUSALS_AT_ONCE):
            for line in lines[start : start + _REFUSALS_AT_ONCE]:
                self.record(line, Outcome.REFUSED, 404, Usage(), 0.0, body)
            await asyncio.sleep(0)


def _recover(blobs: LocalBlobs, turn: Turn) -> tuple[LineIndex, bytes]:
    """The index of the input, and what the journal says became of each line."""
    batch = turn.batch
    index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
    if len(index) != batch.counts.total:
        message = f"The index of file {batch.input_file_id} has {len(index)} lines, its row {batch.counts.total}."
        raise StoreCorrupt(message)
    fold = Fold(blobs, batch.id, len(index))
    try:
        fold.refresh()
    finally:
        fold.close()
    return index, bytes(fold.outcomes)
