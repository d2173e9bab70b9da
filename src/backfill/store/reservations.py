"""What batches have reserved of each model, read from their rows; and who hears of changes of these rows at once."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from sqlalchemy import Connection, Text, bindparam, cast, select

from backfill.batch import Batch, Reservation, State, UsageRow
from backfill.store.database import Database
from backfill.store.rows import to_batch
from backfill.store.schema import batches

__all__ = ["UNSENT", "BatchWatcher", "Claim", "EndedUsage", "Reservations"]

UNSENT = frozenset({State.VALIDATING, State.IN_PROGRESS, State.PAUSED})
"""States of batches that may have lines to be sent."""
_CALIBRATING_BATCHES = 200
_CLAIMS = select(
    batches.c.id,
    batches.c.owner,
    batches.c.deadline_at_ms,
    cast(batches.c.reserved, Text).label("reserved"),
).where(batches.c.state.in_(sorted(UNSENT)))
_CLAIMS_OF = _CLAIMS.where(batches.c.id.in_(bindparam("sought", expanding=True)))
_CLAIMING = select(batches.c.id).where(batches.c.state.in_(sorted(UNSENT)))
_TOUCHED = select(batches).where(batches.c.state.in_([State.IN_PROGRESS, State.PAUSED]), batches.c.epoch > 0)
_ENDED = (
    select(
        cast(batches.c.reserved, Text).label("reserved"),
        cast(batches.c.usage, Text).label("usage"),
    )
    .where(batches.c.ended_at_ms.is_not(None))
    .order_by(batches.c.ended_at_ms.desc(), batches.c.id)
    .limit(_CALIBRATING_BATCHES)
)
_decode_reserved = msgspec.json.Decoder(dict[str, Reservation]).decode
_decode_usage = msgspec.json.Decoder(tuple[UsageRow, ...]).decode


class BatchWatcher(Protocol):
    """Hears of each change of a batch's row in the transaction that makes it, in the thread that writes."""

    def note_added(self, batch: Batch) -> None:
        """There is a new row."""

    def note_changed(self, batch_id: str, values: Mapping[str, Any]) -> None:
        """These columns of a row have these values now."""

    def forget(self) -> None:
        """A transaction came to nothing: of what was heard nothing may hold."""


class Claim(NamedTuple):
    """What one batch reserved that may have lines to be sent."""

    batch_id: str
    owner: str
    deadline_at_ms: int
    reserved: Mapping[str, Reservation]


class EndedUsage(NamedTuple):
    """What a batch was taken to need, and what it used."""

    reserved: Mapping[str, Reservation]
    rows: Sequence[UsageRow]


class Reservations:
    """The rows of one data directory."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def list_claiming(connection: Connection) -> set[str]:
        """The ids of all batches that reserve something, inside of a transaction."""
        return set(connection.scalars(_CLAIMING))

    @staticmethod
    def read_claims(connection: Connection, batch_ids: Collection[str] | None = None) -> list[Claim]:
        """All that is reserved, or what these batches do, inside of a transaction."""
        if batch_ids is None:
            rows = connection.execute(_CLAIMS)
        else:
            rows = connection.execute(_CLAIMS_OF, {"sought": list(batch_ids)})
        return [Claim(row.id, row.owner, row.deadline_at_ms, _decode_reserved(row.reserved)) for row in rows]

    async def list_touched(self) -> list[Batch]:
        """Batches with lines to be sent on which a turn was taken: their journals say how much is done."""
        return [to_batch(row) for row in await self._database.read(_TOUCHED)]

    async def list_ended(self) -> list[EndedUsage]:
        """The newest batches that have ended."""
        rows = await self._database.read(_ENDED)
        return [EndedUsage(_decode_reserved(row.reserved), _decode_usage(row.usage)) for row in rows]
