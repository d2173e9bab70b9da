"""A process stands still within a write to SQLite, which holds up all others who write, until it goes on or ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.support.company import Company
from tests.support.lines import request_lines

LINES = 200


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=20) as running:
        yield running


def check(company: Company, batch: dict[str, Any], lines: int, first: int = 0) -> None:
    """Every line is in the output, once and in order."""
    assert batch["status"] == "COMPLETED", batch
    assert batch["error_file_id"] is None
    output = company.client.download(batch["output_file_id"])
    assert [json.loads(line)["custom_id"] for line in output] == [f"request-{first + n}" for n in range(lines)]


@pytest.mark.parametrize("how", ["it goes on", "it is killed"])
def test_who_writes_is_told_to_come_back_and_all_then_ends(engine: NullEngine, tmp_path: Path, how: str) -> None:
    with Company(tmp_path / "data", engine.url) as company:
        client = company.client
        frozen, _ = company.workers
        frozen.terminate()
        # It tells of itself several times a second, so it comes to this while the batch runs or waits; and not before
        # it answers, however long that takes beside others.
        frozen.start(fault="metadata.before_commit:40:SIGSTOP")
        batch_id = client.create(client.upload(request_lines(LINES)))
        company.wait_until(lambda: frozen.is_frozen)
        try:
            # Reading goes on.
            assert client.retrieve(batch_id)["id"] == batch_id
            form: dict[str, Any] = {
                "data": {"purpose": "batch-api"},
                "files": {"file": ("input.jsonl", request_lines(20, LINES))},
            }
            refused = client.request("POST", "/v1/files", **form)
            assert refused.status_code == 503, refused.text
            assert int(refused.headers["retry-after"]) > 0
        finally:
            if how == "it goes on":
                company.thaw(frozen)
            else:
                frozen.kill()
        file_id = client.upload(request_lines(20, LINES))
        check(company, client.wait_for_end(batch_id), LINES)
        check(company, client.wait_for_end(client.create(file_id)), 20, LINES)
        assert len(client.list_ids("batches")) == 2
