"""A batch without a server: one input, one output, and between them a state folder that any later run can go on from.

    answers.jsonl.backfill/            the state folder: a data directory with one file and one batch
    answers.jsonl, *.errors.jsonl      put there whole, once the batch has ended
    answers.jsonl.backfill-removed/    the state folder on its way out: worth nothing any more

Whatever is killed where, the same call goes on: results are put in place as often as it takes, and the state folder
changes its name, in one step, only after they are.
"""

import asyncio
import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backfill.app import Rooms, open_rooms, working
from backfill.batch import Batch, BatchProblem, File, FileStatus, State
from backfill.cli.console import say
from backfill.cli.failures import INTERRUPTED
from backfill.cli.problems import name_unreadable
from backfill.cli.progress import ProgressDisplay
from backfill.config import Config
from backfill.errors import Conflict, RowsLost, StoreBusy
from backfill.index import Survey
from backfill.inflation import open_unpacked
from backfill.intake import new_file_id
from backfill.local import LOCAL_OWNER, Stop, discard_state, find_state, name_busy, replacing
from backfill.store import Blobs, content_key
from backfill.turns import BatchRequest, judge, now_ms

__all__ = ["Ended", "Interrupted", "Interruption", "Job", "Rejected", "discard_state", "find_state", "run_job"]

_PIECE_BYTES = 1 << 20
_POLL_S = 0.5


@dataclass(frozen=True)
class Job:
    """What is to be run, and where its results go."""

    input_path: Path
    output_path: Path
    errors_path: Path
    endpoint: str
    model_id: str | None = None
    """Model of requests that name none."""
    skips_invalid_lines: bool = False
    """Whether lines that are no requests fail by themselves."""


@dataclass(frozen=True)
class Ended:
    """Every line has its outcome, and the results are in place."""

    batch: Batch
    done_before: int
    """Lines that an earlier run got done."""
    tokens_before: int
    duration_s: float


@dataclass(frozen=True)
class Interrupted:
    """The user stopped it. `done` lines have their outcome; 0 of 0: it had not begun."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Rejected:
    """The input is no batch; nothing was run, and nothing is left."""

    problems: tuple[BatchProblem, ...]


async def run_job(job: Job, config: Config, display: ProgressDisplay) -> Ended | Interrupted | Rejected:
    """Begin the job or go on with it, and put the results in place; `config.data_dir` is its state folder.

    Raises:
        Conflict: the state folder belongs to another input or endpoint.
        StoreBusy: another process is at it.

    """
    interruption = Interruption(display)
    try:
        async with open_rooms(config, media_folder=job.input_path.parent) as rooms:
            ending = await _run(rooms, job, display, interruption)
    except StoreBusy:
        raise name_busy(job.output_path) from None
    except RowsLost:
        state = find_state(job.output_path).name
        raise RowsLost(f"The database in {state} is lost. Use --force to throw that away and start over.") from None
    finally:
        interruption.disarm()
    if not isinstance(ending, Interrupted):
        await asyncio.to_thread(discard_state, job.output_path)
    return ending


class Interruption(Stop):
    """SIGINT and SIGTERM: the first asks for a good end, the second one ends at once."""

    def __init__(self, display: ProgressDisplay) -> None:
        super().__init__()
        self._display = display
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._heed)

    def disarm(self) -> None:
        """Leave signals to the interpreter again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def _heed(self) -> None:
        if self.came:
            self._display.close()
            say("stopped at once; the same command goes on from what was done")
            # The journal is made for this, and an engine ends with its parent.
            os._exit(INTERRUPTED)
        self.take()


async def _run(
    rooms: Rooms, job: Job, display: ProgressDisplay, interruption: Interruption
) -> Ended | Interrupted | Rejected:
    batches = await rooms.metadata.list_batches(LOCAL_OWNER, limit=1)
    if batches:
        batch = batches[0]
        await _check_same(rooms, batch, job)
    else:
        file = await _seal(rooms, job.input_path, interruption)
        if file is None:
            return Interrupted()
        survey = msgspec.json.decode(file.survey, type=Survey)
        verdict = judge(survey, job.endpoint, job.model_id, skips_invalid_lines=job.skips_invalid_lines)
        if verdict.fails:
            return Rejected(verdict.reasons.problems)
        wanted = BatchRequest(LOCAL_OWNER, job.endpoint, file.id, model_id=job.model_id)
        batch = await rooms.turns.create(wanted._replace(skips_invalid_lines=job.skips_invalid_lines))
    began = time.monotonic()
    before = await rooms.progress.count(batch)
    batch = await _work(rooms, batch, display, interruption)
    if not batch.state.is_final:
        counts = await rooms.progress.count(batch)
        return Interrupted(counts.done, counts.total)
    if batch.state is State.FAILED and batch.started_at_ms is None:
        return Rejected(batch.problems)
    await asyncio.to_thread(_put_results, rooms.blobs, batch, await _find_sizes(rooms, batch), job)
    return Ended(batch, before.done, before.usage.completion_tokens, time.monotonic() - began)


