"""What a batch comes to: the rows of its output and error file."""

import hashlib
from pathlib import Path

from backfill.store import content_key
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_lines
from tests.support.rooms import create_batch, open_house, wait_for_batch


async def test_results_are_known_by_their_sha256_and_expire_when_asked(tmp_path: Path) -> None:
    with NullEngine() as engine:
        engine.behave(faults={marker_of(1): ["422"]})
        async with open_house(tmp_path, engine.url) as rooms:
            created = await create_batch(rooms, request_lines(3), output_expires_after_s=3600)
            batch = await wait_for_batch(rooms, created.id)
            for file_id in (batch.output_file_id, batch.error_file_id):
                assert file_id
                file = await rooms.metadata.get_file(file_id)
                assert file.sha256 == hashlib.sha256(rooms.blobs.read(content_key(file_id))).hexdigest()
                assert file.expires_at_ms == file.created_at_ms + 3_600_000
