"""What keeps a replica from answering anything at all, since when, for those who wait for it."""

from traceback import format_exception

import structlog

from backfill.status import Waiting, WaitReason
from backfill.turns import now_ms

__all__ = ["Hindrance", "name_fault"]

_log = structlog.get_logger(__name__)


class Hindrance:
    """Begins when a start or a request fails, and ends with the first answer, or a start if no request had failed."""

    def __init__(self, engine: str) -> None:
        self.waiting: Waiting | None = None
        """None: something was answered the last time, or nothing was asked yet."""
        self._engine = engine
        self._has_failed_sending = False

    def note_start(self) -> None:
        """The replica is being started."""
        if self.waiting is None:
            self._note(WaitReason.STARTING, "it is being started")

    def note_started(self) -> None:
        """The replica is up, and may answer."""
        if not self._has_failed_sending:
            self.waiting = None

    def note_failed_start(self, message: str) -> None:
        """The replica did not come up."""
        self._note(WaitReason.ENGINE, message)

    def note_failed_request(self, reason: WaitReason, message: str) -> None:
        """A request was turned away, and not for what stands in it."""
        self._has_failed_sending = True
        self._note(reason, message)

    def note_reply(self) -> None:
        """Something was answered."""
        if self.waiting is not None:
            self.waiting, self._has_failed_sending = None, False

    def _note(self, reason: WaitReason, message: str) -> None:
        since_ms = now_ms() if self.waiting is None else self.waiting.since_ms
        self.waiting = Waiting.explain(reason, f"engine {self._engine}: {message}", since_ms)


def name_fault(engine: str, error: Exception) -> str:
    """Log what no replica should raise; gives what to say of it."""
    # Formatted here: a log renderer may show local variables.
    _log.error("engine failed in a way of its own", engine=engine, traceback="".join(format_exception(error)))
    return f"it failed in a way of its own ({type(error).__name__}); the log says more"
