"""Together's own client sends a file in parts, once it believes that a few hundred kilobytes are many."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import together.lib.resources.files as together_files
from together import Together

from bench.null.process import NullEngine
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

CONTENT = request_lines(3000)
PART_BYTES = 100_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BackfillServer]:
    with NullEngine() as engine, BackfillServer(tmp_path / "data", engine.url, server__api_keys='["k"]') as running:
        yield running


@pytest.fixture
def part_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parts the client cut each file into."""
    found: list[int] = []

    def cut(file_size: int) -> tuple[int, int]:
        found.append(-(-file_size // PART_BYTES))
        return PART_BYTES, found[-1]

    monkeypatch.setattr(together_files, "MULTIPART_THRESHOLD_GB", PART_BYTES / 2**30)
    monkeypatch.setattr(together_files, "_calculate_parts", cut)
    return found


def test_together_uploads_in_parts(server: BackfillServer, part_counts: list[int], tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(CONTENT)
    with Together(api_key="k", base_url=server.url, max_retries=0) as client:
        file = client.files.upload(file=path, purpose="batch-api")
        assert (file.bytes, file.filename, file.purpose) == (len(CONTENT), "large.jsonl", "batch-api")
        assert client.files.content(file.id).read() == CONTENT
        assert client.batches.create(endpoint="/v1/chat/completions", input_file_id=file.id).job
    assert part_counts == [-(-len(CONTENT) // PART_BYTES)]
