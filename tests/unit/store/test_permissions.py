"""What lies in a data directory is its owner's alone, from the first instant and whatever the umask."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from backfill.app import open_rooms
from backfill.batch import FileStatus
from backfill.config import Config, load_config
from backfill.intake import PartUploads, UploadPlan, new_file_id
from backfill.store import FolderLock, LocalBlobs, close_to_others, make_folder
from backfill.turns import now_ms
from tests.support.lines import request_lines
from tests.support.rooms import create_batch, seal


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct, autouse=True)
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def make_config(data_dir: Path) -> Config:
    overrides = {"data_dir": str(data_dir), "engines": {"null": {"url": "http://127.0.0.1:9"}}}
    return load_config(environment={}, overrides=overrides)


def find_modes(folder: Path) -> dict[str, str]:
    """Every folder and file, itself included, and who may do what."""
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder.parent)): stat.filemode(path.lstat().st_mode) for path in paths}


def assert_private(folder: Path) -> None:
    modes = find_modes(folder)
    assert set(modes.values()) <= {"drwx------", "-rw-------"}, modes


async def test_nothing_in_a_data_directory_is_ever_open_to_others(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    async with open_rooms(make_config(data_dir)) as rooms:
        assert_private(data_dir)
        batch = await create_batch(rooms, request_lines(3))
        uploads = PartUploads(rooms.intake, rooms.metadata)
        file = await rooms.metadata.get_file(batch.input_file_id)
        draft = msgspec.structs.replace(file, id=new_file_id(), status=FileStatus.RESERVED)
        started = await uploads.start(draft, UploadPlan(size_bytes=10, expires_at_ms=now_ms() + 60_000))
        part = await uploads.receive(started, "1")
        await part.feed(b"x")
        assert_private(data_dir)  # half-written ones too
        await part.seal()
        rooms.blobs.append_to("journals/b/0000000001.segment", b"").close()
        assert {path.name for path in data_dir.iterdir()} >= {
            "backfill.db",
            "backfill.db-wal",
            "backfill.db-shm",
            "lock",
        }
        assert_private(data_dir)
    assert stat.filemode((tmp_path / "new").stat().st_mode) == "drwx------"


async def test_a_data_directory_of_before_is_repaired_with_one_warning(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with open_rooms(make_config(data_dir)) as rooms:
        file = await seal(rooms.intake, request_lines(3))
    outside = tmp_path / "outside"
    outside.write_bytes(b"somebody's own")
    outside.chmod(0o644)
    (data_dir / "link").symlink_to(outside)
    content = data_dir / "blobs" / "files" / file.id / "content"
    for path, mode in ((data_dir, 0o755), (content.parent, 0o775), (content, 0o644), (data_dir / "backfill.db", 0o604)):
        path.chmod(mode)
    with capture_logs() as logs:
        async with open_rooms(make_config(data_dir)) as rooms:
            (data_dir / "link").unlink()
            assert_private(data_dir)
            assert (await rooms.metadata.get_file(file.id)).id == file.id
    assert [(entry["log_level"], entry["count"]) for entry in logs if "open to other users" in entry["event"]] == [
        ("warning", 4)
    ]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644
    with capture_logs() as logs:
        async with open_rooms(make_config(data_dir)):
            pass
    assert not [entry for entry in logs if "open to other users" in entry["event"]]


def test_what_the_owner_may_not_do_stays_forbidden(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    read_only = tmp_path / "data" / "a"
    read_only.write_bytes(b"")
    read_only.chmod(0o444)
    assert close_to_others(tmp_path / "data") == (1, 0)
    assert stat.S_IMODE(read_only.stat().st_mode) == 0o400


def test_a_lock_and_a_blob_make_their_folders_private(tmp_path: Path) -> None:
    FolderLock(tmp_path / "a").release()
    with LocalBlobs(tmp_path / "b" / "blobs").create("files/c/content") as writer:
        writer.write(b"x")
        assert_private(tmp_path / "b")
    assert_private(tmp_path / "a")


def test_sqlite_gives_its_other_files_the_mode_of_the_database(tmp_path: Path) -> None:
    """What `Metadata.open` relies on."""
    path = tmp_path / "m.db"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE a (b)")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    connection.close()
    assert modes == dict.fromkeys(("m.db", "m.db-wal", "m.db-shm"), 0o600)
