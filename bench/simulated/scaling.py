"""Batches, replicas that take their time to start, and the real decision how many there are; in virtual time.

A replica does one replica-second of work in a second, and works on one batch at a time: the one with the earliest
deadline of those that nobody has. The decision is made every two seconds, as the scaler does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from backfill.plan import Bounds, Demand, Descent, Sight, want_replicas

__all__ = ["Scaled", "SimulatedBatch", "scale"]

_STEP_S = 1.0
_LOOK_EVERY_S = 2.0


@dataclass
class SimulatedBatch:
    """Work of one batch."""

    created_s: float
    work_s: float
    """How long one replica takes."""
    deadline_s: float
    ended_s: float | None = None


@dataclass
class Scaled:
    """What happened."""

    batches: Sequence[SimulatedBatch]
    counts: list[tuple[float, int]] = field(default_factory=list)
    """When, and how many replicas there were from then on: an entry for each change."""
    replica_s: float = 0.0
    """Of all replicas together, starting and resting included."""

    @property
    def most(self) -> int:
        """Replicas at one time."""
        return max(count for _, count in self.counts)

    @property
    def turnarounds(self) -> int:
        """How often a fall was followed by a rise, or a rise by a fall."""
        levels = [count for _, count in self.counts]
        steps = [after - before for before, after in pairwise(levels)]
        return sum((one > 0) != (other > 0) for one, other in pairwise(steps))

    @property
    def missed(self) -> int:
        """Batches that ended after their deadlines."""
        return sum(batch.ended_s is None or batch.ended_s > batch.deadline_s for batch in self.batches)


@dataclass
class _Replica:
    ready_s: float
    batch: SimulatedBatch | None = None


def scale(bounds: Bounds, batches: Sequence[SimulatedBatch], until_s: float, *, is_known: bool = True) -> Scaled:
    """What comes of these batches; without `is_known` nobody knows how fast a replica is before one has worked."""
    scaled = Scaled(batches)
    left = {id(batch): batch.work_s for batch in batches}
    replicas: list[_Replica] = []
    descent = Descent(bounds.idle_s)
    now_s = look_s = 0.0
    while now_s < until_s:
        waiting = [batch for batch in batches if batch.created_s <= now_s and batch.ended_s is None]
        if now_s >= look_s:
            look_s = now_s + _LOOK_EVERY_S
            _adjust(bounds, descent, replicas, now_s, _look(waiting, left, replicas, now_s, is_known=is_known))
            if not scaled.counts or scaled.counts[-1][1] != len(replicas):
                scaled.counts.append((now_s, len(replicas)))
        now_s += _STEP_S
        scaled.replica_s += len(replicas) * _STEP_S
        is_known = _work(waiting, left, replicas, now_s) or is_known
    return scaled


def _look(
    waiting: Sequence[SimulatedBatch],
    left: dict[int, float],
    replicas: Sequence[_Replica],
    now_s: float,
    *,
    is_known: bool,
) -> Sight:
    held = {id(replica.batch) for replica in replicas if replica.batch is not None}
    demands = [Demand(left[id(one)] if is_known else None, one.deadline_s - now_s) for one in waiting]
    return Sight(demands, len(replicas), len(held), sum(id(one) not in held for one in waiting))


def _adjust(bounds: Bounds, descent: Descent, replicas: list[_Replica], now_s: float, sight: Sight) -> None:
    chosen = descent.choose(now_s, want_replicas(bounds, sight), len(replicas))
    while len(replicas) < chosen:
        replicas.append(_Replica(now_s + bounds.start_s))
    while len(replicas) > chosen:
        # What it has done of its batch stays done.
        replicas.remove(next((one for one in reversed(replicas) if one.batch is None), replicas[-1]))


def _work(
    waiting: Sequence[SimulatedBatch], left: dict[int, float], replicas: Sequence[_Replica], now_s: float
) -> bool:
    """One step; whether a replica has worked."""
    held = {id(replica.batch) for replica in replicas if replica.batch is not None}
    free = sorted((one for one in waiting if id(one) not in held), key=lambda one: one.deadline_s)
    for replica in replicas:
        if replica.ready_s > now_s - _STEP_S:
            continue
        if replica.batch is None and free:
            replica.batch = free.pop(0)
        if replica.batch is not None:
            left[id(replica.batch)] -= _STEP_S
            if left[id(replica.batch)] <= 0:
                replica.batch.ended_s, replica.batch = now_s, None
    return any(replica.batch is not None for replica in replicas)
