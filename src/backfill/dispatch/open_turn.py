"""A turn at work: the batch's index, its input, its journal segment, and how many lines have no outcome yet."""

import asyncio
import functools
import itertools
from array import array
from collections.abc import Iterable, Sequence

from backfill.batch import BatchProblem, Outcome, Usage
from backfill.dispatch.colleagues import Colleagues
from backfill.dispatch.cut_inputs import CutInput, CutInputs
from backfill.dispatch.invalid_lines import InvalidLines
from backfill.dispatch.lane import Lane
from backfill.dispatch.media_lane import MediaLane
from backfill.dispatch.refusal import render_refusal
from backfill.dispatch.turn_beginning import begin_turn
from backfill.dispatch.turn_media import TurnMedia
from backfill.dispatch.unsendable import Unsendable
from backfill.dispatch.work_left import WorkLeft
from backfill.engines import Answered, Fleet, Refused, Route, count_usage
from backfill.errors import StoreCorrupt, StoreUnavailable
from backfill.index import LineIndex
from backfill.journal import Fold, Record, SegmentWriter, SyncGroup
from backfill.media import MediaLibrary
from backfill.plan import LineGroup, Plan
from backfill.store import BlobReader, Blobs, GroupedCalls
from backfill.turns import Turn, now_ms
from backfill.wire import quote

__all__ = ["OpenTurn"]

# What is known without an engine is recorded in slices, so that the event loop is not held up by 50,000 lines.
_RECORDS_AT_ONCE = 500
# Turns on so few lines may wait for one another to be opened.
_SMALL_LINES = 100


