"""The audit lines of the log: who changed keys, removed files, stopped batches, and who was not let in. Never a key."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from starlette.types import Scope

from backfill.api_key import Caller

__all__ = ["Audit"]

# Shown as 0 until it happens.
_CODES = ("missing_api_key", "invalid_api_key", "api_key_expired", "api_key_revoked")
# Whoever guesses keys must not fill the disk with it.
_REFUSALS_LOGGED = 20
_PERIOD_S = 60.0
_log = structlog.get_logger(__name__)


class Audit:
    """Writes one line, `event` "audit", for each thing done; refused logins beyond 20 a minute are only counted."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._refused = Counter(dict.fromkeys(_CODES, 0))
        self._period_began_s = clock_s()
        self._in_period = 0

    @property
    def refused(self) -> Mapping[str, int]:
        """Code of the error -> how often a login was refused with it."""
        return self._refused

    def record(self, scope: Scope, action: str, caller: Caller, **facts: Any) -> None:
        """Something was done for this caller."""
        _log.info("audit", action=action, owner=caller.owner, caller_key=caller.key_id, **_origin(scope), **facts)

    def refuse(self, scope: Scope, code: str) -> None:
        """Somebody was not let in."""
        self._refused[code] += 1
        now_s = self._clock_s()
        if now_s - self._period_began_s >= _PERIOD_S:
            self._tell_rest()
            self._period_began_s, self._in_period = now_s, 0
        self._in_period += 1
        if self._in_period <= _REFUSALS_LOGGED:
            _log.warning("audit", action="login.refused", reason=code, **_origin(scope))

    def _tell_rest(self) -> None:
        if self._in_period > _REFUSALS_LOGGED:
            unlogged = self._in_period - _REFUSALS_LOGGED
            _log.warning("audit", action="login.refused", reason="too many to log each", count=unlogged)


def _origin(scope: Scope) -> dict[str, Any]:
    # The path without the query, which may hold a signature.
    address = (scope.get("client") or (None,))[0]
    return {"client": address, "path": scope["path"], "request_id": scope.get("backfill.request_id")}
