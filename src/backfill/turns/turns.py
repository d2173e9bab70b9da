"""Who may work on what: batches are created, admitted, leased, paused, ended and closed here, and nowhere else."""

import asyncio
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from backfill.batch import Batch, BatchProblem, Event, File, State, advance
from backfill.config import LimitsConfig
from backfill.errors import Conflict, NotFound, TurnLost
from backfill.index import Survey
from backfill.store import Metadata
from backfill.turns.admission import PROBLEMS_SHOWN, check_endpoint, judge
from backfill.turns.choice import Choice, Stock
from backfill.turns.creation import AddBatch, Appraise, Attempt, BatchRequest, Creation
from backfill.turns.duties import ADMISSION, Duties
from backfill.turns.endings import BATCHES_AT_ONCE, HELD, LEASE_MS, Endings, let_go, now_ms
from backfill.turns.neighbours import Company
from backfill.turns.turn import Turn

__all__ = ["Turn", "Turns", "now_ms"]

_TRIES_TO_MOVE = 10
_CANCELLED = frozenset({State.CANCELLING, State.CANCELLED})
_PAUSED = frozenset({State.PAUSED})
_UNDER_WAY = frozenset({State.VALIDATING, State.IN_PROGRESS})


class Turns(Endings):
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
        company: Company | None = None,
        count_slices: Callable[[int], int] | None = None,
    ) -> None:
        """`appraisals` look at each new batch before its row is written, which `add_batch` does.

        `endpoints` are those that there may be batches for beside the known ones. `company`: the other processes on
        the data directory; None: there are none. `count_slices`: into how many slices a batch of so many
        lines is cut when it is admitted; None: none is cut.
        """
        company = company or Company(Duties(), None, str(uuid.uuid4()))
        super().__init__(metadata, clock_ms, company, announces_ends=announces_ends, lease_ms=lease_ms)
        self._pause_watchers: list[Callable[[str], None]] = []
        self._creation = Creation(metadata, limits, clock_ms, self._ring, appraisals, add_batch)
        self._endpoints = endpoints
        self._count_slices = count_slices

    def watch_pauses(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the id of each batch that this process has paused, before whoever asked for it is told."""
        self._pause_watchers.append(tell)

    async def create(self, request: BatchRequest) -> Batch:
        """See `Creation.create`; raises InvalidInput too if there can be no batches for the endpoint."""
        endpoint = check_endpoint(request.endpoint, self._endpoints)
        return await self._creation.create(request._replace(endpoint=endpoint))

    async def retry(
        self,
        ended: Batch,
        file: File,
        attempt: Attempt,
        key_id: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Batch:
        """See `Creation.retry`."""
        return await self._creation.retry(ended, file, attempt, key_id, metadata)

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
        if not await self.duties.has(ADMISSION):
            return
        waiting = await self._metadata.find_waiting(BATCHES_AT_ONCE)
        await asyncio.gather(*(self._admit(batch, survey) for batch, survey in waiting))

    async def expire_due(self) -> None:
        """End every batch whose deadline has come."""
        if not await self.duties.has(ADMISSION):
            return
        now = self._clock_ms()
        states = (State.VALIDATING, State.IN_PROGRESS, State.PAUSED)
        due = await self._metadata.find_batches(states, due_at_ms=now, limit=BATCHES_AT_ONCE)
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
        stock: Stock | None = None,
        passed_over: Collection[str] = (),
    ) -> list[Turn]:
        """Lease up to `room` batches that wait for a turn, or a slice of each that was cut: `Choice` says which.

        `open_turns`: those on which this holder still works, whatever became of its leases. Two of its turns on the
        same lines would write two segments side by side, and a journal has its order from there being one at a time.
        `landing`: those that only wait for what is in flight, and hold no place. `lines_per_s`: how fast the engines
        are, as far as is known. `stock`: what is enough; None: nobody else takes turns. `passed_over`: ids of batches
        that are none for this holder now; they hide no others.
        """
        if room <= 0:
            return []
        now = self._clock_ms()

        # A batch of which several slices are open takes no more of its owner's places than another.
        held = [*{turn.batch.id: turn.batch for turn in open_turns}.values()]
        besides = {turn.batch.id for turn in landing}

        def begin_choice() -> Choice:
            return Choice(held, room, now, lines_per_s, besides=besides, stock=stock)

        # Whoever has some already finds nothing as a rule, and that must cost the writers of all processes nothing.
        looks_first = stock is not None and bool(open_turns)
        return await self._taking.take(now, begin_choice, passed_over, looks_first=looks_first)

    async def take_slices(self, batch: Batch, most: int, besides: Collection[int]) -> list[Turn]:
        """Lease up to `most` further slices of a batch that this holder works on, none of `besides`.

        These are the slices on which he still works, whatever became of his leases, and those that are none for him.
        """
        now = self._clock_ms()
        return await self._taking.take_slices(batch, now, now + self._lease_ms, most, besides)

    async def renew(self, turns: Collection[Turn]) -> None:
        """Push the end of these leases. A lease on which nobody works must run out, or its batch waits for ever."""
        until_ms = self._clock_ms() + self._lease_ms
        whole = [turn.batch.id for turn in turns if not turn.slice_number]
        cut = [(turn.batch.id, turn.slice_number) for turn in turns if turn.slice_number]
        if whole:
            await self._metadata.renew_turns(self._holder, whole, until_ms)
        if cut:
            await self._slices.renew(self._holder, cut, until_ms)

    async def still_running(self, turns: Collection[Turn]) -> set[str]:
        """The names of those turns that still hold, and whose batches are IN_PROGRESS; the others must stop."""
        return await self._find_held(turns, State.IN_PROGRESS)

    async def still_paused(self, turns: Collection[Turn]) -> set[str]:
        """The names of those turns that still hold, and whose batches are PAUSED: what is in flight may land."""
        return await self._find_held(turns, State.PAUSED)

    async def give_back(self, turn: Turn, *, drained: bool, is_fenced: bool = True) -> bool:
        """End a turn. `drained`: every line of it has its record on disk.

        `is_fenced`: nobody writes to the journal any more, or what he writes does not count. Gives whether nothing is
        left of the batch, so that its answers can be gathered.

        Raises:
            TurnLost: another holder took the batch meanwhile.

        """
        free = let_go(is_fenced=is_fenced)
        now = self._clock_ms()
        gather = {state: free | {"state": advance(state, Event.DRAIN), "closing_at_ms": now} for state in HELD}
        if turn.slice_number:
            is_last = await self._give_back_slice(turn, gather if drained else None, is_fenced=is_fenced)
            if is_last or not drained:
                # Of other slices that are through there is nothing for anybody to do: of a thousand workers each would
                # look a hundred times a second.
                self._ring()
            return is_last
        for state in HELD if drained else ():
            if await self._metadata.change_batch(turn.batch.id, state=state, epoch=turn.epoch, values=gather[state]):
                self._ring()
                return True
        if not await self._metadata.change_batch(turn.batch.id, epoch=turn.epoch, values=free):
            message = f"Another process has taken over batch {turn.batch.id}."
            raise TurnLost(message)
        self._ring()
        return drained

    async def _give_back_slice(
        self, turn: Turn, gather: dict[State, dict[str, Any]] | None, *, is_fenced: bool
    ) -> bool:
        """`gather`: what is written into the batch's row, by its state, if this was its last slice; None: it is not."""
        batch_id, number, epoch = turn.batch.id, turn.slice_number, turn.epoch
        is_last: bool | None = False
        if gather is not None:
            is_last = await self._slices.drain(batch_id, number, epoch, gather)
        elif not await self._slices.give_back(batch_id, number, epoch, is_fenced=is_fenced):
            is_last = None
        if is_last is None:
            message = f"Another process has taken over slice {number} of batch {batch_id}."
            raise TurnLost(message)
        return is_last

    async def _reject(self, batch: Batch, problems: tuple[BatchProblem, ...], count: int) -> None:
        values = {"state": advance(batch.state, Event.REJECT), "problems": problems, "problem_count": count}
        if await self._metadata.change_batch(batch.id, state=batch.state, values=values | self._end(batch)):
            rejected = msgspec.structs.replace(batch, problems=problems, problem_count=count)
            self._note_end(rejected, State.FAILED, batch.counts)

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
            await self._begin(batch, {"state": state, "started_at_ms": now, "paused_at_ms": now})
        else:
            state = advance(batch.state, Event.ADMIT)
            await self._begin(batch, {"state": state, "started_at_ms": self._clock_ms()})

    async def _begin(self, batch: Batch, values: dict[str, Any]) -> None:
        """Write that a batch was admitted, with the slices into which it is cut, unless somebody else has moved it."""
        count = self._count_slices(batch.counts.total) if self._count_slices is not None else 0
        cut = values | {"slices": count} if count else values
        if await self._metadata.change_batch(batch.id, state=batch.state, values=cut, new_slices=count):
            self._ring()

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
