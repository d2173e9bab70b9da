"""Files that are compressed, wherever the command line takes a file of requests or a table; and with curl."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.support.client import Client
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstd.compress}
LINES = request_lines(3)

each_form = pytest.mark.parametrize("form", PACKERS)


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url) as server:
        yield server


def read_ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


@each_form
def test_requests_are_checked_estimated_and_run(engine: NullEngine, tmp_path: Path, form: str) -> None:
    name = f"in.jsonl.{form}"
    (tmp_path / name).write_bytes(PACKERS[form](LINES))
    code, out, _ = backfill("check", name, folder=tmp_path)
    assert (code, out.splitlines()[-1]) == (0, "every line can be run")
    assert backfill("check", "-", folder=tmp_path, stdin=PACKERS[form](LINES))[0] == 0
    assert backfill("estimate", name, folder=tmp_path)[0] == 0
    code, _, err = backfill("run", name, "-o", "out.jsonl", "--engine", engine.url, folder=tmp_path)
    assert (code, "3 answered, 0 failed" in err) == (0, True)
    assert read_ids(tmp_path / "out.jsonl") == ["request-0", "request-1", "request-2"]


@each_form
def test_an_interrupted_run_knows_its_input_again(engine: NullEngine, tmp_path: Path, form: str) -> None:
    name, command = f"in.jsonl.{form}", ("-o", "out.jsonl", "--engine", engine.url)
    (tmp_path / name).write_bytes(PACKERS[form](LINES))
    settings = {"BACKFILL_DISPATCH__CANCEL_GRACE_S": "0.1"}
    engine.behave(faults={"000002": ["hang"]})
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "backfill", "run", name, *command, "--json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": "", "PYTHONPATH": ":".join(sys.path)} | settings,
        ) as running:
            assert running.stdout is not None
            for line in running.stdout:
                if json.loads(line).get("answered") == 2:
                    break
            running.kill()
    finally:
        engine.behave(faults={})
    # The same requests, packed once more, are the same input.
    (tmp_path / name).write_bytes(PACKERS[form](LINES[:100]) + PACKERS[form](LINES[100:]))
    code, _, err = backfill("run", name, *command, folder=tmp_path)
    assert (code, "2 of them by an earlier run" in err) == (0, True)


@each_form
def test_a_file_that_is_cut_off_is_said_to_be(engine: NullEngine, tmp_path: Path, form: str) -> None:
    name = f"in.jsonl.{form}"
    (tmp_path / name).write_bytes(PACKERS[form](LINES)[:-5])
    for command in (("check", name), ("run", name, "-o", "out.jsonl", "--engine", engine.url)):
        code, _, err = backfill(*command, folder=tmp_path)
        assert (code, "file ends too early" in err) == (2, True)
    assert not (tmp_path / "out.jsonl").exists()


@each_form
def test_requests_are_submitted(server: BackfillServer, tmp_path: Path, form: str) -> None:
    (tmp_path / f"in.jsonl.{form}").write_bytes(PACKERS[form](LINES))
    variables = {"BACKFILL_URL": server.url}
    code, out, err = backfill("submit", f"in.jsonl.{form}", "--wait", folder=tmp_path, variables=variables)
    assert (code, "3 answered, 0 failed" in err) == (0, True)
    batch = Client(server).retrieve(out.strip())
    file = Client(server).request("GET", f"/v1/files/{batch['input_file_id']}").json()
    assert (file["filename"], file["bytes"]) == ("in.jsonl", len(LINES))


@each_form
@pytest.mark.parametrize("table", [("rows.csv", b"text\nhello\nworld\n"), ("rows.jsonl", b'{"text":"hello"}\n' * 2)])
def test_tables_are_made_into_requests_and_run(
    engine: NullEngine, tmp_path: Path, form: str, table: tuple[str, bytes]
) -> None:
    name, content = table
    (tmp_path / f"{name}.{form}").write_bytes(PACKERS[form](content))
    command = ("make", f"{name}.{form}", "-o", "made.jsonl", "--prompt", "Say {text}", "--model", "m")
    code, _, err = backfill(*command, folder=tmp_path)
    assert code == 0, err
    assert read_ids(tmp_path / "made.jsonl") == ["row-0", "row-1"]
    options = ("--prompt", "Say {text}", "--model", "m", "--engine", engine.url)
    code, _, err = backfill("run", f"{name}.{form}", "-o", f"out-{name}", *options, folder=tmp_path)
    assert code == 0, err
    assert len((tmp_path / f"out-{name}").read_bytes().splitlines()) == len(content.splitlines())
    code, _, err = backfill("run", f"{name}.{form}", "-o", f"out-{name}.{form}", *options, folder=tmp_path)
    assert (code, f"call the output out-{name}, not" in err) == (2, True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@each_form
def test_curl_uploads_them(server: BackfillServer, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"in.jsonl.{form}"
    path.write_bytes(PACKERS[form](LINES))
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", f"{server.url}/v1/files"]
    fields = ["-F", "purpose=batch-api", "-F", f"file=@{path}"]
    for arguments in (fields, [*fields[2:], *fields[:2]]):
        ended = subprocess.run([*command, *arguments], capture_output=True, check=True, timeout=60)
        file = json.loads(ended.stdout)
        assert (file["filename"], file["bytes"], file["LineCount"]) == ("in.jsonl", len(LINES), 3)
        assert Client(server).download(file["id"]) == LINES.splitlines()
