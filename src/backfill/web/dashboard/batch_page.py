"""The page of one batch: where it stands, how it went, what it cost, what failed and why, and its lines."""

import asyncio
from typing import Any

from backfill.accounts import cost_of
from backfill.batch import Batch, Dialect, State
from backfill.errors import BackfillError, Conflict, InputLost, NotFound
from backfill.intake import group_failures, read_origin
from backfill.tables import has_parquet
from backfill.turns import now_ms
from backfill.web.dashboard.batch_rows import BatchRow, describe_batch
from backfill.web.dashboard.drawing import draw_columns, draw_progress
from backfill.web.dashboard.house import House
from backfill.web.dashboard.journal_views import PAGE_LINES, Course, LinePage
from backfill.web.dashboard.readable import read_answer, read_request
from backfill.web.dashboard.wording import STATE_WORDS, name_moment
from backfill.wire.failures import FailureGroup

__all__ = ["build_batch", "build_lines", "find_batch", "find_sources", "write_curl"]

_FAILURES_AGE_S = 5.0
_FINAL_AGE_S = 600.0
_KINDS = ("answered", "refused", "failed", "waiting")


async def find_batch(house: House, batch_id: str, owner: str | None) -> Batch:
    """The batch; raises NotFound if there is none, or not for this owner."""
    return await house.services.metadata.get_batch(batch_id, owner)


async def build_batch(house: House, owner: str | None, batch_id: str) -> dict[str, Any]:
    """All but the lines."""
    batch = await find_batch(house, batch_id, owner)
    row = await describe_batch(house, batch)
    course, gone = await _find_course(house, batch)
    failures, failures_gone = await _find_failures(house, row)
    return {
        "title": f"Batch {row.name or batch.id[:8]}",
        "row": row,
        "batch": batch,
        "states": _list_states(batch),
        "charts": _draw(row, course) if course else None,
        "gone": gone or failures_gone,
        "cost": cost_of(batch, row.standing.usage, house.services.config.money),
        "failures": failures,
        "failed": sum(group.count for group in failures),
        "is_final": batch.state.is_final,
        "is_rejected": batch.state is State.FAILED and batch.started_at_ms is None,
    }


async def find_sources(house: House, batch: Batch) -> dict[str, Any]:
    """The table of which the batch was made, if it was, and in which forms its results can be had as one."""
    origin = await asyncio.to_thread(read_origin, house.services.blobs, batch.input_file_id)
    return {"table_file_id": origin.table_file_id if origin else None, "has_parquet": has_parquet()}


async def build_lines(
    house: House, owner: str | None, batch_id: str, *, first: int, kind: str, sought: str
) -> dict[str, Any]:
    """A page of its lines, each request beside its answer."""
    batch = await find_batch(house, batch_id, owner)
    kind = kind if kind in _KINDS else ""
    page, gone = LinePage((), 0, 0), ""
    try:
        await house.services.intake.inputs.check_index(batch)
        page = await house.views.read_page(batch, max(0, first), kind, sought)
    except (NotFound, InputLost, Conflict):
        gone = "The input file of this batch is gone, and with it what its lines asked for."
    shown = [
        {
            "line": line,
            "request": read_request(line.request),
            "answer": None if line.answer is None else read_answer(line.answer, is_answered=line.outcome == "answered"),
        }
        for line in page.lines
    ]
    return {
        "lines": shown,
        "page": page,
        "kind": kind,
        "kinds": _KINDS,
        "sought": sought,
        "lines_gone": gone,
        "next": page.first + PAGE_LINES if page.first + PAGE_LINES < page.total else None,
        "previous": max(0, page.first - PAGE_LINES) if page.first else None,
    }


async def _find_course(house: House, batch: Batch) -> tuple[Course | None, str]:
    if batch.started_at_ms is None:
        return None, ""
    try:
        await house.services.intake.inputs.check_index(batch)
        return await house.views.describe(batch, now_ms()), ""
    except (NotFound, InputLost):
        return None, "Its input file is gone: what is left are its output and error file."


async def _find_failures(house: House, row: BatchRow) -> tuple[list[FailureGroup], str]:
    batch, failed = row.batch, row.counts.failed
    if not failed:
        return [], ""

    async def ask() -> list[FailureGroup]:
        return await asyncio.to_thread(group_failures, house.services.blobs, batch)

    age_s = _FINAL_AGE_S if batch.state.is_final else _FAILURES_AGE_S
    try:
        return await house.keep(("failures", batch.id, batch.state, failed), age_s, ask), ""
    except BackfillError as error:
        return [], error.message


def _draw(row: BatchRow, course: Course) -> dict[str, Any]:
    batch, now = row.batch, now_ms()
    told = f"{row.counts.done:,} of {row.counts.total:,} lines done"
    if row.expected:
        told += f", the rest expected in {row.expected}"
    return {
        "progress": draw_progress(course.moments, row.counts.total, batch.deadline_at_ms, row.expected_at_ms, told),
        "columns": draw_columns(course.lines_per_s, f"lines per second, at most {max(course.lines_per_s):,.1f}"),
        "most": max(course.lines_per_s),
        "since": name_moment(batch.started_at_ms),
        "until": name_moment(batch.closing_at_ms or batch.ended_at_ms or now),
    }


def _list_states(batch: Batch) -> list[dict[str, Any]]:
    """The states as they follow each other, with the time at which each began; those to come without one."""
    end = batch.state if batch.state.is_final else State.COMPLETED
    closing = batch.state if batch.state.is_closing else State.FINALIZING
    steps: list[tuple[State, int | None]] = [(State.VALIDATING, batch.created_at_ms)]
    if batch.started_at_ms is not None or not batch.state.is_final:
        steps.append((State.IN_PROGRESS, batch.started_at_ms))
    if batch.closing_at_ms is not None or not batch.state.is_final:
        steps.append((closing, batch.closing_at_ms))
    steps.append((end, batch.ended_at_ms))
    return [
        {
            "word": STATE_WORDS[state],
            "at": name_moment(at_ms),
            "is_now": state is batch.state,
            "is_over": at_ms is not None,
        }
        for state, at_ms in steps
    ]


def write_curl(batch: Batch, root: str) -> str:
    """The command that asks the API of the server at `root` for the batch."""
    dialect = "openai" if batch.dialect is Dialect.OPENAI else "together"
    return f'curl -H "Authorization: Bearer $BACKFILL_API_KEY" {root}/{dialect}/v1/batches/{batch.id}'
