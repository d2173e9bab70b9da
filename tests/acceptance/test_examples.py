"""What the examples and the README show is run, word for word but for the address."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.support.server_process import BackfillServer

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = ROOT / "examples" / "requests.jsonl"
DEFAULT_URL = "http://127.0.0.1:8484"
QUIET = {"TOGETHER_TELEMETRY_DISABLED": "1", "TOGETHER_DISABLE_VERSION_CHECK": "1", "NO_PROXY": "127.0.0.1"}
CUSTOM_IDS = [json.loads(line)["custom_id"] for line in REQUESTS.read_text().splitlines()]


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url) as server:
        yield server


def run(command: list[str], **variables: str) -> str:
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | QUIET | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def read_answered(out: str) -> list[str]:
    return [json.loads(line)["custom_id"] for line in out.splitlines() if line]


def find_blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", (ROOT / "README.md").read_text())


def test_the_requests_are_usable(tmp_path: Path) -> None:
    assert backfill("check", REQUESTS, folder=tmp_path)[0] == 0
    assert len(CUSTOM_IDS) >= 24


def test_together_quickstart(server: BackfillServer) -> None:
    out = run([sys.executable, "examples/together_quickstart.py"], BACKFILL_URL=server.url)
    assert read_answered(out) == CUSTOM_IDS


def test_curl_quickstart(server: BackfillServer) -> None:
    out = run(["sh", "examples/curl_quickstart.sh"], BACKFILL_URL=server.url)
    assert read_answered(out) == CUSTOM_IDS


def test_the_readme_s_python(server: BackfillServer) -> None:
    (code,) = [block for block in find_blocks("python") if DEFAULT_URL in block]
    assert read_answered(run([sys.executable, "-c", code.replace(DEFAULT_URL, server.url)])) == CUSTOM_IDS


def test_the_readme_s_call_from_python(tmp_path: Path, engine: NullEngine) -> None:
    (code,) = [block for block in find_blocks("python") if "import backfill" in block]
    code += "\nassert [sorted(row) for row in answers] == [['_error', 'label', 'text']], answers\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ
        | {
            "BACKFILL_ENGINES__NULL__URL": engine.url,
            "BACKFILL_ENGINES__NULL__MODELS": '["m"]',
            "XDG_CACHE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_s_configuration_is_accepted(tmp_path: Path) -> None:
    (settings,) = find_blocks("toml")
    (tmp_path / "backfill.toml").write_text(settings)
    assert backfill("check", REQUESTS, folder=tmp_path)[0] == 0


def test_the_readme_s_run(tmp_path: Path, engine: NullEngine) -> None:
    (block,) = [block for block in find_blocks("sh") if "backfill run examples/requests.jsonl" in block]
    commands = [line.split() for line in block.splitlines() if line.startswith("backfill run")]
    assert commands
    for number, (_, _, _, _, output, *options) in enumerate(commands):
        assert output == "answers.jsonl"
        folder = tmp_path / str(number)
        folder.mkdir()
        # Another engine than the reader's; what else the line says stays.
        engine_options = ["--engine", engine.url]
        kept = [option for option in options if option.startswith("--") and option not in ("--engine", "--model")]
        command = ["run", REQUESTS, "-o", output, *engine_options, *kept]
        assert backfill(*command, folder=folder)[0] == 0
        assert read_answered((folder / output).read_text()) == CUSTOM_IDS


def test_table(engine: NullEngine, tmp_path: Path) -> None:
    variables = {"ENGINE_URL": engine.url, "ENGINE_MODEL": "m", "XDG_CACHE_HOME": str(tmp_path)}
    lines = run([sys.executable, "examples/table.py"], **variables).splitlines()
    # The null engine's answer is none of the two.
    assert [line.partition(":")[0] for line in lines] == ["1", "2", "3"]
    assert all("[bad_answer]" in line for line in lines)


@pytest.mark.engine
def test_table_with_the_built_in_engine(tmp_path: Path) -> None:
    lines = run([sys.executable, "examples/table.py"], XDG_STATE_HOME=str(tmp_path)).splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"\d: (positive|negative)", line) for line in lines)


@pytest.mark.engine
def test_demo() -> None:
    out = run([sys.executable, "examples/demo.py"])
    assert "28 answered, 0 failed" in out
    assert "> What is the capital of France?" in out
    assert re.search(r"\d+ tokens in, \d+ out: \d+ tokens/s", out)
