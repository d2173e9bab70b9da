"""Why a batch that is being worked on does not move, in words for those who wait for it."""

from collections.abc import Mapping, Sequence

from backfill.batch import Batch
from backfill.dispatch.feeder import Feeder
from backfill.dispatch.open_turn import OpenTurn
from backfill.status import Waiting, WaitReason

__all__ = ["explain_place", "explain_turn"]

# A rate limit that others get through, and a batch that is not served at once, are nothing to tell of.
_PATIENCE_MS = 5000


def explain_turn(opened: OpenTurn, feeders: Mapping[str, Feeder], now_ms: int) -> Waiting | None:
    """What holds it up since when; None if it moves, or is about to."""
    found: list[Waiting] = []
    for lane in opened.lanes:
        if not (lane.unsent or lane.delayed):
            continue
        if lane.awaited and not lane.unsent:
            if opened.is_in_flight or now_ms - opened.moved_at_ms < _PATIENCE_MS:
                return None
            found.append(Waiting(WaitReason.MEDIA, _tell_fetches(lane.awaited), opened.moved_at_ms))
            continue
        serving = [feeders[replica.name] for replica in lane.route.replicas]
        hindrances = [_explain_feeder(feeder, opened, now_ms) for feeder in serving]
        if all(hindrances):
            found.extend(hindrance for hindrance in hindrances if hindrance is not None)
        elif opened.is_in_flight or now_ms - opened.moved_at_ms < _PATIENCE_MS:
            return None
        elif any(feeder.in_flight for feeder in serving):
            found.append(Waiting(WaitReason.OTHER_BATCHES, _tell_rivals(serving, opened), opened.moved_at_ms))
    return min(found, key=lambda waiting: waiting.since_ms, default=None)


def explain_place(batch: Batch, being_done: Sequence[Batch], now_ms: int) -> Waiting | None:
    """Why nobody works on a batch; None if somebody is about to."""
    since_ms = batch.started_at_ms or batch.created_at_ms
    if not being_done or now_ms - since_ms < _PATIENCE_MS:
        return None
    own = sum(one.owner == batch.owner for one in being_done)
    message = f"{_count(len(being_done))} worked on, {own} of them of the same owner; it is begun when one has ended"
    return Waiting(WaitReason.OTHER_BATCHES, message, since_ms)


def _tell_fetches(lines: int) -> str:
    those = "1 request names" if lines == 1 else f"{lines} requests name"
    return f"what {those} is being fetched"


def _tell_rivals(serving: Sequence[Feeder], opened: OpenTurn) -> str:
    batch = opened.turn.batch
    lanes = (lane for feeder in serving for lane in feeder.lanes if lane.unsent or lane.delayed)
    owners = {lane.turn.turn.batch.id: lane.turn.turn.batch.owner for lane in lanes}
    others = [owner for batch_id, owner in owners.items() if batch_id != batch.id]
    own = others.count(batch.owner)
    return f"{_count(len(others))} worked on first, {own} of them of the same owner"


def _count(batches: int) -> str:
    return "1 other batch is" if batches == 1 else f"{batches} other batches are"


def _explain_feeder(feeder: Feeder, opened: OpenTurn, now_ms: int) -> Waiting | None:
    hindrance = feeder.hindrance.waiting
    if hindrance is not None:
        is_told = hindrance.reason is not WaitReason.RATE_LIMIT or now_ms - hindrance.since_ms >= _PATIENCE_MS
        return hindrance if is_told else None
    if feeder.live.is_binding and not opened.is_in_flight and now_ms - opened.moved_at_ms >= _PATIENCE_MS:
        message = f"engine {feeder.replica.name} answers live requests, which go first"
        return Waiting(WaitReason.LIVE_TRAFFIC, message, opened.moved_at_ms)
    if feeder.rival is not None:
        message = f"engine {feeder.replica.name} waits for the memory that engine {feeder.rival} has"
        return Waiting(WaitReason.MEMORY, message, opened.moved_at_ms)
    return None
