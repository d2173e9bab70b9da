"""The example with pictures, word for word, through the command line and the built-in engine that sees."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command_line import backfill
from tests.support.projector import PICTURE_TOKENS, make_projector

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "vision.jsonl"


def write_settings(folder: Path, models_dir: Path) -> Path:
    projector = make_projector(folder / "mmproj.gguf")
    settings = folder / "backfill.toml"
    settings.write_text(
        f'models_dir = "{models_dir}"\n'
        f'[engines.vision]\nprojector = "{projector}"\nslots = 2\ncontext_tokens = 1024\nthreads = 1\n'
    )
    return settings


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_example_is_usable_as_it_stands(tmp_path: Path) -> None:
    code, out, _ = backfill("check", EXAMPLE, "--fetch", "--json", folder=tmp_path)
    told = json.loads(out)
    assert code == 0
    assert (told["requests"], told["pictures"], told["links"]) == (5, 5, 2)


def test_each_picture_is_seen_wherever_it_stands(tmp_path: Path, models_dir: Path) -> None:
    settings = write_settings(tmp_path, models_dir)
    code, _, err = backfill("run", EXAMPLE, "-o", "answers.jsonl", "--config", settings, folder=tmp_path)
    assert code == 0, err
    answers = {line["custom_id"]: line for line in read_lines(tmp_path / "answers.jsonl")}
    assert list(answers) == ["shapes", "chart", "inline", "both", "text"]
    tokens = {name: line["response"]["body"]["usage"]["prompt_tokens"] for name, line in answers.items()}
    for name, pictures in {"shapes": 1, "chart": 1, "inline": 1, "both": 2}.items():
        assert tokens[name] > PICTURE_TOKENS * pictures
    assert tokens["text"] < PICTURE_TOKENS + 20


def test_a_path_that_leads_nowhere_fails_its_line_alone(tmp_path: Path, models_dir: Path) -> None:
    settings = write_settings(tmp_path, models_dir)
    (tmp_path / "in.jsonl").write_text(EXAMPLE.read_text().replace("pictures/", f"{EXAMPLE.parent}/pictures/", 1))
    code, _, err = backfill("run", "in.jsonl", "-o", "answers.jsonl", "--config", settings, folder=tmp_path)
    assert code == 1, err
    answered = [line["custom_id"] for line in read_lines(tmp_path / "answers.jsonl")]
    failed = read_lines(tmp_path / "answers.errors.jsonl")
    assert answered == ["shapes", "inline", "text"]
    assert [line["custom_id"] for line in failed] == ["chart", "both"]
    assert all(line["error"]["code"] == "invalid_media" for line in failed)
    assert "There is no file pictures/chart.webp" in failed[0]["error"]["message"]
