"""How far a batch is, shown to whoever looks: a bar at a terminal, plain lines elsewhere, events for programs."""

import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from backfill.batch import Counts
from backfill.cli.console import CONSOLE, emit, name_duration, say

__all__ = ["ProgressDisplay", "describe_counts"]

_RATE_WINDOW_S = 20.0
_LINE_EVERY_S = 5.0
_EVENT_EVERY_S = 1.0
_BAR_CELLS_MAX = 40
_CELLS_BESIDE_THE_BAR = 60


class _Rate:
    """Growth per second over the last while."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def measure(self, now: float, value: int) -> float:
        self._samples.append((now, value))
        while len(self._samples) > 2 and now - self._samples[1][0] > _RATE_WINDOW_S:
            self._samples.popleft()
        since, first = self._samples[0]
        return (value - first) / (now - since) if now > since else 0.0


class _Pace:
    """When to tell again: at once if the note changes, else now and then, and only if there is news."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_at = 0.0
        self._told: Counts | None = None
        self._note: str | None = None

    def is_due(self, now: float, counts: Counts, note: str | None, *, final: bool) -> bool:
        is_late = final or now >= self._next_at
        is_due = self._told is None or note != self._note or (counts != self._told and is_late)
        if is_due:
            self._told, self._note = counts, note
            self._next_at = now + self._every_s
        return is_due


class _Bar(Progress):
    """rich's progress bar with a line below it for what holds the work up."""

    note: str | None = None

    def __init__(self) -> None:
        cells = max(10, min(_BAR_CELLS_MAX, CONSOLE.width - _CELLS_BESIDE_THE_BAR))
        super().__init__(
            BarColumn(cells),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=CONSOLE,
            refresh_per_second=5,
        )
        self.batch = self.add_task("", total=None, numbers="")

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.note:
            yield Text(self.note, style="yellow", no_wrap=True, overflow="ellipsis")


class ProgressDisplay:
    """Shows counts as they come; a context manager, because a bar has to be taken off the screen again."""

    def __init__(self, *, as_json: bool, with_tokens: bool = True) -> None:
        self._as_json = as_json
        self._with_tokens = with_tokens
        self._bar = _Bar() if CONSOLE.is_terminal else None
        self._tokens = _Rate()
        self._lines = _Rate()
        self._line_pace = _Pace(_LINE_EVERY_S)
        self._event_pace = _Pace(_EVENT_EVERY_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(
        self, counts: Counts, note: str | None = None, left_s: float | None = None, *, final: bool = False
    ) -> None:
        """Show the counts now, what holds the work up, and how long it will take, if anybody knows better than they."""
        now = time.monotonic()
        tokens_per_s = self._tokens.measure(now, counts.usage.completion_tokens)
        lines_per_s = self._lines.measure(now, counts.done)
        numbers = _name_numbers(counts, tokens_per_s, lines_per_s, left_s)
        if self._bar is not None:
            self._bar.start()
            self._bar.note = note
            self._bar.update(self._bar.batch, total=counts.total, completed=counts.done, numbers=numbers, refresh=True)
        elif self._line_pace.is_due(now, counts, note, final=final):
            say(f"{numbers}  ({note})" if note else numbers)
        if self._as_json and self._event_pace.is_due(now, counts, note, final=final):
            emit({"event": "progress", **describe_counts(counts, with_tokens=self._with_tokens), "note": note})

    def close(self) -> None:
        """Take the bar off; what it showed last stays on the screen. Safe to call twice."""
        if self._bar is not None:
            self._bar.note = None
            self._bar.stop()


def describe_counts(counts: Counts, *, with_tokens: bool = True) -> dict[str, int]:
    """Counts as members of a JSON object; without tokens where nobody said how many there were."""
    facts = {"total": counts.total, "answered": counts.answered, "failed": counts.failed}
    if with_tokens:
        facts |= {"prompt_tokens": counts.usage.prompt_tokens, "completion_tokens": counts.usage.completion_tokens}
    return facts


def _name_numbers(counts: Counts, tokens_per_s: float, lines_per_s: float, left_s: float | None) -> str:
    numbers = [f"{counts.done:,} of {counts.total:,}"]
    if counts.failed:
        numbers.append(f"{counts.failed:,} failed")
    if tokens_per_s >= 1:
        numbers.append(f"{tokens_per_s:,.0f} tokens/s")
    rest = counts.total - counts.done
    if rest and left_s is None and lines_per_s > 0:
        left_s = rest / lines_per_s
    if rest and left_s is not None:
        numbers.append(f"{name_duration(left_s)} left")
    return "  ".join(numbers)
