"""`backfill recover`, with a real server whose database is lost while it is stopped."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.support.client import FINAL, Client
from tests.support.lines import request_lines
from tests.support.rooms import wait_until
from tests.support.server_process import BackfillServer


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


async def run_batch(client: Client, file_id: str) -> list[bytes]:
    batch_id = client.create(file_id)
    await wait_until(lambda: client.retrieve(batch_id)["status"] in FINAL)
    batch = client.retrieve(batch_id)
    assert batch["status"] == "COMPLETED"
    return client.download(batch["output_file_id"])


def lose(data_dir: Path, how: str) -> None:
    for path in data_dir.glob("backfill.db*"):
        if how == "emptied":
            path.write_bytes(b"")
        else:
            path.unlink()
    if how == "an older copy":
        for path in (data_dir.parent / "backup").iterdir():
            shutil.copy2(path, data_dir)


def find_blobs(data_dir: Path) -> set[Path]:
    return {path for path in (data_dir / "blobs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["removed", "emptied", "an older copy"])
async def test_a_server_with_a_lost_database_does_not_start_and_loses_nothing(
    engine: NullEngine, tmp_path: Path, how: str
) -> None:
    data_dir = tmp_path / "data"
    server = BackfillServer(data_dir, engine.url)
    client = Client(server)
    with server:
        first = client.upload(request_lines(2))
    shutil.copytree(data_dir, tmp_path / "backup", ignore=shutil.ignore_patterns("blobs", "lock", "media"))
    with server:
        second = client.upload(request_lines(3))
        output = await run_batch(client, second)
        ids = client.list_ids("files")
        assert set(ids) > {first, second}
    server.kill()
    lose(data_dir, how)
    blobs = find_blobs(data_dir)
    serve = ("serve", "--port", 0, "--data-dir", data_dir)
    variables = {"BACKFILL_ENGINES__NULL__URL": engine.url}
    code, _, err = backfill(*serve, folder=tmp_path, variables=variables)
    assert code == 2
    assert f"backfill recover --data-dir {data_dir}" in err
    assert "Traceback" not in err
    assert find_blobs(data_dir) == blobs
    recover = ("recover", "--data-dir", data_dir)
    lost = set(ids) - ({first} if how == "an older copy" else set())
    code, out, _ = backfill(*recover, "--dry-run", "--json", folder=tmp_path, fresh=True)
    assert (code, set(json.loads(out)["adopted"]), json.loads(out)["dry_run"]) == (1, lost, True)
    assert find_blobs(data_dir) == blobs
    code, out, err = backfill(*recover, folder=tmp_path)
    assert (code, all(file_id in out for file_id in lost)) == (1, True)
    assert f"{len(lost)} files taken in again" in err
    with server:
        assert sorted(client.list_ids("files")) == sorted(ids)
        for file_id, lines in ((first, 2), (second, 3)):
            assert client.download(file_id) == request_lines(lines).splitlines()
        assert [json.loads(line)["custom_id"] for line in await run_batch(client, second)] == [
            json.loads(line)["custom_id"] for line in output
        ]


def test_a_run_whose_database_is_lost_says_how_to_start_over(engine: NullEngine, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(request_lines(2))
    state = tmp_path / "out.jsonl.backfill"
    (state / "blobs" / "files" / "file-a").mkdir(parents=True)
    command = ("run", "in.jsonl", "-o", "out.jsonl", "--engine", engine.url)
    code, _, err = backfill(*command, folder=tmp_path)
    assert (code, "--force" in err, "Traceback" in err) == (2, True, False)
    assert backfill(*command, "--force", folder=tmp_path)[0] == 0
    assert not state.exists()
