"""A blob on its way out: read piece by piece in worker threads, so that neither memory nor the loop feels its size."""

from collections.abc import Iterator, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from backfill.errors import StoreCorrupt
from backfill.store import BlobReader

__all__ = ["BlobResponse"]

_PIECE_BYTES = 1 << 18


class BlobResponse(StreamingResponse):
    """`length` bytes of a blob from `offset` on. Owns the reader, and closes it however the answer ends."""

    media_type = "application/jsonl"

    def __init__(
        self, reader: BlobReader, offset: int, length: int, *, status_code: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(_read_pieces(reader, offset, length), status_code=status_code, headers=headers)
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bytes, then close the blob."""
        try:
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
