"""Who may work on what: batches are created, admitted, leased, paused, ended and closed here, and nowhere else."""

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import structlog

from backfill.batch import Batch, BatchProblem, Counts, Event, File, State, UsageRow, advance
from backfill.config import LimitsConfig
from backfill.errors import Conflict, NotFound, TurnLost
from backfill.index import Survey
from backfill.store import Metadata
from backfill.turns.admission import PROBLEMS_SHOWN, check_endpoint, judge
from backfill.turns.bell import Bell
from backfill.turns.choice import Choice
from backfill.turns.creation import AddBatch, Appraise, Attempt, BatchRequest, Creation
from backfill.turns.setbacks import Setbacks
from backfill.turns.taking import Taking, Turn

__all__ = ["Turn", "Turns", "now_ms"]

LEASE_MS = 30_000
_TRIES_TO_MOVE = 10
_CANCELLED = frozenset({State.CANCELLING, State.CANCELLED})
_PAUSED = frozenset({State.PAUSED})
_UNDER_WAY = frozenset({State.VALIDATING, State.IN_PROGRESS})
# A turn may be held on a batch in these.
_HELD = (State.IN_PROGRESS, State.PAUSED)
# A look takes so many of what has come in or is due; the next look goes on.
_BATCHES_AT_ONCE = 256
_log = structlog.get_logger(__name__)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Turns:
    """The life of batches, on top of their rows."""

    def __init__(  # noqa: PLR0913 - what is not said has a default
        self,
        metadata: Metadata,
        limits: LimitsConfig,
        clock_ms: Callable[[], int] = now_ms,
        *,
        announces_ends: bool = False,
        lease_ms: int = LEASE_MS,
        appraisals: Sequence[Appraise] = (),
        add_batch: AddBatch | None = None,
        endpoints: Collection[str] = (),
        place: str = "",
    ) -> None:
        """`appraisals` look at each new batch before its row is written, which `add_batch` does.

        `endpoints` are those that there may be batches for beside the known ones. `place` is what the holders of turns
        of one data directory have in common, of which one process at a time works.
        """
        self._metadata = metadata
        self._clock_ms = clock_ms
        self._announces_ends = announces_ends
        self._lease_ms = lease_ms
        self.setbacks = Setbacks()
        """What failed of late, for whoever works on batches in this process."""
        self._place = place
        self._holder = place + str(uuid.uuid4())
        self._bells: list[Bell] = []
        self._watchers: list[Callable[[str], None]] = []
        self._pause_watchers: list[Callable[[str], None]] = []
        self._taking = Taking(metadata, self._holder, lease_ms)
        self._creation = Creation(metadata, limits, clock_ms, self._ring, appraisals, add_batch)
        self._endpoints = endpoints

    def subscribe(self) -> Bell:
        """A bell that rings whenever this process has changed a batch."""
        bell = Bell()
        self._bells.append(bell)
        return bell

    def watch_ends(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the id of each batch that this process has ended."""
        self._watchers.append(tell)

    def watch_pauses(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the id of each batch that this process has paused, before whoever asked for it is told."""
        self._pause_watchers.append(tell)

    async def create(self, request: BatchRequest) -> Batch:
        """See `Creation.create`; raises InvalidInput too if there can be no batches for the endpoint."""
        endpoint = check_endpoint(request.endpoint, self._endpoints)
        return await self._creation.create(request._replace(endpoint=endpoint))

    async def retry(self, ended: Batch, file: File, attempt: Attempt, key_id: str | None = None) -> Batch:
        """See `Creation.retry`."""
        return await self._creation.retry(ended, file, attempt, key_id)

    async def find_repeated(self, owner: str, attempt: Attempt) -> Batch | None:
        """See `Creation.find_repeated`."""
        return await self._creation.find_repeated(owner, attempt)

    async def cancel(self, batch_id: str, owner: str) -> Batch:
        """Stop sending lines of a batch; what finished is kept. Cancelling twice is one cancel.

        Raises:
            NotFound: there is no such batch, or it belongs to another owner.
            Conflict: the batch has ended in another way, or is about to.

        """
        return await self._move_once(batch_id, owner, Event.CANCEL, _CANCELLED, closing_at_ms=self._clock_ms())

    async def pause(self, batch_id: str, owner: str) -> Batch:
        """Send no further line of a batch until it is resumed; its deadline goes on. Pausing twice is one pause.

        Raises:
            NotFound: there is no such batch, or it belongs to another owner.
            Conflict: the batch has ended, or is about to.

        """
        batch = await self._metadata.get_batch(batch_id, owner)
        if batch.state is State.VALIDATING:
            await self._admit(batch, await self._find_survey(batch), is_paused=True)
        paused = await self._move_once(batch_id, owner, Event.PAUSE, _PAUSED, paused_at_ms=self._clock_ms())
        for tell in self._pause_watchers:
            tell(batch_id)
        return paused

    async def resume(self, batch_id: str, owner: str) -> Batch:
        """Go on with a paused batch; one that is not paused goes on anyway.

        Raises:
            NotFound: there is no such batch, or it belongs to another owner.
            Conflict: the batch has ended, or is about to.

        """
        return await self._move_once(batch_id, owner, Event.RESUME, _UNDER_WAY, paused_at_ms=None)

    async def admit_waiting(self) -> None:
        """Judge the most urgent batches that are VALIDATING: each goes on, or fails with the reasons."""
        waiting = await self._metadata.find_waiting(_BATCHES_AT_ONCE)
        await asyncio.gather(*(self._admit(batch, survey) for batch, survey in waiting))

    async def expire_due(self) -> None:
        """End every batch whose deadline has come."""
        now = self._clock_ms()
        states = (State.VALIDATING, State.IN_PROGRESS, State.PAUSED)
        due = await self._metadata.find_batches(states, due_at_ms=now, limit=_BATCHES_AT_ONCE)
        await asyncio.gather(*(self._try_move(batch, Event.EXPIRE, closing_at_ms=now) for batch in due))

    async def reclaim(self) -> None:
        """Free every turn of this place at once instead of waiting for leases to run out.

        Only for a process that alone holds the data directory: whoever held a turn before is dead.
        """
        await self._metadata.free_turns(self._place)

    async def take(
        self,
        room: int,
        open_turns: Collection[Turn] = (),
        landing: Collection[Turn] = (),
        *,
        lines_per_s: float = 0.0,
    ) -> list[Turn]:
        """Lease up to `room` batches that wait for a turn: `Choice` says which.

        `open_turns`: those on which this holder still works, whatever became of its leases. Two of its turns on one
        batch would write two segments side by side, and a journal has its order from there being one at a time.
        `landing`: those that only wait for what is in flight, and hold no place. `lines_per_s`: how fast the engines
        are, as far as is known.
        """
        if room <= 0:
            return []
        now = self._clock_ms()

        being_done, besides = [turn.batch for turn in open_turns], [turn.batch.id for turn in landing]
        return await self._taking.take(room, now, lambda: Choice(being_done, room, now, lines_per_s, besides=besides))

    async def renew(self, turns: Collection[Turn]) -> None:
        """Push the end of these leases. A lease on which nobody works must run out, or its batch waits for ever."""
        if turns:
            batch_ids = [turn.batch.id for turn in turns]
            await self._metadata.renew_turns(self._holder, batch_ids, self._clock_ms() + self._lease_ms)

    async def still_running(self, turns: Collection[Turn]) -> set[str]:
        """The ids of those batches that are IN_PROGRESS and still leased by these turns; the others must stop."""
        return await self._find_held(turns, State.IN_PROGRESS)

    async def still_paused(self, turns: Collection[Turn]) -> set[str]:
        """The ids of those batches that are PAUSED and still leased by these turns: what is in flight may land."""
        return await self._find_held(turns, State.PAUSED)

    async def give_back(self, turn: Turn, *, drained: bool) -> None:
        """End a turn. `drained`: every line has its record on disk, so the answers can be gathered.

        Raises:
            TurnLost: another holder took the batch meanwhile.

        """
        free: dict[str, Any] = {"holder": None}
        for state in _HELD if drained else ():
            gather = {"state": advance(state, Event.DRAIN), "closing_at_ms": self._clock_ms()}
            if await self._metadata.change_batch(turn.batch.id, state=state, epoch=turn.epoch, values=free | gather):
                self._ring()
                return
        if not await self._metadata.change_batch(turn.batch.id, epoch=turn.epoch, values=free):
            message = f"Another process has taken over batch {turn.batch.id}."
            raise TurnLost(message)
        self._ring()

    async def find_closable(self, besides: Collection[str] = ()) -> list[Batch]:
        """The most urgent batches of which no line is sent any more and nobody holds a turn, without `besides`."""
        closing = [state for state in State if state.is_closing]
        free_at_ms = self._clock_ms()
        return await self._metadata.find_batches(
            closing, free_at_ms=free_at_ms, besides=besides, limit=_BATCHES_AT_ONCE
        )

    async def close(
        self, batch: Batch, counts: Counts, output: File | None, error: File | None, usage: tuple[UsageRow, ...] = ()
    ) -> bool:
        """Make final status, counts, file ids and usage visible in one write.

        False if somebody else has closed the batch.
        """
        state = advance(batch.state, Event.CLOSE)
        values = {
            "state": state,
            "counts": counts,
            "output_file_id": output.id if output else None,
            "error_file_id": error.id if error else None,
            "usage": usage,
        } | self._end(batch)
        files = [file for file in (output, error) if file is not None]
        if not await self._metadata.change_batch(batch.id, state=batch.state, values=values, new_files=files):
            return False
        self._note_end(batch, state, counts)
        return True

    async def fail(self, batch: Batch, problem: BatchProblem, *, epoch: int | None = None) -> bool:
        """Send nothing more of a batch that can never be completed; what finished is gathered. In one write.

        With `epoch`: only for the holder of that turn. False if somebody else has moved the batch first.
        """
        values = {"problems": (problem,), "problem_count": 1, "closing_at_ms": self._clock_ms(), "holder": None}
        # Since the turn was taken the batch may have been paused, or resumed.
        for state in (batch.state,) if epoch is None else _HELD:
            failing = values | {"state": advance(state, Event.FAIL)}
            if await self._metadata.change_batch(batch.id, state=state, epoch=epoch, values=failing):
                self._ring()
                return True
        return False

    async def _reject(self, batch: Batch, problems: tuple[BatchProblem, ...], count: int) -> None:
        values = {"state": advance(batch.state, Event.REJECT), "problems": problems, "problem_count": count}
        if await self._metadata.change_batch(batch.id, state=batch.state, values=values | self._end(batch)):
            rejected = msgspec.structs.replace(batch, problems=problems, problem_count=count)
            self._note_end(rejected, State.FAILED, batch.counts)

    def _note_end(self, batch: Batch, state: State, counts: Counts) -> None:
        self.setbacks.forget(batch.id)
        facts: dict[str, Any] = {"total": counts.total, "answered": counts.answered, "failed": counts.failed}
        if batch.problems:
            # Codes alone: the messages may hold words of the file.
            facts |= {"problems": batch.problem_count, "codes": sorted({problem.code for problem in batch.problems})}
        _log.info("batch ended", batch=batch.id, status=state.value, **facts)
        for tell in self._watchers:
            tell(batch.id)
        self._ring()

    def _end(self, batch: Batch) -> dict[str, Any]:
        """What is written with every final status, in the same write: no crash comes between it and its webhooks."""
        now = self._clock_ms()
        return {
            "ended_at_ms": now,
            "webhook_due_at_ms": now if self._announces_ends else None,
            "own_webhook_due_at_ms": None if batch.own_webhook_url is None else now,
        }

    async def _find_held(self, turns: Collection[Turn], state: State) -> set[str]:
        if not turns:
            return set()
        epochs = await self._metadata.find_epochs(state, [turn.batch.id for turn in turns])
        return {turn.batch.id for turn in turns if epochs.get(turn.batch.id) == turn.epoch}

    async def _find_survey(self, batch: Batch) -> bytes | None:
        """What is known of the lines of the batch's input; None if the file is gone."""
        try:
            return (await self._metadata.get_file(batch.input_file_id)).survey
        except NotFound:
            return None

    async def _admit(self, batch: Batch, survey: bytes | None, *, is_paused: bool = False) -> None:
        if survey is None:
            gone = BatchProblem("file_not_found", f"The input file {batch.input_file_id} is gone.")
            await self._reject(batch, (gone,), 1)
            return
        try:
            decoded = msgspec.json.decode(survey, type=Survey)
        except msgspec.DecodeError:
            # It must not keep those behind it from being judged.
            told = f"What is known of the input file {batch.input_file_id} cannot be read any more."
            await self._reject(batch, (BatchProblem("input_lost", told),), 1)
            return
        verdict = judge(
            decoded,
            batch.endpoint,
            batch.model_id,
            batch.dialect,
            skips_invalid_lines=batch.skips_invalid_lines,
        )
        if verdict.fails:
            reasons = verdict.reasons
            await self._reject(batch, reasons.problems[:PROBLEMS_SHOWN], reasons.problem_count)
        elif is_paused:
            # In one write, so that no turn is taken in between.
            now = self._clock_ms()
            state = advance(advance(batch.state, Event.ADMIT), Event.PAUSE)
            values = {"state": state, "started_at_ms": now, "paused_at_ms": now}
            await self._metadata.change_batch(batch.id, state=batch.state, values=values)
        else:
            await self._try_move(batch, Event.ADMIT, started_at_ms=self._clock_ms())

    async def _move_once(
        self, batch_id: str, owner: str, event: Event, moved: frozenset[State], **values: Any
    ) -> Batch:
        """Move a batch of the owner's, unless it is in one of `moved` already."""
        batch = await self._metadata.get_batch(batch_id, owner)
        if batch.state in moved:
            return batch
        try:
            batch = await self._move(batch, event, **values)
        except Conflict:
            # Somebody else may have done the same first, by a moment.
            batch = await self._metadata.get_batch(batch_id, owner)
            if batch.state not in moved:
                raise
        self._ring()
        return batch

    async def _move(self, batch: Batch, event: Event, **values: Any) -> Batch:
        for _ in range(_TRIES_TO_MOVE):
            state = advance(batch.state, event)
            if await self._metadata.change_batch(batch.id, state=batch.state, values={"state": state, **values}):
                return msgspec.structs.replace(batch, state=state, **values)
            batch = await self._metadata.get_batch(batch.id)
        message = f"The batch {batch.id} keeps changing; try again."
        raise Conflict(message)

    async def _try_move(self, batch: Batch, event: Event, **values: Any) -> None:
        """Move unless somebody else moved the batch first: then theirs counts."""
        state = advance(batch.state, event)
        if await self._metadata.change_batch(batch.id, state=batch.state, values={"state": state, **values}):
            self._ring()

    def _ring(self) -> None:
        for bell in self._bells:
            bell.ring()
