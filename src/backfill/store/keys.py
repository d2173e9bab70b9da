"""Where each blob lies, relative to the blob folder."""

__all__ = ["content_key", "index_key", "journal_prefix", "segment_key"]


def content_key(file_id: str) -> str:
    """The bytes of a file."""
    return f"files/{file_id}/content"


def index_key(file_id: str) -> str:
    """What intake learned of a file's lines."""
    return f"files/{file_id}/index"


def journal_prefix(batch_id: str) -> str:
    """The folder of a batch's journal segments."""
    return f"journals/{batch_id}"


def segment_key(batch_id: str, epoch: int) -> str:
    """The segment that the holder of the `epoch`-th turn writes; sorts by epoch."""
    return f"{journal_prefix(batch_id)}/{epoch:010d}.segment"