async def _check_same(rooms: Rooms, batch: Batch, job: Job) -> None:
    state = find_state(job.output_path).name
    if batch.endpoint != job.endpoint:
        message = f"The run in {state} is for {batch.endpoint}. Use --force to throw it away and start over."
        raise Conflict(message, code="endpoint_changed")
    file = await rooms.metadata.get_file(batch.input_file_id)
    if await asyncio.to_thread(_hash, job.input_path) != file.sha256:
        message = f"{job.input_path} changed since the run in {state} began. Use --force to throw that away."
        raise Conflict(message, code="input_changed")


async def _seal(rooms: Rooms, path: Path, interruption: Interruption) -> File | None:
    """Take the input in as an upload, so that later changes to it do no harm; None if interrupted."""
    upload = rooms.intake.begin(new_file_id())
    draft = File(
        id=upload.file_id,
        owner=LOCAL_OWNER,
        filename=path.name,
        purpose="batch-api",
        status=FileStatus.RESERVED,
        created_at_ms=now_ms(),
    )
    try:
        with path.open("rb") as source:
            while piece := await asyncio.to_thread(source.read, _PIECE_BYTES):
                await upload.feed(piece)
                if interruption.came:
                    return None
        return await upload.seal(draft)
    except OSError as error:
        raise name_unreadable(path, error) from None
    finally:
        upload.abort()


async def _work(rooms: Rooms, batch: Batch, display: ProgressDisplay, interruption: Interruption) -> Batch:
    """Run lines until the batch has ended or the user has had enough; gives the batch as it is then."""
    bell = interruption.bell = rooms.turns.subscribe()
    async with working(rooms) as work:
        work.add_done_callback(lambda _: bell.ring())
        while not (batch.state.is_final or interruption.came or work.done()):
            display.show(await rooms.progress.count(batch), _name_troubles(rooms) or _name_wait(rooms, batch))
            await bell.wait(_POLL_S)
            batch = await rooms.metadata.get_batch(batch.id)
        if interruption.came:
            # Before anything is said: what is announced as the last requests must be the last ones.
            rooms.dispatcher.stop()
            counts = await rooms.progress.count(batch)
            if in_flight := rooms.dispatcher.in_flight:
                plural = "s" if in_flight > 1 else ""
                note = f"finishing {in_flight} request{plural} in flight, press again to stop at once"
                display.show(counts, note)
    batch = await rooms.metadata.get_batch(batch.id)
    display.show(await rooms.progress.count(batch), final=True)
    return batch


def _name_troubles(rooms: Rooms) -> str | None:
    """What holds engines up, in one line."""
    return "; ".join(f"engine {name}: {trouble}" for name, trouble in rooms.dispatcher.troubles.items()) or None


def _name_wait(rooms: Rooms, batch: Batch) -> str | None:
    waiting = rooms.dispatcher.find_wait(batch)
    return waiting.message if waiting is not None and not batch.state.is_final else None


async def _find_sizes(rooms: Rooms, batch: Batch) -> dict[str, int]:
    ids = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
    return {file_id: (await rooms.metadata.get_file(file_id)).size_bytes for file_id in ids}


def _put_results(blobs: Blobs, batch: Batch, sizes: dict[str, int], job: Job) -> None:
    """The errors first: once the output is there, everything is."""
    if batch.error_file_id is None:
        job.errors_path.unlink(missing_ok=True)
    else:
        _copy(blobs, batch.error_file_id, sizes, job.errors_path)
    _copy(blobs, batch.output_file_id, sizes, job.output_path)


def _copy(blobs: Blobs, file_id: str | None, sizes: dict[str, int], target: Path) -> None:
    with replacing(target) as file:
        # A batch without one answer has no output file; the user still gets the one that was asked for, empty.
        if file_id is not None:
            for piece in blobs.read_chunks(content_key(file_id), 0, sizes[file_id]):
                file.write(piece)


def _hash(path: Path) -> str:
    """Of the requests, as the file holds them that was made of it."""
    try:
        digest = hashlib.sha256()
        with open_unpacked(path) as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()
    except OSError as error:
        raise name_unreadable(path, error) from None
