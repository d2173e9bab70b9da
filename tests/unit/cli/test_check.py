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
    assert "in.jsonl:1: /v1/embeddings needs body.input" in result.stdout


def test_a_missing_model_needs_a_fallback(folder: Path) -> None:
    write(folder, request_line(0), request_line(1, model=None))
    result = CliRunner().invoke(app, ["check", "in.jsonl"])
    assert result.exit_code == 2
    assert "in.jsonl:2: body.model is missing" in result.stdout
    assert CliRunner().invoke(app, ["check", "in.jsonl", "--model-id", "m"]).exit_code == 0


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
    assert result.stderr == f"error: The input file {folder} cannot be read: Is a directory.\n"
    assert json.loads(result.stdout)["code"] == "invalid_request"
