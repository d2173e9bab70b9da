"""A turn at work: the batch's index, its input, its journal segment, and how many lines have no outcome yet."""

import asyncio
import time
from array import array
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from backfill.batch import Outcome, Usage
from backfill.dispatch.lane import Lane
from backfill.engines import Answered, Fleet, Refused, count_usage
from backfill.errors import StoreCorrupt, StoreUnavailable
from backfill.index import LineIndex
from backfill.journal import Fold, Record, SegmentWriter
from backfill.plan import LineGroup, Plan, plan_lines
from backfill.store import BlobReader, LocalBlobs, content_key, index_key
from backfill.turns import Turn

__all__ = ["OpenTurn"]

# What is known without an engine is recorded in slices, so that the event loop is not held up by 50,000 lines.
_RECORDS_AT_ONCE = 500


class OpenTurn:
    """What dispatch keeps of one batch while it works on it."""

    def __init__(
        self,
        turn: Turn,
        over: asyncio.Event,
        index: LineIndex,
        source: BlobReader,
        writer: SegmentWriter,
        plan: Plan,
    ) -> None:
        self.turn = turn
        self.endpoint = turn.batch.endpoint
        self.lanes: list[Lane[OpenTurn]] = []
        self.tries: dict[int, int] = {}
        """Line -> tries lost so far, for lines that lost one."""
        self.twins = plan.twins
        """Line -> lines that ask for the very same and get its outcome."""
        self.over = over
        """Set when nothing more is to be sent: every line has its outcome, the batch was stopped, or the disk fails."""
        self.failure: StoreUnavailable | None = None
        self._rejections: dict[int, tuple[int, int]] = {}
        self._index = index
        self._source = source
        self._writer = writer
        self._remaining = sum(len(group.lines) for groups in plan.groups.values() for group in groups)
        self._remaining += sum(len(twins) for twins in plan.twins.values())
        self._in_flight: set[asyncio.Task[None]] = set()
        self._landed: asyncio.Event | None = None
        if self._remaining == 0:
            self.over.set()

    @classmethod
    async def open(cls, turn: Turn, over: asyncio.Event, blobs: LocalBlobs, fleet: Fleet, *, reuse: bool) -> "OpenTurn":
        """Replay the journal, plan what is left, and begin a segment of this turn's own; raises StoreUnavailable.

        `reuse` allows that identical deterministic lines are sent once.
        """
        batch = turn.batch
        index, fold = await asyncio.to_thread(_recover, blobs, turn)
        try:
            plan = await asyncio.to_thread(plan_lines, index, bytes(fold.outcomes), reuse=reuse)
            writer = await SegmentWriter.create(blobs, batch.id, turn.epoch)
            opened = cls(turn, over, index, blobs.open(content_key(batch.input_file_id)), writer, plan)
            groups = await opened._reuse_finished(fold, plan.groups)
            await opened._route(groups, fleet)
        finally:
            fold.close()
        return opened

    def read_body(self, line: int) -> bytes:
        """The request's bytes, as they lie in the file."""
        return self._source.read_on(self._index.body_offsets[line], self._index.body_lengths[line])

    def record(  # noqa: PLR0913 - the fields of a record
        self,
        line: int,
        outcome: Outcome,
        status: int,
        usage: Usage,
        duration_s: float,
        body: bytes,
        *,
        reused: bool = False,
    ) -> None:
        """Write down what became of a line. A failure of the disk ends the turn, not the caller."""
        tries = self.tries.pop(line, 0) + 1
        now_ms = time.time_ns() // 1_000_000
        record = Record(line, outcome, status, tries, usage, now_ms, round(duration_s * 1000), body, reused)
        try:
            self._writer.append(record)
        except StoreUnavailable as error:
            self.fail(error)
            return
        self._remaining -= 1
        if self._remaining == 0:
            self.over.set()

    async def answer_twins(self, lane: "Lane[OpenTurn]", line: int, reply: Answered | Refused) -> int:
        """Give a line's outcome to all that ask for the same; how many these were."""
        twins = self.twins.pop(line)
        usage = reply.usage if isinstance(reply, Answered) else Usage()
        outcome = Outcome.ANSWERED if isinstance(reply, Answered) else Outcome.REFUSED
        others = await self._reuse(line, twins, Record(line, outcome, reply.status, 1, usage, 0, 0, reply.body))
        for other in others:
            lane.put_back(other)
        return len(twins) - len(others)

    def note_rejection(self, line: int, answered: int) -> int:
        """Count the 429s of a line between which the replica answered others; `answered` is how many so far."""
        rejections, answered_then = self._rejections.get(line, (0, -1))
        if answered > answered_then:
            rejections += 1
        self._rejections[line] = (rejections, answered)
        return rejections

    def send_next_twin(self, lane: "Lane[OpenTurn]", line: int) -> None:
        """Have another line asked for what this one got no answer to."""
        twins = self.twins.pop(line, None)
        if twins:
            if len(twins) > 1:
                self.twins[twins[0]] = twins[1:]
            lane.put_back(twins[0])

    @property
    def is_behind(self) -> bool:
        """Whether the journal's disk lags so far behind that feeding should wait."""
        return self._writer.is_behind

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

    def land(self, task: "asyncio.Task[None]") -> None:
        """Note that the line of `task` came back, with or without an answer."""
        self._in_flight.discard(task)
        if self._landed is not None and not self._in_flight:
            self._landed.set()

    async def wind_down(self, grace_s: float) -> None:
        """Send nothing more, wait for what is in flight, and after `grace_s` seconds close its connections."""
        for lane in self.lanes:
            lane.close()
        if not self._in_flight:
            return
        self._landed = asyncio.Event()
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

    async def _route(self, groups_of: dict[int, list[LineGroup]], fleet: Fleet) -> None:
        """A lane for each model that somebody serves; the lines of the others are refused."""
        for model, groups in groups_of.items():
            own_name = self._index.model_names[model]
            name = own_name or self.turn.batch.model_id or ""
            route = fleet.resolve(name, self.endpoint)
            if route is not None:
                self.lanes.append(Lane(self, route, groups, insert_model=own_name is None))
                continue
            lines = [line for group in groups for line in group.lines]
            twins = [twin for line in lines for twin in self.twins.pop(line, ())]
            await self._refuse_all(lines + twins, name, fleet.served_models())

    async def _reuse_finished(self, fold: Fold, groups_of: dict[int, list[LineGroup]]) -> dict[int, list[LineGroup]]:
        """Answer the lines whose twin was answered before this turn, maybe before a crash; gives what is to be sent."""
        for line in [line for line in self.twins if fold.outcomes[line]]:
            entry = fold.find(line)
            assert entry is not None  # noqa: S101 - it has an outcome
            body = await asyncio.to_thread(fold.read_body, entry)
            usage = count_usage(body) if entry.outcome is Outcome.ANSWERED else Usage()
            record = Record(line, entry.outcome, entry.status, 1, usage, 0, 0, body)
            others = await self._reuse(line, self.twins.pop(line), record)
            if others:
                groups_of.setdefault(self._index.models[line], []).append(LineGroup((), array("I", others)))
        return groups_of

    async def _reuse(self, line: int, twins: list[int], outcome: Record) -> list[int]:
        """Record for each twin what became of the line; gives those that ask for something else after all."""
        request = self.read_body(line)
        others = []
        for start in range(0, len(twins), _RECORDS_AT_ONCE):
            for twin in twins[start : start + _RECORDS_AT_ONCE]:
                # That the digests are the same is a strong hint; that the bytes are is the proof.
                if self.read_body(twin) == request:
                    self.record(twin, outcome.outcome, outcome.status, outcome.usage, 0.0, outcome.body, reused=True)
                else:
                    others.append(twin)
            await asyncio.sleep(0)
            await self.wait_for_disk()
        return others

    async def _refuse_all(self, lines: Iterable[int], model: str, served: list[str]) -> None:
        known = (
            f"This server serves: {', '.join(served)}." if served else "This server serves no model on this endpoint."
        )
        message = f"Invalid model specified: {model!r}. {known}"
        error = {"message": message, "type": "invalid_request_error", "param": "model", "code": "invalid_model"}
        body = msgspec.json.encode({"error": error})
        lines = list(lines)
        for start in range(0, len(lines), _RECORDS_AT_ONCE):
            for line in lines[start : start + _RECORDS_AT_ONCE]:
                self.record(line, Outcome.REFUSED, 404, Usage(), 0.0, body)
            await asyncio.sleep(0)


def _recover(blobs: LocalBlobs, turn: Turn) -> tuple[LineIndex, Fold]:
    """The index of the input, and what the journal says became of each line; the fold is for the caller to close."""
    batch = turn.batch
    index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
    if len(index) != batch.counts.total:
        message = f"The index of file {batch.input_file_id} has {len(index)} lines, its row {batch.counts.total}."
        raise StoreCorrupt(message)
    fold = Fold(blobs, batch.id, len(index))
    try:
        fold.refresh()
    except BaseException:
        fold.close()
        raise
    return index, fold
