"""Who may work on what: batches are created, admitted, leased, cancelled, expired and closed here, and nowhere else."""

import time
import uuid
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgspec

from backfill.batch import Batch, BatchProblem, Counts, Dialect, Event, File, FileStatus, State, advance
from backfill.config import LimitsConfig
from backfill.errors import Conflict, InvalidInput, NotFound, TurnLost
from backfill.index import Survey
from backfill.store import Metadata
from backfill.turns.admission import check_endpoint, judge, parse_window
from backfill.turns.bell import Bell

__all__ = ["Attempt", "BatchRequest", "Turn", "Turns", "now_ms"]

LEASE_MS = 30_000
_TRIES_TO_MOVE = 10


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Attempt(NamedTuple):
    """How a request that makes a batch is known again when it is sent a second time."""

    digest: str = ""
    """Stands for all that was asked for."""
    key: str | None = None
    """The client's own name for the request."""
    repeats_since_ms: int | None = None
    """Without a key: the client says that it sent the same before, and not before this time."""


class BatchRequest(NamedTuple):
    """What a client asks for when it creates a batch."""

    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str | None = None
    model_id: str | None = None
    priority: int = 0
    metadata: dict[str, str] | None = None
    dialect: Dialect = Dialect.TOGETHER
    output_expires_after_s: int | None = None
    attempt: Attempt = Attempt()


class Turn(NamedTuple):
    """A lease on the unfinished lines of one batch. The epoch grows with every turn and fences old holders out."""

    batch: Batch
    epoch: int


