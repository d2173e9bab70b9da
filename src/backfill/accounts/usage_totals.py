"""What each model used in all, for metrics: a fold over the rows of batches that have ended, which is read on."""

import asyncio
import time
from collections.abc import Sequence
from decimal import Decimal

from backfill.accounts.spending import Spending
from backfill.catalogue import UNITS_PER_DOLLAR
from backfill.config import MoneyConfig
from backfill.status import MetricFamily
from backfill.store import BatchUsage, UsageRecords

__all__ = ["UsageTotals"]

_MODELS_MAX = 100
_OTHER = "other"
_MS = 1000
# An end is timed a moment before it is written, and another one may be written first.
_LOOK_BACK_MS = 60_000
_LATEST_MS = 1 << 62
# A look reads the last minute anew. Where more batches than these end in one, it is made less often.
_QUICK_LOOK_BATCHES = 100
_KEPT_S_PER_BATCH = 0.002
_KEPT_MAX_S = 5.0


class UsageTotals:
    """Sums that only grow, as counters have to: the first look reads all rows, every other one those that are new."""

    def __init__(self, records: UsageRecords, money: MoneyConfig) -> None:
        self._records = records
        self._money = money
        self._sums: dict[str, Spending] = {}
        self._ended_at_ms: dict[str, int] = {}
        """Of the batches that were taken in last."""
        self._read_to_ms = 0
        self._due_s = float("-inf")
        self._reading = asyncio.Lock()

    async def describe(self) -> Sequence[MetricFamily]:
        """Requests, tokens and money of each model, of batches that have ended."""
        async with self._reading:
            if time.monotonic() >= self._due_s:
                await self._read_on()
        return (self._describe_requests(), self._describe_tokens(), self._describe_audio(), self._describe_cost())

    async def _read_on(self) -> None:
        found = 0
        async for some in self._records.read_ended(self._read_to_ms - _LOOK_BACK_MS, _LATEST_MS, None):
            found += len(some)
            await asyncio.to_thread(self._take, some)
        edge_ms = self._read_to_ms - _LOOK_BACK_MS
        self._ended_at_ms = {name: at_ms for name, at_ms in self._ended_at_ms.items() if at_ms >= edge_ms}
        kept_s = min(max(0, found - _QUICK_LOOK_BATCHES) * _KEPT_S_PER_BATCH, _KEPT_MAX_S)
        self._due_s = time.monotonic() + kept_s

    def _take(self, some: Sequence[BatchUsage]) -> None:
        for batch in some:
            if batch.batch_id in self._ended_at_ms or batch.ended_at_ms is None:
                continue
            self._ended_at_ms[batch.batch_id] = batch.ended_at_ms
            self._read_to_ms = max(self._read_to_ms, batch.ended_at_ms)
            for row in batch.rows:
                known = row.model in self._sums or len(self._sums) < _MODELS_MAX
                self._sums.setdefault(row.model if known else _OTHER, Spending()).add(row, batch.prices)

    def _describe_requests(self) -> MetricFamily:
        samples: dict[tuple[str, ...], float] = {}
        for model, sums in self._sums.items():
            samples |= {(model, "answered"): float(sums.answered), (model, "failed"): float(sums.failed)}
            samples[model, "reused"] = float(sums.reused)
        description = "Requests of batches that have ended, by model; reused ones are among the answered and failed."
        return MetricFamily("backfill_model_requests", description, "counter", ("model", "outcome"), samples)

    def _describe_tokens(self) -> MetricFamily:
        samples: dict[tuple[str, ...], float] = {}
        for model, sums in self._sums.items():
            kinds = zip(("prompt", "completion", "cached"), sums.usage[:3], strict=True)
            samples |= {(model, kind): float(count) for kind, count in kinds}
        description = "Tokens that engines computed for batches that have ended, by model; cached are prompt's."
        return MetricFamily("backfill_model_tokens", description, "counter", ("model", "kind"), samples)

    def _describe_audio(self) -> MetricFamily:
        samples: dict[tuple[str, ...], float] = {
            (model,): sums.usage.audio_ms / _MS for model, sums in self._sums.items() if sums.usage.audio_ms
        }
        description = "Seconds of audio that engines wrote down for batches that have ended, by model."
        return MetricFamily("backfill_model_audio_seconds", description, "counter", ("model",), samples)

    def _describe_cost(self) -> MetricFamily:
        samples: dict[tuple[str, ...], float] = {}
        for model, sums in self._sums.items():
            if not sums.is_priced:
                # A model without a price has no series: a 0 would say that it costs nothing.
                continue
            kinds = {"paid": sums.paid}
            if self._money.show_savings:
                kinds |= {"list": sums.listed, "saved": sums.saved}
            samples |= {(model, kind): float(Decimal(units) / UNITS_PER_DOLLAR) for kind, units in kinds.items()}
        description = "What batches that have ended cost, by model, in the currency of the settings."
        return MetricFamily("backfill_model_cost", description, "counter", ("model", "kind"), samples)
