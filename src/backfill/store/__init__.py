"""Every byte and every row: blobs, metadata, migrations, fault points. The store decides nothing."""

from backfill.store.blobs import AppendFile, BlobReader, BlobWriter, FolderLock, LocalBlobs
from backfill.store.keys import content_key, index_key, journal_prefix, segment_key
from backfill.store.metadata import Metadata

__all__ = [
    "AppendFile",
    "BlobReader",
    "BlobWriter",
    "FolderLock",
    "LocalBlobs",
    "Metadata",
    "content_key",
    "index_key",
    "journal_prefix",
    "segment_key",
]
