"""How far a call is, where somebody sees it: a bar in a terminal, a line in a notebook, nothing elsewhere."""

import sys
import time
from typing import Any, Protocol

from backfill.batch import Counts

__all__ = ["ProgressBar", "find_bar"]

_NOTEBOOK_EVERY_S = 0.5


class ProgressBar(Protocol):
    """Shows counts as they come."""

    def show(self, counts: Counts, note: str | None = None) -> None:
        """The counts now, and what holds the work up."""

    def close(self) -> None:
        """Leave what was shown last."""


class _Silence:
    def show(self, counts: Counts, note: str | None = None) -> None:
        pass

    def close(self) -> None:
        pass


class _TerminalBar:
    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - where nobody looks it is not loaded
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("", total=None, note="")
        self._bar.start()

    def show(self, counts: Counts, note: str | None = None) -> None:
        self._bar.update(self._task, total=counts.total, completed=counts.done, note=_name(counts, note))

    def close(self) -> None:
        self._bar.stop()


class _NotebookLine:
    """A line of text that is written over: notebooks of all kinds show it, without a widget to be installed."""

    def __init__(self) -> None:
        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - a notebook has it

        self._handle: Any = display({"text/plain": "starting"}, raw=True, display_id=True)
        self._next_at = 0.0
        self._last: tuple[Counts, str | None] | None = None

    def show(self, counts: Counts, note: str | None = None) -> None:
        self._last = (counts, note)
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + _NOTEBOOK_EVERY_S
            self._write()

    def close(self) -> None:
        self._write()

    def _write(self) -> None:
        if self._last is not None:
            counts, note = self._last
            cells = 30 * counts.done // max(1, counts.total)
            bar = "█" * cells + "░" * (30 - cells)
            text = f"{bar} {counts.done:,} of {counts.total:,} {_name(counts, note)}"
            self._handle.update({"text/plain": text.rstrip()}, raw=True)


def find_bar(wanted: bool | None) -> ProgressBar:
    """The bar for where the program runs; `wanted`: None, if somebody sees it."""
    if wanted is False:
        return _Silence()
    if _is_notebook():
        return _NotebookLine()
    return _TerminalBar() if wanted or sys.stderr.isatty() else _Silence()


def _is_notebook() -> bool:
    # Whoever runs in one has it loaded.
    loaded = sys.modules.get("IPython")
    shell = loaded.get_ipython() if loaded is not None else None
    return getattr(shell, "kernel", None) is not None


def _name(counts: Counts, note: str | None) -> str:
    failed = f"{counts.failed:,} failed" if counts.failed else ""
    return "  ".join(part for part in (failed, note) if part)
