"""Which rows and which files belong together: both carry the same mark, wherever they lie.

In a data directory they lie side by side, and need none. A database keeps its mark in a row, an object store in a blob.
Without that a setting that names the wrong one of several would be found out only once batches fail.
"""

import asyncio
from pathlib import Path

from backfill.errors import NotFound, StoreUnavailable
from backfill.store import PLACE, PLACE_ROW, Blobs, Metadata, find_row_mark, read_place

__all__ = ["check_place", "claim_place", "mark_place"]


async def check_place(data_dir: Path, metadata: Metadata, blobs: Blobs) -> None:
    """Return if the files of the database's batches are these; changes nothing.

    Raises:
        StoreUnavailable: they belong to other rows, or lie in another data directory.

    """
    marks = await _find_marks(data_dir, metadata, blobs)
    if len({mark for mark in marks if mark is not None}) > 1:
        raise _name_mismatch(data_dir, metadata, blobs)


async def mark_place(data_dir: Path, metadata: Metadata, blobs: Blobs) -> None:
    """Have both carry the same mark from now on; raises StoreUnavailable as `check_place`."""
    marks = await _find_marks(data_dir, metadata, blobs)
    if not marks:
        return
    mark = next((each for each in marks if each), "") or await asyncio.to_thread(read_place, data_dir)
    # The files first: so rows with a mark beside files without one are never a first start that is under way.
    if not blobs.is_near:
        mark = (await asyncio.to_thread(blobs.write_once, PLACE, mark.encode())).decode()
    if metadata.database.many_writers and await metadata.get_secret(PLACE_ROW, mark.encode()) != mark.encode():
        raise _name_mismatch(data_dir, metadata, blobs)


async def claim_place(data_dir: Path, metadata: Metadata, blobs: Blobs) -> None:
    """Make the database and the files belong to each other; only while nobody else works on either."""
    own = await asyncio.to_thread(read_place, data_dir)
    if metadata.database.many_writers:
        await metadata.set_secret(PLACE_ROW, own.encode())
    if not blobs.is_near:
        await asyncio.to_thread(blobs.write, PLACE, own.encode())


async def _find_marks(data_dir: Path, metadata: Metadata, blobs: Blobs) -> list[str | None]:
    """That of the rows and that of the files; none where both lie in the data directory."""
    has_far_rows = metadata.database.many_writers
    if blobs.is_near and not has_far_rows:
        return []
    rows = await find_row_mark(metadata.database) if has_far_rows else await asyncio.to_thread(read_place, data_dir)
    files = None if blobs.is_near else await _find_blob_mark(blobs)
    if files is None and rows is not None and has_far_rows:
        # Where they are in the data directory; or they are of before there was a mark, and this is the directory.
        files = await asyncio.to_thread(read_place, data_dir)
    return [rows, files]


async def _find_blob_mark(blobs: Blobs) -> str | None:
    try:
        return (await asyncio.to_thread(blobs.read, PLACE)).decode()
    except NotFound:
        return None


def _name_mismatch(data_dir: Path, metadata: Metadata, blobs: Blobs) -> StoreUnavailable:
    name = metadata.database.driver.name
    if blobs.is_near:
        return StoreUnavailable(
            f"The database {name} belongs to another data directory than {data_dir}: the files of its batches lie "
            "there. Name that one, or another database. Several data directories can share a database only if files "
            "lie in an object store too (store.blobs). Where the other one is lost, `backfill recover` makes the "
            "database this directory's; batches whose files are not here then fail."
        )
    if not metadata.database.many_writers:
        return StoreUnavailable(
            f"The files in the object store (store.blobs) belong to other rows than those in {data_dir}. Name another "
            "prefix. Several data directories can share files only if rows lie in one database too (store.metadata). "
            "Where those rows are lost, `backfill recover` makes the files this directory's."
        )
    return StoreUnavailable(
        f"The database {name} belongs to other files than those in the object store (store.blobs). Name the right ones "
        "of both: every process of an installation has the same. Where its files are lost, `backfill recover` makes "
        "the database theirs; batches whose files are not there then fail."
    )
