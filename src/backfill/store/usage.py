"""What batches used, read from their rows a thousand at a time, by the index of their ends."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Text, bindparam, cast, select, tuple_
from sqlalchemy.engine import Row

from backfill.batch import Batch, Counts, Price, State, UsageRow, infer_usage
from backfill.store.database import Database
from backfill.store.schema import api_keys, batches

__all__ = ["BatchUsage", "UsageRecords"]

_BATCHES_AT_ONCE = 1000
_BY_END = (batches.c.ended_at_ms, batches.c.id)
_ENDED = (
    select(
        batches.c.id,
        batches.c.owner,
        batches.c.key_id,
        batches.c.endpoint,
        batches.c.model_id,
        batches.c.ended_at_ms,
        # As they are stored: most of the time would else go into decoding them twice.
        cast(batches.c.prices, Text).label("prices"),
        cast(batches.c.usage, Text).label("usage"),
        cast(batches.c.counts, Text).label("counts"),
    )
    .where(
        tuple_(*_BY_END) > tuple_(bindparam("after_ms"), bindparam("after_id")),
        batches.c.created_at_ms < bindparam("until_ms"),
    )
    .order_by(*_BY_END)
    .limit(_BATCHES_AT_ONCE)
)
_BEGUN = select(batches).where(
    batches.c.state.in_([state for state in State if not state.is_final]), batches.c.epoch > 0
)
_OF_OWNER = batches.c.owner == bindparam("of_owner")
_BEGUN_OF_OWNER = _BEGUN.where(_OF_OWNER)
# Not the bare column: SQLite would take the index of owners, and read all that this one ever made.
_ENDED_OF_OWNER = _ENDED.where(batches.c.owner + "" == bindparam("of_owner"))
_KEY_NAMES = select(api_keys.c.id, api_keys.c.name).where(api_keys.c.id.in_(bindparam("sought", expanding=True)))


class BatchUsage(NamedTuple):
    """What one batch used, whose it is, and what it was promised to cost."""

    batch_id: str
    owner: str
    key_id: str | None
    endpoint: str
    prices: Mapping[str, Price]
    rows: Sequence[UsageRow]
    ended_at_ms: int | None = None


class UsageRecords:
    """The rows of one data directory."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_ended(self, since_ms: int, until_ms: int, owner: str | None) -> AsyncIterator[list[BatchUsage]]:
        """Batches that may have used something from the one time to before the other, if they have ended.

        Those of all owners where none is named.
        """
        query = _ENDED if owner is None else _ENDED_OF_OWNER
        edge: dict[str, Any] = {"after_ms": since_ms, "after_id": ""}
        while True:
            rows = await self._database.read(query, edge | {"until_ms": until_ms, "of_owner": owner})
            # In a thread, since a thousand rows take the time of some requests.
            yield await asyncio.to_thread(_decode_all, rows)
            if len(rows) < _BATCHES_AT_ONCE:
                return
            edge = {"after_ms": rows[-1].ended_at_ms, "after_id": rows[-1].id}

    async def find_begun(self, owner: str | None) -> list[Batch]:
        """Batches that have not ended and on which a turn was taken: only these can have used anything."""
        rows = await self._database.read(_BEGUN if owner is None else _BEGUN_OF_OWNER, {"of_owner": owner})
        return [msgspec.convert({str(name): value for name, value in row._asdict().items()}, Batch) for row in rows]

    async def name_keys(self, key_ids: Collection[str]) -> dict[str, str]:
        """Id -> name of those of the keys that there are."""
        rows = await self._database.read(_KEY_NAMES, {"sought": list(key_ids)})
        return {row.id: row.name for row in rows}


def _decode_all(rows: Sequence[Row[Any]]) -> list[BatchUsage]:
    return [_decode(row) for row in rows]


_decode_prices = msgspec.json.Decoder(dict[str, Price]).decode
_decode_usage = msgspec.json.Decoder(tuple[UsageRow, ...]).decode
_decode_counts = msgspec.json.Decoder(Counts).decode


def _decode(row: Row[Any]) -> BatchUsage:
    # By position, in the order of the columns: a look-up by name costs as much as the decoding.
    batch_id, owner, key_id, endpoint, model_id, ended_at_ms, prices, usage, counts = tuple(row)
    rows = _decode_usage(usage) or infer_usage(_decode_counts(counts), model_id, ended_at_ms)
    return BatchUsage(batch_id, owner, key_id, endpoint, _decode_prices(prices), rows, ended_at_ms)
