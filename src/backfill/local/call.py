"""One call from Python: a run in a thread and an event loop of its own, whatever the program does with its own."""

import asyncio
import hashlib
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import platformdirs
import structlog
import uvloop

from backfill.app import Rooms, open_rooms
from backfill.config import Config
from backfill.errors import StoreBusy
from backfill.local.progress_bar import ProgressBar, find_bar
from backfill.local.python_tables import GivenTable, give_back
from backfill.local.result_files import replacing
from backfill.local.results_feed import ResultsFeed
from backfill.local.state import discard_state
from backfill.local.stop import Stop
from backfill.local.table_job import TableJob
from backfill.local.table_run import TableRun
from backfill.tables import RequestPlan

__all__ = ["Call", "RowResult", "Stopped", "find_place"]

_WAITING_RESULTS_MAX = 10_000
_LOOK_S = 0.2
_WARNING = 30


class Stopped(Exception):
    """The call was asked to end before all rows were done."""


class RowResult(NamedTuple):
    """What became of one row."""

    row: int
    """Its number, from 0."""
    columns: Mapping[str, Any]
    """The new columns of the row with their values, the error among them."""
    error: str | None
    """Why the row has no answer; None if it has one."""


@dataclass(frozen=True)
class Call:
    """What is to be done; `start` does it, once."""

    given: GivenTable
    job: TableJob
    config: Config
    place: Path
    """The output, or what stands for it where there is none: the state folder lies beside it."""
    output: Path | None
    progress: bool | None

    def start(self, *, streaming: bool) -> "RunningCall":
        """Begin; with `streaming`, rows are given one by one, and no table at the end."""
        return RunningCall(self, streaming=streaming)


class RunningCall:
    """A call under way."""

    def __init__(self, call: Call, *, streaming: bool) -> None:
        self._call = call
        self._names = [column.name for column in call.job.reader.columns]
        self._at_error = self._names.index(call.job.reader.error_column)
        self._results: queue.Queue[RowResult] | None = queue.Queue(_WAITING_RESULTS_MAX) if streaming else None
        self._stop: Stop | None = None
        self._is_asked = threading.Event()
        self.future: Future[Any] = Future()
        """The table with answers, or what went wrong."""
        _quieten_logs()
        # Here, since a notebook shows what its own thread begins to show.
        bar = find_bar(call.progress)
        threading.Thread(target=self._run, args=(bar,), name="backfill", daemon=True).start()

    def ask_to_stop(self) -> None:
        """Let what is in flight finish, and end; what is done stays, and the same call goes on from it."""
        self._is_asked.set()
        if self._stop is not None:
            self._stop.ask()

    def wait(self) -> Any:
        """The table with answers; at Ctrl-C, what is in flight may finish, and a second one waits for nothing."""
        try:
            return self.future.result()
        except KeyboardInterrupt:
            self.end()
            raise

    def take(self) -> RowResult | None:
        """The next result; None if there is none for a moment."""
        assert self._results is not None  # noqa: S101 - whoever takes has asked for a stream
        try:
            return self._results.get(timeout=_LOOK_S)
        except queue.Empty:
            return None

    def take_all(self) -> Iterator[RowResult]:
        """Every result as it comes; whoever goes away early stops the call."""
        try:
            while not (self.is_over and self.is_empty):
                if (result := self.take()) is not None:
                    yield result
            self.future.result()
        finally:
            self.end()

    def end(self) -> None:
        """Stop, if it goes on, and return once it has ended."""
        self.ask_to_stop()
        self.future.exception()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.future.done()

    @property
    def is_empty(self) -> bool:
        """Whether no result waits to be taken."""
        return self._results is None or self._results.empty()

    def _run(self, bar: ProgressBar) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                found = runner.run(self._carry_out(bar))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
            self.future.set_exception(_unwrap(error))
        else:
            self.future.set_result(found)
        finally:
            bar.close()

    async def _carry_out(self, bar: ProgressBar) -> Any:
        stop = self._stop = Stop()
        if self._is_asked.is_set():
            stop.take()
        place = self._call.place
        try:
            async with open_rooms(self._call.config) as rooms:
                found = await self._work(rooms, bar, stop)
        except StoreBusy:
            raise StoreBusy("The same call runs already, in this process or another.") from None
        await asyncio.to_thread(discard_state, place)
        return found

    async def _work(self, rooms: Rooms, bar: ProgressBar, stop: Stop) -> Any:
        job = self._call.job
        await asyncio.to_thread(job.begin, self._call.config.data_dir)
        run = TableRun(rooms, job, bar.show, stop)
        feed = None if self._results is None else ResultsFeed(rooms.blobs, job, run, self._give)
        try:
            if not await run.work(None if feed is None else feed.read_on):
                raise Stopped
        finally:
            if feed is not None:
                feed.close()
        return None if feed is not None else await asyncio.to_thread(self._gather, run)

    def _give(self, row: int, values: list[Any]) -> None:
        assert self._results is not None  # noqa: S101 - only a stream has a feed
        result = RowResult(row, dict(zip(self._names, values, strict=True)), values[self._at_error])
        while not self._is_asked.is_set():
            try:
                self._results.put(result, timeout=_LOOK_S)
            except queue.Full:
                continue
            return

    def _gather(self, run: TableRun) -> Any:
        job, output = self._call.job, self._call.output
        if output is not None:
            with replacing(output) as file:
                run.write(job.table.begin(file, job.reader.columns))
            return output
        values = [each for block in run.read_answers() for each in block]
        return give_back(self._call.given, job.reader.columns, values)


def find_place(plan: RequestPlan, fingerprint: str, limit: int | None) -> Path:
    """Where the state of a call without an output lies: the same place for the same call."""
    asked = msgspec.json.encode([fingerprint, plan.describe(), limit])
    folder = platformdirs.user_cache_path("backfill") / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / hashlib.sha256(asked).hexdigest()[:32]


def _quieten_logs() -> None:
    # Unless the program has set them up, they would go to standard output, all of them.
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(_WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )


def _unwrap(error: BaseException) -> BaseException:
    """The first error of a group: what went wrong first took the others with it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
