"""A batch's row is built here, for a new batch and for the retry of one, and nowhere else."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from backfill.batch import Batch, Counts, Dialect, File, FileStatus, State
from backfill.config import LimitsConfig
from backfill.errors import InvalidInput
from backfill.index import Survey
from backfill.purposes import TABLE_PURPOSE
from backfill.store import Metadata
from backfill.wire import parse_window

__all__ = ["AddBatch", "Appraise", "Attempt", "BatchRequest", "Creation"]


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
    """As `check_endpoint` gives it."""
    input_file_id: str
    completion_window: str | None = None
    model_id: str | None = None
    priority: int = 0
    metadata: dict[str, str] | None = None
    dialect: Dialect = Dialect.TOGETHER
    output_expires_after_s: int | None = None
    attempt: Attempt = Attempt()
    key_id: str | None = None
    """The key that asks, if it is one of the database's."""
    name: str | None = None
    """What the owner calls the batch."""
    skips_invalid_lines: bool | None = None
    """Whether lines that are no requests fail by themselves; None: as the settings say."""
    file: File | None = None
    """The row of the input, if the caller has just read it."""
    own_webhook_url: str | None = None
    """Where the batch's own end is to be told."""


Appraise = Callable[[Batch, File, Survey], Awaitable[Batch]]
"""Looks at a batch whose row is about to be written: gives it with what it found out, or raises what speaks against."""


class AddBatch(Protocol):
    """Writes the row of a new batch, as `Metadata.add_batch` does, or raises what speaks against it."""

    async def __call__(self, batch: Batch, *, repeats_since_ms: int | None = None) -> Batch:
        """Give the batch, or the one that the same request made before."""


class Creation:
    """Makes the rows of new batches; each is seen by every appraisal, in their order, before it is written."""

    def __init__(
        self,
        metadata: Metadata,
        limits: LimitsConfig,
        clock_ms: Callable[[], int],
        ring: Callable[[], None],
        appraisals: Sequence[Appraise] = (),
        add_batch: AddBatch | None = None,
    ) -> None:
        """`ring` is called when a batch was added; `add_batch` writes its row, or says why it may not be."""
        self._metadata = metadata
        self._limits = limits
        self._clock_ms = clock_ms
        self._ring = ring
        self._appraisals = tuple(appraisals)
        self._add_batch = add_batch or metadata.add_batch

    async def create(self, request: BatchRequest) -> Batch:
        """Write a new batch's row, VALIDATING; takes as long for 50,000 lines as for 50.

        Gives the batch that an earlier attempt of the same request made, if there is one.

        Raises:
            InvalidInput: the window is none, the file has no bytes yet or is no input file, or the
                idempotency key was used for another request.
            NotFound: there is no such file, or it belongs to another owner.

        """
        limits, window = self._limits, request.completion_window
        if window:
            window_ms = parse_window(window, limits.window_min_h, limits.window_max_h)
        else:
            window, window_ms = f"{limits.window_h:g}h", int(limits.window_h * 3_600_000)
        file = await self._find_input(request)
        return await self._add(request._replace(completion_window=window), file, window_ms)

    async def retry(
        self,
        ended: Batch,
        file: File,
        attempt: Attempt,
        key_id: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Batch:
        """As `create`: a batch like one that has ended, of a file that holds those of its lines that failed.

        `metadata` goes before that of the ended one.
        """
        request = BatchRequest(
            owner=ended.owner,
            endpoint=ended.endpoint,
            input_file_id=file.id,
            completion_window=ended.completion_window,
            model_id=ended.model_id,
            priority=ended.priority,
            metadata={**(ended.metadata or {}), **(metadata or {}), "retry_of": ended.id},
            dialect=ended.dialect,
            output_expires_after_s=ended.output_expires_after_s,
            attempt=attempt,
            key_id=key_id,
            name=ended.name,
            skips_invalid_lines=ended.skips_invalid_lines,
            own_webhook_url=ended.own_webhook_url,
        )
        return await self._add(request, file, ended.deadline_at_ms - ended.created_at_ms)

    async def find_repeated(self, owner: str, attempt: Attempt) -> Batch | None:
        """The batch that an earlier attempt of the same request made; raises InvalidInput if it was another request."""
        found = await self._metadata.find_repeated(
            owner, attempt.key, attempt.digest, repeats_since_ms=attempt.repeats_since_ms
        )
        return None if found is None else _check_twin(found, attempt)

    async def _find_input(self, request: BatchRequest) -> File:
        file = request.file or await self._metadata.get_file(request.input_file_id, request.owner)
        if file.status is not FileStatus.SEALED:
            message = f"The file {file.id} has not been uploaded yet: its id was reserved, but no bytes came."
            raise InvalidInput(message, param="input_file_id", code="file_not_uploaded")
        if file.purpose == TABLE_PURPOSE:
            message = f"The file {file.id} is a table; /v1/files/{file.id}/requests makes requests of its rows."
            raise InvalidInput(message, param="input_file_id", code="invalid_file_purpose")
        if file.is_media:
            message = (
                f"The file {file.id} has the purpose {file.purpose}, of pictures and clips that requests name; upload "
                "a file of requests as batch-api or batch."
            )
            raise InvalidInput(message, param="input_file_id", code="invalid_file_purpose")
        if not file.survey:
            message = f"The file {file.id} is an output of Backfill; download it and upload the input you want to run."
            raise InvalidInput(message, param="input_file_id", code="invalid_file_purpose")
        return file

    async def _add(self, request: BatchRequest, file: File, window_ms: int) -> Batch:
        survey = msgspec.json.decode(file.survey, type=Survey)
        if request.skips_invalid_lines is None:
            request = request._replace(skips_invalid_lines=self._limits.on_invalid_lines == "error_file")
        batch = _build(request, file, survey, self._clock_ms(), window_ms)
        for appraise in self._appraisals:
            batch = await appraise(batch, file, survey)
        added = await self._add_batch(batch, repeats_since_ms=request.attempt.repeats_since_ms)
        if added.id == batch.id:
            self._ring()
            return batch
        return _check_twin(added, request.attempt)


def _build(request: BatchRequest, file: File, survey: Survey, now_ms: int, window_ms: int) -> Batch:
    # Shown to clients; a line without a model must not fall back on a model that nobody chose for it.
    only_model = survey.models[0] if len(survey.models) == 1 and not survey.lines_without_model else None
    return Batch(
        id=str(uuid.uuid4()),
        owner=request.owner,
        endpoint=request.endpoint,
        input_file_id=file.id,
        input_size_bytes=file.size_bytes,
        state=State.VALIDATING,
        created_at_ms=now_ms,
        deadline_at_ms=now_ms + window_ms,
        dialect=request.dialect,
        completion_window=request.completion_window or "",
        model_id=request.model_id or only_model,
        priority=request.priority,
        metadata=request.metadata,
        output_expires_after_s=request.output_expires_after_s,
        counts=Counts(total=file.line_count),
        idempotency_key=request.attempt.key,
        request_digest=request.attempt.digest,
        key_id=request.key_id,
        name=request.name,
        skips_invalid_lines=bool(request.skips_invalid_lines),
        own_webhook_url=request.own_webhook_url,
    )


def _check_twin(batch: Batch, attempt: Attempt) -> Batch:
    """The batch, if it was made of the same request; an idempotency key alone does not say so."""
    if batch.request_digest != attempt.digest:
        message = f"This idempotency key made batch {batch.id} of another request; use a new key for this one."
        raise InvalidInput(message, param="Idempotency-Key", code="idempotency_key_reuse")
    return batch
