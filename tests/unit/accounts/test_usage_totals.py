"""Counters of what each model used: each batch once however often they are looked at, and no more models than fit."""

import pytest

from backfill.accounts import UsageTotals, usage_totals
from backfill.batch import HOUR_MS, Batch, Price, State, Usage, UsageRow
from backfill.config import MoneyConfig
from backfill.store import Metadata, UsageRecords
from tests.support.rows import RowsPlace

PRICE = Price(1_000_000_000, None, 1_000_000_000, discount_percent=50)


async def add_batch(metadata: Metadata, name: str, *rows: UsageRow, ended_at_ms: int = HOUR_MS) -> None:
    batch = Batch(
        id=name,
        owner="o",
        endpoint="/v1/chat/completions",
        input_file_id="f",
        input_size_bytes=1,
        state=State.COMPLETED,
        created_at_ms=1,
        deadline_at_ms=2,
        ended_at_ms=ended_at_ms,
        prices={"a": PRICE},
        usage=rows,
    )
    await metadata.add_batch(batch)


async def look(totals: UsageTotals) -> dict[tuple[str, ...], float]:
    return {
        (family.name, *labels): value for family in await totals.describe() for labels, value in family.samples.items()
    }


async def test_each_batch_counts_once(rows: RowsPlace) -> None:
    metadata = await Metadata.open(rows.make_driver())
    totals = UsageTotals(UsageRecords(metadata.database), MoneyConfig())
    assert await look(totals) == {}
    await add_batch(
        metadata, "one", UsageRow("a", 1, 3, 1, Usage(1_000_000, 0, 5)), UsageRow("b", 1, 1, 0, Usage(7, 1))
    )
    first = await look(totals)
    assert first == await look(totals)
    assert first["backfill_model_requests", "a", "answered"] == 3
    assert first["backfill_model_tokens", "a", "prompt"] == 1_000_000
    assert first["backfill_model_cost", "a", "paid"] == 0.5
    # What has no price has no series of money.
    assert ("backfill_model_cost", "b", "paid") not in first
    assert first["backfill_model_tokens", "b", "completion"] == 1
    # One that ended a moment earlier may be written later.
    await add_batch(metadata, "two", UsageRow("a", 1, 1, 0, Usage(1_000_000)), ended_at_ms=HOUR_MS - 5)
    await add_batch(metadata, "three", UsageRow("a", 2, 1, 0, Usage(1_000_000)), ended_at_ms=9 * HOUR_MS)
    later = await look(totals)
    assert later["backfill_model_tokens", "a", "prompt"] == 3_000_000
    assert later == await look(totals)
    await metadata.close()


async def test_where_many_end_in_a_minute_they_are_not_read_anew_at_each_look(
    rows: RowsPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr("backfill.accounts.usage_totals.time.monotonic", lambda: now_s)
    monkeypatch.setattr(usage_totals, "_QUICK_LOOK_BATCHES", 1)
    metadata = await Metadata.open(rows.make_driver())
    totals = UsageTotals(UsageRecords(metadata.database), MoneyConfig())
    for name in ("one", "two"):
        await add_batch(metadata, name, UsageRow("a", 1, 1))
    answered = ("backfill_model_requests", "a", "answered")
    assert (await look(totals))[answered] == 2
    await add_batch(metadata, "three", UsageRow("a", 1, 1))
    assert (await look(totals))[answered] == 2
    now_s = 1.0
    assert (await look(totals))[answered] == 3
    await metadata.close()


@pytest.mark.parametrize("shown", [True, False])
async def test_savings_are_there_only_if_they_are_shown(rows: RowsPlace, shown: bool) -> None:
    metadata = await Metadata.open(rows.make_driver())
    await add_batch(metadata, "one", UsageRow("a", 1, 3, 1, Usage(1)))
    samples = await look(UsageTotals(UsageRecords(metadata.database), MoneyConfig(show_savings=shown)))
    assert (("backfill_model_cost", "a", "list") in samples) == shown
    assert ("backfill_model_cost", "a", "paid") in samples
    await metadata.close()


async def test_more_models_than_fit_go_together(rows: RowsPlace) -> None:
    metadata = await Metadata.open(rows.make_driver())
    for number in range(3):
        used = [UsageRow(f"m{number}-{each}", 1, 1, 0, Usage(1)) for each in range(60)]
        await add_batch(metadata, f"batch-{number}", *used)
    samples = await look(UsageTotals(UsageRecords(metadata.database), MoneyConfig()))
    models = {labels[1] for labels in samples}
    assert len(models) == 101
    assert samples["backfill_model_tokens", "other", "prompt"] == 80
    await metadata.close()
