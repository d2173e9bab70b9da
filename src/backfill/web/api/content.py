"""A blob on its way out: read piece by piece in worker threads, so that neither memory nor the loop feels its size."""

import asyncio
import itertools
from collections.abc import Iterator, Mapping

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from backfill.errors import StoreCorrupt
from backfill.store import BlobReader
from backfill.web.api.head import is_head

__all__ = ["BlobResponse"]

_PIECE_BYTES = 1 << 18


class BlobResponse(StreamingResponse):
    """`length` bytes of a blob from `offset` on. Owns the reader, and closes it however the answer ends."""

    def __init__(
        self, reader: BlobReader, offset: int, length: int, *, status_code: int, headers: Mapping[str, str]
    ) -> None:
        self._pieces = _read_pieces(reader, offset, length)
        self._reader = reader
        super().__init__(self._pieces, status_code=status_code, headers=headers)

    async def begin(self) -> None:
        """Read the first piece, while the status can still say that this failed; closes the blob if so.

        Raises:
            StoreUnavailable: the disk does not give it now.

        """
        try:
            first = await asyncio.to_thread(next, self._pieces, b"")
        except BaseException:
            self._reader.close()
            raise
        self.body_iterator = iterate_in_threadpool(itertools.chain((first,), self._pieces))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bytes, then close the blob."""
        try:
            if is_head(scope):
                await Response(status_code=self.status_code, headers=self.headers)(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            self._reader.close()


def _read_pieces(reader: BlobReader, offset: int, length: int) -> Iterator[bytes]:
    end = offset + length
    while offset < end:
        piece = reader.read(offset, min(_PIECE_BYTES, end - offset))
        if not piece:
            raise StoreCorrupt(f"A file ends at byte {offset} instead of {end}.")
        yield piece
        offset += len(piece)
