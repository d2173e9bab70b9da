"""When each line was first seen finished, from outside: the journals are read as they grow, as any process may."""

import threading
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from backfill.config import load_config
from backfill.errors import BackfillError
from backfill.journal import Fold
from backfill.store import Blobs, open_blobs

__all__ = ["JournalWatch"]

_POLL_S = 0.1


class JournalWatch:
    """A context manager: within it a thread reads the journals of the batches that it is told of, again and again.

    A record that somebody has read was acknowledged by the store, and each later holder of the turn reads it before he
    sends anything. So a request of a line that reaches an engine after its record was seen breaks the promise.
    """

    def __init__(self, folder: Path, store: dict[str, str]) -> None:
        """`store`: the settings, dotted, of where blobs lie."""
        self._store = load_config(environment={}, overrides={**store, "data_dir": str(folder)})
        self._new: list[tuple[str, int, int]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen_ns: dict[int, int] = {}
        """Number of a line -> when its record had been seen, on the monotonic clock."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        # It may wait for a store that is away; then it ends with this process.
        self._thread.join(30)

    def add(self, batch_id: str, first: int, lines: int) -> None:
        """From now on read its journal too; its lines are numbered from `first` on."""
        self._new.append((batch_id, first, lines))

    def find_redone(self, log: Iterable[tuple[str, str, int]]) -> set[int]:
        """The lines that an engine received after their record had been seen, by its log."""
        received = ((int(marker), at_ns) for event, marker, at_ns in log if event == "received")
        return {line for line, at_ns in received if at_ns > self.seen_ns.get(line, at_ns)}

    def _run(self) -> None:
        with closing(open_blobs(self._store.store, self._store.data_dir)) as blobs:
            folds: dict[int, Fold] = {}
            while not self._stopped.wait(_POLL_S):
                self._begin_new(blobs, folds)
                for first, fold in list(folds.items()):
                    try:
                        fold.refresh()
                    except (BackfillError, OSError):
                        # The store is away: what was read before counts, and the rest is read later.
                        continue
                    if self._note(first, fold.outcomes, time.monotonic_ns()):
                        folds.pop(first).close()
            for fold in folds.values():
                fold.close()

    def _begin_new(self, blobs: Blobs, folds: dict[int, Fold]) -> None:
        while self._new:
            batch_id, first, lines = self._new.pop()
            folds[first] = Fold(blobs, batch_id, lines)

    def _note(self, first: int, outcomes: bytearray, now_ns: int) -> bool:
        """Whether all lines have finished."""
        for line, outcome in enumerate(outcomes, first):
            if outcome:
                self.seen_ns.setdefault(line, now_ns)
        return all(outcomes)
