"""Values in the words of a page: numbers, times, states. Pure."""

from datetime import UTC, datetime

from backfill.batch import State
from backfill.wire.words import name_amount, name_duration, name_rate, name_size

__all__ = ["FILTERS", "STATE_WORDS", "name_moment", "name_range", "name_rough"]

STATE_WORDS = {
    State.VALIDATING: "waiting",
    State.IN_PROGRESS: "running",
    State.PAUSED: "paused",
    State.FINALIZING: "gathering",
    State.CANCELLING: "cancelling",
    State.EXPIRING: "expiring",
    State.FAILING: "failing",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.EXPIRED: "expired",
}
# The forecast's own error, as docs/performance.md has it, on both sides of what it says is left.
_EARLIEST, _LATEST = 0.75, 1.3


def name_moment(at_ms: int | None) -> str:
    """A time by the minute; empty for None."""
    return "" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def name_range(now_ms: int, done_at_ms: int) -> tuple[str, tuple[int, int]]:
    """In how long something will probably be done, as a range in words, and its two ends in ms since the epoch."""
    left_ms = max(0, done_at_ms - now_ms)
    first_ms, last_ms = int(left_ms * _EARLIEST), int(left_ms * _LATEST)
    words = f"{name_rough(first_ms)} to {name_rough(last_ms)}" if left_ms > 2000 else "a moment"
    return words, (now_ms + first_ms, now_ms + last_ms)


def name_rough(duration_ms: int) -> str:
    """A duration by its largest unit."""
    seconds = duration_ms / 1000
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _short(identifier: str) -> str:
    return identifier[:8]


def _word(state: State) -> str:
    return STATE_WORDS[state]


def _plural(count: int, noun: str, nouns: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


FILTERS = {
    "amount": name_amount,
    "duration": name_duration,
    "moment": name_moment,
    "number": _number,
    "plural": _plural,
    "rate": name_rate,
    "short": _short,
    "size": name_size,
    "word": _word,
}
