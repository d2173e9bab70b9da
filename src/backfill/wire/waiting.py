"""What a batch object says of a batch that does not move. Pure."""

from collections.abc import Callable
from typing import Any

from backfill.batch import Batch, State
from backfill.status import Waiting, WaitReason

__all__ = ["explain_pause", "render_waiting"]


def explain_pause(batch: Batch) -> Waiting:
    """What is told of a batch that is PAUSED."""
    message = f"it is paused; `backfill resume {batch.id}` goes on with it, and its deadline stays as it is"
    return Waiting(WaitReason.PAUSED, message, batch.paused_at_ms or batch.created_at_ms)


def render_waiting(batch: Batch, waiting: Waiting | None, render_time: Callable[[int], Any]) -> dict[str, Any]:
    """A member `waiting`, only where there is something to tell: the object is else exactly as clients know it."""
    if batch.state is State.PAUSED:
        # Whoever works on batches need not be asked.
        waiting = explain_pause(batch)
    if waiting is None or batch.state.is_final:
        return {}
    since = render_time(waiting.since_ms)
    return {"waiting": {"reason": waiting.reason.value, "message": waiting.message, "since": since}}
