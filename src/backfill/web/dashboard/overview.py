"""The first page: what the whole server does now."""

from typing import Any

import msgspec

from backfill.accounts import Spending, UsageFilter
from backfill.batch import State
from backfill.store import BatchFilter
from backfill.turns import now_ms
from backfill.web.api.engines import complete_replica
from backfill.web.dashboard.batch_rows import describe_batch
from backfill.web.dashboard.house import House
from backfill.wire.cost import render_sums
from backfill.wire.engine_words import explain_cost, explain_engine, find_help

__all__ = ["build_overview"]

_RUNNING_SHOWN = 15
_ENDED_SHOWN = 8
_SUMS_AGE_S = 5.0
_MONEY_AGE_S = 30.0
_HOUR_MS = 3_600_000
_UNDER_WAY = (State.IN_PROGRESS, State.PAUSED)
_FINAL = tuple(state for state in State if state.is_final)


async def build_overview(house: House, owner: str | None) -> dict[str, Any]:
    """What the page shows to this owner; None: to an admin."""
    services, search = house.services, house.search
    replicas = [complete_replica(services, replica) for replica in services.list_replicas()]
    running = [await describe_batch(house, batch) for batch in await search.find_running(owner, limit=_RUNNING_SHOWN)]
    ended = [
        await describe_batch(house, batch)
        for batch in await search.find(BatchFilter(owner, _FINAL), limit=_ENDED_SHOWN)
    ]
    queue = await house.keep(("queue", owner), _SUMS_AGE_S, lambda: search.count_lines(owner))
    money = await house.keep(("money", owner), _MONEY_AGE_S, lambda: _sum_up_today(house, owner))
    batches_waiting, lines_waiting = queue.get(State.VALIDATING, (0, 0))
    under_way = [queue.get(state, (0, 0)) for state in _UNDER_WAY]
    batches_running, lines_running = (sum(of_all) for of_all in zip(*under_way, strict=True))
    done = sum(row.counts.done for row in running if row.batch.state in _UNDER_WAY)
    return {
        "title": "Overview",
        "engines": [_describe_engine(house, replica) for replica in replicas],
        "tokens_per_s": sum(replica.completion_tokens_per_s for replica in replicas),
        "requests_per_s": sum(replica.requests_per_s for replica in replicas),
        "in_flight": sum(replica.in_flight for replica in replicas),
        "limit": sum(replica.concurrency_limit for replica in replicas),
        "live_requests": sum(replica.live_in_flight for replica in replicas),
        "batches_waiting": batches_waiting,
        "batches_running": batches_running,
        "lines_left": max(0, lines_waiting + lines_running - done),
        "money": money,
        "currency": services.config.money.currency.lower(),
        "running": running,
        "ended": ended,
    }


def _describe_engine(house: House, replica: Any) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(replica),
        "sentence": explain_engine(replica),
        "help": find_help(replica),
        "cost": explain_cost(replica),
        "history": house.history.find(replica.name),
    }


async def _sum_up_today(house: House, owner: str | None) -> dict[str, str | None]:
    hour = now_ms() // _HOUR_MS
    wanted = UsageFilter(hour - hour % 24, hour + 1, owner)
    sums = await house.services.usage.sum_up(wanted, lambda _batch, _row: ())
    shown = house.services.config.money.show_savings
    return render_sums(sums.get((), Spending()), show_savings=shown)
