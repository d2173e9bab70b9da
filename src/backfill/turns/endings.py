"""Holding batches and ending them: leases with epochs, and the write that makes a final status visible."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import structlog

from backfill.batch import Batch, BatchProblem, Counts, Event, File, State, UsageRow, advance
from backfill.store import Lease, Metadata, Slices
from backfill.turns.bell import Bell
from backfill.turns.neighbours import Company
from backfill.turns.setbacks import Setbacks
from backfill.turns.taking import Taking
from backfill.turns.turn import Turn

__all__ = ["BATCHES_AT_ONCE", "HELD", "LEASE_MS", "Endings", "let_go", "now_ms"]

LEASE_MS = 30_000
HELD = (State.IN_PROGRESS, State.PAUSED)
"""A turn may be held on a batch in these."""
BATCHES_AT_ONCE = 256
"""A look takes so many of what has come in or is due; the next look goes on."""
_log = structlog.get_logger(__name__)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Endings:
    """The part of `Turns` that leases batches, closes them and tells of their ends."""

    def __init__(
        self, metadata: Metadata, clock_ms: Callable[[], int], company: Company, *, announces_ends: bool, lease_ms: int
    ) -> None:
        self._metadata = metadata
        self._clock_ms = clock_ms
        self._announces_ends = announces_ends
        self._lease_ms = lease_ms
        self.setbacks = Setbacks()
        """What failed of late, for whoever works on batches in this process."""
        self.duties = company.duties
        """What this process does of that which one does at a time."""
        self._neighbours = company.neighbours
        self._holder = company.holder
        self._place = company.place
        self._slices = Slices(metadata)
        self._taking = Taking(metadata, self._slices, company.holder, lease_ms)
        self._bells: list[Bell] = []
        self._watchers: list[Callable[[str], None]] = []

    @property
    def lease_s(self) -> float:
        """How long a turn holds that is not renewed."""
        return self._lease_ms / 1000

    @property
    def holder(self) -> str:
        """The name of this process on leases."""
        return self._holder

    def subscribe(self) -> Bell:
        """A bell that rings whenever this process has changed a batch."""
        bell = Bell()
        self._bells.append(bell)
        return bell

    def ring_bells(self) -> None:
        """Have this process look for what another one has changed."""
        for bell in self._bells:
            bell.ring()

    def _ring(self) -> None:
        self.ring_bells()
        if self._neighbours is not None:
            self._neighbours.tell()

    def watch_ends(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the id of each batch that this process has ended."""
        self._watchers.append(tell)

    async def find_closable(self, besides: Collection[str] = ()) -> list[Batch]:
        """The most urgent batches of which no line is sent any more and nobody holds a turn, without `besides`."""
        closing = [state for state in State if state.is_closing]
        now = self._clock_ms()
        found = await self._metadata.find_batches(closing, free_at_ms=now, besides=besides, limit=BATCHES_AT_ONCE)
        cut = [batch.id for batch in found if batch.slices]
        busy = await self._slices.find_busy(cut, now) if cut else set()
        return [batch for batch in found if batch.id not in busy]

    async def take_closable(self, batches: Sequence[Batch]) -> list[Turn]:
        """Lease batches that `find_closable` gave; those at which another process was first are left out."""
        leased = await asyncio.gather(*(self._take_closing(batch, self._clock_ms()) for batch in batches))
        return [turn for turn in leased if turn is not None]

    async def note_fenced(self, turn: Turn) -> None:
        """Nobody writes to a batch's slices any more that are to be fenced before it is closed."""
        if turn.overdue:
            await self._slices.note_fenced(turn.batch.id, turn.overdue)

    async def let_go(self, turn: Turn, *, is_fenced: bool) -> None:
        """Free a batch that was leased to be closed, and was not; `is_fenced` as for `give_back`."""
        await self._metadata.change_batch(turn.batch.id, epoch=turn.epoch, values=let_go(is_fenced=is_fenced))

    async def _take_closing(self, batch: Batch, now: int) -> Turn | None:
        lease = Lease(self._holder, now + self._lease_ms)
        if not batch.slices:
            return await self._taking.lease(batch, lease.lease_until_ms)
        overdue = await self._slices.claim_closing(batch, lease, now)
        if overdue is None:
            return None
        leased = msgspec.structs.replace(batch, epoch=batch.epoch + 1, holder=self._holder)
        return Turn(leased, leased.epoch, is_takeover=bool(overdue), overdue=tuple(overdue))

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
            "holder": None,
        } | self._end(batch)
        files = [file for file in (output, error) if file is not None]
        epoch = None if self.duties.is_alone else batch.epoch
        if not await self._metadata.change_batch(
            batch.id, state=batch.state, epoch=epoch, values=values, new_files=files
        ):
            return False
        self._note_end(batch, state, counts)
        return True

    async def fail_turn(self, turn: Turn, problem: BatchProblem, *, is_fenced: bool) -> bool:
        """As `fail`, by the holder of a turn."""
        if not turn.slice_number:
            return await self.fail(turn.batch, problem, epoch=turn.epoch, is_fenced=is_fenced)
        values = {"problems": (problem,), "problem_count": 1, "closing_at_ms": self._clock_ms(), "holder": None}
        failed = {state: values | {"state": advance(state, Event.FAIL)} for state in HELD}
        batch_id, number = turn.batch.id, turn.slice_number
        is_failed = await self._slices.fail(batch_id, number, turn.epoch, failed, is_fenced=is_fenced)
        if is_failed:
            self._ring()
        return is_failed

    async def fail(
        self, batch: Batch, problem: BatchProblem, *, epoch: int | None = None, is_fenced: bool = True
    ) -> bool:
        """Send nothing more of a batch that can never be completed; what finished is gathered. In one write.

        With `epoch`: only for the holder of that turn; `is_fenced` as for `give_back`. False if somebody else has moved
        the batch first.
        """
        values = {"problems": (problem,), "problem_count": 1, "closing_at_ms": self._clock_ms()}
        values |= let_go(is_fenced=is_fenced)
        # Since the turn was taken the batch may have been paused, or resumed.
        for state in (batch.state,) if epoch is None or batch.state.is_closing else HELD:
            failing = values | {"state": advance(state, Event.FAIL)}
            if await self._metadata.change_batch(batch.id, state=state, epoch=epoch, values=failing):
                self._ring()
                return True
        return False

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
        whole = [turn for turn in turns if not turn.slice_number]
        cut = [turn for turn in turns if turn.slice_number]
        held: set[str] = set()
        if whole:
            epochs = await self._metadata.find_epochs(state, [turn.batch.id for turn in whole])
            held |= {turn.name for turn in whole if epochs.get(turn.batch.id) == turn.epoch}
        if cut:
            of_slices = await self._slices.find_epochs(state, {turn.batch.id for turn in cut})
            held |= {turn.name for turn in cut if of_slices.get((turn.batch.id, turn.slice_number)) == turn.epoch}
        return held


def let_go(*, is_fenced: bool) -> dict[str, Any]:
    """Free the batch at once; the name of its holder stays where one before him may still write."""
    return {"holder": None} if is_fenced else {"lease_until_ms": 0}
