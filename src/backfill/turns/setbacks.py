"""What failed of late, a batch or the work of a whole loop: since when, why, and when it is to be tried again.

A disk that is full or a database that is locked heals by itself, so nothing that failed is ever given up; and a fault
of our own in one batch is not the others'. Nothing of this is saved: a new process finds out anew.
"""

import time
import traceback

import structlog

from backfill.errors import BackfillError, StoreUnavailable
from backfill.status import Waiting, WaitReason

__all__ = ["ALL_BATCHES", "Setbacks"]

ALL_BATCHES = "dispatch"
"""Stands for what the dispatcher does for all batches: judging, taking and expiring them."""
_PAUSE_S = 0.5
# Whatever has healed is found to be well within this time.
_PAUSE_MAX_S = 10.0
_EXPONENT_MAX = 16
_log = structlog.get_logger(__name__)


class _Setback:
    def __init__(self, since_ms: int, names: dict[str, str]) -> None:
        self.since_ms = since_ms
        self.names = names
        self.failures = 0
        self.told = ""
        self.waiting: Waiting | None = None


class Setbacks:
    """Keyed by the batch's id, or by the name of a loop."""

    def __init__(self) -> None:
        self._setbacks: dict[str, _Setback] = {}

    def note(self, key: str, error: Exception, event: str, **names: str) -> float:
        """Count a failure and log it as `event`, if the last one was another; gives the seconds to wait now.

        `names` say in the log whose failure it is.
        """
        setback = self._setbacks.get(key)
        if setback is None:
            setback = self._setbacks[key] = _Setback(time.time_ns() // 1_000_000, names)
        facts = {"reason": error.message} if isinstance(error, BackfillError) else {"reason": repr(error)}
        if f"{event}: {facts}" != setback.told:
            setback.told = f"{event}: {facts}"
            if not isinstance(error, BackfillError):
                # Formatted here: a log renderer may show local variables.
                facts["traceback"] = "".join(traceback.format_exception(error))
            _log.error(event, **names, **facts)
        setback.waiting = _explain(error, setback.since_ms)
        pause_s = _PAUSE_S * 2.0 ** min(setback.failures, _EXPONENT_MAX)
        setback.failures += 1
        return min(pause_s, _PAUSE_MAX_S)

    def forget(self, key: str) -> None:
        """It works again, or is over."""
        setback = self._setbacks.pop(key, None)
        if setback is not None:
            _log.info("works again", **setback.names, failures=setback.failures)

    def find(self, key: str) -> Waiting | None:
        """What failed the last time; None if all was well."""
        setback = self._setbacks.get(key)
        return setback.waiting if setback is not None else None


def _explain(error: Exception, since_ms: int) -> Waiting:
    """For clients: without the paths that the error itself may name."""
    if not isinstance(error, BackfillError):
        message = "Backfill itself failed at this, and tries again; its log says how it failed"
        return Waiting(WaitReason.INTERNAL, message, since_ms)
    cause = error.__cause__ if isinstance(error, StoreUnavailable) else None
    said = getattr(cause, "strerror", None) or getattr(error, "reason", "")
    reason = f" ({' '.join(str(said).split()).lower()})" if said else ""
    message = f"the server's disk or database cannot be used now{reason}; it goes on as soon as it can"
    return Waiting.explain(WaitReason.STORE, message, since_ms)
