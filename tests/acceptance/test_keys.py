"""`backfill keys` beside, without and over a real server; what a key opens, and when it shuts."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.support.lines import request_line
from tests.support.server_process import BackfillServer


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def server(engine: NullEngine, data_dir: Path) -> Iterator[BackfillServer]:
    with BackfillServer(data_dir, engine.url) as server:
        yield server


def run_keys(folder: Path, *arguments: object, **variables: str) -> str:
    code, out, err = backfill("keys", *arguments, folder=folder, variables=variables)
    assert code == 0, err
    return out.strip()


def ask(server: BackfillServer, key: str | None, method: str = "GET", path: str = "/v1/files", **more: Any) -> Any:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.request(method, server.url + path, headers=headers, trust_env=False, **more)


def wait_for_line(server: BackfillServer, words: str) -> None:
    """What the process said comes to us through a thread, also after its end."""
    deadline = time.monotonic() + 30
    while not any(words in line for line in server.log):
        assert time.monotonic() < deadline, server.log
        time.sleep(0.01)


def test_keys_made_and_revoked_beside_a_running_server_hold_at_once(
    server: BackfillServer, data_dir: Path, tmp_path: Path
) -> None:
    assert ask(server, None).status_code == 200
    key = run_keys(tmp_path, "create", "ada", "--data-dir", data_dir)
    assert ask(server, None).status_code == 401
    assert ask(server, key).status_code == 200
    run_keys(tmp_path, "revoke", key[:9], "--data-dir", data_dir)
    assert ask(server, key).json()["error"]["code"] == "api_key_revoked"
    assert ask(server, None).status_code == 401


def test_the_server_is_asked_where_a_url_is_given(server: BackfillServer, data_dir: Path, tmp_path: Path) -> None:
    admin = run_keys(tmp_path, "create", "root", "--scope", "admin", "--data-dir", data_dir)
    variables = {"BACKFILL_URL": server.url, "BACKFILL_API_KEY": admin}
    limit, expires = ("--limit", "requests_per_minute=60"), ("--expires", "30d")
    made = json.loads(run_keys(tmp_path, "create", "ada", *limit, *expires, "--owner", "team", "--json", **variables))
    assert (made["owner"]["id"], made["limits"]["requests_per_minute"]) == ("team", 60)
    assert made["expires_at"] - made["created_at"] == 30 * 86_400
    assert ask(server, made["value"], path="/v1/whoami").json()["user_id"] == "team"
    listed = run_keys(tmp_path, "list", **variables)
    assert made["redacted_value"] in listed
    assert "requests_per_minute=60" in listed
    assert made["value"] not in listed
    code, _, err = backfill("keys", "list", folder=tmp_path, variables=variables | {"BACKFILL_API_KEY": made["value"]})
    assert code == 2
    assert "scope admin" in err


def test_a_key_in_the_place_of_another_keeps_its_files(server: BackfillServer, data_dir: Path, tmp_path: Path) -> None:
    old = run_keys(tmp_path, "create", "ada", "--scope", "batch", "--data-dir", data_dir)
    sent = {"file": ("in.jsonl", request_line(1))}
    file_id = ask(server, old, "POST", data={"purpose": "batch-api"}, files=sent).json()["id"]
    new = run_keys(tmp_path, "rotate", "ada", "--data-dir", data_dir)
    assert ask(server, old).status_code == 401
    assert [file["id"] for file in ask(server, new).json()["data"]] == [file_id]
    both = json.loads(run_keys(tmp_path, "list", "--all", "--json", "--data-dir", data_dir))
    assert [(key["scopes"], bool(key["revoked_at"])) for key in both] == [(["batch"], False), (["batch"], True)]


def test_a_server_without_keys_listens_on_this_machine_alone_and_says_so(
    engine: NullEngine, data_dir: Path, tmp_path: Path
) -> None:
    everywhere = {"server__host": "0.0.0.0"}
    with BackfillServer(data_dir, engine.url, **everywhere) as server:
        assert server.url.startswith("http://127.0.0.1:")
        key = run_keys(tmp_path, "create", "ada", "--data-dir", data_dir)
    wait_for_line(server, "there is no API key, so the server listens on 127.0.0.1 alone and not on 0.0.0.0")
    with BackfillServer(data_dir, engine.url, **everywhere) as server:
        assert server.url.startswith("http://0.0.0.0:")
        assert ask(server, key).status_code == 200
    assert not any("there is no API key" in line for line in server.log)


def test_keys_outlive_the_death_of_the_server(engine: NullEngine, data_dir: Path, tmp_path: Path) -> None:
    everywhere = {"server__host": "0.0.0.0"}
    with BackfillServer(data_dir, engine.url, **everywhere) as server:
        first = ask(server, None, "POST", "/v1/organization/admin_api_keys", json={"name": "ada"}).json()["value"]
        assert ask(server, first).status_code == 200
        second = run_keys(tmp_path, "create", "bob", "--data-dir", data_dir)
        server.kill()
        # What was written last is in the log of the database alone; that there are keys must be seen all the same.
        assert (data_dir / "backfill.db-wal").stat().st_size > 0
        server.start()
        assert server.url.startswith("http://0.0.0.0:")
        assert [ask(server, key).status_code for key in (first, second, None)] == [200, 200, 401]


def test_the_first_key_comes_before_the_server(engine: NullEngine, data_dir: Path, tmp_path: Path) -> None:
    key = run_keys(tmp_path, "create", "ada", "--data-dir", data_dir)
    with BackfillServer(data_dir, engine.url) as server:
        assert ask(server, None).status_code == 401
        assert ask(server, key).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("create", "ada", "--limit", "line=5"), "requests_per_minute"),
        (("create", "ada", "--limit", "lines=0"), "above 0"),
        (("create", "ada", "--expires", "soon"), "30d"),
        (("create", " ada"), "printable"),
        (("revoke", "nobody"), "keys list"),
        (("rotate", "twin"), "Several keys"),
    ],
    ids=range(6),
)
def test_what_cannot_be_done_is_said(data_dir: Path, tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    for _ in range(2 * ("twin" in arguments)):
        run_keys(tmp_path, "create", "twin", "--data-dir", data_dir)
    code, out, err = backfill("keys", *arguments, "--data-dir", data_dir, folder=tmp_path)
    assert (code, out) == (2, "")
    assert word in err
    assert err.count("\n") == 1
