"""A batch as a row of a list: how far it is, how fast, and when it will be done."""

from typing import NamedTuple

from backfill.batch import Batch, Counts, Standing
from backfill.status import Waiting
from backfill.turns import now_ms
from backfill.web.dashboard.house import House
from backfill.web.dashboard.wording import name_range, name_rough
from backfill.wire.words import name_rate

__all__ = ["BatchRow", "describe_batch"]


class BatchRow(NamedTuple):
    """What a list says of a batch."""

    batch: Batch
    name: str
    counts: Counts
    standing: Standing
    rate: str
    expected: str
    """In how long it will be done, as a range; empty where nothing is known."""
    expected_at_ms: tuple[int, int] | None
    slack: str
    """How long before its deadline that is, or after."""
    is_late: bool
    waiting: Waiting | None


async def describe_batch(house: House, batch: Batch) -> BatchRow:
    """Ask the rooms how the batch is."""
    services, now = house.services, now_ms()
    if batch.state.is_final:
        return _make_row(batch, Standing(batch.counts, batch.used))
    standing = await services.measure(batch)
    row = _make_row(batch, standing)
    speed = house.rates.note(batch.id, standing.counts.done)
    if speed is None and batch.started_at_ms and now > batch.started_at_ms:
        speed = standing.counts.done / ((now - batch.started_at_ms) / 1000)
    forecast = await services.forecast(batch)
    row = row._replace(rate=f"{name_rate(speed)}/s" if speed else "", waiting=services.find_wait(batch))
    if forecast is None:
        return row
    words, ends = name_range(now, forecast.done_at_ms)
    slack_ms = batch.deadline_at_ms - forecast.done_at_ms
    slack = f"{name_rough(abs(slack_ms))} {'before' if slack_ms >= 0 else 'after'} its deadline"
    return row._replace(expected=words, expected_at_ms=ends, slack=slack, is_late=forecast.is_late)


def _make_row(batch: Batch, standing: Standing) -> BatchRow:
    # Before batches had names, the page wrote it into the metadata.
    name = batch.name or (batch.metadata or {}).get("name", "")
    return BatchRow(batch, name, standing.counts, standing, "", "", None, "", is_late=False, waiting=None)