class Turns:
    """The life of batches, on top of their rows."""

    def __init__(
        self,
        metadata: Metadata,
        limits: LimitsConfig,
        clock_ms: Callable[[], int] = now_ms,
        *,
        announces_ends: bool = False,
    ) -> None:
        self._metadata = metadata
        self._limits = limits
        self._clock_ms = clock_ms
        self._announces_ends = announces_ends
        self._holder = str(uuid.uuid4())
        self._bells: list[Bell] = []

    def subscribe(self) -> Bell:
        """A bell that rings whenever this process has changed a batch."""
        bell = Bell()
        self._bells.append(bell)
        return bell

    async def create(self, request: BatchRequest) -> Batch:
        """Write a new batch's row, VALIDATING; takes as long for 50,000 lines as for 50.

        Gives the batch that an earlier attempt of the same request made, if there is one.

        Raises:
            InvalidInput: the endpoint or the window is none, the file has no bytes yet or is no input file, or the
                idempotency key was used for another request.
            NotFound: there is no such file, or it belongs to another owner.

        """
        check_endpoint(request.endpoint)
        window = request.completion_window or f"{self._limits.window_h:g}h"
        window_ms = parse_window(window) if request.completion_window else int(self._limits.window_h * 3_600_000)
        file = await self._find_input(request)
        survey = msgspec.json.decode(file.survey, type=Survey)
        # Shown to clients; a line without a model must not fall back on a model that nobody chose for it.
        only_model = survey.models[0] if len(survey.models) == 1 and not survey.lines_without_model else None
        now = self._clock_ms()
        batch = Batch(
            id=str(uuid.uuid4()),
            owner=request.owner,
            endpoint=request.endpoint,
            input_file_id=file.id,
            input_size_bytes=file.size_bytes,
            state=State.VALIDATING,
            created_at_ms=now,
            deadline_at_ms=now + window_ms,
            dialect=request.dialect,
            completion_window=window,
            model_id=request.model_id or only_model,
            priority=request.priority,
            metadata=request.metadata,
            output_expires_after_s=request.output_expires_after_s,
            counts=Counts(total=file.line_count),
            idempotency_key=request.attempt.key,
            request_digest=request.attempt.digest,
        )
        return await self._add(batch, request.attempt)

    async def retry(self, ended: Batch, file: File, attempt: Attempt) -> Batch:
        """As `create`: a batch like one that has ended, of a file that holds those of its lines that failed."""
        now = self._clock_ms()
        batch = Batch(
            id=str(uuid.uuid4()),
            owner=ended.owner,
            endpoint=ended.endpoint,
            input_file_id=file.id,
            input_size_bytes=file.size_bytes,
            state=State.VALIDATING,
            created_at_ms=now,
            deadline_at_ms=now + ended.deadline_at_ms - ended.created_at_ms,
            dialect=ended.dialect,
            completion_window=ended.completion_window,
            model_id=ended.model_id,
            priority=ended.priority,
            metadata={**(ended.metadata or {}), "retry_of": ended.id},
            output_expires_after_s=ended.output_expires_after_s,
            counts=Counts(total=file.line_count),
            idempotency_key=attempt.key,
            request_digest=attempt.digest,
        )
        return await self._add(batch, attempt)

    async def find_repeated(self, owner: str, attempt: Attempt) -> Batch | None:
        """The batch that an earlier attempt of the same request made; raises InvalidInput if it was another request."""
        found = await self._metadata.find_repeated(
            owner, attempt.key, attempt.digest, repeats_since_ms=attempt.repeats_since_ms
        )
        return None if found is None else _check_twin(found, attempt)

    async def cancel(self, batch_id: str, owner: str) -> Batch:
        """Stop sending lines of a batch; what finished is kept. Cancelling twice is one cancel.

        Raises:
            NotFound: there is no such batch, or it belongs to another owner.
            Conflict: the batch has ended, or is about to.

        """
        batch = await self._metadata.get_batch(batch_id, owner)
        if batch.state is State.CANCELLING:
            return batch
        moved = await self._move(batch, Event.CANCEL, closing_at_ms=self._clock_ms())
        self._ring()
        return moved

    async def admit_waiting(self) -> None:
        """Judge every batch that is VALIDATING: it goes on, or fails with the reasons."""
        for batch in await self._metadata.find_batches([State.VALIDATING]):
            try:
                file = await self._metadata.get_file(batch.input_file_id)
            except NotFound:
                gone = BatchProblem("file_not_found", f"The input file {batch.input_file_id} is gone.")
                values = {"problems": (gone,), "problem_count": 1} | self._end()
                await self._try_move(batch, Event.REJECT, **values)
                continue
            survey = msgspec.json.decode(file.survey, type=Survey)
            problems, count = judge(survey, batch.endpoint, batch.model_id, batch.dialect)
            if count:
                reasons = {"problems": problems, "problem_count": count} | self._end()
                await self._try_move(batch, Event.REJECT, **reasons)
            else:
                await self._try_move(batch, Event.ADMIT, started_at_ms=self._clock_ms())

    async def expire_due(self) -> None:
        """End every batch whose deadline has come."""
        now = self._clock_ms()
        for batch in await self._metadata.find_batches([State.VALIDATING, State.IN_PROGRESS], due_at_ms=now):
            await self._try_move(batch, Event.EXPIRE, closing_at_ms=now)

    async def reclaim(self) -> None:
        """Free every turn at once instead of waiting for leases to run out.

        Only for a process that alone holds the data directory: whoever held a turn before is dead.
        """
        await self._metadata.free_all_turns()

    async def take(self, room: int, besides: Collection[str] = ()) -> list[Turn]:
        """Lease up to `room` batches that wait for a turn, earliest deadline first.

        `besides`: batches on which this holder still works, whatever became of its leases. Two of its turns on one
        batch would write two segments side by side, and a journal has its order from there being one at a time.
        """
        now = self._clock_ms()
        taken: list[Turn] = []
        for batch in await self._metadata.find_batches([State.IN_PROGRESS], free_at_ms=now):
            if len(taken) >= room:
                break
            if batch.id in besides:
                continue
            epoch = batch.epoch + 1
            lease = {"holder": self._holder, "lease_until_ms": now + LEASE_MS, "epoch": epoch}
            if await self._metadata.change_batch(batch.id, state=batch.state, epoch=batch.epoch, values=lease):
                taken.append(Turn(msgspec.structs.replace(batch, epoch=epoch), epoch))
        return taken

    async def renew(self) -> None:
        """Push the end of all leases of this holder."""
        await self._metadata.renew_turns(self._holder, self._clock_ms() + LEASE_MS)

    async def still_running(self, turns: Collection[Turn]) -> set[str]:
        """The ids of those batches that are IN_PROGRESS and still leased by these turns; the others must stop."""
        if not turns:
            return set()
        rows = {batch.id: batch.epoch for batch in await self._metadata.find_batches([State.IN_PROGRESS])}
        return {turn.batch.id for turn in turns if rows.get(turn.batch.id) == turn.epoch}

    async def give_back(self, turn: Turn, *, drained: bool) -> None:
        """End a turn. `drained`: every line has its record on disk, so the answers can be gathered.

        Raises:
            TurnLost: another holder took the batch meanwhile.

        """
        free: dict[str, Any] = {"holder": None}
        if drained:
            gather = {"state": advance(State.IN_PROGRESS, Event.DRAIN), "closing_at_ms": self._clock_ms()}
            if await self._metadata.change_batch(
                turn.batch.id, state=State.IN_PROGRESS, epoch=turn.epoch, values=free | gather
            ):
                self._ring()
                return
        if not await self._metadata.change_batch(turn.batch.id, epoch=turn.epoch, values=free):
            message = f"Another process has taken over batch {turn.batch.id}."
            raise TurnLost(message)
        self._ring()

    async def find_closable(self) -> list[Batch]:
        """Batches of which no line is sent any more and nobody holds a turn."""
        closing = [state for state in State if state.is_closing]
        return await self._metadata.find_batches(closing, free_at_ms=self._clock_ms())

    async def close(self, batch: Batch, counts: Counts, output: File | None, error: File | None) -> bool:
        """Make final status, counts and file ids visible in one write; False if somebody else has closed the batch."""
        values = {
            "state": advance(batch.state, Event.CLOSE),
            "counts": counts,
            "output_file_id": output.id if output else None,
            "error_file_id": error.id if error else None,
        } | self._end()
        files = [file for file in (output, error) if file is not None]
        if not await self._metadata.change_batch(batch.id, state=batch.state, values=values, new_files=files):
            return False
        self._ring()
        return True

    async def find_unannounced(self, limit: int) -> list[Batch]:
        """Batches that have ended and of whose end the outside is to be told now."""
        return await self._metadata.find_webhooks(self._clock_ms(), limit)

    async def note_announcement(self, batch: Batch, again_in_s: float | None) -> None:
        """The outside was told, or that was tried; None: it is not tried again."""
        due_at_ms = None if again_in_s is None else self._clock_ms() + round(again_in_s * 1000)
        values = {"webhook_due_at_ms": due_at_ms, "webhook_tries": batch.webhook_tries + 1}
        await self._metadata.change_batch(batch.id, values=values)

    def _end(self) -> dict[str, Any]:
        """What is written with every final status, in the same write: no crash comes between it and its webhook."""
        now = self._clock_ms()
        return {"ended_at_ms": now, "webhook_due_at_ms": now if self._announces_ends else None}

    async def _find_input(self, request: BatchRequest) -> File:
        file = await self._metadata.get_file(request.input_file_id, request.owner)
        if file.status is not FileStatus.SEALED:
            message = f"The file {file.id} has not been uploaded yet: its id was reserved, but no bytes came."
            raise InvalidInput(message, param="input_file_id", code="file_not_uploaded")
        if not file.survey:
            message = f"The file {file.id} is an output of Backfill; download it and upload the input you want to run."
            raise InvalidInput(message, param="input_file_id", code="invalid_file_purpose")
        return file

    async def _add(self, batch: Batch, attempt: Attempt) -> Batch:
        added = await self._metadata.add_batch(batch, repeats_since_ms=attempt.repeats_since_ms)
        if added.id == batch.id:
            self._ring()
            return batch
        return _check_twin(added, attempt)

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


def _check_twin(batch: Batch, attempt: Attempt) -> Batch:
    """The batch, if it was made of the same request; an idempotency key alone does not say so."""
    if batch.request_digest != attempt.digest:
        message = f"This idempotency key made batch {batch.id} of another request; use a new key for this one."
        raise InvalidInput(message, param="Idempotency-Key", code="idempotency_key_reuse")
    return batch
