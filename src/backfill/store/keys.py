"""Where each blob lies, relative to the blob folder."""

__all__ = [
    "CONTENT",
    "FACTS",
    "FILES_PREFIX",
    "JOURNALS_PREFIX",
    "PARTS",
    "PENDING_FACTS",
    "PLACE",
    "QUARANTINE_PREFIX",
    "REMOVED_PREFIX",
    "chain_prefix",
    "content_key",
    "facts_key",
    "file_prefix",
    "find_turn",
    "index_key",
    "journal_prefix",
    "origin_key",
    "part_key",
    "parts_prefix",
    "pending_facts_key",
    "segment_key",
    "upload_plan_key",
]

FILES_PREFIX = "files"
"""The folder in which each file has one of its own."""

JOURNALS_PREFIX = "journals"
"""The folder in which each batch's journal has one of its own."""
QUARANTINE_PREFIX = "quarantine"
"""The folder of what no row names, until its time is over."""
REMOVED_PREFIX = "removed"
"""The folder of what is being removed, and is nothing any more."""

CONTENT = "content"
"""What the bytes of a file are called in its folder."""
FACTS = "facts"
"""What tells of a file whose row is there."""
PENDING_FACTS = "facts.pending"
"""The same before it has a row."""
PARTS = "parts"
"""The folder of what has come of a file in parts."""


PLACE = "place"
"""What tells an object store's blobs from those of every other installation."""


def file_prefix(file_id: str) -> str:
    """The folder of all blobs of a file."""
    return f"{FILES_PREFIX}/{file_id}"


def content_key(file_id: str) -> str:
    """The bytes of a file."""
    return f"{file_prefix(file_id)}/{CONTENT}"


def index_key(file_id: str) -> str:
    """What intake learned of a file's lines."""
    return f"{file_prefix(file_id)}/index"


def facts_key(file_id: str) -> str:
    """What a file is, once its row says so too (`store.facts`)."""
    return f"{file_prefix(file_id)}/{FACTS}"


def pending_facts_key(file_id: str) -> str:
    """The same before it has a row."""
    return f"{file_prefix(file_id)}/{PENDING_FACTS}"


def origin_key(file_id: str) -> str:
    """Of which table a file of requests was made, and how; stays as long as the file."""
    return f"{file_prefix(file_id)}/origin"


def upload_plan_key(file_id: str) -> str:
    """What was announced of a file that comes in parts; stays as long as the file."""
    return f"{file_prefix(file_id)}/upload"


def parts_prefix(file_id: str) -> str:
    """The folder of the parts that have come of a file."""
    return f"{file_prefix(file_id)}/{PARTS}"


def part_key(file_id: str, name: str) -> str:
    """One part of a file, until the file is complete."""
    return f"{parts_prefix(file_id)}/{name}"


def journal_prefix(batch_id: str) -> str:
    """The folder of a batch's journal segments."""
    return f"{JOURNALS_PREFIX}/{batch_id}"


def segment_key(batch_id: str, epoch: int, slice_number: int = 0) -> str:
    """The segment that the holder of the `epoch`-th turn writes; those of one slice sort by epoch.

    `slice_number`: of which slice of a batch that was cut, from 1; 0: the batch was not.
    """
    of_slice = f"{slice_number:04d}-" if slice_number else ""
    return f"{journal_prefix(batch_id)}/{of_slice}{epoch:010d}.segment"


def find_turn(key: str) -> tuple[int, int] | None:
    """Slice and epoch of the turn whose segment has this key; None: it is no segment's."""
    of_slice, _, digits = key.rpartition("/")[2].partition(".")[0].rpartition("-")
    if not digits.isdecimal() or not (of_slice.isdecimal() or not of_slice):
        return None
    return int(of_slice or 0), int(digits)


def chain_prefix(key: str) -> str:
    """With what the keys of all segments begin that are of the same slice as this one, and no others."""
    folder, _, name = key.rpartition("/")
    of_slice, dash, _ = name.rpartition("-")
    return f"{folder}/{of_slice}{dash}"
