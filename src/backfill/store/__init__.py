"""Every byte and every row: blobs, metadata, migrations, fault points. The store decides nothing."""

from backfill.store.blobs import AppendFile, BlobReader, BlobWriter, FolderLock, LocalBlobs
from backfill.store.keys import (
    FILES_PREFIX,
    content_key,
    file_prefix,
    index_key,
    journal_prefix,
    part_key,
    parts_prefix,
    segment_key,
    upload_plan_key,
)
from backfill.store.metadata import Metadata

__all__ = [
    "FILES_PREFIX",
    "AppendFile",
    "BlobReader",
    "BlobWriter",
    "FolderLock",
    "LocalBlobs",
    "Metadata",
    "content_key",
    "file_prefix",
    "index_key",
    "journal_prefix",
    "part_key",
    "parts_prefix",
    "segment_key",
    "upload_plan_key",
]
