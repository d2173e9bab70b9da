"""Starts one replica, and remembers why nothing can be sent to it."""

import asyncio

import structlog

from backfill.dispatch.breaker import Breaker
from backfill.dispatch.hindrance import Hindrance, name_fault
from backfill.engines import Replica
from backfill.errors import EngineUnavailable

__all__ = ["Startup"]

_STARTING = "starting"
_log = structlog.get_logger(__name__)


class Startup:
    """What is in the way of using a replica is told to those who wait, once in the log, and to its breaker."""

    def __init__(self, replica: Replica, breaker: Breaker, hindrance: Hindrance) -> None:
        self.trouble: str | None = None
        """Why nothing is sent now; None if all is well."""
        self._replica = replica
        self._breaker = breaker
        self._hindrance = hindrance

    @property
    def is_starting(self) -> bool:
        """Whether that is all that is in the way."""
        return self.trouble == _STARTING

    async def start(self) -> bool:
        """Bring the replica up; whether it is."""
        self.trouble = self.trouble or _STARTING
        self._hindrance.note_start()
        try:
            await self._replica.start()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this engine's alone
            message = error.message if isinstance(error, EngineUnavailable) else name_fault(self._replica.name, error)
            self.note_outage(message)
            return False
        self.note_trouble(None)
        self._hindrance.note_started()
        return True

    def note_outage(self, trouble: str) -> None:
        """It did not come up."""
        now_s = asyncio.get_running_loop().time()
        self._breaker.note_outage(now_s, now_s)
        self.note_trouble(trouble)
        self._hindrance.note_failed_start(trouble)

    def note_trouble(self, trouble: str | None) -> None:
        """This is in the way now; None: nothing is."""
        if trouble is not None and trouble != self.trouble:
            _log.warning("engine unavailable, waiting", engine=self._replica.name, reason=trouble)
        elif trouble is None and self.trouble not in (None, _STARTING):
            _log.info("engine available again", engine=self._replica.name)
        self.trouble = trouble
