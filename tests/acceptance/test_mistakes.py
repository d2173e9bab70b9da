"""What a person gets wrong at the command line: one line says what it was and what to do, and nothing is left."""

import socket
from pathlib import Path

import pytest

from tests.acceptance.command_line import backfill
from tests.support.lines import request_lines

ENGINE = ("--engine", "http://127.0.0.1:9", "--model", "m")
NOWHERE = {"BACKFILL_URL": "http://127.0.0.1:9"}

MISTAKES = [
    (("list",), "Nothing answers at http://127.0.0.1:9; is `backfill serve` running? --url or BACKFILL_URL names"),
    (("list", "--url", "ftp://x"), "must begin with http:// or https://"),
    (("list", "--api-key-env", "NO_SUCH"), "NO_SUCH is not set; --api-key-env needs one that holds the key"),
    (("submit", "none.jsonl"), "There is no input file none.jsonl; check its name and its folder."),
    (("submit", "folder"), "folder is a folder; name a file of requests."),
    (("check", "folder"), "folder is a folder; name a file of requests."),
    (("run", "folder", "-o", "out.jsonl", *ENGINE), "folder is a folder; name a file of requests."),
    (("run", "none.jsonl", "-o", "out.jsonl", *ENGINE), "There is no input file none.jsonl; check its name"),
    (("run", "in.jsonl"), "-o FILE says where the answers go"),
    (("run", "in.jsonl", "-o", "none/out.jsonl", *ENGINE), "The folder none does not exist; make it, or choose"),
    (("run", "in.jsonl", "-o", "t.csv", *ENGINE), "t.csv exists already. Use --force to replace it, or choose another"),
    (("run", "in.jsonl", "-o", "in.jsonl", *ENGINE), "must be three different files"),
    (("run", "in.jsonl", "-o", "out.jsonl", "--model", "none"), "it is neither a file nor one of the catalogue ("),
    (("run", "in.jsonl", "-o", "out.jsonl", "--endpoint", "/v1/chat", *ENGINE), "endpoint must be one of /v1/"),
    (("run", "in.jsonl", "-o", "out.jsonl", "--concurency", "3"), "--concurrency"),
    (("run", "t.csv", "-o", "out.csv", "--prompt", "{texd}", *ENGINE), "text"),
    (("run", "t.csv", "-o", "out.jsonl", "--prompt", "{text}", *ENGINE), "call the output out.csv, not out.jsonl"),
    (("make", "none.csv", "-o", "out.jsonl", "--prompt", "{a}"), "There is no table none.csv; check its name."),
    (("make", "folder.csv", "-o", "out.jsonl", "--prompt", "{a}"), "folder.csv is a folder; name a file in it."),
    (("make", "empty.csv", "-o", "out.jsonl", "--prompt", "{a}"), "is empty; the first line of a CSV file names"),
    (("submit", "t.csv"), "such as 'Classify: {text}'"),
    (("download", "x", "--table", "t.csv"), "-o FILE says where the table with its answers goes"),
    (("serve", "--config", "typo.toml"), "Unknown setting 'dispach'. Did you mean 'dispatch'?"),
    (("serve", "--config", "none.toml"), "none.toml"),
    (("usage", "--by", "week"), "--by takes day, hour, model"),
    (("usage", "--from", "yesterday"), "--from takes a day such as"),
    (("keys", "create", "me", "--limit", "lines"), "--limit"),
    (("keys", "create", "me", "--expires", "soon"), "--expires"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").write_bytes(request_lines(2))
    (tmp_path / "t.csv").write_text("text\nhello\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "typo.toml").write_text("[dispach]\ntries = 3\n")
    for name in ("folder", "folder.csv"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(("command", "told"), MISTAKES, ids=lambda each: "-".join(each[:3]) if each else "")
def test_a_mistake_is_told_with_what_to_do(folder: Path, command: tuple[str, ...], told: str) -> None:
    before = sorted(folder.rglob("*"))
    code, out, err = backfill(*command, folder=folder, variables=NOWHERE)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.lower().startswith("error")]) == 1
    assert sorted(folder.rglob("*")) == before


def test_a_port_that_is_taken_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = backfill("serve", "--port", port, "--data-dir", "data", folder=folder)
    assert code == 2
    assert f"Cannot listen on 127.0.0.1 port {port}: Address already in use. Choose another --port, or 0" in err