class OpenTurn:
    """What dispatch keeps of one batch, or a slice of one, while it works on it."""

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
        self.ended_engine: set[int] = set()
        """Lines over which an engine ended that had nothing else to do."""
        self.twins = plan.twins
        """Line -> lines that ask for the very same and get its outcome."""
        self.over = over
        """Set when nothing more is to be sent: every line has its outcome, the batch was stopped, or the disk fails."""
        self.failure: Exception | None = None
        self.moved_at_ms = now_ms()
        """When a line got its outcome the last time; before that, when the turn was opened."""
        self.tokens_per_line = sum(index.token_estimates) / max(1, len(index.token_estimates))
        """What a line of the file is taken to need, prompt and answer together, on average."""
        self.work_left = WorkLeft(index, {})
        self.is_near = source.is_at_hand(0, 0)
        """Whether each line can be read in the event loop at once."""
        self.left_models: list[str] = []
        """Models of lines that are left undone for other workers."""
        self.left_version = 0
        """Of what the other workers served when that was found."""
        self.media: TurnMedia | None = None
        """None: no line names a picture or a clip."""
        self._rejections: dict[int, tuple[int, int]] = {}
        self._cut_input: CutInput | None = None
        self._index = index
        self._source = source
        self._writer = writer
        self._remaining = sum(len(group.lines) for groups in plan.groups.values() for group in groups)
        self._remaining += sum(len(twins) for twins in plan.twins.values())
        self._in_flight: set[asyncio.Task[None]] = set()
        self._landed: asyncio.Event | None = None
        self._cutting: asyncio.TimerHandle | None = None

    @classmethod
    async def open(  # noqa: PLR0913 - the turn, and what turns share
        cls,
        turn: Turn,
        over: asyncio.Event,
        blobs: Blobs,
        fleet: Fleet,
        *,
        reuse: bool,
        syncs: SyncGroup | None = None,
        openings: GroupedCalls | None = None,
        library: MediaLibrary | None = None,
        cuts: CutInputs | None = None,
        colleagues: Colleagues | None = None,
    ) -> "OpenTurn":
        """Replay the journal, plan what is left, and begin a segment of this turn's own; raises StoreUnavailable.

        `reuse` allows that identical deterministic lines are sent once. `syncs`, `openings`, `library` and `cuts` are
        shared with other turns; without `library` lines are sent as they are, whatever they name.
        `colleagues`: lines that one of these serves, and none of the own engines, are left; None: there are none.
        """
        begin = functools.partial(begin_turn, blobs, turn, cuts or CutInputs(blobs), reuse=reuse)
        is_small = turn.batch.counts.total <= _SMALL_LINES
        begun = await (openings.run(begin) if openings is not None and is_small else asyncio.to_thread(begin))
        try:
            is_slice = turn.slice_number > 0
            writer = SegmentWriter(begun.segment, syncs, stays=turn.is_takeover, is_one_of_many=is_slice)
            opened = cls(turn, over, begun.index, begun.source, writer, begun.plan)
            opened.work_left = WorkLeft(begun.index, begun.needs)
            opened._cut_input = begun.cut
            if library is not None:
                opened.media = TurnMedia.open(begun.index.shapes, library, turn.batch.id, turn.batch.owner)
            try:
                await opened._refuse_invalid(begun.invalid)
                await opened._refuse_unsendable(begun.unsendable)
                groups = await opened._reuse_finished(begun.fold, begun.plan.groups)
                await opened._route(groups, fleet, colleagues)
            except BaseException:
                await opened.close()
                raise
            if opened._remaining == 0:
                over.set()
        finally:
            begun.fold.close()
        return opened

    def read_body(self, line: int) -> bytes:
        """The request's bytes, as they lie in the file; raises StoreUnavailable."""
        length = self._index.body_lengths[line]
        body = self._source.read_on(self._index.body_offsets[line], length)
        if len(body) < length:
            message = f"The content of file {self.turn.batch.input_file_id} was cut short while it was read."
            raise StoreCorrupt(message)
        return body

    async def fetch_body(self, line: int) -> bytes:
        """The same for the event loop, wherever the file lies."""
        if self._source.is_at_hand(self._index.body_offsets[line], self._index.body_lengths[line]):
            return self.read_body(line)
        return await asyncio.to_thread(self.read_body, line)

    def measure_body(self, line: int) -> int:
        """How many bytes the request has."""
        return self._index.body_lengths[line]

    def estimate_tokens(self, line: int) -> int:
        """What the line is taken to need, prompt and answer together."""
        return self._index.token_estimates[line]

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
        tries = 1 + self.tries.pop(line, 0) if self.tries else 1
        self.moved_at_ms = now_ms()
        record = Record(line, outcome, status, tries, usage, self.moved_at_ms, round(duration_s * 1000), body, reused)
        try:
            self._writer.append(record)
        except StoreUnavailable as error:
            self.fail(error)
            return
        if not reused:
            self.work_left.note(line, usage)
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

    @property
    def is_in_flight(self) -> bool:
        """Whether a line of it is with an engine."""
        return bool(self._in_flight)

    @property
    def lines_left(self) -> int:
        """Lines that have no outcome yet."""
        return self._remaining

    @property
    def has_moved(self) -> bool:
        """Whether this turn got a line done that the disk holds."""
        return self._writer.synced_records > 0

    def fail(self, error: Exception) -> None:
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

    def stop(self) -> None:
        """Send nothing more."""
        for lane in self.lanes:
            lane.close()
        self.over.set()

    def cut_after(self, grace_s: float) -> None:
        """Give what is in flight so many seconds, then close its connections; a second call changes nothing."""
        if self._cutting is None:
            self._cutting = asyncio.get_running_loop().call_later(grace_s, self._cut)

    async def wind_down(self, grace_s: float | None) -> None:
        """Send nothing more, and wait for what is in flight, as by `cut_after`; None: for as long as that takes."""
        self.stop()
        if not self._in_flight:
            return
        self._landed = asyncio.Event()
        if grace_s is not None:
            self.cut_after(grace_s)
        await self._landed.wait()

    async def close(self) -> bool:
        """Have the disk hold all that was recorded; True if that is every line of the turn, but for those left."""
        if self._cutting is not None:
            self._cutting.cancel()
        for lane in self.lanes:
            if isinstance(lane, MediaLane):
                await lane.end()
        if self.media is not None:
            await self.media.hold.close()
        try:
            await self._writer.sync()
        except StoreUnavailable as error:
            self.fail(error)
        await self._writer.close()
        self._source.close()
        return self._remaining == 0 and self.failure is None

    def _cut(self) -> None:
        for task in self._in_flight:
            task.cancel()

    async def _route(self, groups_of: dict[int, list[LineGroup]], fleet: Fleet, colleagues: Colleagues | None) -> None:
        """A lane for each model that is served here; other lines are left for colleagues who serve them, or refused."""
        has_looked = False
        for model, groups in groups_of.items():
            own_name = self._index.model_names[model]
            name = own_name or self.turn.batch.model_id or ""
            route = fleet.resolve(name, self.endpoint)
            if route is not None:
                self.lanes.append(self._make_lane(route, groups, insert_model=own_name is None))
                self.work_left.set_pool(model, frozenset(replica.name for replica in route.replicas))
                continue
            lines = [line for group in groups for line in group.lines]
            twins = [twin for line in lines for twin in self.twins.pop(line, ())]
            served = set(fleet.served_models(self.endpoint))
            if colleagues is not None:
                if not has_looked:
                    await colleagues.look()
                    has_looked, self.left_version = True, colleagues.version
                elsewhere = colleagues.find_name(name, self.endpoint)
                if elsewhere is not None:
                    self.left_models.append(elsewhere)
                    self._remaining -= len(lines) + len(twins)
                    continue
                served |= colleagues.list_models(self.endpoint)
            await self._refuse_unserved(lines + twins, name, sorted(served))

    def _make_lane(self, route: Route, groups: list[LineGroup], *, insert_model: bool) -> "Lane[OpenTurn]":
        media = self.media
        if media is None or not any(media.may_name(line) for group in groups for line in group.lines):
            return Lane(self, route, groups, insert_model=insert_model)
        return MediaLane(self, route, groups, media, insert_model=insert_model)

    async def _reuse_finished(self, fold: Fold, groups_of: dict[int, list[LineGroup]]) -> dict[int, list[LineGroup]]:
        """Answer the lines whose twin was answered before this turn, maybe before a crash; gives what is to be sent."""
        for line in [line for line in self.twins if fold.outcomes[line]]:
            entry = fold.find(line)
            assert entry is not None  # noqa: S101 - it has an outcome
            body = await asyncio.to_thread(fold.read_body, entry)
            usage = count_usage(body, self.endpoint) if entry.outcome is Outcome.ANSWERED else Usage()
            usage = usage._replace(audio_ms=entry.audio_ms)
            record = Record(line, entry.outcome, entry.status, 1, usage, 0, 0, body)
            others = await self._reuse(line, self.twins.pop(line), record)
            if others:
                groups_of.setdefault(self._index.models[line], []).append(LineGroup((), array("I", others)))
        return groups_of

    async def _reuse(self, line: int, twins: list[int], outcome: Record) -> list[int]:
        """Record for each twin what became of the line; gives those that ask for something else after all."""
        request = await self.fetch_body(line)
        others = []
        for start in range(0, len(twins), _RECORDS_AT_ONCE):
            for twin in twins[start : start + _RECORDS_AT_ONCE]:
                # That the digests are the same is a strong hint; that the bytes are is the proof.
                if await self.fetch_body(twin) == request:
                    self.record(twin, outcome.outcome, outcome.status, outcome.usage, 0.0, outcome.body, reused=True)
                else:
                    others.append(twin)
            await asyncio.sleep(0)
            await self.wait_for_disk()
        return others

    async def _refuse_unserved(self, lines: Iterable[int], model: str, served: list[str]) -> None:
        known = (
            f"On this endpoint this server serves: {', '.join(served)}."
            if served
            else "This server serves no model on this endpoint."
        )
        message = f"Invalid model specified: {quote(model)}. {known}"
        body = render_refusal(BatchProblem("invalid_model", message, param="model"))
        await self._refuse(((line, body) for line in lines), status=404)

    async def _refuse_invalid(self, invalid: InvalidLines) -> None:
        """Record for lines that are no requests what is wrong with them, and where they stand."""
        self._remaining += len(invalid.lines)
        bodies = ((line, render_refusal(problem)) for line, problem in invalid.explain(self._source))
        await self._refuse(bodies, status=400)

    async def _refuse_unsendable(self, unsendable: Sequence[Unsendable]) -> None:
        """Record for requests that are not planned what an engine would say to them."""
        self._remaining += sum(len(those.lines) for those in unsendable)
        for those in unsendable:
            body = render_refusal(those.problem) if those.is_explained else None
            bodies = ((line, body or render_refusal(those.explain(self.read_body(line)))) for line in those.lines)
            await self._refuse(bodies, status=400)

    async def _refuse(self, bodies: Iterable[tuple[int, bytes]], *, status: int) -> None:
        bodies = iter(bodies)
        # In a thread, since what is said of a line may be found in its bytes.
        while some := await asyncio.to_thread(lambda: list(itertools.islice(bodies, _RECORDS_AT_ONCE))):
            for line, body in some:
                self.record(line, Outcome.REFUSED, status, Usage(), 0.0, body)
            await asyncio.sleep(0)
            await self.wait_for_disk()
