"""Of which table a file of requests was made, and what was asked: beside its bytes, for as long as these."""

import msgspec

from backfill.errors import NotFound
from backfill.store import Blobs, origin_key
from backfill.tables import Question

__all__ = ["TableOrigin", "copy_origin", "read_origin", "write_origin"]


class TableOrigin(msgspec.Struct, frozen=True, omit_defaults=True):
    """What there is to know of it."""

    question: Question
    table_file_id: str | None = None
    """None: the requests are some of those that were made of a table, as are those that failed before."""


def write_origin(blobs: Blobs, file_id: str, origin: TableOrigin) -> None:
    """Write it down; durable once another blob of the file is sealed. Blocks on disk."""
    blobs.write(origin_key(file_id), msgspec.json.encode(origin), sync_folder=False)


def read_origin(blobs: Blobs, file_id: str) -> TableOrigin | None:
    """Of what the requests were made; None if not of a table. Blocks on disk."""
    try:
        return msgspec.json.decode(blobs.read(origin_key(file_id)), type=TableOrigin)
    except (NotFound, msgspec.MsgspecError):
        return None


def copy_origin(blobs: Blobs, source_id: str, file_id: str) -> None:
    """Write down that a file holds some of the requests of another. Blocks on disk."""
    origin = read_origin(blobs, source_id)
    if origin is not None:
        write_origin(blobs, file_id, TableOrigin(origin.question))
