"""What live requests name: fetched while somebody waits, for this one request, and gone with it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from backfill.engines import Replica, Route
from backfill.errors import EngineUnavailable, InvalidInput, StoreUnavailable
from backfill.media import (
    BatchMedia,
    MediaLibrary,
    MediaRefused,
    MediaUnavailable,
    Named,
    check_fit,
    check_inline,
    is_data_url,
    put_media_in,
)
from backfill.wire import ReferenceFault, find_references

if TYPE_CHECKING:
    from backfill.media_file import MediaReference

__all__ = ["MEDIA_CODES", "LiveBody", "LiveMedia"]

MEDIA_CODES = (MediaRefused.code, MediaUnavailable.code)
"""Of errors that say that something which a request names cannot be had."""
_PREFIX = "live-"


class LiveBody:
    """A request with all at hand that it names."""

    def __init__(self, library: MediaLibrary, hold: BatchMedia, endpoint: str, body: bytes) -> None:
        self._library = library
        self._hold = hold
        self._endpoint = endpoint
        self._body = body
        self._named = Named()
        self._inline: Sequence[MediaReference] = ()

    async def bring(self, route: Route) -> None:
        """Fetch what it names; raises MediaRefused, MediaUnavailable, ReferenceFault and StoreUnavailable."""
        passes = self._library.config.links == "pass" and all(one.limits.takes_links for one in route.replicas)
        found = await asyncio.to_thread(find_references, self._endpoint, self._body, passes_links=passes)
        await asyncio.to_thread(check_inline, found, self._library.config)
        self._named = Named.sort(found, passes_links=passes)
        self._inline = [reference for reference in found if is_data_url(reference.source)]
        await asyncio.gather(*(self._hold.get(reference) for reference in self._named.fetched))

    async def fill(self, replica: Replica) -> bytes:
        """The request as a replica wants it; raises InvalidInput if that takes no such thing."""
        limits, named = replica.limits, self._named
        try:
            check_fit(replica.name, named.kinds, pictures=limits.pictures, clips=limits.clips)
            with self._hold.holding(named.fetched) as files:
                if files is None:
                    raise EngineUnavailable("What the request names is gone again.", code=MediaUnavailable.code)
                found = dict(zip(named.fetched, files, strict=True))
                return await asyncio.to_thread(
                    put_media_in,
                    self._endpoint,
                    self._body,
                    found,
                    self._inline,
                    pictures=limits.pictures,
                    config=self._library.config,
                )
        except MediaRefused as refused:
            raise _refuse(refused) from None


class LiveMedia:
    """Of all live requests. The library keeps it under names of their own, which no batch has."""

    def __init__(self, library: MediaLibrary) -> None:
        self._library = library

    @asynccontextmanager
    async def open(self, owner: str, route: Route, body: bytes) -> AsyncIterator[LiveBody]:
        """Have at hand what a request names.

        Raises:
            InvalidInput: it never can be had, or is not what is taken.
            EngineUnavailable: it could not be had now.

        """
        name = f"{_PREFIX}{uuid.uuid4()}"
        hold = self._library.open(name, owner)
        try:
            whole = LiveBody(self._library, hold, route.endpoint, body)
            try:
                await whole.bring(route)
            except (MediaRefused, ReferenceFault) as refused:
                raise _refuse(refused) from None
            except MediaUnavailable as failure:
                raise EngineUnavailable(failure.message, code=failure.code) from None
            yield whole
        finally:
            await hold.close()
            with suppress(StoreUnavailable):
                await self._library.remove(name)

    async def sweep(self) -> None:
        """Remove what requests of an earlier process left; while there are none."""
        with suppress(StoreUnavailable):
            for name in await self._library.list_batches():
                if name.startswith(_PREFIX):
                    await self._library.remove(name)


def _refuse(failure: MediaRefused | ReferenceFault) -> InvalidInput:
    problem = failure.problem
    return InvalidInput(problem.message, param=problem.param, code=problem.code)
