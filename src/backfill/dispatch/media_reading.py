"""What a line names, read from its body: once before it is fetched, again where it is sent with bytes of its own."""

import asyncio
from collections.abc import Sequence

from backfill.batch import AUDIO_ENDPOINTS
from backfill.config import MediaConfig
from backfill.dispatch.turn_media import MediaTurn
from backfill.engines import Route
from backfill.media import MediaRefused, MediaUnavailable, Named, check_inline
from backfill.media_file import MediaReference
from backfill.wire import ReferenceFault, find_audio_problem, find_references

__all__ = ["LINE_FAULTS", "LineFault", "MediaReader"]

# A body as long as this is looked at in a thread, and one such body at a time: memory holds no more of them.
_LONG_BYTES = 1 << 16


LineFault = MediaRefused | MediaUnavailable | ReferenceFault
"""Why a line has its outcome without being sent."""
LINE_FAULTS = (MediaRefused, MediaUnavailable, ReferenceFault)


class MediaReader:
    """Of the lines of one turn that go one route."""

    def __init__(self, turn: MediaTurn, route: Route, config: MediaConfig) -> None:
        self._turn = turn
        self._config = config
        self._is_audio = turn.endpoint in AUDIO_ENDPOINTS
        self._passes_links = (
            config.links == "pass"
            and not self._is_audio
            and all(replica.limits.takes_links for replica in route.replicas)
        )
        self._lock = asyncio.Lock()

    async def read(self, line: int) -> Named:
        """What a line names.

        Raises:
            MediaRefused, ReferenceFault: that is its outcome.
            StoreUnavailable: its body cannot be read now.

        """
        turn = self._turn
        if turn.measure_body(line) < _LONG_BYTES:
            return self._sort(await turn.fetch_body(line))
        async with self._lock:
            return await asyncio.to_thread(self._sort, await turn.fetch_body(line))

    async def find(self, body: bytes) -> Sequence[MediaReference]:
        """What a request names, with its bytes where they stand in it; raises ReferenceFault."""
        if len(body) < _LONG_BYTES:
            return self._find(body)
        return await asyncio.to_thread(self._find, body)

    def _sort(self, body: bytes) -> Named:
        problem = find_audio_problem(body) if self._is_audio else None
        if problem is not None:
            # Before anything is fetched for it.
            raise ReferenceFault(problem.message, problem.param, problem.code)
        found = self._find(body)
        if not self._is_audio:
            check_inline(found, self._config)
        return Named.sort(found, passes_links=self._passes_links)

    def _find(self, body: bytes) -> Sequence[MediaReference]:
        return find_references(self._turn.endpoint, body, passes_links=self._passes_links)
