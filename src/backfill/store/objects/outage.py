"""How long a store that fails is tried again: known for all callers together, so that an outage costs each little.

The first call that fails is tried again for the whole of its patience. Once the store has failed for so long, without a
success in between, a call is tried once: whoever waits hears at once that there is nothing to be had, and no worker
thread is kept. The first success ends that.
"""

import random
import threading
import time

__all__ = ["Outage"]

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
# What failed so long ago says nothing of now.
_FORGOTTEN_AFTER_S = 30.0


class Outage:
    """What is known of a store's failures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self._last_s = 0.0
        self._ending = threading.Event()

    def note_success(self) -> None:
        """The store answered."""
        if self._since_s is not None:
            with self._lock:
                self._since_s = None

    def note_failure(self) -> float:
        """The store failed; gives since when it does, in the time of `time.monotonic`."""
        now_s = time.monotonic()
        with self._lock:
            if self._since_s is None or now_s - self._last_s > _FORGOTTEN_AFTER_S:
                self._since_s = now_s
            self._last_s = now_s
            return self._since_s

    def wait(self, tries: int) -> bool:
        """Wait before the next try, ever longer and never as long as others; False if nobody should try any more."""
        longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(tries, 10))
        return not self._ending.wait(random.uniform(longest_s / 4, longest_s))  # noqa: S311 - no secret

    def end(self) -> None:
        """Let nobody wait any more."""
        self._ending.set()
