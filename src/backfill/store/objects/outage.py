"""How long a store that fails is tried again: known for all callers together, so that an outage costs each little.

The first call that fails is tried again for the whole of its patience. Once the store has failed for so long, without a
success in between, a call is tried once, and one at a time: where the store is silent each try takes long, and whoever
waits hears at once that there is nothing to be had, and no worker thread is kept. The first success ends that.
"""

import random
import threading
import time

__all__ = ["Outage"]

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
# What failed so long ago says nothing of now.
_FORGOTTEN_AFTER_S = 30.0
# What takes longer may have been lost on the way, so that others try beside it.
_TRY_S = 10.0


class Outage:
    """What is known of a store's failures."""

    def __init__(self, patience_s: float) -> None:
        """`patience_s`: a store that has failed for so long is taken to be out."""
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self._last_s = 0.0
        self._trying_until_s = 0.0
        self._ending = threading.Event()

    @property
    def since_s(self) -> float:
        """Since when it fails, in the time of `time.monotonic`; now, if it does not."""
        since_s = self._since_s
        return time.monotonic() if since_s is None else since_s

    def may_try(self) -> bool:
        """Whether a call is to be made; where the store is out that is so for one at a time."""
        now_s = time.monotonic()
        if now_s - self.since_s <= self._patience_s:
            return True
        with self._lock:
            if now_s - self._last_s > _FORGOTTEN_AFTER_S:
                return True
            if now_s < self._trying_until_s:
                return False
            self._trying_until_s = now_s + _TRY_S
            return True

    def note_success(self) -> None:
        """The store answered."""
        if self._since_s is not None:
            with self._lock:
                self._since_s = None
                self._trying_until_s = 0.0

    def note_failure(self) -> float:
        """The store failed; gives since when it does, in the time of `time.monotonic`."""
        now_s = time.monotonic()
        with self._lock:
            if self._since_s is None or now_s - self._last_s > _FORGOTTEN_AFTER_S:
                self._since_s = now_s
            self._last_s = now_s
            self._trying_until_s = 0.0
            return self._since_s

    def wait(self, tries: int) -> bool:
        """Wait before the next try, ever longer and never as long as others; False if nobody should try any more."""
        longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(tries, 10))
        return not self._ending.wait(random.uniform(longest_s / 4, longest_s))  # noqa: S311 - no secret

    def end(self) -> None:
        """Let nobody wait any more."""
        self._ending.set()
