"""Commands, pages and usage where rows lie in PostgreSQL: as with SQLite, and what cannot be says so."""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from bench.postgres.server import PostgresServer
from tests.acceptance.command_line import backfill
from tests.support.client import Client
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

pytestmark = pytest.mark.scale
# A ten-thousandth of a second: whatever there is has that age.
SOON = "0.000000001"
LINES = 5


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.make_database(f"commands_{uuid.uuid4().hex}")


def run(folder: Path, url: str, *arguments: str, **variables: str) -> tuple[int, str, str]:
    given: Mapping[str, str] = {"BACKFILL_STORE__METADATA": url} | variables
    code, out, err = backfill(*arguments, folder=folder, variables=given)
    password = url.partition("//")[2].partition("@")[0].partition(":")[2]
    assert password not in out + err
    return code, out, err


def run_batch(client: Client) -> tuple[str, list[bytes]]:
    batch = client.wait_for_end(client.create(client.upload(request_lines(LINES))))
    assert batch["status"] == "COMPLETED"
    return batch["id"], client.download(batch["output_file_id"])


def test_pages_usage_and_lists_are_as_with_sqlite(engine: NullEngine, tmp_path: Path, url: str) -> None:
    with BackfillServer(tmp_path / "data", engine.url, store__metadata=url) as server:
        client = Client(server)
        batch_id, output = run_batch(client)
        assert len(output) == LINES
        pages = ["/", "/dashboard/batches?text=" + batch_id[:9].upper(), f"/dashboard/batches/{batch_id}"]
        for page in [*pages, "/dashboard/new", "/dashboard/keys"]:
            answer = client.request("GET", page)
            assert answer.status_code == 200, (page, answer.text)
            assert page in {"/dashboard/new", "/dashboard/keys"} or batch_id[:8] in answer.text
        usage = client.request("GET", "/v1/usage")
        assert usage.status_code == 200, usage.text
        assert usage.json()["total"]["answered"] == LINES
        metrics = client.request("GET", "/metrics").text
        assert 'backfill_batches{state="completed"} 1.0' in metrics
        assert client.request("GET", "/readyz").status_code == 200
        # Not one that can be kept: whoever sent it is told, and nobody takes it for an outage.
        assert client.request("GET", "/v1/files/a%00b").status_code in {400, 404}


def test_keys_are_made_without_a_server_and_hold_beside_one(engine: NullEngine, tmp_path: Path, url: str) -> None:
    data_dir = tmp_path / "data"
    code, key, err = run(tmp_path, url, "keys", "create", "ada", "--scope", "admin", "--data-dir", str(data_dir))
    assert code == 0, err
    with BackfillServer(data_dir, engine.url, store__metadata=url) as server:
        client = Client(server)
        assert client.request("GET", "/v1/batches").status_code == 401
        admin = {"Authorization": f"Bearer {key.strip()}"}
        assert client.request("GET", "/v1/batches", headers=admin).status_code == 200
        _, second, _ = run(tmp_path, url, "keys", "create", "bob", "--data-dir", str(data_dir))
        bob = {"Authorization": f"Bearer {second.strip()}"}
        assert client.request("GET", "/v1/batches", headers=bob).status_code == 200
        assert run(tmp_path, url, "keys", "revoke", "bob", "--data-dir", str(data_dir))[0] == 0
        assert client.request("GET", "/v1/batches", headers=bob).status_code == 401
        _, listed, _ = run(tmp_path, url, "keys", "list", "--json", "--data-dir", str(data_dir))
        assert [each["name"] for each in json.loads(listed)] == ["ada"]


def test_gc_finds_and_removes(engine: NullEngine, tmp_path: Path, url: str) -> None:
    data_dir = tmp_path / "data"
    arguments = ("gc", "--data-dir", str(data_dir), "--json")
    age = {"BACKFILL_RETENTION__INPUTS_DAYS": SOON}
    with BackfillServer(data_dir, engine.url, store__metadata=url) as server:
        file_id = Client(server).upload(request_lines(2))
        _, out, _ = run(tmp_path, url, *arguments, "--dry-run", **age)
        assert [each["name"] for each in json.loads(out)["removed"]] == [file_id]
    _, out, _ = run(tmp_path, url, *arguments, **age)
    assert [each["name"] for each in json.loads(out)["removed"]] == [file_id]
    _, out, _ = run(tmp_path, url, *arguments, **age)
    assert json.loads(out)["removed"] == []


def test_a_new_database_beside_old_files_stops_the_start_and_recover_takes_them_in(
    engine: NullEngine, tmp_path: Path, url: str, postgres: PostgresServer
) -> None:
    data_dir = tmp_path / "data"
    with BackfillServer(data_dir, engine.url, store__metadata=url) as server:
        _, output = run_batch(Client(server))
    new = postgres.make_database(f"new_{uuid.uuid4().hex}")
    code, out, err = run(tmp_path, new, "serve", "--port", "0", "--data-dir", str(data_dir))
    assert code == 2
    assert "is empty: 2 files and 1 batches have no row in it" in out + err
    code, out, _ = run(tmp_path, new, "recover", "--data-dir", str(data_dir), "--json")
    assert code == 1
    with BackfillServer(data_dir, engine.url, store__metadata=new) as server:
        client = Client(server)
        files = client.list_ids("files")
        assert len(files) == 2
        assert output in [client.download(file_id) for file_id in files]
        assert len(run_batch(client)[1]) == LINES


def test_a_database_belongs_to_one_data_directory(engine: NullEngine, tmp_path: Path, url: str) -> None:
    with BackfillServer(tmp_path / "data", engine.url, store__metadata=url) as server:
        run_batch(Client(server))
    code, out, err = run(tmp_path, url, "serve", "--port", "0", "--data-dir", str(tmp_path / "other"))
    assert code == 2
    assert "belongs to another data directory" in out + err
    # As after a loss of the disk: what is left goes on elsewhere.
    shutil.rmtree(tmp_path / "data")
    assert run(tmp_path, url, "recover", "--data-dir", str(tmp_path / "other"))[0] == 0
    with BackfillServer(tmp_path / "other", engine.url, store__metadata=url) as server:
        assert len(run_batch(Client(server))[1]) == LINES


def test_a_database_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    url = "postgresql://me:hush-hush@127.0.0.1:9/rows"
    for command in (("serve", "--port", "0"), ("keys", "list"), ("gc", "--dry-run"), ("recover",)):
        (tmp_path / "data").mkdir(exist_ok=True)
        code, out, err = run(tmp_path, url, *command, "--data-dir", str(tmp_path / "data"))
        assert code == 2, (command, out, err)
        assert "The metadata database postgresql://127.0.0.1:9/rows cannot be opened." in out + err
        assert "Traceback" not in out + err
