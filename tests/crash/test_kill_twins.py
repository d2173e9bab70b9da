"""kill -9 between the record of a line and those of its twins: the line is not sent again, every twin is answered."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backfill.batch import Counts
from backfill.journal import Fold
from backfill.store import LocalBlobs
from bench.null.process import NullEngine
from tests.support.client import Client
from tests.support.lines import request_line
from tests.support.server_process import BackfillServer


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def fold_journal(server: BackfillServer, batch_id: str, lines: int) -> tuple[list[int], Counts]:
    """The lines that have a record, and the counts, as a dead server left them."""
    fold = Fold(LocalBlobs(server.data_dir / "blobs"), batch_id, lines)
    fold.refresh()
    counts = fold.counts
    done = [line for line, outcome in enumerate(fold.outcomes) if outcome]
    fold.close()
    return done, counts


# The first write to a segment is its header, the second the first record with as many twins as are recorded at once.
@pytest.mark.parametrize(
    ("fault", "lines", "recorded"),
    [
        ("segment.half_written:2", 2, 1),  # half of two records of one length: the first and nothing else
        ("segment.half_written:2", 40, 20),
        ("segment.written:2", 1300, 501),
    ],
)
def test_the_server_dies_between_a_record_and_its_twins(
    engine: NullEngine, tmp_path: Path, fault: str, lines: int, recorded: int
) -> None:
    server = BackfillServer(tmp_path / "data", engine.url)
    client = Client(server)
    data = b"".join(request_line(0, custom_id=f"twin-{number}", temperature=0) + b"\n" for number in range(lines))
    server.start(fault=fault)
    try:
        batch_id = client.create(client.upload(data))
        with pytest.raises(httpx.TransportError):
            client.wait_for_end(batch_id)
        assert server.wait_for_death() == -signal.SIGKILL
        done, before = fold_journal(server, batch_id, lines)
        assert done == list(range(recorded))
        assert (before.reused, before.usage.prompt_tokens) == (recorded - 1, 512)
        server.start()
        batch = client.wait_for_end(batch_id)
        assert batch["status"] == "COMPLETED"
        assert batch["error_file_id"] is None
        output = [json.loads(line) for line in client.download(str(batch["output_file_id"]))]
        assert [line["custom_id"] for line in output] == [f"twin-{number}" for number in range(lines)]
        assert len({json.dumps(line["response"]) for line in output}) == 1
        assert engine.stats()["received"] == 1
    finally:
        server.kill()
    done, after = fold_journal(server, batch_id, lines)
    assert len(done) == lines
    assert (after.answered, after.reused) == (lines, lines - 1)
    assert (after.usage.prompt_tokens, after.reused_usage.prompt_tokens) == (512, (lines - 1) * 512)
