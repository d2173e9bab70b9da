"""How many tokens may be enqueued: the limit is held in the transaction that writes a batch's row."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection

from backfill.accounts.enqueued import Enqueued, count_left
from backfill.batch import Batch, Standing
from backfill.errors import InvalidInput, LimitReached, NotFound
from backfill.status import MetricFamily
from backfill.store import Aging, Metadata, Reservations

__all__ = ["Quota", "QuotaSources"]

_MODELS_MAX = 100
_OTHER = "other"
_PROGRESS_AGE_MAX_S = 1.0


class QuotaSources(NamedTuple):
    """What a quota asks of others."""

    measure: Callable[[Batch], Awaitable[Standing]]
    """How far a batch is, by its journal."""
    find_key_limit: Callable[[str], Awaitable[int | None]]
    """The enqueued tokens that a key allows its owner for each model, if it says."""
    resolve: Callable[[str], str]
    """The id of the model that has this name: by another of its names nobody gets past its limit."""


class _Refusal(NamedTuple):
    model: str
    asked: int
    taken: int
    limit: int
    owner: str | None
    """Whose own limit it is; None: the server's."""
    room_at_ms: int = 0

    def tell_limit(self) -> str:
        whose = "this server's limit (limits.enqueued_tokens)" if self.owner is None else "the limit of your key"
        return f"{self.limit:,} may be, which is {whose}"


class _Request(NamedTuple):
    owner: str
    asked: Mapping[str, int]
    limit: int
    key_limit: int | None

    def find_excess(self, by_model: Mapping[str, int], by_owner: Mapping[tuple[str, str], int]) -> _Refusal | None:
        """The first limit that would be passed."""
        for model, tokens in self.asked.items():
            taken = by_model.get(model, 0)
            if taken + tokens > self.limit:
                return _Refusal(model, tokens, taken, self.limit, None)
            own = by_owner.get((self.owner, model), 0)
            if self.key_limit is not None and own + tokens > self.key_limit:
                return _Refusal(model, tokens, own, self.key_limit, self.owner)
        return None


