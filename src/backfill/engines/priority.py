"""Priorities of requests, for engines that schedule by them: who waits for an answer goes before lines of batches.

vLLM (`--scheduling-policy priority`) serves lower numbers first, and what has none counts as 0: lines get a higher one.
Without that policy it refuses the member, and then it is left out for good. SGLang (`--enable-priority-scheduling`)
serves higher numbers first, and what has none last: live requests get one; without that option it ignores it. No other
engine is sent the member.
"""

import re
from typing import Final

import structlog

from backfill.engines.reply import Refused, Reply

__all__ = ["Priorities"]

_ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions")
_LINE: Final = b"100"
_LIVE: Final = b"100"
_MEMBER: Final = b'"priority"'
_OWNER: Final = re.compile(rb'"owned_by"\s*:\s*"(vllm|sglang)"')
_log = structlog.get_logger(__name__)


class Priorities:
    """What one engine takes."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self.marks_lines = False
        """Whether lines get a priority."""
        self._kind = b""
        self._is_refused = False

    def learn(self, models: bytes) -> None:
        """Take from its list of models what kind of engine it is."""
        found = _OWNER.search(models)
        self._kind = found[1] if found else b""
        self.marks_lines = self._kind == b"vllm" and not self._is_refused

    def mark_line(self, endpoint: str, body: bytes) -> bytes:
        """A line's body as it is to be sent; every other byte is as it was."""
        return _add(endpoint, body, _LINE) if self.marks_lines else body

    def mark_live(self, endpoint: str, body: bytes) -> bytes:
        """A live request's body as it is to be sent."""
        return _add(endpoint, body, _LIVE) if self._kind == b"sglang" else body

    def is_refusal(self, reply: Reply) -> bool:
        """Whether the engine refuses the member of a marked line: the request is to be sent again, as it was."""
        if not isinstance(reply, Refused) or b"priority" not in reply.body.lower():
            return False
        if not self._is_refused:
            self._is_refused, self.marks_lines = True, False
            _log.info("engine does not schedule by priority", engine=self._engine)
        return True


def _add(endpoint: str, body: bytes, value: bytes) -> bytes:
    if endpoint not in _ENDPOINTS or _MEMBER in body:
        return body
    end = body.rstrip()
    # Anything but an object with members is for the engine to refuse.
    if not end.endswith(b"}") or end[:-1].rstrip().endswith(b"{"):
        return body
    return b'%s,"priority":%s}' % (end[:-1], value)
