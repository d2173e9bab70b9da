"""Batches by what a person knows of them: state, model, owner, a piece of text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Text, and_, case, cast, func, or_, select

from backfill.batch import Batch, State
from backfill.store.database import Database
from backfill.store.reservations import UNSENT
from backfill.store.rows import to_batch
from backfill.store.schema import batches, files

__all__ = ["BatchFilter", "BatchSearch", "BatchSums"]

_FINAL = [state for state in State if state.is_final]


class BatchFilter(NamedTuple):
    """Which batches are meant; what is empty or None does not narrow."""

    owner: str | None = None
    states: Sequence[State] = ()
    model: str = ""
    """Exactly this one."""
    text: str = ""
    """In the id, the name, the model, the metadata, the name or the id of the input file; any case."""
    until_ms: int | None = None
    """Created by then, in ms since the epoch."""


class BatchSums(NamedTuple):
    """What the batches of a filter come to."""

    found: int
    unended: int
    with_failures: int
    """Of those that have ended: how many have lines that failed, and were not rejected as a whole."""
    failed_lines: int
    """Of these."""


class BatchSearch:
    """Asks the table of batches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, wanted: BatchFilter, *, offset: int = 0, limit: int) -> list[Batch]:
        """Newest first, from behind the first `offset` on."""
        query = _narrow(select(batches), wanted)
        order = (batches.c.created_at_ms.desc(), batches.c.id.desc())
        rows = await self._database.read(query.order_by(*order).offset(offset).limit(limit))
        return [to_batch(row) for row in rows]

    async def find_running(self, owner: str | None, *, limit: int) -> list[Batch]:
        """Those of which lines are sent or gathered, and those that are paused, earliest deadline first."""
        states = [state for state in State if state.is_closing or state in (State.IN_PROGRESS, State.PAUSED)]
        query = _narrow(select(batches), BatchFilter(owner, states))
        order = (batches.c.deadline_at_ms, batches.c.created_at_ms, batches.c.id)
        rows = await self._database.read(query.order_by(*order).limit(limit))
        return [to_batch(row) for row in rows]

    async def sum_up(self, wanted: BatchFilter) -> BatchSums:
        """How many there are, and what of them a bulk action would take."""
        failed = batches.c.counts["failed"].as_integer()
        has_failures = and_(batches.c.state.in_(_FINAL), batches.c.started_at_ms.is_not(None), failed > 0)
        query = select(
            func.count().label("found"),
            func.coalesce(func.sum(case((batches.c.state.not_in(_FINAL), 1), else_=0)), 0).label("unended"),
            func.coalesce(func.sum(case((has_failures, 1), else_=0)), 0).label("with_failures"),
            func.coalesce(func.sum(case((has_failures, failed), else_=0)), 0).label("failed_lines"),
        )
        (row,) = await self._database.read(_narrow(query.select_from(batches), wanted))
        return BatchSums(row.found, row.unended, row.with_failures, row.failed_lines)

    async def count_lines(self, owner: str | None) -> dict[State, tuple[int, int]]:
        """Of the states in which lines are still to be sent: how many batches and how many lines there are."""
        total = func.coalesce(func.sum(batches.c.counts["total"].as_integer()), 0)
        query = select(batches.c.state, func.count().label("found"), total.label("lines")).group_by(batches.c.state)
        wanted = BatchFilter(owner, sorted(UNSENT))
        rows = await self._database.read(_narrow(query, wanted))
        return {State(row.state): (row.found, row.lines) for row in rows}

    async def count_by_state(self, owner: str | None) -> dict[State, int]:
        """How many there are in each state; states without any are left out."""
        query = select(batches.c.state, func.count().label("found")).group_by(batches.c.state)
        rows = await self._database.read(_narrow(query, BatchFilter(owner)))
        return {State(row.state): row.found for row in rows}

    async def list_models(self, owner: str | None) -> list[str]:
        """The models that batches name as a whole, sorted."""
        query = select(batches.c.model_id).distinct().where(batches.c.model_id.is_not(None))
        rows = await self._database.read(_narrow(query, BatchFilter(owner)))
        return sorted(row.model_id for row in rows)


def _narrow(query: Select[Any], wanted: BatchFilter) -> Select[Any]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.owner is not None:
        conditions.append(batches.c.owner == wanted.owner)
    if wanted.states:
        conditions.append(batches.c.state.in_(list(wanted.states)))
    if wanted.model:
        conditions.append(batches.c.model_id == wanted.model)
    if wanted.until_ms is not None:
        conditions.append(batches.c.created_at_ms <= wanted.until_ms)
    if wanted.text:
        named = select(files.c.id).where(files.c.filename.icontains(wanted.text, autoescape=True))
        columns = (
            batches.c.id,
            batches.c.name,
            batches.c.model_id,
            batches.c.input_file_id,
            cast(batches.c.metadata, Text),
        )
        found = [column.icontains(wanted.text, autoescape=True) for column in columns]
        conditions.append(or_(*found, batches.c.input_file_id.in_(named)))
    return query.where(*conditions) if conditions else query
