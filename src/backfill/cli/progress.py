"""How far a batch is, shown to whoever looks: a bar at a terminal, plain lines elsewhere, events for programs."""

import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
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


class _Bar(Progress):
    """rich's progress bar with a line below it for what holds the work up."""

    note: str | None = None

    def __init__(self) -> None:
        cells = max(10, min(_BAR_CELLS_MAX, CONSOLE.width - _CELLS_BESIDE_THE_BAR))
        super().__init__(
            BarColumn(cells),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(),
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

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._bar = _Bar() if CONSOLE.is_terminal else None
        self._tokens = _Rate()
        self._lines = _Rate()
        self._next_line_at = 0.0
        self._next_event_at = 0.0
        self._shown: tuple[Counts, str | None] | None = None
        self._started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, counts: Counts, note: str | None = None, *, final: bool = False) -> None:
        """Show the counts now, and what holds the work up, if anything does."""
        now = time.monotonic()
        tokens_per_s = self._tokens.measure(now, counts.usage.completion_tokens)
        lines_per_s = self._lines.measure(now, counts.done)
        is_news = self._shown is None or self._shown[1] != note or final
        if self._bar is not None:
            self._update_bar(self._bar, counts, note, tokens_per_s)
        elif is_news or now >= self._next_line_at:
            self._next_line_at = now + _LINE_EVERY_S
            _say_line(counts, note, tokens_per_s, lines_per_s)
        if self._as_json and self._shown != (counts, note) and (is_news or now >= self._next_event_at):
            self._next_event_at = now + _EVENT_EVERY_S
            emit({"event": "progress", **describe_counts(counts), "note": note})
            self._shown = counts, note
        elif not self._as_json:
            self._shown = counts, note

    def close(self) -> None:
        """Take the bar off; what it showed last stays on the screen. Safe to call twice."""
        if self._bar is not None:
            self._bar.note = None
            self._bar.stop()

    def _update_bar(self, bar: _Bar, counts: Counts, note: str | None, tokens_per_s: float) -> None:
        bar.note = note
        bar.update(bar.batch, total=counts.total, numbers=_name_numbers(counts, tokens_per_s))
        if self._started:
            bar.update(bar.batch, completed=counts.done)
        else:
            # What an earlier run got done says nothing about how fast this one is.
            bar.reset(bar.batch, completed=counts.done, total=counts.total)
            bar.start()
            self._started = True
        bar.refresh()


def describe_counts(counts: Counts) -> dict[str, int]:
    """Counts as members of a JSON object."""
    return {
        "total": counts.total,
        "answered": counts.answered,
        "failed": counts.failed,
        "prompt_tokens": counts.usage.prompt_tokens,
        "completion_tokens": counts.usage.completion_tokens,
    }


def _say_line(counts: Counts, note: str | None, tokens_per_s: float, lines_per_s: float) -> None:
    line = _name_numbers(counts, tokens_per_s)
    rest = counts.total - counts.done
    if rest and lines_per_s > 0:
        line += f"  {name_duration(rest / lines_per_s)} left"
    say(f"{line}  ({note})" if note else line)


def _name_numbers(counts: Counts, tokens_per_s: float) -> str:
    numbers = f"{counts.done:,} of {counts.total:,}"
    if counts.failed:
        numbers += f"  {counts.failed:,} failed"
    if tokens_per_s > 0:
        numbers += f"  {tokens_per_s:,.0f} tokens/s"
    return numbers
