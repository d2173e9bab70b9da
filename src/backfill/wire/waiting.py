"""What a batch object says of a batch that does not move. Pure."""

from collections.abc import Callable
from typing import Any

from backfill.batch import Batch
from backfill.status import Waiting

__all__ = ["render_waiting"]


def render_waiting(batch: Batch, waiting: Waiting | None, render_time: Callable[[int], Any]) -> dict[str, Any]:
    """A member `waiting`, only where there is something to tell: the object is else exactly as clients know it."""
    if waiting is None or batch.state.is_final:
        return {}
    since = render_time(waiting.since_ms)
    return {"waiting": {"reason": waiting.reason.value, "message": waiting.message, "since": since}}