class Quota:
    """Lets batches in as long as there is room for their tokens."""

    def __init__(
        self,
        metadata: Metadata,
        limit: int,
        sources: QuotaSources,
        *,
        progress_age_max_s: float = _PROGRESS_AGE_MAX_S,
        is_shared: bool = False,
    ) -> None:
        """`progress_age_max_s`: how old what is known of journals may be when a batch is refused over it.

        `is_shared`: other processes change rows too.
        """
        self._metadata = metadata
        self._reservations = Reservations(metadata.database)
        self._limit = limit
        self._sources = sources
        many_writers = is_shared or metadata.database.many_writers
        self._enqueued = Enqueued(sources.resolve, many_writers=many_writers)
        self._progress_age_max_s = progress_age_max_s
        self._progress_at_s = float("-inf")
        self._reading_progress = asyncio.Lock()

    async def begin(self) -> None:
        """Read what is enqueued, and follow it from now on."""
        self._metadata.watch_batches(self._enqueued)
        await self._metadata.database.write(self._enqueued.load)

    async def add_batch(self, batch: Batch, *, repeats_since_ms: int | None = None) -> Batch:
        """As `Metadata.add_batch`, if there is room for the batch.

        Raises:
            InvalidInput: there never will be.
            LimitReached: not now.
            NotFound: its input was removed meanwhile.

        """
        request = await self._make_request(batch)
        refusal = request.find_excess({}, {})
        if refusal is not None:
            raise InvalidInput(_tell_never(refusal), param="input_file_id", code=LimitReached.code)
        added = await self._try_add(request, batch, repeats_since_ms)
        if isinstance(added, _Refusal):
            # Of what runs some may be done by now.
            await self._read_progress()
            added = await self._try_add(request, batch, repeats_since_ms)
        if isinstance(added, _Refusal):
            wait_s = max(1, -(-(added.room_at_ms - batch.created_at_ms) // 1000))
            raise LimitReached(_tell_refusal(added), param="input_file_id", retry_after_s=wait_s)
        return added

    async def measure(self) -> Counter[str]:
        """Model -> tokens that are enqueued."""
        await self._read_progress()

        def copy(connection: Connection) -> Counter[str]:
            self._enqueued.load(connection)
            return Counter(self._enqueued.by_model)

        return await self._metadata.database.write(copy)

    async def describe(self) -> Sequence[MetricFamily]:
        """Enqueued tokens of each model, and how many there may be."""
        samples: Counter[str] = Counter()
        for place, (model, tokens) in enumerate((await self.measure()).most_common()):
            samples[model if place < _MODELS_MAX else _OTHER] += tokens
        told: dict[tuple[str, ...], float] = {(model,): float(tokens) for model, tokens in samples.items()}
        description = "Tokens that are still to be computed, as estimated, by model."
        limit = "Tokens of one model that may be enqueued."
        return (
            MetricFamily("backfill_enqueued_tokens", description, "gauge", ("model",), told),
            MetricFamily("backfill_enqueued_tokens_limit", limit, "gauge", (), {(): float(self._limit)}),
        )

    async def _make_request(self, batch: Batch) -> _Request:
        asked: Counter[str] = Counter()
        for name, reservation in batch.reserved.items():
            asked[self._sources.resolve(name)] += reservation.left(0)
        key_limit = await self._sources.find_key_limit(batch.key_id) if batch.key_id is not None else None
        return _Request(batch.owner, asked, self._limit, key_limit)

    async def _try_add(self, request: _Request, batch: Batch, repeats_since_ms: int | None) -> Batch | _Refusal:
        refusals: list[_Refusal] = []

        def has_room(connection: Connection) -> bool:
            refusals.clear()
            if not Aging.has_file(connection, batch.input_file_id):
                # It was removed since it was looked up; from now on this batch would keep it.
                return False
            enqueued = self._enqueued
            enqueued.load(connection)
            refusal = request.find_excess(enqueued.by_model, enqueued.by_owner)
            if refusal is None:
                return True
            excess = refusal.taken + refusal.asked - refusal.limit
            room_at_ms = enqueued.find_room(refusal.model, excess, refusal.owner)
            refusals.append(refusal._replace(room_at_ms=room_at_ms))
            return False

        added = await self._metadata.add_batch_if(has_room, batch, repeats_since_ms=repeats_since_ms)
        if added is not None:
            return added
        if not refusals:
            message = f"No such file: {batch.input_file_id}."
            raise NotFound(message, param="input_file_id")
        return refusals[0]

    async def _read_progress(self) -> None:
        """Ask the journals of what runs, one caller at a time, and not again within a moment."""
        async with self._reading_progress:
            began_at_s = time.monotonic()
            if began_at_s - self._progress_at_s < self._progress_age_max_s:
                return
            lefts: dict[str, Mapping[str, int]] = {}
            for batch in await self._reservations.list_touched():
                standing = await self._sources.measure(batch)
                lefts[batch.id] = count_left(batch.reserved, batch.counts.total, standing)

            def note(connection: Connection) -> None:
                self._enqueued.load(connection)
                self._enqueued.note_progress(lefts)

            await self._metadata.database.write(note)
            self._progress_at_s = began_at_s


def _tell_refusal(refusal: _Refusal) -> str:
    when = datetime.fromtimestamp(refusal.room_at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return (
        f"This batch needs about {refusal.asked:,} tokens of the model {refusal.model or '(none)'}; "
        f"{refusal.taken:,} are enqueued, and {refusal.tell_limit()}. Room is made as requests are answered: "
        f"by {when} at the latest, when the batches before it are due, there is enough."
    )


def _tell_never(refusal: _Refusal) -> str:
    return (
        f"This batch needs about {refusal.asked:,} tokens of the model {refusal.model or '(none)'} and will never fit: "
        f"{refusal.tell_limit()}. Split the file, or ask for shorter answers (max_tokens)."
    )
