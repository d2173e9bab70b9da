"""How many tokens of each model are enqueued: a sum over rows that changes with them, and is made of them anew.

Nothing of it is stored. It is read from the rows at the start, follows each write in the write's own transaction, and
is forgotten and read again when a transaction comes to nothing; so it is what a fold of the rows would give, at the
price of one batch and not of all that wait. How far batches are it is told from time to time, by their journals.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from backfill.batch import Batch, Reservation, Standing
from backfill.index import OTHER_MODELS
from backfill.store import UNSENT, Claim, Reservations

__all__ = ["Enqueued", "count_left"]


class _Share:
    """What one batch still needs of each model."""

    __slots__ = ("deadline_at_ms", "left", "owner")

    def __init__(self, owner: str, deadline_at_ms: int, left: dict[str, int]) -> None:
        self.owner = owner
        self.deadline_at_ms = deadline_at_ms
        self.left = left


class Enqueued:
    """A `BatchWatcher`. Everything but making it belongs to the thread that writes to the database."""

    def __init__(self, resolve: Callable[[str], str], *, many_writers: bool = False) -> None:
        """`resolve`: the id of the model that has this name. `many_writers`: other processes change the rows too."""
        self._resolve = resolve
        self._many_writers = many_writers
        self._shares: dict[str, _Share] | None = None
        self.by_model: Counter[str] = Counter()
        """Model -> tokens of all batches."""
        self.by_owner: Counter[tuple[str, str]] = Counter()
        """Owner and model -> tokens of the owner's batches."""

    def load(self, connection: Connection) -> None:
        """Read the rows, unless they are known; of those that other processes may have changed, the new ones."""
        if self._shares is None:
            self._shares = {}
            self.by_model.clear()
            self.by_owner.clear()
            for claim in Reservations.read_claims(connection):
                self._add(claim)
        elif self._many_writers:
            there = Reservations.list_claiming(connection)
            for batch_id in self._shares.keys() - there:
                self._remove(batch_id)
            if unknown := there - self._shares.keys():
                for claim in Reservations.read_claims(connection, unknown):
                    self._add(claim)

    def note_added(self, batch: Batch) -> None:
        """See `BatchWatcher`."""
        if self._shares is not None and batch.state in UNSENT:
            self._add(Claim(batch.id, batch.owner, batch.deadline_at_ms, batch.reserved))

    def note_changed(self, batch_id: str, values: Mapping[str, Any]) -> None:
        """See `BatchWatcher`."""
        if self._shares is None or values.get("state", "") in UNSENT or "state" not in values:
            return
        self._remove(batch_id)

    def forget(self) -> None:
        """See `BatchWatcher`."""
        self._shares = None

    def note_progress(self, lefts: Mapping[str, Mapping[str, int]]) -> None:
        """Take in what batches still need of each model by their journals; it never grows."""
        for batch_id, left in lefts.items():
            share = (self._shares or {}).get(batch_id)
            if share is None:
                continue
            for model, tokens in self._resolve_all(left).items():
                known = share.left.get(model, 0)
                share.left[model] = min(known, tokens)
                self._count(share.owner, model, share.left[model] - known)

    def find_room(self, model: str, tokens: int, owner: str | None) -> int:
        """The deadline by which so many tokens of the model have gone for certain, of all batches or one owner's."""
        due = sorted(
            (share.deadline_at_ms, share.left[model])
            for share in (self._shares or {}).values()
            if share.left.get(model) and owner in (None, share.owner)
        )
        room_at_ms = 0
        for deadline_at_ms, left in due:
            room_at_ms = deadline_at_ms
            tokens -= left
            if tokens <= 0:
                break
        return room_at_ms

    def _add(self, claim: Claim) -> None:
        left = self._resolve_all({model: each.left(0) for model, each in claim.reserved.items()})
        if self._shares is not None:
            self._shares[claim.batch_id] = _Share(claim.owner, claim.deadline_at_ms, left)
        for model, tokens in left.items():
            self._count(claim.owner, model, tokens)

    def _remove(self, batch_id: str) -> None:
        share = (self._shares or {}).pop(batch_id, None)
        if share is not None:
            for model, tokens in share.left.items():
                self._count(share.owner, model, -tokens)

    def _count(self, owner: str, model: str, tokens: int) -> None:
        self.by_model[model] += tokens
        self.by_owner[owner, model] += tokens
        # Names of models are the clients', and there is no end of them.
        if not self.by_model[model]:
            del self.by_model[model]
        if not self.by_owner[owner, model]:
            del self.by_owner[owner, model]

    def _resolve_all(self, tokens_by_name: Mapping[str, int]) -> dict[str, int]:
        resolved: Counter[str] = Counter()
        for name, tokens in tokens_by_name.items():
            resolved[self._resolve(name)] += tokens
        return dict(resolved)


def count_left(reserved: Mapping[str, Reservation], total: int, standing: Standing) -> dict[str, int]:
    """Model -> tokens that a batch of `total` lines still needs, by what its journal says is done."""
    done_of: Counter[str] = Counter()
    for row in standing.usage:
        done_of[row.model] += row.answered + row.failed
    if reserved.keys() >= done_of.keys() and OTHER_MODELS not in reserved:
        return {model: reservation.left(done_of[model]) for model, reservation in reserved.items()}
    # Its models are not told apart line by line: each gives back the share that is done of the whole.
    lines, left = max(1, total), max(0, total - standing.counts.done)
    return {model: -(-reservation.left(0) * left // lines) for model, reservation in reserved.items()}
