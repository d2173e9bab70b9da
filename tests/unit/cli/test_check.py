import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backfill.cli.main import app
from tests.support.lines import request_line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, *lines: bytes) -> None:
    (folder / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def test_a_good_file_is_summed_up(folder: Path) -> None:
    write(folder, request_line(0), request_line(1, model="other"))
    result = CliRunner().invoke(app, ["check", "in.jsonl"])
    assert result.exit_code == 0
    assert "in.jsonl: 2 requests for /v1/chat/completions" in result.stdout
    assert "models: m, other" in result.stdout
    assert "every line can be run" in result.stdout


def test_every_problem_is_named(folder: Path) -> None:
    write(folder, *(b"{" for _ in range(50)), request_line(0))
    result = CliRunner().invoke(app, ["check", "in.jsonl", "--json"])
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert (found["usable"], found["requests"], found["problem_count"]) == (False, 51, 50)
    assert [problem["line"] for problem in found["problems"]] == list(range(1, 51))
    assert {problem["code"] for problem in found["problems"]} == {"invalid_json_line"}


def test_only_the_endpoint_asked_for_is_judged(folder: Path) -> None:
    write(folder, request_line(0))
    assert CliRunner().invoke(app, ["check", "in.jsonl"]).exit_code == 0
    result = CliRunner().invoke(app, ["check", "in.jsonl", "--endpoint", "/v1/embeddings"])
    assert result.exit_code == 2
    assert "in.jsonl:1: not sent: /v1/embeddings needs body.input" in result.stdout


def test_a_missing_model_needs_a_fallback(folder: Path) -> None:
    write(folder, request_line(0), request_line(1, model=None))
    result = CliRunner().invoke(app, ["check", "in.jsonl"])
    assert result.exit_code == 1
    assert "in.jsonl:2: not sent: body.model is missing" in result.stdout
    assert CliRunner().invoke(app, ["check", "in.jsonl", "--model-id", "m"]).exit_code == 0


def test_what_fails_the_batch_and_what_fails_a_request_are_told_apart(folder: Path) -> None:
    write(folder, request_line(0), request_line(1, stream=True), b'{"custom_id":"x"}')
    result = CliRunner().invoke(app, ["check", "in.jsonl"])
    assert result.exit_code == 1
    named = result.stdout.splitlines()
    assert named[0].startswith("in.jsonl:2: not sent: body.stream must be false or absent")
    assert named[1].startswith("in.jsonl:3: not sent: body is missing")
    assert named[-1] == "2 requests would not be sent; the other 1 can be run"
    write(folder, request_line(0), request_line(1, stream=True), b"{")
    result = CliRunner().invoke(app, ["check", "in.jsonl", "--json"])
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert (found["usable"], found["problem_count"], found["request_problem_count"]) == (False, 1, 1)
    assert [problem["line"] for problem in found["problems"] + found["request_problems"]] == [3, 2]


def test_if_no_request_is_left_the_file_will_not_do(folder: Path) -> None:
    write(folder, request_line(0, stream=True), request_line(1, messages="text"))
    result = CliRunner().invoke(app, ["check", "in.jsonl"])
    assert result.exit_code == 2
    last = result.stdout.splitlines()[-1]
    assert last == "2 requests would not be sent; none is left, so a batch of this file fails"


def test_one_dialect_demands_method_and_url(folder: Path) -> None:
    target = {"method": "POST", "url": "/chat/completions"}
    lines = [json.loads(request_line(number)) | target for number in range(3)]
    del lines[1]["method"]
    lines[2]["url"] = "/v1/embeddings"
    write(folder, *(json.dumps(line).encode() for line in lines))
    assert CliRunner().invoke(app, ["check", "in.jsonl", "--endpoint", "/chat/completions"]).exit_code == 0
    result = CliRunner().invoke(app, ["check", "in.jsonl", "--dialect", "openai"])
    assert result.exit_code == 2
    named = result.stdout.splitlines()
    assert named[0].startswith('in.jsonl:2: method is missing; each line needs "method": "POST".')
    assert named[1].startswith("in.jsonl:3: url must be the batch's endpoint /v1/chat/completions")
    assert named[-1] == "2 problems of the file: a batch of it fails"


def test_limits_of_a_server_are_warnings(folder: Path) -> None:
    write(folder, request_line(0), request_line(1))
    (folder / "backfill.toml").write_text("[limits]\nlines = 1\nfile_size_bytes = 100\n")
    result = CliRunner().invoke(app, ["check", "in.jsonl"])
    assert result.exit_code == 0
    assert "warning: a server takes 1 requests in one batch (limits.lines)" in result.stderr
    assert "warning: a server takes files of 100 bytes (limits.file_size_bytes)" in result.stderr


def test_an_empty_file_is_a_problem(folder: Path) -> None:
    (folder / "in.jsonl").write_bytes(b"\n\n")
    result = CliRunner().invoke(app, ["check", "in.jsonl"])
    assert result.exit_code == 2
    assert "in.jsonl: The file has no requests. [empty_file]" in result.stdout


def test_an_unreadable_file_is_an_error(folder: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(folder), "--json"])
    assert result.exit_code == 2
    assert result.stderr == f"error: {folder} is a folder; name a file of requests.\n"
    assert json.loads(result.stdout)["code"] == "invalid_request"
