"""Several machines, when one of their processes starts: what belongs together, what is left alone, what is swept."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backfill.app import Rooms, open_rooms
from backfill.config import Role, load_config
from backfill.errors import RowsLost, StoreUnavailable
from backfill.intake import Sweeper
from bench.null.process import NullEngine
from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from tests.acceptance.command_line import backfill
from tests.support.client import Client
from tests.support.lines import request_lines
from tests.support.machines import RemoteStore
from tests.support.rooms import seal
from tests.support.server_process import BackfillServer

pytestmark = pytest.mark.scale
SOON = "0.000000001"


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@asynccontextmanager
async def opened(store: RemoteStore, data_dir: Path, role: Role = Role.API, **settings: Any) -> AsyncIterator[Rooms]:
    config = load_config(environment={}, overrides={**store.dotted, "data_dir": str(data_dir), **settings})
    async with open_rooms(config, role=role) as rooms:
        yield rooms


async def open_and_close(store: RemoteStore, data_dir: Path, role: Role = Role.API, **settings: Any) -> None:
    async with opened(store, data_dir, role, **settings):
        pass


async def test_any_data_directory_will_do_if_rows_and_files_are_the_right_ones(
    remote_store: RemoteStore, postgres: PostgresServer, object_server: ObjectServer, tmp_path: Path
) -> None:
    # Two of them at once, the first time of all.
    await asyncio.gather(*(open_and_close(remote_store, tmp_path / name) for name in ("a", "b")))
    async with opened(remote_store, tmp_path / "c", Role.ALL), opened(remote_store, tmp_path / "d", Role.WORK):
        pass
    other = RemoteStore(postgres, object_server, "other_installation")
    await open_and_close(other, tmp_path / "e")
    for rows, files in ((remote_store, other), (other, remote_store)):
        mixed: dict[str, Any] = rows.dotted | {"store.blobs": files.dotted["store.blobs"]}
        with pytest.raises(StoreUnavailable, match="belongs to other files"):
            await open_and_close(rows, tmp_path / "f", **mixed)
    # Files without a mark beside rows with one: a prefix that was never used.
    unused: dict[str, Any] = {"store.blobs": object_server.settings()["store.blobs"]}
    with pytest.raises(StoreUnavailable, match="belongs to other files"):
        await open_and_close(remote_store, tmp_path / "f", **unused)


async def test_rows_alone_or_files_alone_elsewhere_still_belong_to_one_data_directory(
    remote_store: RemoteStore, tmp_path: Path
) -> None:
    for kept, left_out in (("store.metadata", "store.blobs"), ("store.blobs", "store.metadata")):
        only = {**remote_store.dotted}
        del only[left_out]

        async def start(data_dir: Path, only: dict[str, object] = only) -> None:
            config = load_config(environment={}, overrides={**only, "data_dir": str(data_dir)})
            async with open_rooms(config, role=Role.API):
                pass

        await start(tmp_path / kept)
        await start(tmp_path / kept)
        with pytest.raises(StoreUnavailable, match="belong") as refused:
            await start(tmp_path / f"{kept}-other")
        assert "Several data directories can share" in refused.value.message


async def test_a_start_leaves_alone_what_another_machine_has_begun(remote_store: RemoteStore, tmp_path: Path) -> None:
    async with opened(remote_store, tmp_path / "first") as first:
        sealed = await seal(first.intake, request_lines(3))
        # The bytes are there, and their row not yet.
        underway = first.intake.begin("file-00000000-0000-4000-8000-000000000001")
        await underway.feed(request_lines(2))
        first.blobs.write("files/file-00000000-0000-4000-8000-000000000001/index", b"index")
        async with opened(remote_store, tmp_path / "second", Role.WORK) as second:
            assert second.blobs.exists(f"files/{sealed.id}/content")
            assert second.blobs.exists("files/file-00000000-0000-4000-8000-000000000001/index")
            sweeper = Sweeper(second.intake, second.metadata)
            assert await sweeper.sweep() == 0
        underway.abort()


async def test_what_a_dead_process_left_goes_once_it_is_old(remote_store: RemoteStore, tmp_path: Path) -> None:
    file_id = "file-00000000-0000-4000-8000-000000000001"
    async with opened(remote_store, tmp_path / "first") as first:
        sealed = await seal(first.intake, request_lines(3))
        blobs = first.blobs
        for name in ("index", "facts.pending", "content"):
            blobs.write(f"files/{file_id}/{name}", b"left")
        blobs.write(f"files/{sealed.id}/parts/1", b"left")
        blobs.rename(f"files/{sealed.id}/facts", f"files/{sealed.id}/facts.pending")
        # Of a file that clients were told of the row is lost: that is for `backfill recover`.
        blobs.write("files/file-00000000-0000-4000-8000-000000000002/facts", b"told")
        # As in a day from now.
        sweeper = Sweeper(first.intake, first.metadata, settled_ms=-60_000)
        assert await sweeper.sweep() == 3
        assert await sweeper.sweep() == 0
        assert blobs.measure(f"files/{file_id}") == 0
        assert [name.partition("-")[2] for name in blobs.list_folders("quarantine")] == [f"files-{file_id}"]
        assert sorted(key.rpartition("/")[2] for key in blobs.list(f"files/{sealed.id}")) == [
            "content",
            "facts",
            "index",
        ]
        assert blobs.find_folders("files", "parts") == set()
    with pytest.raises(RowsLost):
        await open_and_close(remote_store, tmp_path / "first")


async def test_the_schema_is_changed_only_while_nobody_works(remote_store: RemoteStore, tmp_path: Path) -> None:
    old = "UPDATE alembic_version SET version_num = '0000'"
    async with opened(remote_store, tmp_path / "first"):
        remote_store.rows.run(old)
        with pytest.raises(StoreUnavailable, match="Other processes work on it with the schema 0000"):
            await open_and_close(remote_store, tmp_path / "second")


async def test_rows_are_made_anew_only_while_nobody_works(remote_store: RemoteStore, tmp_path: Path) -> None:
    command = ("recover", "--data-dir", str(tmp_path / "second"))
    (tmp_path / "second").mkdir()
    async with opened(remote_store, tmp_path / "first"):
        code, _, stderr = await asyncio.to_thread(backfill, *command, folder=tmp_path, variables=remote_store.variables)
        assert (code, "Other Backfill processes work" in stderr) == (2, True), stderr
    code, _, stderr = await asyncio.to_thread(backfill, *command, folder=tmp_path, variables=remote_store.variables)
    assert code == 0, stderr
    # It belongs to the same files as before.
    await open_and_close(remote_store, tmp_path / "third")


def test_what_is_over_goes_by_a_command_of_any_machine(
    engine: NullEngine, remote_store: RemoteStore, tmp_path: Path
) -> None:
    with BackfillServer(tmp_path / "first", server__role="api", **remote_store.settings) as api:
        client = Client(api)
        old, read = client.upload(request_lines(2)), client.upload(request_lines(3))
        client.create(read)
        variables = remote_store.variables | {"BACKFILL_RETENTION__INPUTS_DAYS": SOON}
        command = ("gc", "--json", "--data-dir", str(tmp_path / "elsewhere"))
        for more in (("--dry-run",), ()):
            code, stdout, stderr = backfill(*command, *more, folder=tmp_path, variables=variables)
            assert code == 0, stderr
            assert [(each["kind"], each["name"]) for each in json.loads(stdout)["removed"]] == [("input", old)]
        assert client.list_ids("files") == [read]


def test_the_place_of_a_dead_machine_is_taken_by_a_new_one(
    engine: NullEngine, remote_store: RemoteStore, tmp_path: Path
) -> None:
    engine.behave(delay_ms=10)
    first = BackfillServer(tmp_path / "first", engine.url, server__lease_s="1.5", **remote_store.settings).start()
    client = Client(first)
    batch_id = client.create(client.upload(request_lines(200)))
    engine.wait_for(lambda stats: stats["received"] >= 50, timeout_s=60)
    first.kill()
    with BackfillServer(tmp_path / "second", engine.url, server__lease_s="1.5", **remote_store.settings) as second:
        batch = Client(second).wait_for_end(batch_id)
        assert batch["status"] == "COMPLETED"
        assert len(Client(second).download(batch["output_file_id"])) == 200


def test_cancel_and_deadline_end_batches_of_another_machine(
    engine: NullEngine, remote_store: RemoteStore, tmp_path: Path
) -> None:
    engine.behave(hold=True)
    settings = remote_store.settings | {"limits__window_min_h": "0.001", "limits__window_h": "0.002"}
    with (
        BackfillServer(tmp_path / "api", server__role="api", **settings) as api,
        BackfillServer(tmp_path / "work", engine.url, server__role="work", **settings),
    ):
        client = Client(api)
        file_id = client.upload(request_lines(20))
        cancelled = client.create(file_id)
        engine.wait_for(lambda stats: stats["received"] > 0, timeout_s=60)
        client.request("POST", f"/v1/batches/{cancelled}/cancel").raise_for_status()
        assert client.wait_for_end(cancelled)["status"] == "CANCELLED"
        body = {"endpoint": "/v1/chat/completions", "input_file_id": file_id}
        answer = client.request("POST", "/v1/batches", json=body)
        assert answer.status_code == 201, answer.text
        ended = client.wait_for_end(answer.json()["job"]["id"])
        assert ended["status"] == "EXPIRED"
        assert len(client.download(ended["error_file_id"])) == 20
