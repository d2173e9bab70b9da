"""What a file is, beside its bytes: enough to make its row again if the database is lost.

The facts are written before the row, as pending, and confirmed once the row is there. So confirmed facts without a row
say that the database has lost it, and pending ones that nobody was ever told of the file.
"""

from contextlib import suppress

import msgspec

from backfill.batch import File
from backfill.errors import NotFound, StoreUnavailable
from backfill.store.blobs import Blobs, BlobWriter
from backfill.store.keys import facts_key, file_prefix, pending_facts_key

__all__ = ["begin_facts", "confirm_facts", "read_facts", "withdraw_facts", "write_facts"]


def begin_facts(blobs: Blobs, file: File) -> BlobWriter:
    """As `write_facts`, for a caller that seals them with other blobs (`Blobs.seal_together`)."""
    writer = blobs.create(pending_facts_key(file.id))
    try:
        writer.write(msgspec.json.encode(file))
    except StoreUnavailable:
        writer.abort()
        raise
    return writer


def write_facts(blobs: Blobs, file: File) -> None:
    """Write them, pending. They are durable once another blob of the file is sealed: that syncs the folder of both."""
    blobs.write(pending_facts_key(file.id), msgspec.json.encode(file), sync_folder=False)


def confirm_facts(blobs: Blobs, file_id: str) -> None:
    """The row is there. If this cannot be written down now, the next start does it."""
    with suppress(StoreUnavailable, NotFound):
        blobs.rename(pending_facts_key(file_id), facts_key(file_id))


def withdraw_facts(blobs: Blobs, file_id: str) -> None:
    """The row is about to go, because the file does."""
    blobs.remove_all([facts_key(file_id), pending_facts_key(file_id)], file_prefix(file_id))


def read_facts(blobs: Blobs, file_id: str) -> File | None:
    """The file as it was sealed, whether its facts are confirmed or pending; None if they cannot be read."""
    for key in (facts_key(file_id), pending_facts_key(file_id)):
        with suppress(NotFound, msgspec.MsgspecError):
            return msgspec.json.decode(blobs.read(key), type=File)
    return None
