from .aging import Aging
from .api_keys import ApiKeys
from .append_file import AppendFile
from .batch_search import BatchFilter, BatchSearch, BatchSums
from .blobs import BlobMark, BlobReader, Blobs, BlobWriter, SegmentFile
from .callouts import BATCHES, KEYS, Callouts
from .change_mark import ChangeMark
from .data_size import DataSize, measure_folder
from .database import Database
from .disk import sync_each, sync_folder, telling
from .driver import Driver
from .drivers import choose_driver
from .facts import begin_facts, confirm_facts, read_facts, withdraw_facts, write_facts
from .folder_lock import FolderLock
from .grouped_calls import GroupedCalls
from .keys import (
    CONTENT,
    FACTS,
    FILES_PREFIX,
    JOURNALS_PREFIX,
    PARTS,
    PENDING_FACTS,
    PLACE,
    QUARANTINE_PREFIX,
    REMOVED_PREFIX,
    chain_prefix,
    content_key,
    facts_key,
    file_prefix,
    find_turn,
    index_key,
    journal_prefix,
    origin_key,
    part_key,
    parts_prefix,
    pending_facts_key,
    segment_key,
    upload_plan_key,
)
from .late_indexes import make_indexes_late
from .leases import Leases
from .local_blobs import LocalBlobs
from .local_reader import LocalReader
from .local_writer import LocalWriter, seal_together
from .metadata import Metadata
from .named_later import FileNamedLater, is_unfinished, remove_file
from .opening import open_blobs
from .permissions import Closed, close_to_others, create_private, make_folder
from .place import PLACE_ROW, find_row_mark, read_place
from .presence import find_others, name_presence
from .probe import ROOM_MIN_BYTES, probe_folder
from .queue import EndedBatch, QueuedBatch, count_slices_left, list_slices_left, read_ended, read_queue
from .reservations import UNSENT, Claim, EndedUsage, Reservations
from .revision import Revision, check_revision, find_newest, read_revision
from .slice_claims import ClaimedSlice, Lease
from .slices import Slices
from .sqlite import DATABASE, SqliteDriver
from .turn_order import Claimed, Wanted
from .usage import BatchUsage, UsageRecords
from .webhooks import WebhookKind, find_webhooks
from .workers import Workers

__all__ = [
    "BATCHES",
    "CONTENT",
    "DATABASE",
    "FACTS",
    "FILES_PREFIX",
    "JOURNALS_PREFIX",
    "KEYS",
    "PARTS",
    "PENDING_FACTS",
    "PLACE",
    "PLACE_ROW",
    "QUARANTINE_PREFIX",
    "REMOVED_PREFIX",
    "ROOM_MIN_BYTES",
    "UNSENT",
    "Aging",
    "ApiKeys",
    "AppendFile",
    "BatchFilter",
    "BatchSearch",
    "BatchSums",
    "BatchUsage",
    "BlobMark",
    "BlobReader",
    "BlobWriter",
    "Blobs",
    "Callouts",
    "ChangeMark",
    "Claim",
    "Claimed",
    "ClaimedSlice",
    "Closed",
    "DataSize",
    "Database",
    "Driver",
    "EndedBatch",
    "EndedUsage",
    "FileNamedLater",
    "FolderLock",
    "GroupedCalls",
    "Lease",
    "Leases",
    "LocalBlobs",
    "LocalReader",
    "LocalWriter",
    "Metadata",
    "QueuedBatch",
    "Reservations",
    "Revision",
    "SegmentFile",
    "Slices",
    "SqliteDriver",
    "UsageRecords",
    "Wanted",
    "WebhookKind",
    "Workers",
    "begin_facts",
    "chain_prefix",
    "check_revision",
    "choose_driver",
    "close_to_others",
    "confirm_facts",
    "content_key",
    "count_slices_left",
    "create_private",
    "facts_key",
    "file_prefix",
    "find_newest",
    "find_others",
    "find_row_mark",
    "find_turn",
    "find_webhooks",
    "index_key",
    "is_unfinished",
    "journal_prefix",
    "list_slices_left",
    "make_folder",
    "make_indexes_late",
    "measure_folder",
    "name_presence",
    "open_blobs",
    "origin_key",
    "part_key",
    "parts_prefix",
    "pending_facts_key",
    "probe_folder",
    "read_ended",
    "read_facts",
    "read_place",
    "read_queue",
    "read_revision",
    "remove_file",
    "seal_together",
    "segment_key",
    "sync_each",
    "sync_folder",
    "telling",
    "upload_plan_key",
    "withdraw_facts",
    "write_facts",
]
