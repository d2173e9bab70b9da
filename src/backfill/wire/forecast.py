"""What a batch object says of the time at which the batch will probably be done. Pure."""

from datetime import UTC, datetime
from typing import Any

from backfill.batch import Batch, Dialect
from backfill.status import Forecast

__all__ = ["render_forecast", "warn_of_lateness", "write_time"]


def render_forecast(dialect: Dialect, forecast: Forecast | None) -> dict[str, Any]:
    """A member `estimated_completion_at`, only where something is known: the object is else as clients know it."""
    if forecast is None:
        return {}
    at_ms = forecast.done_at_ms
    return {"estimated_completion_at": at_ms // 1000 if dialect is Dialect.OPENAI else write_time(at_ms)}


def warn_of_lateness(batch: Batch, forecast: Forecast | None) -> str | None:
    """What the client is to know of a new batch whose window will probably not do; None if it will."""
    if forecast is None or not forecast.is_late:
        return None
    return (
        f"The batch will probably not be done within its window: with what waits before it, at the present speed, it "
        f"takes until {write_time(forecast.done_at_ms)}, and its deadline is {write_time(batch.deadline_at_ms)}. "
        "Requests that are not answered by then expire."
    )


def write_time(time_ms: int) -> str:
    """As Together's batches have times, by the second: it is a guess."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).isoformat().replace("+00:00", "Z")
