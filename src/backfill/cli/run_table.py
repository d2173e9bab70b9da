"""`backfill run` for a table: the same table comes out, with the answers beside the rows."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from backfill.app import open_rooms
from backfill.batch import Counts
from backfill.cli.console import emit, name_duration, say
from backfill.cli.failures import ALL_ANSWERED, INTERRUPTED, SOME_FAILED
from backfill.cli.local_run import Interruption
from backfill.cli.progress import ProgressDisplay, describe_counts
from backfill.cli.table_options import TableOptions
from backfill.cli.tables import check_apart, check_columns, check_ids, open_named
from backfill.config import Config
from backfill.errors import InvalidInput, RowsLost, StoreBusy
from backfill.local import (
    TableCounts,
    TableJob,
    TableRun,
    check_target,
    choose_model,
    discard_state,
    find_state,
    name_busy,
    replacing,
)
from backfill.tables import RequestBuilder, check_new, check_same_form

__all__ = ["TableOrder", "run_table"]


@dataclass(frozen=True)
class TableOrder:
    """What the user asked for."""

    input_name: str
    output_path: Path
    options: TableOptions
    endpoint: str
    model: str | None
    force: bool


@dataclass(frozen=True)
class _Ended:
    """How a run went; `written` is None if it was interrupted."""

    counts: Counts
    written: TableCounts | None
    done_before: int
    duration_s: float


def run_table(order: TableOrder, prepare: Callable[[], Config], as_json: bool) -> int:
    """Run a table to its end and write it with its answers; the exit code. `prepare` gives the settings to run with.

    Whatever would be a pity to find out later is found out before anything is sent.
    """
    builder = RequestBuilder(order.options.make_plan(order.endpoint, None))
    reader = order.options.make_reader(order.endpoint)
    check_same_form(order.input_name, order.output_path)
    check_apart(order.input_name, order.output_path)
    state = find_state(order.output_path)
    check_target(order.output_path, force=order.force or state.is_dir())
    table = open_named(order.input_name)
    check_columns(table, builder)
    check_new([column.name for column in reader.columns], table.columns, table=table.name)
    if builder.plan.id_column is not None:
        check_ids(table, builder, order.options.limit)
    config = prepare()
    model = order.model or choose_model(config, order.endpoint)
    if model is None:
        raise InvalidInput("Nothing says which model the rows are for; --model NAME does.", param="model")
    if order.force or not state.is_dir():
        discard_state(order.output_path)
    job = TableJob(table, builder, reader, model, order.options.limit)
    with ProgressDisplay(as_json=as_json) as display:
        ended = uvloop.run(_run(job, config, order.output_path, display))
    return _report(ended, order.output_path, as_json=as_json)


async def _run(job: TableJob, config: Config, output_path: Path, display: ProgressDisplay) -> _Ended:
    stop = Interruption(display)
    began = time.monotonic()
    try:
        async with open_rooms(config) as rooms:
            await asyncio.to_thread(job.begin, config.data_dir)
            run = TableRun(rooms, job, display.show, stop)
            written = None
            if await run.work():
                written = await asyncio.to_thread(_write, run, job, output_path)
            counts = await run.count()
    except StoreBusy:
        raise name_busy(output_path) from None
    except RowsLost:
        state = find_state(output_path).name
        raise RowsLost(f"The database in {state} is lost. Use --force to throw that away and start over.") from None
    finally:
        stop.disarm()
    if written is not None:
        await asyncio.to_thread(discard_state, output_path)
    return _Ended(counts, written, run.done_before, time.monotonic() - began)


def _write(run: TableRun, job: TableJob, output_path: Path) -> TableCounts:
    with replacing(output_path) as file:
        return run.write(job.table.begin(file, job.reader.columns))


def _report(ended: _Ended, output_path: Path, *, as_json: bool) -> int:
    counts, written = ended.counts, ended.written
    if written is None:
        say(f"stopped with {counts.done:,} of {counts.total:,} rows done; the same command goes on from there")
        if as_json:
            emit({"event": "interrupted", "total": counts.total, "done": counts.done})
        return INTERRUPTED
    before = f" ({ended.done_before:,} rows were done by an earlier run)" if ended.done_before else ""
    duration = name_duration(ended.duration_s)
    say(f"{written.answered:,} rows answered, {written.failed:,} failed{before} in {duration}")
    say(f"{counts.usage.prompt_tokens:,} tokens in, {counts.usage.completion_tokens:,} out")
    say(f"answers: {output_path}")
    if as_json:
        facts = {
            "event": "finished",
            **describe_counts(counts),
            "answered": written.answered,
            "failed": written.failed,
            "duration_s": round(ended.duration_s, 3),
            "output": str(output_path),
        }
        emit(facts)
    return SOME_FAILED if written.failed else ALL_ANSWERED
